"""Reading any bytes of a backed-up disk: only the blocks asked for are fetched, and each is checked against its id."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from longboat.repository import Repository, StoredDisk
from longboat.repository.backups import disk_exists
from longboat.repository.errors import DamagedError, ObjectNotFoundError, RepositoryError, StoreError
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import Kind, pack_name
from longboat.repository.object_store import persistently
from longboat.repository.pages import FrameRef, Page

from .frame_cache import Frame, FrameCache
from .read_ahead import ReadAhead
from .restore_damage import Damage, Rescue, unreadable
from .restore_plan import BlockTarget, merged
from .weighted_cache import WeightedCache

FRAME_BYTES = 64 << 20
_PAGE_BYTES = 32 << 20
_HEALED_BYTES = 4 << 20
_FRAME_REF_BYTES = 256  # What Python needs for a frame's reference in a page.
_AHEAD = 4  # Windows that are fetched ahead at a time: they come on top of what the caches hold.

Needed = dict[FrameRef, list[BlockTarget]]
Contents = dict[int, "bytes | memoryview"]


class LostBlocksError(DamagedError):
    """Blocks of a disk can't be read back; `damage` says which and why."""

    def __init__(self, damage: Damage) -> None:
        """Name the place on the disk and the cause."""
        super().__init__(f"{_places(damage)} can't be read: {damage.cause}")
        self.damage = damage


@dataclass
class Shared:
    """What the readers of all disks share: threads, frames and pages of maps, and how much is fetched ahead."""

    pool: Executor
    frames: FrameCache
    pages: WeightedCache[tuple[bytes, int], Page] = field(default_factory=lambda: WeightedCache(_PAGE_BYTES))
    ahead: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_AHEAD))

    @classmethod
    def of(cls, pool: Executor, frame_bytes: int = FRAME_BYTES) -> Shared:
        """Return caches of the usual size, frames up to `frame_bytes`."""
        return cls(pool, FrameCache(frame_bytes, pool))


