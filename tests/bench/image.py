"""A disk image as a file system leaves it: files of many sizes with holes between them; the same bytes every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096
MIB = 1 << 20
# Half of the disk is in use, as on a disk that somebody has planned for.
FILLED = 0.5
REWRITTEN = 0.01
_LARGEST_FILE = 16 * MIB


def write_image(path: Path, size: int) -> int:
    """Write a sparse image of `size` bytes, nothing of it twice, and return the bytes of data in it."""
    random_source = random.Random(1)
    written = 0
    with path.open("wb") as image:
        image.truncate(size)
        for offset, length in _extents(random_source, size):
            image.seek(offset)
            image.write(_file(random_source, length))
            written += length
    return written


def rewrite_blocks(path: Path, size: int) -> int:
    """Rewrite 1 % of the blocks that hold data, scattered as a database does it; return the bytes rewritten."""
    blocks = [
        block for offset, length in _extents(random.Random(1), size) for block in range(offset, offset + length, BLOCK)
    ]
    random_source = random.Random(2)
    chosen = random_source.sample(blocks, int(len(blocks) * REWRITTEN))
    with path.open("r+b") as image:
        for block in chosen:
            image.seek(block)
            image.write(_page(random_source))
    return len(chosen) * BLOCK


def _extents(random_source: random.Random, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length in bytes of each file: sizes from a block to 16 MiB, small ones as often as large ones."""
    layout = random.Random(random_source.random())
    offset = 0
    while True:
        length = BLOCK * int((_LARGEST_FILE // BLOCK) ** layout.random())
        if offset + length > size:
            return
        yield offset, length
        offset += length + BLOCK * int(length / BLOCK * 2 * layout.random() * (1 - FILLED) / FILLED)


def _file(random_source: random.Random, length: int) -> bytes:
    """A file's content: media that can't be compressed, text, or the pages of a database."""
    kind = random_source.choice(("media", "text", "pages"))
    if kind == "media":
        return random_source.randbytes(length)
    if kind == "text":
        return _text(random_source, length)
    return b"".join(_page(random_source) for _ in range(length // BLOCK))


def _text(random_source: random.Random, length: int) -> bytes:
    """Words with the frequencies of a language."""
    picked = random_source.choices(_WORDS, _WEIGHTS, k=length // 6)
    return " ".join(picked).encode()[:length].ljust(length)


def _page(random_source: random.Random) -> bytes:
    """A page of a database: keys, values, and a rest that is free."""
    page = random_source.randbytes(BLOCK // 4) + _text(random_source, BLOCK // 2)
    return page.ljust(BLOCK, b"\0")


def _vocabulary(random_source: random.Random) -> list[str]:
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    return ["".join(random_source.choices(letters, k=random_source.randint(2, 10))) for _ in range(4000)]


_WORDS = _vocabulary(random.Random(3))
_WEIGHTS = [1 / rank for rank in range(1, len(_WORDS) + 1)]
