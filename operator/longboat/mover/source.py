"""What an export reads: a block device, or the disk.img of a filesystem volume."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from longboat.repository.layout import MAX_DISK_SIZE

from .errors import DiskTooLargeError, NoDiskImageError, SourceMissingError, SourceReadError
from .system_calls import device_size

DISK_IMAGE = "disk.img"


class SourceLike(Protocol):
    """A disk to read, or what looks like one; reads may come from many threads."""

    size: int
    is_device: bool

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every range that may hold data, in order."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill a buffer from `offset`; return the bytes read, fewer only at the disk's end."""


class Source:
    """An open disk: its size in bytes, where it has data, and its bytes. Reads may come from many threads."""

    def __init__(self, path: Path, handle: int, size: int, is_device: bool, direct: bool) -> None:
        """Wrap an open file; use open_source()."""
        self.path, self.size, self.is_device = path, size, is_device
        self._handle, self._direct = handle, direct

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every range that may hold data, in order; a device is one range."""
        if self.is_device:
            if self.size:
                yield 0, self.size
            return
        end = 0
        while end < self.size:
            start = self._seek(end, os.SEEK_DATA)
            if start is None or start >= self.size:
                return
            end = min(self._seek(start, os.SEEK_HOLE) or self.size, self.size)
            yield start, end

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill an aligned buffer from `offset`; return the bytes read, fewer only at the disk's end.

        SourceReadError names the offset.
        """
        wanted, done = min(len(view), self.size - offset), 0
        while done < wanted:
            count = self._read(view[done:], offset + done)
            if count == 0:
                raise SourceReadError(f"{self.path}: ends at byte {offset + done}, expected {self.size} bytes")
            done += count
        return wanted

    def close(self) -> None:
        """Close the disk."""
        os.close(self._handle)

    def __enter__(self) -> Source:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the disk."""
        self.close()

    def _read(self, view: memoryview, offset: int) -> int:
        # Looked at before the read: another thread may swap the file between the refusal and the question why.
        direct = self._direct
        try:
            return os.preadv(self._handle, [view], offset)
        except OSError as error:
            if error.errno == errno.EINVAL and direct:
                self._read_through_cache()
                return self._read(view, offset)
            raise SourceReadError(f"{self.path}: reading at byte {offset} failed: {error.strerror}") from None

    def _read_through_cache(self) -> None:
        # Other threads may be reading; dup2 swaps the open file under the same number at once.
        with open(self.path, "rb", buffering=0) as plain:  # noqa: PTH123 (an unbuffered handle is needed)
            os.dup2(plain.fileno(), self._handle, inheritable=False)
        self._direct = False

    def _seek(self, offset: int, whence: int) -> int | None:
        try:
            return os.lseek(self._handle, offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            # A file system that knows no holes: everything is data.
            return offset if whence == os.SEEK_DATA else self.size


def open_source(path: Path) -> Source:
    """Open a block device, or the disk.img in a directory.

    SourceMissingError, NoDiskImageError, DiskTooLargeError or SourceReadError say what was expected.
    """
    image = _image(path)
    try:
        handle, direct = _open(image)
        mode = os.fstat(handle).st_mode
        is_device = stat.S_ISBLK(mode)
        size = device_size(handle) if is_device else os.fstat(handle).st_size
    except OSError as error:
        raise SourceReadError(f"{image}: can not be opened for reading: {error.strerror}") from None
    if size > MAX_DISK_SIZE:
        # A sparse image can say so without taking any space; what looks for its data would be at it for days.
        os.close(handle)
        raise DiskTooLargeError(
            f"{image}: the disk has {size} bytes, more than the {MAX_DISK_SIZE} that can be backed up: make it smaller,"
            " or take it out of the policy's target"
        )
    return Source(image, handle, size, is_device, direct)


def _image(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceMissingError(f"{path}: expected a block device or a volume's directory: {error.strerror}") from None
    if stat.S_ISBLK(mode) or stat.S_ISREG(mode):
        return path
    image = path / DISK_IMAGE
    # A link could lead out of the volume, which holds a tenant's files.
    if not stat.S_ISDIR(mode) or image.is_symlink() or not image.is_file():
        raise NoDiskImageError(
            f"{path}: this filesystem volume holds no {DISK_IMAGE}; only disks of virtual machines are backed up:"
            " take the volume out of the policy's target"
        )
    return image


def _open(path: Path) -> tuple[int, bool]:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags), False
