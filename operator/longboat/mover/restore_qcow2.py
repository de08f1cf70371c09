"""A qcow2 image as the target of a restore: sparse, complete metadata first, each cluster in a place known beforehand.

One pass over the backup's map tells which clusters hold data; with that the whole layout is known, so that blocks may
come in any order and nothing but one bit for each 64 KiB of disk is kept in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from longboat.repository.errors import DamagedError
from longboat.repository.layout import Kind
from longboat.repository.map_reader import MapReader
from longboat.repository.pages import Page

from .restore_damage import Damage, LostDataError
from .system_calls import AlignedBuffer
from .target import ImageTarget, Write, open_image

CLUSTER = 64 << 10
_ENTRIES = CLUSTER // 8  # Clusters that one table of the second level maps: 512 MiB.
_COUNTERS = CLUSTER // 2
_COPIED = 1 << 63  # The cluster is referred to once, so that it may be written in place.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_PAGES_AT_ONCE = 8


def used_clusters(reader: MapReader, salvage: bool = False) -> bytearray:
    """Return one bit for each cluster of a backup's disk, the lowest bit first: whether it holds data.

    DamagedError if a page can't be read. With `salvage` all of its clusters count as data: they read as zeros unless
    it can be read later on.
    """
    size, block = reader.manifest.size_bytes, reader.manifest.block_size
    used = bytearray(-(-size // CLUSTER) // 8 + 1)
    with ThreadPoolExecutor(_PAGES_AT_ONCE, thread_name_prefix="page") as pool:
        for begin in range(0, reader.pages, _PAGES_AT_ONCE):
            numbers = range(begin, min(begin + _PAGES_AT_ONCE, reader.pages))
            for number, future in [(number, pool.submit(reader.page, number)) for number in numbers]:
                start = number * reader.manifest.page_bytes
                try:
                    _mark(used, future.result(), start, block, size)
                except DamagedError as error:
                    lost, place = range(start, min(start + reader.manifest.page_bytes, size)), reader.place(number)
                    _mark_all(used, lost, error, (Kind.MAP_PACK, *place), salvage)
    return used


def _mark_all(used: bytearray, lost: range, error: DamagedError, place: tuple[Kind, bytes, int], salvage: bool) -> None:
    if not salvage:
        raise LostDataError(Damage(((lost.start, len(lost)),), str(error), place)) from None
    for cluster in range(lost.start // CLUSTER, -(-lost.stop // CLUSTER)):
        used[cluster >> 3] |= 1 << (cluster & 7)


def _mark(used: bytearray, page: Page | None, start: int, block: int, size: int) -> None:
    for index, frame in enumerate(page.frame_of if page else ()):
        if frame:
            first = start + index * block
            for cluster in range(first // CLUSTER, -(-min(first + block, size) // CLUSTER)):
                used[cluster >> 3] |= 1 << (cluster & 7)


class Layout:
    """Where everything lies in an image of `size` bytes, of which the clusters in `used` hold data."""

    def __init__(self, size: int, used: bytearray) -> None:
        """Compute the layout; the virtual size is a multiple of 512 bytes."""
        self.size, self._used = -(-size // 512) * 512, used
        tables = max(1, -(-self.size // (CLUSTER * _ENTRIES)))
        counts = [self._count(table * _ENTRIES, (table + 1) * _ENTRIES) for table in range(tables)]
        self._before = [0, *accumulate(counts)]  # Clusters with data before each table's.
        self.tables = [table for table, count in enumerate(counts) if count]
        self.first_level = CLUSTER
        self.first_level_entries = tables
        after = 1 + _clusters(tables * 8)
        self.counter_blocks, self.counter_clusters = _counters(after + len(self.tables) + self._before[-1])
        self.counter_table = after * CLUSTER
        self.counters = self.counter_table + self.counter_clusters * CLUSTER
        self.second_level = self.counters + self.counter_blocks * CLUSTER
        self.data = self.second_level + len(self.tables) * CLUSTER
        self.file_size = self.data + self._before[-1] * CLUSTER

    def holds(self, cluster: int) -> bool:
        """Tell whether a cluster has a place in the file."""
        return bool(self._used[cluster >> 3] >> (cluster & 7) & 1)

    def place(self, offset: int) -> int:
        """Return where a byte of the disk, within a cluster that holds data, lies in the file."""
        cluster = offset // CLUSTER
        table = cluster // _ENTRIES
        return self.data + (self._before[table] + self._count(table * _ENTRIES, cluster)) * CLUSTER + offset % CLUSTER

    def metadata(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset in the file, bytes) of header and tables, none larger than a few MiB for a TiB."""
        yield 0, self._header()
        entries = [0] * self.first_level_entries
        for index, table in enumerate(self.tables):
            at = self.second_level + index * CLUSTER
            entries[table] = at | _COPIED
            yield at, self._second_level(table)
        yield self.first_level, _padded(struct.pack(f">{len(entries)}Q", *entries))
        blocks = [self.counters + index * CLUSTER for index in range(self.counter_blocks)]
        yield self.counter_table, _padded(struct.pack(f">{len(blocks)}Q", *blocks))
        yield from self._counts(blocks)

    def _header(self) -> bytes:
        sizes = (self.first_level_entries, self.first_level, self.counter_table, self.counter_clusters)
        return _padded(_HEADER.pack(b"QFI\xfb", 3, 0, 0, 16, self.size, 0, *sizes, 0, 0, 0, 0, 0, 4, 104))

    def _second_level(self, table: int) -> bytes:
        entries, place = [0] * _ENTRIES, self.data + self._before[table] * CLUSTER
        first = table * _ENTRIES // 8
        for at, eight in enumerate(self._used[first : first + _ENTRIES // 8]):
            # From one bit to the next, as most of a large disk is holes.
            while eight:
                entries[8 * at + (eight & -eight).bit_length() - 1] = place | _COPIED
                place += CLUSTER
                eight &= eight - 1
        return struct.pack(f">{_ENTRIES}Q", *entries)

    def _counts(self, blocks: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        left = self.file_size // CLUSTER
        for at in blocks:
            ones = min(left, _COUNTERS)
            left -= ones
            yield at, b"\0\1" * ones + b"\0\0" * (_COUNTERS - ones)

    def _count(self, start: int, end: int) -> int:
        """Return how many clusters from start, a multiple of 8, to end hold data."""
        whole = int.from_bytes(self._used[start >> 3 : end >> 3], "little").bit_count()
        rest = self._used[end >> 3] & ((1 << (end & 7)) - 1) if end & 7 else 0
        return whole + rest.bit_count()


class Qcow2Target:
    """Writes a disk into a qcow2 file; one that an interrupted run has left is gone on with."""

    def __init__(self, file: ImageTarget, layout: Layout) -> None:
        """Write header and tables; the file is as large as the layout says."""
        self._file, self._layout = file, layout
        self.size, self.blank = layout.size, file.blank
        for offset, data in layout.metadata():
            file.write(offset, memoryview(data))

    def write(self, offset: int, data: memoryview) -> None:
        """See Target; a run of blocks lies in clusters that follow each other in the file, too."""
        self._file.write(self._layout.place(offset), data)

    @contextmanager
    def gather(self) -> Iterator[Write]:
        """See Target."""
        with self._file.gather() as write:
            yield lambda offset, data: write(self._layout.place(offset), data)

    def zero(self, offset: int, length: int) -> None:
        """See Target; a cluster that has no place reads as zeros."""
        for at, part in [] if self.blank else _by_cluster(offset, length):
            if self._layout.holds(at // CLUSTER):
                self._file.zero(self._layout.place(at), part)

    def read(self, offset: int, length: int, buffer: AlignedBuffer) -> None:
        """See Target."""
        clusters = range(offset // CLUSTER, -(-(offset + length) // CLUSTER))
        if all(self._layout.holds(cluster) for cluster in clusters):
            self._file.read(self._layout.place(offset), length, buffer)
            return
        buffer.view[:length] = bytes(length)

    def sync(self) -> None:
        """See Target."""
        self._file.sync()

    def finish(self) -> None:
        """See Target."""
        self._file.finish()

    def close(self) -> None:
        """See Target."""
        self._file.close()


def open_qcow2(image: Path, reader: MapReader, replace: bool, salvage: bool = False) -> Qcow2Target:
    """Begin, or go on with, a qcow2 image of a backup's disk; the errors are those of open_image and used_clusters."""
    layout = Layout(reader.manifest.size_bytes, used_clusters(reader, salvage))
    file = open_image(image, layout.file_size, layout.file_size, replace)
    try:
        return Qcow2Target(file, layout)
    except BaseException:
        file.close()
        raise


def _by_cluster(offset: int, length: int) -> Iterator[tuple[int, int]]:
    end = offset + length
    while offset < end:
        step = min(CLUSTER - offset % CLUSTER, end - offset)
        yield offset, step
        offset += step


def _counters(others: int) -> tuple[int, int]:
    """Return the blocks of reference counts, and the clusters of their table, for so many clusters and themselves."""
    blocks, table = 1, 1
    while True:
        wanted = -(-(others + blocks + table) // _COUNTERS)
        clusters = _clusters(wanted * 8)
        if (wanted, clusters) == (blocks, table):
            return blocks, table
        blocks, table = max(wanted, blocks), max(clusters, table)


def _clusters(length: int) -> int:
    return -(-length // CLUSTER)


def _padded(data: bytes) -> bytes:
    return data.ljust(_clusters(len(data)) * CLUSTER, b"\0")
