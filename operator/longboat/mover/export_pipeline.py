"""Reading a disk and storing what has changed: a few equal threads, each reading, hashing, compressing and sealing.

There are more threads than CPUs, so that several reads are in flight while others compute. Memory is bounded: a buffer
per thread, a fixed number of packs, and the few pages of the map that are being made.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from longboat.repository.crypto import RepositoryKeys
from longboat.repository.layout import ID_BYTES
from longboat.repository.map_builder import MapBuilder
from longboat.repository.packs import PackWriter
from longboat.repository.page_build import HOLE, PageBuild
from longboat.repository.pages import FrameRef

from .export_frames import FrameBuilder
from .progress import Progress
from .read_plan import Auditor, PagePlan, Span, plan_pages, with_blocks
from .reading import ChangeTrackingMismatchError, Reading
from .source import SourceLike
from .system_calls import AlignedBuffer

SEGMENT = 1 << 20
READS_AHEAD = 3  # Threads beyond one per CPU: these wait for the disk while the others compute.
_PAGES_AHEAD = 3  # Pages whose parent is fetched before they are needed.


class UploadedBlocks(Protocol):
    """Blocks that an earlier attempt has uploaded."""

    def find(self, block_id: bytes) -> tuple[FrameRef, int] | None:
        """Return where a block is, or None."""


class ExportPipeline:
    """One run over a source; the first failure of any thread ends it and is raised by run()."""

    def __init__(
        self,
        source: SourceLike,
        reading: Reading,
        keys: RepositoryKeys,
        block_size: int,
        page_blocks: int,
        map_builder: MapBuilder,
        writer: PackWriter,
        progress: Progress,
        auditor: Auditor,
        uploaded: UploadedBlocks | None = None,
    ) -> None:
        """Prepare a run; nothing is read yet."""
        self._source, self._keys, self._block_size, self._page_blocks = source, keys, block_size, page_blocks
        self._map, self._writer, self._progress = map_builder, writer, progress
        self._keep, self._auditor, self._uploaded = reading.keep, auditor, uploaded
        self._page_bytes = block_size * page_blocks
        self._segment = min(SEGMENT, self._page_bytes)
        pages = plan_pages(source.size, self._page_bytes, self._segment, block_size, reading.ranges)
        self._plan = self._looking_ahead(map(self._audited, pages) if reading.audited else pages)
        self._page: PageBuild | None = None
        self._spans: deque[Span] = deque()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None
        self.audited_bytes = self.found_blocks = 0

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
            self._read_span(buffer, frame, *task)
        if not self._stop.is_set():
            frame.flush()

    def _next(self) -> tuple[PageBuild, Span] | None:
        with self._lock:
            if self._stop.is_set():
                return None
            while not self._spans:
                plan = next(self._plan, None)
                if plan is None:
                    return None
                self._open_page(plan)
            assert self._page is not None
            return self._page, self._spans.popleft()

    def _audited(self, plan: PagePlan) -> PagePlan:
        start = plan.number * self._page_bytes
        return self._auditor.extend(plan, start, min(start + self._page_bytes, self._source.size))

    def _looking_ahead(self, plans: Iterator[PagePlan]) -> Iterator[PagePlan]:
        waiting: deque[PagePlan] = deque()
        for plan in plans:
            if not self._is_shared(plan):
                self._map.prefetch(plan.number)
            waiting.append(plan)
            if len(waiting) > _PAGES_AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _is_shared(self, plan: PagePlan) -> bool:
        # The parent's last page maps fewer blocks than ours if the disk has grown: then it has spans.
        return self._keep and not plan.spans and not self._map.must_look(plan.number)

    def _open_page(self, plan: PagePlan) -> None:
        start = plan.number * self._page_bytes
        size = min(self._page_bytes, self._source.size - start)
        if self._is_shared(plan):
            self._map.share_page(plan.number)
        else:
            if self._keep and self._map.must_look(plan.number):
                anew = self._map.must_read(plan.number)
                plan = with_blocks(plan, anew, start, self._block_size, self._segment, self._source.size)
            self._page = self._map.open_page(plan.number, len(plan.spans), self._keep)
            self._spans.extend(plan.spans)
        self._progress.add(done=size - sum(span.length for span in plan.spans))

    def _read_span(self, buffer: AlignedBuffer, frame: FrameBuilder, page: PageBuild, span: Span) -> None:
        size, count = self._block_size, span.length
        blocks = -(-count // size)
        self._source.read_into(buffer.view[: blocks * size], span.offset)
        if count < blocks * size:
            # The last block of a disk is completed with zeros.
            buffer.view[count : blocks * size] = bytes(blocks * size - count)
        first = span.offset // size - page.number * self._page_blocks
        ids = self._ids(buffer, blocks)
        if span.audit:
            self._check(page.believed(first, blocks), ids, span)
        else:
            if span.anew and page.parent is not None:
                self._check(page.parent_ids(first, blocks), ids, span)
            self._store(page, first, ids, page.settle(first, ids), buffer, frame)
        page.task_done()
        self._progress.add(done=count, read=count)

    def _ids(self, buffer: AlignedBuffer, blocks: int) -> bytes:
        size, view, identify, is_zero = self._block_size, buffer.view, self._keys.block_id, buffer.is_zero
        if is_zero(0, blocks * size):
            return HOLE * blocks
        starts = range(0, blocks * size, size)
        return b"".join([HOLE if is_zero(at, size) else identify(view[at : at + size]) for at in starts])

    def _check(self, believed: bytes, ids: bytes, span: Span) -> None:
        if believed != ids:
            raise ChangeTrackingMismatchError(
                f"bytes {span.offset} to {span.offset + span.length} differ from what the change source says"
            )
        with self._lock:
            self.audited_bytes += span.length

    def _store(
        self, page: PageBuild, first: int, ids: bytes, fresh: list[int], buffer: AlignedBuffer, frame: FrameBuilder
    ) -> None:
        if self._uploaded is not None and fresh:
            fresh = self._found(page, first, ids, fresh, self._uploaded)
        at = 0
        while at < len(fresh):
            index, slot = fresh[at], fresh[at] - first
            count = frame.capacity
            if at + count <= len(fresh) and fresh[at + count - 1] == index + count - 1:
                part = ids[slot * ID_BYTES : (slot + count) * ID_BYTES]
                frame.seal(page, index, part, self._blocks(buffer, slot, count))
                at += count
            else:
                frame.add(page, index, ids[slot * ID_BYTES : (slot + 1) * ID_BYTES], self._blocks(buffer, slot, 1))
                at += 1

    def _found(self, page: PageBuild, first: int, ids: bytes, fresh: list[int], uploaded: UploadedBlocks) -> list[int]:
        missing = []
        for index in fresh:
            at = (index - first) * ID_BYTES
            place = uploaded.find(ids[at : at + ID_BYTES])
            if place is None:
                missing.append(index)
            else:
                page.place(index, *place)
        with self._lock:
            self.found_blocks += len(fresh) - len(missing)
        return missing

    def _blocks(self, buffer: AlignedBuffer, slot: int, count: int) -> memoryview:
        return buffer.view[slot * self._block_size : (slot + count) * self._block_size]
