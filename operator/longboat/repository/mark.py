"""Marking: which packs manifests refer to, without reading any data pack.

Manifests name map packs and pages in them; the index at the end of a map pack says for each of its pages which data
packs that one refers to, so that only a map pack's last few KiB are read, once for all backups that share its pages.
A page is read itself where the index does not say it or is damaged.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from .codec import decompress
from .crypto import reading_cipher
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import MAPS, MAX_PAGE_BLOCKS, Kind, pack_name, split_pack_name
from .manifests import DiskManifest
from .packs import FOOTER, IndexEntry, index_offset, open_index
from .pages import max_page_bytes, page_packs
from .parallel import in_batches
from .repository import Repository

_TAILS = {Kind.DATA_PACK: 64 << 10, Kind.MAP_PACK: 16 << 10}  # Bytes read at first: the index of most packs.
_LENGTH_BITS = 32
_BATCH = 256  # Map packs whose reads are under way or waiting at a time.
DEFAULT_THREADS = 8


@dataclass
class Marks:
    """What manifests refer to: ids of data packs with the number of blocks used there, and pages by map pack.

    The number counts a page once, however many manifests share it; 0 where a map pack's index does not say it.
    """

    data: Counter[bytes] = field(default_factory=Counter)
    pages: dict[bytes, array[int]] = field(default_factory=dict)

    def add_manifest(self, manifest: DiskManifest) -> None:
        """Note the pages of a manifest: offset and length of each in one number, once for each map pack."""
        refs: list[list[int]] = [[] for _ in manifest.map_packs]
        for page in manifest.pages:
            if page is not None:
                refs[page[0]].append(page[1] << _LENGTH_BITS | page[2])
        for text, found in zip(manifest.map_packs, refs, strict=True):
            known = self.pages.setdefault(bytes.fromhex(text), array("Q"))
            known.extend(set(found).difference(known))

    def add_table(self, table: Counter[bytes]) -> None:
        """Note which data packs some pages refer to."""
        for pack, blocks in table.items():
            self.data[pack] += blocks


def mark_pages(
    repository: Repository,
    marks: Marks,
    sizes: dict[bytes, int],
    threads: int = DEFAULT_THREADS,
    done: Callable[[int], None] = lambda _: None,
) -> None:
    """Add to the marks the data packs that the pages noted there refer to.

    `sizes` are the bytes of each map pack; `done` is told of each one that was read. DamagedError names a map pack that
    is missing, or damaged where it matters.
    """

    def read(entry: tuple[bytes, array[int]]) -> Counter[bytes]:
        return _read_tables(repository, *entry, sizes.get(entry[0]))

    for table in in_batches(threads, _BATCH, read, marks.pages.items()):
        marks.add_table(table)
        done(1)


def references(repository: Repository, manifest: DiskManifest, threads: int = DEFAULT_THREADS) -> Marks:
    """Return what one manifest refers to, be it stored already or not; DamagedError as mark_pages."""
    marks = Marks()
    marks.add_manifest(manifest)
    mark_pages(repository, marks, map_pack_sizes(repository, marks.pages), threads)
    return marks


def map_pack_sizes(repository: Repository, wanted: Iterable[bytes] | None = None) -> dict[bytes, int]:
    """Return the bytes of every map pack, or of those wanted that are there."""
    keep = None if wanted is None else set(wanted)
    sizes = {}
    for info in repository.store.list(MAPS):
        parts = split_pack_name(info.name)
        if parts and (keep is None or parts[1] in keep):
            sizes[parts[1]] = info.size
    return sizes


def read_index(repository: Repository, kind: Kind, pack: bytes, size: int) -> list[IndexEntry]:
    """Return the index of a pack of `size` bytes from its end alone; DamagedError or ObjectNotFoundError."""
    store, name = repository.store, pack_name(kind, pack)
    first = min(size, _TAILS[kind])
    tail = store.get_range(name, size - first, first)
    at = index_offset(bytes(tail[-FOOTER.size :]).rjust(FOOTER.size), size)
    start, end = at - (size - len(tail)), len(tail) - FOOTER.size
    sealed = memoryview(tail)[start:end] if start >= 0 else store.get_range(name, at, size - FOOTER.size - at)
    return open_index(repository.keys, kind, pack, at, sealed)


def _read_tables(repository: Repository, pack: bytes, pages: array[int], size: int | None) -> Counter[bytes]:
    name = pack_name(Kind.MAP_PACK, pack)
    if size is None:
        raise DamagedError(f"map pack {name} is missing, but a manifest refers to it")
    try:
        return _tables(repository, pack, pages, size) if pages else Counter()
    except ObjectNotFoundError:
        raise DamagedError(f"map pack {name} is missing, but a manifest refers to it") from None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"map pack {name}: {error}") from None


def _tables(repository: Repository, pack: bytes, pages: array[int], size: int) -> Counter[bytes]:
    entries = _entries(repository, pack, size)
    uses = Counter[bytes]()
    for offset, length in _split(pages):
        entry = entries.get((offset, length))
        if entry is not None and entry.ids:
            uses.update(dict(zip(entry.ids, entry.uses, strict=True)))
        else:
            uses.update(dict.fromkeys(_page_packs(repository, pack, offset, length), 0))
    return uses


def _entries(repository: Repository, pack: bytes, size: int) -> dict[tuple[int, int], IndexEntry]:
    try:
        index = read_index(repository, Kind.MAP_PACK, pack, size)
    except DamagedError:
        return {}  # The pages themselves say it as well.
    return {(entry.frame.offset, entry.frame.length): entry for entry in index}


def _split(pages: array[int]) -> Iterator[tuple[int, int]]:
    return ((page >> _LENGTH_BITS, page & ((1 << _LENGTH_BITS) - 1)) for page in pages)


def _page_packs(repository: Repository, pack: bytes, offset: int, length: int) -> list[bytes]:
    frame = repository.store.get_range(pack_name(Kind.MAP_PACK, pack), offset, length)
    payload, size, codec = reading_cipher(repository.keys, Kind.MAP_PACK, pack).open(frame, offset)
    if size > max_page_bytes(MAX_PAGE_BLOCKS):
        raise DamagedError(f"{size} bytes at {offset} are more than a page can have")
    return page_packs(decompress(payload, codec, size))
