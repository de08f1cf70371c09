"""Writing a backed-up disk: pages of the map in windows, frames fetched in coalesced ranges, every block checked."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from longboat.repository import Repository
from longboat.repository.errors import DamagedError, ObjectNotFoundError
from longboat.repository.layout import Kind, pack_name
from longboat.repository.map_reader import MapReader
from longboat.repository.packs import open_frame
from longboat.repository.pages import FrameRef, Page

from .progress import Progress
from .target import Target

WINDOW_BLOCKS = 32768  # Blocks whose frames are grouped together: 2 GiB of disk at the default block size.
MAX_RANGE = 4 << 20  # Frames of a pack are fetched together up to this many bytes,
MAX_GAP = 64 << 10  # and bytes between them that nobody needs, up to this many, come along.
FETCHES = 16


class BlockTarget(NamedTuple):
    """A block to take out of a frame: its slot there, its number on the disk, its id."""

    slot: int
    block: int
    block_id: bytes


@dataclass(frozen=True)
class RangeFetch:
    """Frames of one pack that are fetched together, in order of their offsets."""

    pack: bytes
    frames: list[tuple[FrameRef, list[BlockTarget]]]

    @property
    def start(self) -> int:
        """Offset of the first frame."""
        return self.frames[0][0].offset

    @property
    def length(self) -> int:
        """Bytes from the first frame's start to the last one's end."""
        last = self.frames[-1][0]
        return last.offset + last.length - self.start


def group_frames(pages: list[tuple[int, Page]]) -> dict[FrameRef, list[BlockTarget]]:
    """Return what is needed of each frame; pages come with the number of their first block."""
    needed: dict[FrameRef, list[BlockTarget]] = defaultdict(list)
    for first, page in pages:
        for index, number in enumerate(page.frame_of):
            if number:
                target = BlockTarget(page.slot_of[index], first + index, page.block_id(index))
                needed[page.frames[number - 1]].append(target)
    return needed


def coalesce(needed: dict[FrameRef, list[BlockTarget]]) -> Iterator[RangeFetch]:
    """Yield fetches of neighbouring frames, bounded by MAX_RANGE and MAX_GAP."""
    run: list[tuple[FrameRef, list[BlockTarget]]] = []
    for frame, targets in sorted(needed.items()):
        if run and not _joins(run, frame):
            yield RangeFetch(run[0][0].pack, run)
            run = []
        run.append((frame, targets))
    if run:
        yield RangeFetch(run[0][0].pack, run)


def hole_runs(page: Page | None, blocks: int) -> Iterator[tuple[int, int]]:
    """Yield (first block, count) of each run of holes in a page."""
    if page is None:
        yield 0, blocks
        return
    start = None
    for index, frame in enumerate([*page.frame_of, 1]):
        if frame == 0 and start is None:
            start = index
        elif frame and start is not None:
            yield start, index - start
            start = None


def block_runs(targets: list[BlockTarget]) -> Iterator[tuple[int, int, int]]:
    """Yield (slot, block, count) of targets that are neighbours both in the frame and on the disk."""
    first, count = targets[0], 0
    for target in targets:
        if count and (target.slot, target.block) != (first.slot + count, first.block + count):
            yield first.slot, first.block, count
            first, count = target, 0
        count += 1
    yield first.slot, first.block, count


class RestorePipeline:
    """One run from a manifest into a target; the first failure ends it and is raised by run()."""

    def __init__(self, repository: Repository, reader: MapReader, target: Target, progress: Progress) -> None:
        """Prepare a run; nothing is read yet."""
        self._repository, self._reader, self._target, self._progress = repository, reader, target, progress
        self._block_size, self._size = reader.manifest.block_size, reader.manifest.size_bytes
        self._slots = threading.BoundedSemaphore(FETCHES * 2)
        self._failure: BaseException | None = None
        self.written_bytes = self.read_bytes = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """Write the whole disk, holes included, up to the target's end."""
        with ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch") as pool:
            try:
                for window in self._windows(pool):
                    for fetch in coalesce(group_frames(window)):
                        self._submit(pool, fetch)
                self._zero_tail()
            except BaseException as error:
                # Those that are under way see it before their next write.
                self._failure = self._failure or error
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._raise_failure()

    def _windows(self, pool: ThreadPoolExecutor) -> Iterator[list[tuple[int, Page]]]:
        size = self._reader.manifest.page_blocks
        per_window = max(1, WINDOW_BLOCKS // size)
        for begin in range(0, self._reader.pages, per_window):
            numbers = range(begin, min(begin + per_window, self._reader.pages))
            futures = {number: pool.submit(self._reader.page, number) for number in numbers if self._has_data(number)}
            pages = {number: self._loaded(number, futures.get(number)) for number in numbers}
            self._zero_holes(pages)
            yield [(number * size, page) for number, page in pages.items() if page is not None]

    def _loaded(self, number: int, future: Future[Page | None] | None) -> Page | None:
        try:
            return future.result() if future else None
        except DamagedError as error:
            offset = number * self._reader.manifest.page_bytes
            raise DamagedError(f"the disk can't be restored from byte {offset} on: {error}") from None

    def _has_data(self, number: int) -> bool:
        return self._reader.manifest.pages[number] is not None

    def _zero_holes(self, pages: dict[int, Page | None]) -> None:
        start = length = 0
        for number, page in pages.items():
            first = number * self._reader.manifest.page_blocks
            for index, count in hole_runs(page, self._reader.page_blocks(number)):
                if length and start + length == first + index:
                    length += count
                    continue
                self._zero_blocks(start, length)
                start, length = first + index, count
        self._zero_blocks(start, length)

    def _zero_blocks(self, block: int, count: int) -> None:
        offset = block * self._block_size
        length = min(count * self._block_size, self._size - offset)
        if length > 0:
            self._raise_failure()
            self._target.zero(offset, length)
            self._progress.add(done=length)

    def _zero_tail(self) -> None:
        if self._target.size > self._size:
            self._target.zero(self._size, self._target.size - self._size)

    def _submit(self, pool: ThreadPoolExecutor, fetch: RangeFetch) -> None:
        self._slots.acquire()
        self._raise_failure()
        pool.submit(self._fetch, fetch).add_done_callback(self._fetched)

    def _fetched(self, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failure = self._failure or error
        self._slots.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fetch(self, fetch: RangeFetch) -> None:
        if self._failure is not None:
            return
        data = memoryview(self._read(fetch))
        for frame, targets in fetch.frames:
            at = frame.offset - fetch.start
            self._write(frame, sorted(targets), data[at : at + frame.length])
        with self._lock:
            self.read_bytes += fetch.length

    def _read(self, fetch: RangeFetch) -> bytes | bytearray | memoryview:
        name = pack_name(Kind.DATA_PACK, fetch.pack)
        try:
            return self._repository.store.get_range(name, fetch.start, fetch.length)
        except (ObjectNotFoundError, DamagedError) as error:
            raise self._damaged(fetch.frames[0][1], error) from None

    def _write(self, frame: FrameRef, targets: list[BlockTarget], sealed: memoryview) -> None:
        size = self._block_size
        try:
            plain = memoryview(open_frame(self._repository.keys, Kind.DATA_PACK, frame, sealed, frame.blocks * size))
            self._check(frame, targets, plain)
        except DamagedError as error:
            raise self._damaged(targets, error) from None
        for slot, block, count in block_runs(targets):
            self._raise_failure()
            length = min(count * size, self._size - block * size)
            self._target.write(block * size, plain[slot * size : slot * size + length])
            self._count(length)

    def _check(self, frame: FrameRef, targets: list[BlockTarget], plain: memoryview) -> None:
        size = self._block_size
        for target in targets:
            if self._repository.keys.block_id(plain[target.slot * size : (target.slot + 1) * size]) != target.block_id:
                name = pack_name(Kind.DATA_PACK, frame.pack)
                raise DamagedError(f"pack {name}: slot {target.slot} of the frame at {frame.offset} is another block")

    def _count(self, length: int) -> None:
        with self._lock:
            self.written_bytes += length
        self._progress.add(done=length, read=length)

    def _damaged(self, targets: list[BlockTarget], error: Exception) -> DamagedError:
        offset = min(target.block for target in targets) * self._block_size
        return DamagedError(f"the disk can't be restored from byte {offset} on: {error}")


def _joins(run: list[tuple[FrameRef, list[BlockTarget]]], frame: FrameRef) -> bool:
    first, last = run[0][0], run[-1][0]
    gap = frame.offset - (last.offset + last.length)
    near = frame.pack == last.pack and 0 <= gap <= MAX_GAP
    return near and frame.offset + frame.length - first.offset <= MAX_RANGE
