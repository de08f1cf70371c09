"""One page of a map in the making, beside the page of the parent that it is compared with."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Collection

from .layout import ID_BYTES
from .pages import FrameRef, Page

HOLE = bytes(ID_BYTES)
_KEPT, _NEW = 1, 2


class PageBuild:
    """One page in the making; its methods may be called from many threads, for blocks that don't overlap."""

    def __init__(
        self,
        number: int,
        blocks: int,
        tasks: int,
        parent: Page | None,
        done: Callable[[PageBuild], None],
        keep: bool = False,
        distrusted: frozenset[int] = frozenset(),
    ) -> None:
        """Expect `tasks` calls of task_done(); `done` is called once, when the page is complete.

        Blocks that no task settles are holes, or the parent's if `keep`. `distrusted` blocks (numbers within the page)
        are damaged in the parent: they are stored anew, changed or not.
        """
        self.number, self.blocks, self.parent, self.distrusted = number, blocks, parent, distrusted
        self._keep = keep
        self._known, self._present = _comparable(parent, blocks, distrusted)
        self.ids = bytearray(self._known) if keep else bytearray(blocks * ID_BYTES)
        self._origin = bytearray(self._present) if keep else bytearray(blocks)
        self._places: dict[int, tuple[FrameRef, int]] = {}
        self._outstanding = tasks
        self._done = done
        self._lock = threading.Lock()

    def settle(self, first: int, ids: bytes) -> list[int]:
        """Take the ids of neighbouring blocks (HOLE for zeros); return the numbers of those that have to be stored.

        Blocks that are as in the parent keep the parent's place.
        """
        start, count = first * ID_BYTES, len(ids) // ID_BYTES
        fresh = []
        if self._known[start : start + len(ids)] == ids:
            self._origin[first : first + count] = self._present[first : first + count]
        else:
            fresh = [index for index in range(first, first + count) if self._is_fresh(index, ids, index - first)]
        self.ids[start : start + len(ids)] = ids
        if fresh:
            with self._lock:
                self._outstanding += len(fresh)
        return fresh

    def believed(self, first: int, count: int) -> bytes:
        """Return what blocks are that no task settles: the parent's ids, or holes unless `keep`."""
        if not self._keep:
            return bytes(count * ID_BYTES)
        return bytes(self._known[first * ID_BYTES : (first + count) * ID_BYTES]).ljust(count * ID_BYTES, b"\0")

    def parent_ids(self, first: int, count: int) -> bytes:
        """Return what blocks are in the parent, also those that may not be referred to there; holes beyond it."""
        ids = self.parent.ids[first * ID_BYTES : (first + count) * ID_BYTES] if self.parent is not None else b""
        return bytes(ids).ljust(count * ID_BYTES, b"\0")

    def place(self, index: int, frame: FrameRef, slot: int) -> None:
        """Say where a block that had to be stored is."""
        self._places[index] = (frame, slot)
        self._settled()

    def task_done(self) -> None:
        """Say that all blocks of a task were looked at."""
        self._settled()

    @property
    def kept(self) -> int:
        """Number of blocks that are the parent's."""
        return self._origin.count(_KEPT)

    @property
    def new(self) -> int:
        """Number of blocks that had to be stored."""
        return len(self._places)

    def unchanged(self) -> bool:
        """Tell whether the complete page is the same as the parent's."""
        parent = self.parent
        same_size = parent is not None and parent.blocks == self.blocks
        return same_size and not self._places and not self.distrusted and self.ids == self._known

    def unchanged_in(self, packs: Collection[bytes]) -> int:
        """Return how many blocks were stored anew, though unchanged, as the parent has them in one of these packs."""
        parent = self.parent
        if parent is None or not packs or not self.distrusted:
            return 0
        frames = {number for number, frame in enumerate(parent.frames, 1) if frame.pack in packs}
        anew = (index for index in self.distrusted & self._places.keys() if parent.frame_of[index] in frames)
        return sum(parent.block_id(i) == self.ids[i * ID_BYTES : (i + 1) * ID_BYTES] for i in anew)

    def page(self) -> Page:
        """Return the complete page."""
        frames: dict[FrameRef, int] = {}
        renumbered: dict[int, int] = {}
        frame_of, slot_of = array("H", bytes(2 * self.blocks)), bytearray(self.blocks)
        parent = self.parent
        for index, origin in enumerate(self._origin):
            if origin == _KEPT and parent is not None:
                number = parent.frame_of[index]
                if number not in renumbered:
                    renumbered[number] = frames.setdefault(parent.frames[number - 1], len(frames) + 1)
                frame_of[index], slot_of[index] = renumbered[number], parent.slot_of[index]
            elif origin:
                frame, slot = self._places[index]
                frame_of[index], slot_of[index] = frames.setdefault(frame, len(frames) + 1), slot
        return Page(bytes(self.ids), frame_of, bytes(slot_of), list(frames))

    def _is_fresh(self, index: int, ids: bytes, at: int) -> bool:
        block_id = ids[at * ID_BYTES : (at + 1) * ID_BYTES]
        if block_id == HOLE:
            self._origin[index] = 0
        elif block_id == self._known[index * ID_BYTES : (index + 1) * ID_BYTES]:
            self._origin[index] = _KEPT
        else:
            self._origin[index] = _NEW
        return self._origin[index] == _NEW

    def _settled(self) -> None:
        with self._lock:
            self._outstanding -= 1
            complete = self._outstanding == 0
        if complete:
            self._done(self)


def _comparable(parent: Page | None, blocks: int, distrusted: frozenset[int]) -> tuple[bytes, bytes]:
    """Return the parent's ids, HOLE where it has none that may be used, and for each block whether there is one."""
    if parent is None:
        return bytes(blocks * ID_BYTES), bytes(blocks)
    ids = bytearray(parent.ids[: blocks * ID_BYTES].ljust(blocks * ID_BYTES, b"\0"))
    present = bytearray(map(bool, parent.frame_of[:blocks])).ljust(blocks, b"\0")
    for index in distrusted:
        if index < blocks:
            ids[index * ID_BYTES : (index + 1) * ID_BYTES] = HOLE
            present[index] = 0
    return bytes(ids), bytes(present)
