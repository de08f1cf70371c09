"""What a restore writes: a block device, or a new disk.img in the directory of a filesystem volume."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Protocol

from .errors import TargetExistsError, TargetFullError, TargetMissingError, TargetTooSmallError, TargetWriteError
from .jobs import FileOwner
from .source import DISK_IMAGE
from .system_calls import device_size, punch_hole, zero_out

PARTIAL_IMAGE = ".disk.img.longboat-partial"  # A crash leaves this, never a disk.img that is not complete.
_SECTOR = 512
_ZEROS = bytes(1 << 20)


class Target(Protocol):
    """A disk that is being written; methods may be called from many threads on ranges that don't overlap."""

    size: int

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes; TargetWriteError or TargetFullError name the offset."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, whatever it held before."""

    def finish(self) -> None:
        """Make sure that everything is on stable storage and in its place."""

    def close(self) -> None:
        """Close the target, finished or not."""


class _OpenTarget:
    def __init__(self, path: Path, handle: int, size: int) -> None:
        self.path, self.size, self._handle = path, size, handle

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            try:
                count = os.pwrite(self._handle, data, offset)
            except OSError as error:
                raise write_error(self.path, f"writing at byte {offset}", error) from None
            data, offset = data[count:], offset + count

    def close(self) -> None:
        os.close(self._handle)

    def _sync(self) -> None:
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise write_error(self.path, "syncing", error) from None


class DeviceTarget(_OpenTarget):
    """A block device; nothing is assumed of what it held before."""

    def zero(self, offset: int, length: int) -> None:
        """Punch a hole where the device can, else have the kernel write zeros, else write them."""
        start = min(-(-offset // _SECTOR) * _SECTOR, offset + length)
        end = max((offset + length) // _SECTOR * _SECTOR, start)
        self._write_zeros(offset, start - offset)
        self._write_zeros(end, offset + length - end)
        if end > start:
            self._zero_sectors(start, end - start)

    def finish(self) -> None:
        """Sync the device."""
        self._sync()

    def _zero_sectors(self, offset: int, length: int) -> None:
        for method in (punch_hole, zero_out):
            with contextlib.suppress(OSError):
                method(self._handle, offset, length)
                return
        self._write_zeros(offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        for at in range(offset, offset + length, len(_ZEROS)):
            self.write(at, memoryview(_ZEROS)[: min(len(_ZEROS), offset + length - at)])


class ImageTarget(_OpenTarget):
    """A new sparse file, given its name only when it is complete; holes need nothing."""

    def zero(self, offset: int, length: int) -> None:
        """Leave the hole that a new file has."""

    def finish(self) -> None:
        """Sync the file, name it disk.img and sync the directory."""
        self._sync()
        try:
            self.path.replace(self.path.with_name(DISK_IMAGE))
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise write_error(self.path, f"naming it {DISK_IMAGE}", error) from None


def open_target(
    path: Path, size: int, data_bytes: int, image_size: int | None, replace: bool, owner: FileOwner | None
) -> Target:
    """Open a device, or begin a disk.img in a directory, for a backup of `size` bytes, `data_bytes` of them no holes.

    Everything that can be known beforehand is checked before anything is written: TargetMissingError,
    TargetTooSmallError, TargetExistsError, TargetFullError.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise TargetMissingError(f"{path}: expected a block device or a directory: {error.strerror}") from None
    if stat.S_ISBLK(mode):
        return _open_device(path, size)
    if not stat.S_ISDIR(mode):
        raise TargetMissingError(f"{path}: expected a block device or a directory, found a file")
    return _open_image(path, max(size, image_size or 0), data_bytes, replace, owner)


def write_error(path: Path, what: str, error: OSError) -> Exception:
    """Return the error to raise for a failed write: full, or anything else."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TargetFullError(f"{path}: {what}: {error.strerror}; give the new claim more space")
    return TargetWriteError(f"{path}: {what}: {error.strerror}")


def _open_device(path: Path, size: int) -> DeviceTarget:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TargetWriteError(f"{path}: can not be opened for writing: {error.strerror}") from None
    capacity = device_size(handle)
    if capacity < size:
        os.close(handle)
        raise _too_small(path, capacity, size)
    return DeviceTarget(path, handle, capacity)


def _open_image(folder: Path, size: int, data_bytes: int, replace: bool, owner: FileOwner | None) -> ImageTarget:
    if not replace and os.path.lexists(folder / DISK_IMAGE):
        raise TargetExistsError(f"{folder}: there is a {DISK_IMAGE} already; restore into a new volume")
    _check_room(folder, size, data_bytes)
    partial = folder / PARTIAL_IMAGE
    try:
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        os.ftruncate(handle, size)
        if owner is not None and os.geteuid() == 0:
            os.fchown(handle, owner.uid, owner.gid)
    except OSError as error:
        raise write_error(partial, "creating it", error) from None
    return ImageTarget(partial, handle, size)


def _check_room(folder: Path, size: int, data_bytes: int) -> None:
    volume = os.statvfs(folder)
    if volume.f_blocks * volume.f_frsize < size:
        raise _too_small(folder, volume.f_blocks * volume.f_frsize, size)
    # What a replaced image occupies becomes free, but only once the new one is complete.
    if volume.f_bavail * volume.f_frsize < data_bytes:
        free = volume.f_bavail * volume.f_frsize
        raise TargetFullError(f"{folder}: {free} bytes are free, the data needs {data_bytes}; enlarge the claim")


def _too_small(path: Path, capacity: int, size: int) -> TargetTooSmallError:
    return TargetTooSmallError(
        f"{path}: has {capacity} bytes, the backup needs {size}; restore into a claim of at least that size"
    )
