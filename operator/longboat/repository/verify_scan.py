"""Walking the maps of all backups, each page once: is everything there that they refer to, and is a sample whole?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor

from .backups import StoredDisk, read_disk_at, read_disk_manifest
from .damage import WHOLE, Damage
from .errors import BackupNotFoundError, DamagedError
from .layout import Kind, pack_name
from .map_reader import MapReader
from .object_store import exists, persistently
from .packs import MIN_PACK_TAIL
from .pages import FrameRef, Page
from .repository import Repository
from .verify_frames import ALL_FRAMES, Findings, FrameChecker, FrameSet, Sample, Wanted
from .verify_report import Fault, fault_of

_WINDOW_BLOCKS = 131072  # Blocks whose frames are grouped together: 8 GiB of disk at the default block size.

PageOrFault = Page | Fault


class Scan:
    """One walk; what it finds is in `findings`, damaged or missing disk manifests in `lost_disks`."""

    def __init__(
        self,
        repository: Repository,
        pool: Executor,
        sizes: dict[tuple[Kind, bytes], int],
        known: Damage,
        objects: Mapping[str, str],
        places: Mapping[str, str],
        believes_moved: bool,
    ) -> None:
        """Prepare a walk. `known` damage is read whether it is in the sample or not; the last three: see Inventory."""
        self._places, self._believes_moved = places, believes_moved
        self._repository, self._pool, self._sizes, self._known = repository, pool, sizes, known
        self.findings, self._objects = Findings(), objects
        self.checker = FrameChecker(repository, pool, self.findings)
        self.lost_disks: dict[str, Fault] = {}
        self.pages = 0
        self._seen_pages, self._seen_frames = FrameSet(), FrameSet()

    def disk(self, name: str, sample: Sample | None, done: Callable[[int], None]) -> StoredDisk | None:
        """Check a disk's manifest, its pages that are new to this walk, and their frames; tell `done` its bytes."""
        stored = self._manifest(name)
        if stored is None:
            return None
        reader = MapReader(self._repository, stored.manifest)
        for window in windows(reader, self._fresh(reader)):
            self._check(reader, window, sample)
            done(0)
        self.checker.finish()
        done(stored.manifest.size_bytes)
        return stored

    def around(self, name: str, offset: int) -> None:
        """Check the page of a disk that holds this byte, and all its frames."""
        stored = self._manifest(name)
        if stored is None:
            return
        reader, number = MapReader(self._repository, stored.manifest), offset // stored.manifest.page_bytes
        self._check(reader, list(self._fresh(reader, only=number)), ALL_FRAMES)
        self.checker.finish()

    def _manifest(self, name: str) -> StoredDisk | None:
        wanted = self._objects.get(name)
        try:
            stored = persistently(lambda: self._read(name, wanted))
            if wanted is None or stored.object_id == wanted:
                return stored
            # A restore would refuse it.
            self.lost_disks[name] = Fault("Damaged", f"it is object {stored.object_id}, the backup has {wanted}")
        except BackupNotFoundError as error:
            self.lost_disks[name] = Fault("Missing", str(error))
        except DamagedError as error:
            self.lost_disks[name] = fault_of(error)
        return None

    def _read(self, name: str, wanted: str | None) -> StoredDisk:
        try:
            return read_disk_at(self._repository, name, self._places.get(name, name), wanted)
        except BackupNotFoundError:
            if not self._believes_moved:
                raise
            return read_disk_manifest(self._repository, name, wanted)  # Another one may have taken its place since.

    def _fresh(self, reader: MapReader, only: int | None = None) -> Iterator[int]:
        for number, ref in enumerate(reader.manifest.pages):
            wanted = ref is not None and only in (None, number)
            if wanted and self._seen_pages.add(*reader.place(number)):
                yield number

    def _check(self, reader: MapReader, numbers: list[int], sample: Sample | None) -> None:
        wanted: Wanted = {}
        for number, page in read_pages(self._repository, self._pool, reader, numbers):
            self.pages += 1
            if isinstance(page, Fault):
                add_page_fault(self.findings, reader, number, page)
            else:
                self._frames(page, sample, wanted)
        self.checker.check(wanted, reader.manifest.block_size)

    def _frames(self, page: Page, sample: Sample | None, wanted: Wanted) -> None:
        """Choose the frames of a page that are to be read: those in the sample, and whatever looks wrong."""
        chosen = dict[int, dict[int, bytes]]()
        for number, frame in enumerate(page.frames, 1):
            if (sample and sample.takes(frame)) or self._suspect(frame):
                fresh = self._seen_frames.add(frame.pack, frame.offset) or frame in wanted
                if fresh and not self.findings.covers(Kind.DATA_PACK, frame.pack, frame.offset):
                    chosen[number] = wanted.setdefault(frame, {})
        if chosen:
            for index, number in enumerate(page.frame_of):
                if number in chosen:
                    chosen[number][page.slot_of[index]] = page.block_id(index)

    def _suspect(self, frame: FrameRef) -> bool:
        size = self._sizes.get((Kind.DATA_PACK, frame.pack))
        outside = size is None or frame.offset + frame.length + MIN_PACK_TAIL > size
        return outside or self._known.covers(Kind.DATA_PACK, frame.pack, frame.offset)


def windows(reader: MapReader, numbers: Iterable[int]) -> Iterator[list[int]]:
    """Yield page numbers in portions of a bounded number of blocks."""
    portion = list[int]()
    for number in numbers:
        portion.append(number)
        if len(portion) * reader.manifest.page_blocks >= _WINDOW_BLOCKS:
            yield portion
            portion = []
    if portion:
        yield portion


def read_pages(
    repository: Repository, pool: Executor, reader: MapReader, numbers: list[int]
) -> Iterator[tuple[int, PageOrFault]]:
    """Yield pages (none of them a hole), read at once and in order; errors of the store are raised."""
    return zip(numbers, pool.map(lambda number: _page(repository, reader, number), numbers), strict=True)


def add_page_fault(findings: Findings, reader: MapReader, number: int, fault: Fault) -> None:
    """Note that a page of a map is damaged, or its whole pack if that is gone."""
    pack, offset = reader.place(number)
    findings.add(Kind.MAP_PACK, pack, WHOLE if fault.problem == "Missing" else offset, fault)


def _page(repository: Repository, reader: MapReader, number: int) -> PageOrFault:
    try:
        page = persistently(lambda: reader.page(number))
    except DamagedError as error:
        there = exists(repository.store, pack_name(Kind.MAP_PACK, reader.place(number)[0]))
        return Fault("Damaged" if there else "Missing", str(error))
    assert page is not None
    return page
