"""Disks in memory, as the movers see them: what is exported, what knows its changes, and what a restore writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from longboat.mover.changes import BaseSnapshotMissingError
from longboat.mover.system_calls import AlignedBuffer
from longboat.mover.target import Write

SECTOR = 512
PAGE = 4096


class MemorySource:
    """A snapshot that is read: a device is one range of data; of a file it is known where it has holes."""

    def __init__(self, data: bytes, is_device: bool) -> None:
        self.size, self.is_device, self._data = len(data), is_device, data

    def __enter__(self) -> MemorySource:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if self.is_device:
            yield 0, self.size
            return
        for start in range(0, self.size, PAGE):
            end = min(start + PAGE, self.size)
            if any(self._data[start:end]):
                yield start, end

    def read_into(self, view: memoryview, offset: int) -> int:
        piece = self._data[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)


class HonestChanges:
    """A change source that tells of snapshots, by handle, what is so, sector by sector."""

    def __init__(self, snapshots: Mapping[str, bytes], handle: str) -> None:
        self._snapshots, self._data = snapshots, snapshots[handle]

    def allocated(self) -> Iterator[tuple[int, int]]:
        return self._unlike(b"")

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        if base_handle not in self._snapshots:
            raise BaseSnapshotMissingError(base_handle)
        return self._unlike(self._snapshots[base_handle])

    def _unlike(self, base: bytes) -> Iterator[tuple[int, int]]:
        data, base = self._data, base.ljust(len(self._data), b"\0")
        for at in range(0, len(data), SECTOR):
            if data[at : at + SECTOR] != base[at : at + SECTOR]:
                yield at, min(SECTOR, len(data) - at)


class MemoryTarget:
    """A device that a restore writes; it holds something else before, and keeps what an interrupted one has written."""

    blank = False

    def __init__(self, size: int) -> None:
        self.size, self.data = size, bytearray(b"\xa5" * size)

    def write(self, offset: int, data: memoryview) -> None:
        assert offset + len(data) <= self.size, "a restore writes beyond the disk's end"
        self.data[offset : offset + len(data)] = data

    @contextmanager
    def gather(self) -> Iterator[Write]:
        yield self.write

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, memoryview(bytes(length)))

    def read(self, offset: int, length: int, buffer: AlignedBuffer) -> None:
        buffer.view[:length] = self.data[offset : offset + length]

    def sync(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass
