"""Writing a backed-up disk: pages of the map in windows, frames fetched in coalesced ranges, every block checked.

A target that is not known to be blank may hold what an earlier attempt has written: of each range that is about to be
fetched one block is read from the target first, and if it is there already, all others; only what differs is fetched
and written. So a restore goes on where it was interrupted without keeping any record, and into a volume with other
content that costs one block in 64.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from random import Random

from longboat.repository import Repository
from longboat.repository.damage import Damage as FrameSet
from longboat.repository.errors import DamagedError, ObjectNotFoundError
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import MAX_BLOCK_SIZE, Kind, pack_name
from longboat.repository.object_store import Data
from longboat.repository.packs import open_frame
from longboat.repository.pages import FrameRef, Page

from .errors import TargetReadError
from .progress import Progress
from .restore_damage import Damage, DamageHandler, Rescue, refuse, unreadable
from .restore_plan import BlockTarget, RangeFetch, block_runs, coalesce, group_frames, hole_runs, merged, steps
from .restore_sample import DATA_SAMPLE, HOLE_SAMPLE, Expected, Reservoir, matches
from .system_calls import AlignedBuffer
from .target import Target, Write

WINDOW_BLOCKS = 65536  # Blocks whose frames are grouped together: 4 GiB of disk at the default block size.
FETCHES = 16
PAGE_FETCHES = 4


@dataclass
class Moved:
    """Bytes of a restore: of data `written` to the target and `kept` there as found, and `read` from the store."""

    written: int = 0
    kept: int = 0
    read: int = 0


class RestorePipeline:
    """One run from a manifest into a target; the first failure ends it and is raised by run()."""

    def __init__(
        self,
        repository: Repository,
        reader: FollowingMapReader,
        target: Target,
        progress: Progress,
        random: Random | None = None,
        on_damage: DamageHandler = refuse,
    ) -> None:
        """Prepare a run; nothing is read yet. `random` chooses the sample that is to be read back."""
        self._repository, self._reader, self._target, self._progress = repository, reader, target, progress
        self._block_size, self._size = reader.manifest.block_size, reader.manifest.size_bytes
        self._on_damage, self._rescue = on_damage, Rescue(repository, reader)
        self._slots = threading.BoundedSemaphore(FETCHES * 2)
        self._failure: BaseException | None = None
        self._lock, self._buffers = threading.Lock(), threading.local()
        random = random or Random()
        self._data_sample, self._hole_sample = Reservoir(DATA_SAMPLE, random), Reservoir(HOLE_SAMPLE, random)
        self._lost: list[tuple[int, int]] = []
        self.moved = Moved()

    @property
    def healed_bytes(self) -> int:
        """Bytes that were taken from other backups, as their own frames are damaged."""
        return self._rescue.healed_bytes

    @property
    def damaged_frames(self) -> FrameSet:
        """The frames whose blocks were looked for in other backups."""
        return self._rescue.frames

    def run(self) -> None:
        """Write the whole disk, holes included, up to the target's end."""
        with ThreadPoolExecutor(FETCHES, "fetch") as pool, ThreadPoolExecutor(PAGE_FETCHES, "page") as maps:
            try:
                for pages in self._windows(maps):
                    self._submit_zeros(pool, pages)
                    self._submit_data(pool, pages)
                self._zero(pool, self._size, self._target.size - self._size)
            except BaseException as error:
                # Those that are under way see it before their next write.
                self._failure = self._failure or error
                for each in (pool, maps):
                    each.shutdown(wait=False, cancel_futures=True)
                raise
        self._raise_failure()

    def sample(self) -> list[Expected]:
        """Return what is to be read back: random blocks of data, and of holes."""
        lost = {offset for offset, _ in self._lost}
        return [each for each in self._data_sample.items if each.offset not in lost] + self._hole_sample.items

    def _windows(self, maps: ThreadPoolExecutor) -> Iterator[dict[int, Page | None]]:
        """Yield pages by their number; those of the next window are fetched while one is worked on."""
        per_window = max(1, WINDOW_BLOCKS // self._reader.manifest.page_blocks)
        ahead: deque[dict[int, Future[Page | None]]] = deque()
        for begin in range(0, self._reader.pages, per_window):
            numbers = range(begin, min(begin + per_window, self._reader.pages))
            ahead.append({number: maps.submit(self._reader.page, number) for number in numbers})
            if len(ahead) > 1:
                yield self._loaded(ahead.popleft())
        while ahead:
            yield self._loaded(ahead.popleft())

    def _loaded(self, futures: dict[int, Future[Page | None]]) -> dict[int, Page | None]:
        return {number: self._page(number, future) for number, future in futures.items()}

    def _page(self, number: int, future: Future[Page | None]) -> Page | None:
        try:
            return future.result()
        except DamagedError as error:
            offset = number * self._reader.manifest.page_bytes
            length = min(self._reader.manifest.page_bytes, self._size - offset)
            self._on_damage(Damage(((offset, length),), str(error), (Kind.MAP_PACK, *self._reader.place(number))))
            return None

    def _submit_zeros(self, pool: ThreadPoolExecutor, pages: dict[int, Page | None]) -> None:
        for block, count in merged(self._holes(pages)):
            offset = block * self._block_size
            length = min(count * self._block_size, self._size - offset)
            self._sample_hole(offset, length)
            self._zero(pool, offset, length)

    def _holes(self, pages: dict[int, Page | None]) -> Iterator[tuple[int, int]]:
        for number, page in pages.items():
            first = number * self._reader.manifest.page_blocks
            for index, count in hole_runs(page, self._reader.page_blocks(number)):
                yield first + index, count

    def _zero(self, pool: ThreadPoolExecutor, offset: int, length: int) -> None:
        if length > 0 and self._target.blank:
            self._progress.add(done=length)
            return
        for at, part in steps(offset, length):
            self._submit(pool, partial(self._zero_range, at, part))

    def _zero_range(self, offset: int, length: int) -> None:
        self._raise_failure()
        self._target.zero(offset, length)
        self._progress.add(done=length)

    def _submit_data(self, pool: ThreadPoolExecutor, pages: dict[int, Page | None]) -> None:
        size = self._reader.manifest.page_blocks
        needed = group_frames([(number * size, page) for number, page in pages.items() if page is not None])
        for fetch in coalesce(needed):
            self._sample_data(fetch)
            self._submit(pool, partial(self._restore, fetch))

    def _submit(self, pool: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        self._slots.acquire()
        self._raise_failure()
        pool.submit(work).add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failure = self._failure or error
        self._slots.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _restore(self, fetch: RangeFetch) -> None:
        self._raise_failure()
        for part in [fetch] if self._target.blank else list(coalesce(self._missing(fetch))):
            self._fetch(part)

    def _missing(self, fetch: RangeFetch) -> dict[FrameRef, list[BlockTarget]]:
        """Return what the target does not hold: if it lacks the first block, all is taken to be missing."""
        if not self._holds(min(fetch.frames[0][1])):
            return dict(fetch.frames)
        missing = {frame: [each for each in targets if not self._holds(each)] for frame, targets in fetch.frames}
        kept = sum(len(targets) - len(missing[frame]) for frame, targets in fetch.frames) * self._block_size
        with self._lock:
            self.moved.kept += kept
        self._progress.add(done=kept)
        return {frame: targets for frame, targets in missing.items() if targets}

    def _holds(self, block: BlockTarget) -> bool:
        self._raise_failure()
        buffer: AlignedBuffer | None = getattr(self._buffers, "buffer", None)
        if buffer is None:
            buffer = self._buffers.buffer = AlignedBuffer(MAX_BLOCK_SIZE)
        expected, block_id = self._expected(block), self._repository.keys.block_id
        try:
            return matches(self._target, expected, block_id, self._block_size, buffer)
        except TargetReadError:
            return False  # Writing it may mend it; if not, that is told when it is read back.

    def _fetch(self, fetch: RangeFetch) -> None:
        self._raise_failure()
        try:
            data = self._read(fetch)
        except (ObjectNotFoundError, DamagedError) as error:
            if len(fetch.frames) > 1:
                # Other frames of the range may be whole; the damaged one is found.
                for each in fetch.frames:
                    self._fetch(RangeFetch(fetch.pack, [each]))
                return
            self._lose(*fetch.frames[0], f"pack {pack_name(Kind.DATA_PACK, fetch.pack)}: {error}")
            return
        with self._target.gather() as write:
            for frame, targets in fetch.frames:
                at = frame.offset - fetch.start
                self._write(write, frame, sorted(targets), data[at : at + frame.length])

    def _read(self, fetch: RangeFetch) -> memoryview:
        name = pack_name(Kind.DATA_PACK, fetch.pack)
        data: Data = self._repository.store.get_range(name, fetch.start, fetch.length)
        with self._lock:
            self.moved.read += fetch.length
        return memoryview(data)

    def _write(self, write: Write, frame: FrameRef, targets: list[BlockTarget], sealed: memoryview) -> None:
        size = self._block_size
        try:
            plain = memoryview(open_frame(self._repository.keys, Kind.DATA_PACK, frame, sealed, frame.blocks * size))
        except DamagedError as error:
            self._lose(frame, targets, str(error))
            return
        for slot, block, count in block_runs(self._checked(frame, targets, plain)):
            self._raise_failure()
            length = min(count * size, self._size - block * size)
            write(block * size, plain[slot * size : slot * size + length])
            self._count(length)

    def _checked(self, frame: FrameRef, targets: list[BlockTarget], plain: memoryview) -> list[BlockTarget]:
        """Return the targets whose block is the one that the map says."""
        size, block_id = self._block_size, self._repository.keys.block_id
        wrong = [
            each for each in targets if block_id(plain[each.slot * size : (each.slot + 1) * size]) != each.block_id
        ]
        if not wrong:
            return targets
        name = pack_name(Kind.DATA_PACK, frame.pack)
        self._lose(frame, wrong, f"pack {name}: slot {wrong[0].slot} of the frame at {frame.offset} is another block")
        return [each for each in targets if each not in wrong]

    def _lose(self, frame: FrameRef, targets: list[BlockTarget], cause: str) -> None:
        rescued = self._rescue.blocks(frame, {each.block: (each.slot, each.block_id) for each in targets})
        for block, content in rescued.found.items():
            self._raise_failure()
            length = min(self._block_size, self._size - block * self._block_size)
            self._target.write(block * self._block_size, memoryview(content)[:length])
            self._count(length)
        for place, blocks in rescued.lost.items():
            lost = [self._expected(each) for each in targets if each.block in blocks]
            self._give_up(place, lost, cause if place == frame else unreadable(place))

    def _give_up(self, frame: FrameRef, expected: list[Expected], cause: str) -> None:
        ranges = tuple((each.offset, each.length) for each in expected)
        self._on_damage(Damage(ranges, cause, (Kind.DATA_PACK, frame.pack, frame.offset)))
        for offset, length in ranges:
            self._target.zero(offset, length)
            self._progress.add(done=length)
        with self._lock:
            self._lost += ranges

    def _count(self, length: int) -> None:
        with self._lock:
            self.moved.written += length
        self._progress.add(done=length, read=length)

    def _expected(self, block: BlockTarget) -> Expected:
        offset = block.block * self._block_size
        return Expected(offset, min(self._block_size, self._size - offset), block.block_id)

    def _sample_data(self, fetch: RangeFetch) -> None:
        for _, targets in fetch.frames:
            for each in targets:
                at = self._data_sample.place()
                if at is not None:
                    self._data_sample.put(at, self._expected(each))

    def _sample_hole(self, offset: int, length: int) -> None:
        at = self._hole_sample.place()
        if at is not None:
            last = (length - 1) // self._block_size
            start = offset + self._hole_sample.index(last + 1) * self._block_size
            self._hole_sample.put(at, Expected(start, min(self._block_size, offset + length - start), None))
