"""Reading a disk and storing what has changed: a few equal threads, each reading, hashing, compressing and sealing.

There are more threads than CPUs, so that several reads are in flight while others compute. Memory is bounded: a buffer
per thread, a fixed number of packs, and the few pages of the map that are being made.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from longboat.repository.codec import compress
from longboat.repository.crypto import RepositoryKeys
from longboat.repository.layout import FRAME_TARGET
from longboat.repository.map_builder import MapBuilder, PageBuild
from longboat.repository.packs import PackWriter

from .progress import Progress
from .source import Source
from .system_calls import AlignedBuffer

SEGMENT = 1 << 20
READS_AHEAD = 3  # Threads beyond one per CPU: these wait for the disk while the others compute.


def plan_segments(
    size: int, page_bytes: int, segment: int, ranges: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, list[int]]]:
    """Yield each page's number with the offsets of its segments that may hold data, in order.

    `ranges` are (start, end) in order; a page is a multiple of a segment.
    """
    page, offsets, following = 0, list[int](), 0
    for start, end in ranges:
        for index in range(max(start // segment, following), -(-end // segment)):
            following = index + 1
            while page < index * segment // page_bytes:
                yield page, offsets
                page, offsets = page + 1, []
            offsets.append(index * segment)
    while page < -(-size // page_bytes):
        yield page, offsets
        page, offsets = page + 1, []


@dataclass
class FrameBuilder:
    """Blocks of one thread that wait to be compressed together; each knows the page that waits for its place."""

    keys: RepositoryKeys
    block_size: int
    writer: PackWriter
    waiting: list[tuple[PageBuild, int]] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        """Allocate the frame."""
        self._capacity = max(1, FRAME_TARGET // self.block_size)
        self._plain = bytearray(self._capacity * self.block_size)

    def add(self, page: PageBuild, index: int, block_id: bytes, block: memoryview) -> None:
        """Copy a block into the frame; seal the frame if that fills it."""
        at = len(self.waiting) * self.block_size
        self._plain[at : at + self.block_size] = block
        self.waiting.append((page, index))
        self.ids += block_id
        if len(self.waiting) == self._capacity:
            self.flush()

    def flush(self) -> None:
        """Seal what is in the frame and tell the pages where their blocks are."""
        if not self.waiting:
            return
        plain = memoryview(self._plain)[: len(self.waiting) * self.block_size]
        payload, codec = compress(plain)
        frame = self.writer.append(payload, len(plain), codec, len(self.waiting), bytes(self.ids))
        waiting, self.waiting, self.ids = self.waiting, [], bytearray()
        for slot, (page, index) in enumerate(waiting):
            page.place(index, frame, slot)


class ExportPipeline:
    """One run over a source; the first failure of any thread ends it and is raised by run()."""

    def __init__(
        self,
        source: Source,
        keys: RepositoryKeys,
        block_size: int,
        page_blocks: int,
        map_builder: MapBuilder,
        writer: PackWriter,
        progress: Progress,
    ) -> None:
        """Prepare a run; nothing is read yet."""
        self._source, self._keys, self._block_size, self._page_blocks = source, keys, block_size, page_blocks
        self._map, self._writer, self._progress = map_builder, writer, progress
        self._page_bytes = block_size * page_blocks
        self._segment = min(SEGMENT, self._page_bytes)
        self._plan = plan_segments(source.size, self._page_bytes, self._segment, source.data_ranges())
        self._page: PageBuild | None = None
        self._offsets: deque[int] = deque()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None

    def run(self, threads: int) -> None:
        """Read the disk with so many threads."""
        workers = [threading.Thread(target=self._guarded, args=(self._work,), daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        finally:
            self._stop.set()
            for worker in workers:
                worker.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
            self._stop.set()

    def _work(self) -> None:
        buffer = AlignedBuffer(self._segment)
        frame = FrameBuilder(self._keys, self._block_size, self._writer)
        while (task := self._next()) is not None:
            self._read_segment(buffer, frame, *task)
        if not self._stop.is_set():
            frame.flush()

    def _next(self) -> tuple[PageBuild, int] | None:
        with self._lock:
            if self._stop.is_set():
                return None
            while not self._offsets:
                entry = next(self._plan, None)
                if entry is None:
                    return None
                self._open_page(*entry)
            assert self._page is not None
            return self._page, self._offsets.popleft()

    def _open_page(self, number: int, offsets: list[int]) -> None:
        self._page = self._map.open_page(number, len(offsets))
        self._offsets.extend(offsets)
        page_size = min(self._page_bytes, self._source.size - number * self._page_bytes)
        self._progress.add(done=page_size - sum(min(self._segment, self._source.size - at) for at in offsets))

    def _read_segment(self, buffer: AlignedBuffer, frame: FrameBuilder, page: PageBuild, offset: int) -> None:
        count = self._source.read_into(buffer.view, offset)
        blocks = -(-count // self._block_size)
        # The last block of a disk is completed with zeros.
        buffer.view[count : blocks * self._block_size] = bytes(blocks * self._block_size - count)
        first = offset // self._block_size - page.number * self._page_blocks
        found = [(first + i, self._id(buffer, i)) for i in self._data_blocks(buffer, blocks)]
        for index, block_id in page.settle(found):
            frame.add(page, index, block_id, self._block(buffer, index - first))
        page.segment_done()
        self._progress.add(done=count, read=count)

    def _data_blocks(self, buffer: AlignedBuffer, blocks: int) -> list[int]:
        size = self._block_size
        if buffer.is_zero(0, blocks * size):
            return []
        return [i for i in range(blocks) if not buffer.is_zero(i * size, size)]

    def _id(self, buffer: AlignedBuffer, index: int) -> bytes:
        return self._keys.block_id(self._block(buffer, index))

    def _block(self, buffer: AlignedBuffer, index: int) -> memoryview:
        return buffer.view[index * self._block_size : (index + 1) * self._block_size]