class DiskReader:
    """The bytes of one disk of a backup; safe to use from many threads."""

    def __init__(self, repository: Repository, stored: StoredDisk, shared: Shared) -> None:
        """Read nothing yet."""
        self._repository, self._name, self._shared = repository, stored.name, shared
        self._map = FollowingMapReader(repository, stored)
        self._rescue = Rescue(repository, self._map)
        self._block_size, self.size = stored.manifest.block_size, stored.manifest.size_bytes
        self._healed: WeightedCache[int, bytes] = WeightedCache(_HEALED_BYTES)
        self._read_ahead, self._lock = ReadAhead(), threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the end of the disk.

        LostBlocksError if any of these blocks is damaged for good; a StoreError is the store's own failure.
        """
        end = min(offset + length, self.size)
        if offset < 0 or end <= offset:
            return b""
        self._fetch_ahead(offset, end)
        contents = self._contents(offset, end)
        return self._cut(contents, offset, end) if contents else bytes(end - offset)

    def _cut(self, contents: Contents, offset: int, end: int) -> bytes:
        size, zeros = self._block_size, bytes(self._block_size)
        parts = []
        for block in range(offset // size, -(-end // size)):
            begin = max(offset - block * size, 0)
            parts.append(memoryview(contents.get(block, zeros))[begin : min(end - block * size, size)])
        return b"".join(parts)

    def _contents(self, offset: int, end: int) -> Contents:
        """Return the blocks between two offsets that are no holes, checked, by their number."""
        found: Contents = {}
        needed: Needed = {}
        for frame, targets in self._needed(offset, end).items():
            healed = {each.block: self._healed.get(each.block) for each in targets}
            found |= {block: content for block, content in healed.items() if content is not None}
            if rest := [each for each in targets if healed[each.block] is None]:
                needed[frame] = rest
        futures = self._shared.frames.want(self._repository, needed, self._block_size)
        for frame, targets in needed.items():
            found |= self._taken(frame, targets, futures[frame])
        return found

    def _needed(self, offset: int, end: int) -> Needed:
        needed: Needed = defaultdict(list)
        per_page, first, last = self._map.manifest.page_blocks, offset // self._block_size, -(-end // self._block_size)
        for number in range(first // per_page, -(-last // per_page)):
            page, base = self._page(number), number * per_page
            if page is None:
                continue
            for index in range(max(first - base, 0), min(last - base, page.blocks)):
                if place := page.place(index):
                    needed[place[0]].append(BlockTarget(place[1], base + index, page.block_id(index)))
        return needed

    def _page(self, number: int) -> Page | None:
        """Return a page; None, without a request, if it is all holes."""
        if self._map.manifest.pages[number] is None:
            return None
        page = self._shared.pages.get(self._map.place(number))
        if page is None:
            page = self._read_page(number)
            if page is not None:
                # It may lie elsewhere than it did before it was read.
                self._shared.pages.put(self._map.place(number), page, _weight(page))
        return page

    def _read_page(self, number: int) -> Page | None:
        try:
            return persistently(lambda: self._map.page(number))
        except DamagedError as error:
            offset = number * self._map.manifest.page_bytes
            ranges = ((offset, min(self._map.manifest.page_bytes, self.size - offset)),)
            place = (Kind.MAP_PACK, *self._map.place(number))
            raise LostBlocksError(Damage(ranges, self._cause(error), place)) from None

    def _taken(self, frame: FrameRef, targets: list[BlockTarget], future: Future[Frame]) -> Contents:
        try:
            opened = future.result()
        except (DamagedError, ObjectNotFoundError) as error:
            return self._rescued(frame, targets, str(error))
        wrong = [each for each in targets if not opened.holds(self._repository.keys, each)]
        found: Contents = {each.block: opened.block(each.slot) for each in targets if each not in wrong}
        if wrong:
            cause = f"slot {wrong[0].slot} of the frame at {frame.offset} is another block"
            found |= self._rescued(frame, wrong, f"pack {pack_name(Kind.DATA_PACK, frame.pack)}: {cause}")
        return found

    def _rescued(self, frame: FrameRef, targets: list[BlockTarget], cause: str) -> Contents:
        """Return blocks that another attempt, or another backup of the disk, gives; LostBlocksError if not all."""
        rescued = self._rescue.blocks(frame, {each.block: (each.slot, each.block_id) for each in targets})
        for block, content in rescued.found.items():
            self._healed.put(block, content, len(content))
        for place, lost in rescued.lost.items():
            ranges, told = tuple(self._ranges(sorted(lost))), cause if place == frame else unreadable(place)
            raise LostBlocksError(Damage(ranges, self._cause(told), (Kind.DATA_PACK, place.pack, place.offset)))
        return dict(rescued.found)

    def _ranges(self, blocks: list[int]) -> Iterator[tuple[int, int]]:
        for first, count in merged((block, 1) for block in blocks):
            offset = first * self._block_size
            yield offset, min(count * self._block_size, self.size - offset)

    def _cause(self, error: object) -> str:
        """Return why blocks are lost; that the whole backup has been removed explains it best."""
        with contextlib.suppress(StoreError):
            if not disk_exists(self._repository, self._name):
                return f"the backup was removed from the repository since it was opened ({error})"
        return str(error)

    def _fetch_ahead(self, offset: int, end: int) -> None:
        with self._lock:
            window = self._read_ahead.next(offset, end)
        if window is None or window[0] >= self.size or not self._shared.ahead.acquire(blocking=False):
            return
        try:
            self._shared.pool.submit(self._fetch_window, window[0], min(window[1], self.size))
        except RuntimeError:
            self._shared.ahead.release()  # The pool is being shut down.

    def _fetch_window(self, start: int, end: int) -> None:
        # What fails is met again, and told, by whoever really reads it.
        with contextlib.suppress(RepositoryError):
            try:
                self._shared.frames.want(self._repository, self._needed(start, end), self._block_size)
            finally:
                self._shared.ahead.release()


def _weight(page: Page) -> int:
    return len(page.ids) + 3 * page.blocks + len(page.frames) * _FRAME_REF_BYTES


def _places(damage: Damage) -> str:
    return ", ".join(f"{length} bytes at byte {offset}" for offset, length in damage.ranges)
