"""The pure part of a restore: which ranges of packs are fetched, which runs are written, which ranges are zeroed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from longboat.repository.pages import FrameRef, Page

MAX_RANGE = 4 << 20  # Frames of a pack are fetched together up to this many bytes,
MAX_GAP = 128 << 10  # and bytes between them that nobody needs, up to this many, come along.
ZERO_STEP = 256 << 20  # A device may take its time over zeros: this much at once, so that a restore can be stopped.


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
    if not targets:
        return
    first, count = targets[0], 0
    for target in targets:
        if count and (target.slot, target.block) != (first.slot + count, first.block + count):
            yield first.slot, first.block, count
            first, count = target, 0
        count += 1
    yield first.slot, first.block, count


def merged(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of runs in order, those that touch joined."""
    start = count = 0
    for first, more in runs:
        if count and start + count == first:
            count += more
            continue
        if count:
            yield start, count
        start, count = first, more
    if count:
        yield start, count


def steps(offset: int, length: int, step: int = ZERO_STEP) -> Iterator[tuple[int, int]]:
    """Yield a range as (offset, length) of at most `step` bytes each."""
    for at in range(offset, offset + length, step):
        yield at, min(step, offset + length - at)


def _joins(run: list[tuple[FrameRef, list[BlockTarget]]], frame: FrameRef) -> bool:
    first, last = run[0][0], run[-1][0]
    gap = frame.offset - (last.offset + last.length)
    near = frame.pack == last.pack and 0 <= gap <= MAX_GAP
    return near and frame.offset + frame.length - first.offset <= MAX_RANGE
