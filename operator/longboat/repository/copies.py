"""Finding a block that is damaged in one backup in other backups of the repository: of the same disk, then of others.

A backup that was made after damage became known has stored the blocks anew that were still on the disk, at the same
place of the disk and under the same id. So an older backup that refers to the damaged frame is healed by looking
there; nothing has to be written for that, and what is found is checked against the id that the older backup has. Disks
made from one image share frames, so any of them may be the one that heals the others.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from functools import cached_property
from itertools import islice, zip_longest
from threading import Lock

from .backups import disk_manifest_names, read_disk_manifest
from .errors import BackupNotFoundError, DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .following import FollowingMapReader
from .layout import Kind, pack_name, split_disk_manifest_name
from .listing import list_disks
from .manifests import DiskManifest
from .map_reader import MapReader
from .object_store import persistently
from .packs import open_frame
from .pages import FrameRef, Page
from .repository import Repository

MAX_OWN = 32  # The newest backups of the disk itself that are looked at,
MAX_OTHERS = 32  # and so many of other disks: the newest of each, then the second newest, and so on,
MAX_READ = 64  # of which no more manifests than this are read: some are cut into other blocks.
MAX_OPEN_PAGES = 250_000  # Of all manifests that are kept in memory: about 64 MiB.
_MAX_PAGES = 64  # Pages that are kept: neighbouring blocks are asked for one after the other.

Wanted = dict[int, tuple[int, bytes]]
"""Blocks by their number on the disk: the slot in their frame, and their id."""


class DiskNames:
    """The object names of all disk manifests, listed when they are first asked for."""

    def __init__(self, repository: Repository) -> None:
        """List nothing yet."""
        self._repository = repository

    def others(self, disk_key: str, first: set[str]) -> Iterator[str]:
        """Yield names of other disks' manifests: the newest of each disk, then the second newest of each, and so on.

        The disks whose hashes are in `first` come first in each turn, then those backed up last.
        """
        own = self._repository.keys.name_hash(disk_key)
        disks = [(disk, names) for disk, names in self._by_disk.items() if disk != own]
        disks.sort(key=lambda each: each[1][0].rpartition("/")[2], reverse=True)
        disks.sort(key=lambda each: each[0] not in first)
        return (name for turn in zip_longest(*(names for _, names in disks)) for name in turn if name is not None)

    @cached_property
    def _by_disk(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name, disk in list_disks(self._repository).items():
            found[disk.disk_hash].append(name)
        return {disk: sorted(names, reverse=True) for disk, names in found.items()}


class _Sources:
    """The manifests that blocks are looked for in; not for many threads at once.

    A disk of many terabytes has a map of hundreds of megabytes: few of these are kept, and read again when needed.
    """

    def __init__(self, repository: Repository, manifest: DiskManifest, names: DiskNames) -> None:
        """Read nothing yet."""
        self._repository, self._disk_key, self._names = repository, manifest.disk.disk_key, names
        self._shape = manifest.block_size, manifest.page_blocks
        self._own: deque[str] | None = None
        self._others: deque[str] | None = None
        self._kin = set[str]()
        self._fit: list[str] = []
        self._fit_others = 0
        self.open: OrderedDict[str, FollowingMapReader] = OrderedDict()

    def readers(self) -> Iterator[FollowingMapReader]:
        """Yield one for each manifest, first those at hand; after a StoreError the next call looks at the same ones."""
        for name in sorted(self._fit, key=lambda each: each not in self.open):
            if reader := self._reader(name):
                yield reader
        while (queue := self._queue()) and (name := queue[0]):
            # It leaves the queue when it was read: what fails now is asked again later.
            reader = self._reader(name)
            queue.popleft()
            if reader:
                self._note(name, reader.manifest, queue is self._others)
                yield reader

    def _queue(self) -> deque[str] | None:
        """Return which names come next, None if all were looked at."""
        if self._own is None:
            self._own = deque(disk_manifest_names(self._repository, self._disk_key)[:MAX_OWN])
        if self._own:
            return self._own
        if self._others is None:
            self._others = deque(islice(self._names.others(self._disk_key, self._kin), MAX_READ))
        return self._others if self._fit_others < MAX_OTHERS else None

    def _note(self, name: str, manifest: DiskManifest, other: bool) -> None:
        self._fit.append(name)
        self._fit_others += other
        if not other and (parts := split_disk_manifest_name(manifest.compared_with or "")):
            self._kin.add(parts[0])

    def _reader(self, name: str) -> FollowingMapReader | None:
        """Return a reader of that manifest, None if it can't be read or is cut into other blocks."""
        if name in self.open:
            self.open.move_to_end(name)
            return self.open[name]
        try:
            stored = read_disk_manifest(self._repository, name)
        except (BackupNotFoundError, DamagedError, UnsupportedFormatError):
            return None
        if (stored.manifest.block_size, stored.manifest.page_blocks) != self._shape:
            return None
        self.open[name] = FollowingMapReader(self._repository, stored)
        while len(self.open) > 1 and sum(each.pages for each in self.open.values()) > MAX_OPEN_PAGES:
            self.open.popitem(last=False)
        return self.open[name]


