"""A disk as a machine's is: a sparse ext4 file system with the files of installed packages, and what changes on it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.cluster.progress import ClusterError

BLOCK = 4096
MIB = 1 << 20
FILLED = 0.7  # Of the disk, by files; the file system's own tables come on top.
CHANGED = 0.01
_CLUSTER = (64 << 10, 1 << 20)  # Sizes of the stretches that a clustered change rewrites.
_MAX_COPIES = 20  # Where the packages of a machine are fewer than the image needs.
_PACKAGES = Path("/var/lib/dpkg/info")
Ranges = list[tuple[int, int]]


def write_image(path: Path, size: int) -> int:
    """Make a sparse ext4 image of `size` bytes with package contents; return the bytes that it occupies."""
    staging = path.parent / "content"
    _stage(staging, int(size * FILLED))
    path.unlink(missing_ok=True)
    with path.open("wb") as image:
        image.truncate(size)
    options = "lazy_itable_init=1,nodiscard,hash_seed=00000000-0000-4000-8000-000000000001"
    uuid = "00000000-0000-4000-8000-000000000002"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-E", options, "-d", str(staging), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    shutil.rmtree(staging)
    if done.returncode:
        raise ClusterError(f"mke2fs failed: {done.stderr[-500:]}")
    os.sync()
    return sum(length for _, length in data_ranges(path))


def data_ranges(path: Path) -> Ranges:
    """Where the image has data, as (offset, length): what a storage would report as allocated."""
    found: Ranges = []
    with path.open("rb") as image:
        size, end = os.fstat(image.fileno()).st_size, 0
        while end < size:
            try:
                start = os.lseek(image.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(image.fileno(), start, os.SEEK_HOLE)
            found.append((start, end - start))
    return found


def rewrite_scattered(path: Path) -> Ranges:
    """Rewrite 1 % of the 4 KiB blocks that hold data, at random, as a database does; return what was written."""
    blocks = _blocks(path)
    chosen = sorted(random.Random(2).sample(blocks, int(len(blocks) * CHANGED)))
    return _rewrite(path, [(block, BLOCK) for block in chosen])


def rewrite_clustered(path: Path) -> Ranges:
    """Rewrite 1 % of the data in stretches of 64 KiB to 1 MiB, as programs that write files do."""
    source, blocks = random.Random(3), _blocks(path)
    wanted, taken = int(len(blocks) * CHANGED) * BLOCK, dict[int, int]()
    while wanted > 0:
        start = source.randrange(len(blocks))
        length = min(source.randint(*_CLUSTER) // BLOCK, len(blocks) - start)
        taken.update(dict.fromkeys(blocks[start : start + length], BLOCK))
        wanted -= length * BLOCK
    return _rewrite(path, sorted(taken.items()))


def _rewrite(path: Path, ranges: Ranges) -> Ranges:
    source = random.Random(4)
    with path.open("r+b") as image:
        for offset, _ in ranges:
            image.seek(offset)
            image.write(_page(source))
        image.flush()
        os.fsync(image.fileno())
    return ranges


def _blocks(path: Path) -> list[int]:
    return [block for at, length in data_ranges(path) for block in range(at, at + length, BLOCK)]


def _page(source: random.Random) -> bytes:
    """A page of a database: keys, values, and a rest that is free."""
    words = " ".join(source.choices(_WORDS, k=BLOCK // 12)).encode()
    return (source.randbytes(BLOCK // 4) + words[: BLOCK // 2]).ljust(BLOCK, b"\0")


def _stage(folder: Path, wanted: int) -> None:
    """Put the files of installed packages into a folder, in an order that is the same each time."""
    shutil.rmtree(folder, ignore_errors=True)
    used = copies = 0
    while used < wanted - MIB:
        before = used
        for file in _installed(copies):
            size, target = file.lstat().st_size, folder / str(copies) / file.relative_to("/")
            # Where one package diverts a file of another, both list it.
            if used + size <= wanted and not target.exists():
                _put(file, target, copies)
                used += max(size, BLOCK)
            if used > wanted - MIB:
                return
        copies += 1
        if copies > _MAX_COPIES or used == before:
            raise ClusterError(f"packages of this machine fill {used // MIB} MiB, the image needs {wanted // MIB}")


def _put(file: Path, target: Path, copy: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy == 0:
        os.link(file, target)
    else:
        # Other bytes in the same places: it compresses as the file does, but no program finds it a second time.
        target.write_bytes(file.read_bytes().translate(_table(copy)))


@cache
def _table(copy: int) -> bytes:
    others = list(range(1, 256))
    random.Random(copy).shuffle(others)
    return bytes([0, *others])


def _installed(copy: int = 0) -> Iterator[Path]:
    lists = sorted(_PACKAGES.glob("*.list"))
    random.Random(copy + 1).shuffle(lists)
    for each in lists:
        for line in each.read_text().splitlines():
            file = Path(line)
            if file.is_relative_to("/usr") and file.is_file() and not file.is_symlink():
                yield file


def _vocabulary(source: random.Random) -> list[str]:
    return ["".join(source.choices("etaoinshrdlucmfwypvbgkjqxz", k=source.randint(2, 10))) for _ in range(4000)]


_WORDS = _vocabulary(random.Random(3))
