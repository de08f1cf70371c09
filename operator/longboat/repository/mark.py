"""Marking: which packs manifests refer to, without reading any data pack.

Manifests name map packs and pages in them; the index at the end of a map pack says for each of its pages which data
packs that one refers to, so that only a map pack's last few KiB are read, once for all backups that share its pages.
A page is read itself where the index does not say it or is damaged.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
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
SHARED = -1
UNKNOWN = 1 << 30  # A number of blocks that is not known: as if it was many.


@dataclass
class DiskMarks:
    """One disk's part in the marks.

    `live` are the blocks that its newest backup has in each data pack, `changed` those that its backups but for full
    ones have stored because they had changed, `blocks` those of the newest one that are no holes.
    """

    disk_hash: str
    disk_key: str = ""
    claim_name: str = ""
    block_size: int = 0
    changed: int = 0
    blocks: int = 0
    live: Counter[bytes] = field(default_factory=Counter)

    def take(self, manifest: DiskManifest) -> None:
        """Count a further, newer backup of the disk."""
        counts = manifest.statistics
        self.disk_key, self.block_size = manifest.disk.disk_key, manifest.block_size
        self.claim_name = manifest.disk.claim_name
        self.blocks = counts.new_blocks + counts.unchanged_blocks
        self.changed += max(0, counts.new_blocks - counts.rewritten_blocks) if manifest.parent else 0


@dataclass
class Marks:
    """What manifests refer to: ids of data packs, each with the number of the disk whose it is, and pages by map pack.

    Packs that several disks refer to are SHARED. `owners` are beside the pages: SHARED, or twice the disk's number,
    and one more if the page is one of the disk's newest backup.
    """

    data: dict[bytes, int] = field(default_factory=dict)
    pages: dict[bytes, array[int]] = field(default_factory=dict)
    owners: dict[bytes, array[int]] = field(default_factory=dict)
    disks: list[DiskMarks] = field(default_factory=list)
    _open: dict[bytes, set[int]] = field(default_factory=dict)
    _newest: dict[bytes, set[int]] = field(default_factory=dict)

    def add_manifest(self, manifest: DiskManifest, disk_hash: str = "") -> None:
        """Note the pages of a manifest; those of a disk have to come one after the other, the newest last."""
        if not self.disks or self.disks[-1].disk_hash != disk_hash:
            self.close()
            self.disks.append(DiskMarks(disk_hash))
        self.disks[-1].take(manifest)
        self._newest = pages_of(manifest)
        for pack, found in self._newest.items():
            self._open.setdefault(pack, set()).update(found)

    def add_further(self, manifest: DiskManifest) -> None:
        """Note the pages of a manifest that says the same as the one that was added before it."""
        for pack, found in pages_of(manifest).items():
            self._open.setdefault(pack, set()).update(found)

    def close(self) -> None:
        """Say that there are no further manifests of the disk: its pages become marks."""
        number = 2 * (len(self.disks) - 1)
        for pack, found in self._open.items():
            known, owners = self.pages.setdefault(pack, array("Q")), self.owners.setdefault(pack, array("q"))
            for at, page in enumerate(known):
                owners[at] = SHARED if page in found else owners[at]
            new, newest = found.difference(known), self._newest.get(pack, set())
            known.extend(new)
            owners.extend(number + (page in newest) for page in new)
        self._open, self._newest = {}, {}

    def add_table(self, owner: int, table: Counter[bytes]) -> None:
        """Note which data packs some pages refer to, and how many of their blocks lie in each."""
        disk = owner >> 1 if owner != SHARED else SHARED
        for pack in table:
            if self.data.setdefault(pack, disk) != disk:
                self.data[pack] = SHARED
        if owner != SHARED and owner & 1:
            self.disks[disk].live.update(table)


def page_key(offset: int, length: int) -> int:
    """Return a page's offset and length in its map pack in one number."""
    return offset << _LENGTH_BITS | length


def pages_of(manifest: DiskManifest) -> dict[bytes, set[int]]:
    """Return the pages of a manifest by map pack: offset and length of each in one number."""
    refs: list[set[int]] = [set() for _ in manifest.map_packs]
    for page in manifest.pages:
        if page is not None:
            refs[page[0]].add(page_key(page[1], page[2]))
    pages: dict[bytes, set[int]] = {}
    for text, found in zip(manifest.map_packs, refs, strict=True):
        pages.setdefault(bytes.fromhex(text), set()).update(found)
    return pages


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

    def read(entry: tuple[bytes, array[int]]) -> dict[int, Counter[bytes]]:
        pack, pages = entry
        owner, found = dict(zip(pages, marks.owners[pack], strict=True)), defaultdict[int, Counter[bytes]](Counter)
        for page, table in read_tables(repository, pack, pages, sizes.get(pack)):
            found[owner[page]].update(table)
        return found

    marks.close()
    for found in in_batches(threads, _BATCH, read, marks.pages.items()):
        for owner, table in found.items():
            marks.add_table(owner, table)
        done(1)


def references(repository: Repository, manifest: DiskManifest, threads: int = DEFAULT_THREADS) -> Marks:
    """Return what one manifest refers to, be it stored already or not; DamagedError as mark_pages."""
    marks = Marks()
    marks.add_manifest(manifest)
    marks.close()
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


def read_tables(
    repository: Repository, pack: bytes, pages: Iterable[int], size: int | None
) -> list[tuple[int, dict[bytes, int]]]:
    """Return each of these pages of a map pack with the data packs it refers to and how many of its blocks are there.

    The number is UNKNOWN where the index does not say it. DamagedError names a map pack that is missing or damaged.
    """
    name = pack_name(Kind.MAP_PACK, pack)
    if size is None:
        raise DamagedError(f"map pack {name} is missing, but a manifest refers to it")
    try:
        return list(_tables(repository, pack, pages, size)) if pages else []
    except ObjectNotFoundError:
        raise DamagedError(f"map pack {name} is missing, but a manifest refers to it") from None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"map pack {name}: {error}") from None


def _tables(
    repository: Repository, pack: bytes, pages: Iterable[int], size: int
) -> Iterator[tuple[int, dict[bytes, int]]]:
    entries = _entries(repository, pack, size)
    for page in pages:
        offset, length = page >> _LENGTH_BITS, page & ((1 << _LENGTH_BITS) - 1)
        entry = entries.get((offset, length))
        if entry is not None and entry.ids:
            yield page, dict(zip(entry.ids, entry.uses, strict=True))
        else:
            yield page, dict.fromkeys(_page_packs(repository, pack, offset, length), UNKNOWN)


def _entries(repository: Repository, pack: bytes, size: int) -> dict[tuple[int, int], IndexEntry]:
    try:
        index = read_index(repository, Kind.MAP_PACK, pack, size)
    except DamagedError:
        return {}  # The pages themselves say it as well.
    return {(entry.frame.offset, entry.frame.length): entry for entry in index}


def _page_packs(repository: Repository, pack: bytes, offset: int, length: int) -> list[bytes]:
    frame = repository.store.get_range(pack_name(Kind.MAP_PACK, pack), offset, length)
    payload, size, codec = reading_cipher(repository.keys, Kind.MAP_PACK, pack).open(frame, offset)
    if size > max_page_bytes(MAX_PAGE_BLOCKS):
        raise DamagedError(f"{size} bytes at {offset} are more than a page can have")
    return page_packs(decompress(payload, codec, size))
