"""Which bytes of a snapshot are allocated, and where two snapshots differ, told from where their files lie on the disk.

A snapshot's file shares its blocks with its volume until one of them is written to; what is written then goes to other
blocks, since a shared one is never changed. So two files that have the same physical block at one offset hold the
same bytes there, for as long as both files exist.
"""

import ctypes
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FS_IOC_FIEMAP = 0xC020660B
SYNC = 0x1
LAST, UNKNOWN, DELAYED, ENCODED, INLINE, UNWRITTEN = 0x1, 0x2, 0x4, 0x8, 0x200, 0x800
_PER_CALL = 256
_WHOLE_FILE = (1 << 64) - 1

Range = tuple[int, int]
"""(start, end) in bytes; the end is the first byte that does not belong to it."""


@dataclass(frozen=True)
class Extent:
    """Bytes `start` to `end` of a file lie at byte `physical` of the disk, and on from there."""

    start: int
    end: int
    physical: int

    def cut(self, start: int, end: int) -> "Extent":
        """The part of it between two offsets of the file."""
        start, end = max(start, self.start), min(end, self.end)
        return Extent(start, end, self.physical + start - self.start)


class _Head(ctypes.Structure):
    """struct fiemap of linux/fiemap.h, without the extents that follow it."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("mapped", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class _Extent(ctypes.Structure):
    """struct fiemap_extent."""

    _fields_ = (
        ("logical", ctypes.c_uint64),
        ("physical", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("reserved64", ctypes.c_uint64 * 2),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    )


class _Map(ctypes.Structure):
    _fields_ = (("head", _Head), ("extents", _Extent * _PER_CALL))


def written(fd: int, begin: int = 0) -> Iterator[Extent]:
    """The extents of a file that hold written data from byte `begin` on, in order: all else reads as zeros.

    Raises OSError, or ValueError for a file whose place on the disk says nothing about its bytes.
    """
    while True:
        found = _map(fd, begin)
        for each in found:
            if each.flags & (UNKNOWN | DELAYED | ENCODED | INLINE):
                raise ValueError(f"extent at {each.logical} has flags {each.flags:#x}: its place tells nothing")
            if not each.flags & UNWRITTEN and each.logical + each.length > begin:
                whole = Extent(each.logical, each.logical + each.length, each.physical)
                yield whole.cut(begin, whole.end)
        if not found or found[-1].flags & LAST:
            return
        begin = found[-1].logical + found[-1].length


def _map(fd: int, begin: int) -> list[_Extent]:
    asked = _Map(head=_Head(start=begin, length=_WHOLE_FILE - begin, flags=SYNC, count=_PER_CALL))
    fcntl.ioctl(fd, FS_IOC_FIEMAP, asked)
    return list(asked.extents[: asked.head.mapped])


def allocated(fd: int, begin: int = 0) -> Iterator[Range]:
    """The written ranges of a file from byte `begin` on, within its size."""
    ranges = ((each.start, each.end) for each in written(fd, begin))
    return within(joined(ranges), os.fstat(fd).st_size)


def changed(base: int, target: int, begin: int = 0) -> Iterator[Range]:
    """Where the file `target` may hold other bytes than `base` (both open), from byte `begin` on, within its size."""
    ranges = differing(written(base, begin), written(target, begin))
    return within(joined(ranges), os.fstat(target).st_size)


def differing(base: Iterable[Extent], target: Iterable[Extent]) -> Iterator[Range]:
    """The ranges that lie at different places, or in one of the two alone; all in order."""
    ours, theirs = iter(base), iter(target)
    one, two = next(ours, None), next(theirs, None)
    while one or two:
        start = min(each.start for each in (one, two) if each)
        end = min(edge for each in (one, two) if each for edge in (each.start, each.end) if edge > start)
        if _place(one, start) != _place(two, start):
            yield start, end
        one = _rest(one, end) or next(ours, None)
        two = _rest(two, end) or next(theirs, None)


def _place(extent: Extent | None, offset: int) -> int | None:
    if extent is None or extent.start > offset:
        return None
    return extent.physical + offset - extent.start


def _rest(extent: Extent | None, begin: int) -> Extent | None:
    return extent.cut(begin, extent.end) if extent and extent.end > begin else None


def joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """The same bytes in as few ranges as possible."""
    before: Range | None = None
    for start, end in ranges:
        if before and before[1] == start:
            before = (before[0], end)
            continue
        if before:
            yield before
        before = (start, end)
    if before:
        yield before


def within(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """The ranges as far as they lie below `size`: the last block of a file may reach beyond its end."""
    for start, end in ranges:
        if start >= size:
            return
        yield start, min(end, size)
