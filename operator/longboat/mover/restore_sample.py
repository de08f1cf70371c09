"""Reading back a random sample of what was restored, past the page cache, once everything is synced."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from longboat.repository.layout import MAX_BLOCK_SIZE

from .errors import TargetMismatchError
from .system_calls import AlignedBuffer
from .target import Target

DATA_SAMPLE = 256  # Blocks with data: 16 MiB at the default size. If 1 % were wrong, nine of ten restores would notice.
HOLE_SAMPLE = 64


class Expected(NamedTuple):
    """A part of the disk: offset and length in bytes, and the id of the block that it is, None being zeros."""

    offset: int
    length: int
    block_id: bytes | None


class Reservoir:
    """A fixed number of items out of a stream of any length, each with the same chance."""

    def __init__(self, size: int, random: Random) -> None:
        """Keep at most `size` items."""
        self.items: list[Expected] = []
        self._size, self._random, self._seen = size, random, 0

    def place(self) -> int | None:
        """Count one more item of the stream; return the place that it is to take, or None."""
        self._seen += 1
        if self._seen <= self._size:
            return self._seen - 1
        at = int(self._random.random() * self._seen)
        return at if at < self._size else None

    def index(self, count: int) -> int:
        """Return a random number below `count`."""
        return int(self._random.random() * count)

    def put(self, at: int, item: Expected) -> None:
        """Put an item into its place."""
        self.items[at : at + 1] = [item]


def read_back(target: Target, sample: list[Expected], block_id: Callable[[memoryview], bytes], block_size: int) -> int:
    """Compare the sample with what the target holds; return the bytes read. TargetMismatchError names the offset."""
    buffer, done = AlignedBuffer(MAX_BLOCK_SIZE), 0
    for expected in sorted(sample, key=lambda each: each.offset):
        if not matches(target, expected, block_id, block_size, buffer):
            raise TargetMismatchError(
                f"the target does not hold at byte {expected.offset} what was written there; the volume, or what lies"
                " under it, loses data: look at its storage, and restore into another volume"
            )
        done += expected.length
    return done


def matches(
    target: Target, expected: Expected, block_id: Callable[[memoryview], bytes], block_size: int, buffer: AlignedBuffer
) -> bool:
    """Tell whether the target holds the expected bytes; the last block of a disk is completed with zeros."""
    target.read(expected.offset, expected.length, buffer)
    if expected.block_id is None:
        return buffer.is_zero(0, expected.length)
    if expected.length < block_size:
        buffer.view[expected.length : block_size] = bytes(block_size - expected.length)
    return block_id(buffer.view[:block_size]) == expected.block_id