class CopyFinder:
    """Where else a disk's blocks are, looked for when the first one is asked for; safe to use from many threads.

    Which backups are looked at depends on the disk alone, not on its backup: all of these have the same answer.
    """

    def __init__(self, repository: Repository, manifest: DiskManifest, names: DiskNames | None = None) -> None:
        """Look for blocks of the manifest's disk; nothing is read yet."""
        self._repository = repository
        self._block_size, self._page_blocks = manifest.block_size, manifest.page_blocks
        self._sources = _Sources(repository, manifest, names or DiskNames(repository))
        self._pages: dict[tuple[tuple[bytes, int], int], Page | None] = {}
        self._bad: set[FrameRef] = set()
        self._lock = Lock()

    def again(self, frame: FrameRef, wanted: Wanted) -> dict[int, bytes]:
        """Return the content of those blocks that their own frame has after all, read a few times if need be.

        Only failures of the store itself are raised, here and in elsewhere().
        """
        found: dict[int, bytes] = {}

        def read() -> None:
            found.update(self._read(frame, wanted))
            if len(found) < len(wanted):
                raise DamagedError("some of its blocks are others")

        with contextlib.suppress(DamagedError, ObjectNotFoundError):
            persistently(read)
        return found

    def places(self, reader: MapReader, blocks: Wanted) -> dict[FrameRef, Wanted]:
        """Return in which frames a manifest has those of the blocks that it has, by their ids; StoreError."""
        with self._lock:
            return self._frames(reader, {block: block_id for block, (_, block_id) in blocks.items()})

    def elsewhere(self, frame: FrameRef, wanted: Wanted) -> dict[int, bytes]:
        """Return the content of those blocks that are whole in other frames than the one, which can't be read."""
        found: dict[int, bytes] = {}
        with self._lock:
            self._bad.add(frame)
            for reader in self._sources.readers():
                missing = {block: block_id for block, (_, block_id) in wanted.items() if block not in found}
                if not missing:
                    break
                found.update(self._in(reader, missing))
        return found

    def _in(self, reader: FollowingMapReader, blocks: dict[int, bytes]) -> dict[int, bytes]:
        seen, gone, found = reader.stored, False, dict[int, bytes]()
        for frame, wanted in self._frames(reader, blocks).items():
            if frame in self._bad:
                continue
            try:
                found.update(self._read(frame, wanted))
            except (DamagedError, ObjectNotFoundError) as error:
                self._bad.add(frame)
                gone = gone or isinstance(error, ObjectNotFoundError)
        # It may have been emptied since this manifest was read.
        if gone and reader.follow(seen):
            found |= self._in(reader, {block: each for block, each in blocks.items() if block not in found})
        return found

    def _frames(self, reader: MapReader, blocks: dict[int, bytes]) -> dict[FrameRef, Wanted]:
        frames: dict[FrameRef, Wanted] = defaultdict(dict)
        for block, block_id in blocks.items():
            at, index = divmod(block, self._page_blocks)
            page = self._page(reader, at)
            place = page.place(index) if page and index < page.blocks else None
            if page and place and page.block_id(index) == block_id:
                frames[place[0]][block] = place[1], block_id
        return frames

    def _page(self, reader: MapReader, number: int) -> Page | None:
        if number >= reader.pages or reader.manifest.pages[number] is None:
            return None
        # Backups share pages: each is read once, whoever has it.
        key = reader.place(number), reader.page_blocks(number)
        if key not in self._pages:
            if len(self._pages) >= _MAX_PAGES:
                del self._pages[next(iter(self._pages))]
            try:
                self._pages[key] = reader.page(number)
            except DamagedError:
                self._pages[key] = None
        return self._pages[key]

    def _read(self, frame: FrameRef, wanted: Wanted) -> dict[int, bytes]:
        """Return those of the blocks that the frame has, by their ids; DamagedError or ObjectNotFoundError."""
        keys, size = self._repository.keys, self._block_size
        sealed = self._repository.store.get_range(pack_name(Kind.DATA_PACK, frame.pack), frame.offset, frame.length)
        plain = open_frame(keys, Kind.DATA_PACK, frame, sealed, frame.blocks * size)
        pieces = {block: plain[slot * size : (slot + 1) * size] for block, (slot, _) in wanted.items()}
        return {block: piece for block, piece in pieces.items() if keys.block_id(piece) == wanted[block][1]}
