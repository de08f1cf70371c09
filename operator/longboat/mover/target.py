"""What a restore writes: a block device, or a sparse file that gets its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

from .direct_writes import ALIGNMENT, Batch, borrowed_batch
from .errors import (
    TargetBusyError,
    TargetExistsError,
    TargetFullError,
    TargetMissingError,
    TargetReadError,
    TargetTooSmallError,
    TargetWriteError,
)
from .jobs import FileOwner
from .source import DISK_IMAGE
from .system_calls import AlignedBuffer, device_size, punch_hole, zero_out

_SECTOR = 512
_STEP = 1 << 20
_ZEROS = bytes(_STEP)
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.EPERM})

Write = Callable[[int, memoryview], None]
"""Writes bytes at an offset; TargetWriteError or TargetFullError name the offset."""


class Target(Protocol):
    """A disk that is being written; methods may be called from many threads on ranges that don't overlap.

    `blank` says that it is new: every byte reads as zero, and there is nothing to compare with.
    """

    size: int
    blank: bool

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes; TargetWriteError or TargetFullError name the offset."""

    def gather(self) -> AbstractContextManager[Write]:
        """Lend a way to write many ranges together: all are written when the context ends without an error."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, whatever it held before."""

    def read(self, offset: int, length: int, buffer: AlignedBuffer) -> None:
        """Fill the start of the buffer with what lies on the medium, past the page cache where that can be done.

        TargetReadError names the offset.
        """

    def sync(self) -> None:
        """Have everything that was written on stable storage."""

    def finish(self) -> None:
        """Put what is complete and synced into its place."""

    def close(self) -> None:
        """Close the target, finished or not."""


class _OpenTarget:
    def __init__(self, path: Path, handle: int, size: int, blank: bool = False) -> None:
        self.path, self.size, self.blank, self._handle = path, size, blank, handle
        self._direct = _reopened_direct(handle)
        self._writes_directly = False
        self._unsupported: set[object] = set()

    def write(self, offset: int, data: memoryview) -> None:
        with self.gather() as write:
            write(offset, data)

    @contextlib.contextmanager
    def gather(self) -> Iterator[Write]:
        """Put what is aligned together and write it past the page cache, everything else at once and through it."""
        with borrowed_batch() if self._writes_directly else contextlib.nullcontext() as batch:
            if batch is None or self._direct is None:
                yield self._write_cached
                return
            yield partial(self._gather, batch, self._direct)
            self._flush(batch, self._direct)

    def read(self, offset: int, length: int, buffer: AlignedBuffer) -> None:
        """Read past the page cache: what an earlier, failed write has left there may never have come to the disk."""
        try:
            if not self._read_direct(offset, length, buffer):
                self._read_cached(offset, length, buffer)
        except OSError as error:
            raise TargetReadError(f"{self.path}: reading back at byte {offset}: {error.strerror}") from None

    def sync(self) -> None:
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise write_error(self.path, "syncing", error) from None

    def close(self) -> None:
        for handle in (self._handle, self._direct):
            if handle is not None:
                os.close(handle)

    def _gather(self, batch: Batch, direct: int, offset: int, data: memoryview) -> None:
        aligned = 0 if offset % ALIGNMENT else len(data) // ALIGNMENT * ALIGNMENT
        self._write_cached(offset + aligned, data[aligned:])
        data = data[:aligned]
        while data:
            taken = batch.take(offset, data)
            data, offset = data[taken:], offset + taken
            if data:
                self._flush(batch, direct)

    def _flush(self, batch: Batch, direct: int) -> None:
        for offset, data in batch.write(direct):
            self._write_direct(direct, offset, data)

    def _write_direct(self, direct: int, offset: int, data: memoryview) -> None:
        while data and self._writes_directly:
            try:
                # What a signal has cut short ends at a sector; the last of a full disk may not.
                count = os.pwrite(direct, data, offset) // ALIGNMENT * ALIGNMENT
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise write_error(self.path, f"writing at byte {offset}", error) from None
                count = 0
            self._writes_directly = count > 0
            data, offset = data[count:], offset + count
        self._write_cached(offset, data)

    def _write_cached(self, offset: int, data: memoryview) -> None:
        while data:
            try:
                count = os.pwrite(self._handle, data, offset)
            except OSError as error:
                raise write_error(self.path, f"writing at byte {offset}", error) from None
            data, offset = data[count:], offset + count

    def _read_direct(self, offset: int, length: int, buffer: AlignedBuffer) -> bool:
        if self._direct is None or offset % ALIGNMENT:
            return False
        padded = -(-length // ALIGNMENT) * ALIGNMENT
        try:
            return os.preadv(self._direct, [buffer.view[:padded]], offset) >= length
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False

    def _read_cached(self, offset: int, length: int, buffer: AlignedBuffer) -> None:
        os.posix_fadvise(self._handle, offset, length, os.POSIX_FADV_DONTNEED)
        done = 0
        while done < length:
            count = os.preadv(self._handle, [buffer.view[done:length]], offset + done)
            if not count:
                raise OSError(errno.EIO, "it ends before that byte")
            done += count

    def _zero_where_needed(self, offset: int, length: int) -> None:
        # Zeros written over zeros would take space of a thin volume, and the time of all of them.
        buffer = _buffer()
        for at in range(offset, offset + length, _STEP):
            part = min(_STEP, offset + length - at)
            if not self._is_zero(at, part, buffer):
                self._write_zeros(at, part)

    def _is_zero(self, offset: int, length: int, buffer: AlignedBuffer) -> bool:
        try:
            self.read(offset, length, buffer)
        except TargetReadError:
            return False
        return buffer.is_zero(0, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        for at in range(offset, offset + length, len(_ZEROS)):
            self.write(at, memoryview(_ZEROS)[: min(len(_ZEROS), offset + length - at)])

    def _try(self, method: object, offset: int, length: int) -> bool:
        """Run a system call on a range; whatever it fails of, writing the zeros does it or tells why not."""
        if method in self._unsupported:
            return False
        try:
            method(self._handle, offset, length)  # type: ignore[operator]
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                self._unsupported.add(method)
            return False
        return True


class DeviceTarget(_OpenTarget):
    """A block device; nothing is assumed of what it held before.

    It is written past the page cache: that leaves the node's memory to others, has little left to sync at the end, and
    tells of a failed write at once.
    """

    def __init__(self, path: Path, handle: int, size: int) -> None:
        """Write to an open device."""
        super().__init__(path, handle, size)
        self._writes_directly = True

    def zero(self, offset: int, length: int) -> None:
        """Have the device forget the range where it can, else overwrite with zeros what is not zero."""
        start = min(-(-offset // _SECTOR) * _SECTOR, offset + length)
        end = max((offset + length) // _SECTOR * _SECTOR, start)
        self._write_zeros(offset, start - offset)
        self._write_zeros(end, offset + length - end)
        if end > start and not self._try(punch_hole, start, end - start):
            self._zero_where_needed(start, end - start)

    def finish(self) -> None:
        """Nothing is left to be done."""

    def _write_zeros(self, offset: int, length: int) -> None:
        aligned = length and not offset % _SECTOR and not length % _SECTOR
        if not (aligned and self._try(zero_out, offset, length)):
            super()._write_zeros(offset, length)


class ImageTarget(_OpenTarget):
    """A sparse file beside its place; one that an interrupted restore has left is gone on with."""

    def __init__(self, path: Path, handle: int, size: int, blank: bool, image: Path) -> None:
        """Write to the open file `path`, to be named `image` when it is complete."""
        super().__init__(path, handle, size, blank)
        self._image = image
        self._writes_directly = True

    def zero(self, offset: int, length: int) -> None:
        """Leave the hole that a new file has; punch one into what an earlier attempt has left."""
        if not self.blank and length and not self._try(punch_hole, offset, length):
            self._zero_where_needed(offset, length)

    def finish(self) -> None:
        """Give the file its name and sync the directory."""
        try:
            self.path.replace(self._image)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise write_error(self.path, f"naming it {self._image.name}", error) from None


def partial_path(image: Path) -> Path:
    """Return where an image is written until it is complete: a crash leaves this, never half an image."""
    return image.with_name(f".{image.name}.longboat-partial")


def open_target(
    path: Path, size: int, data_bytes: int, image_size: int | None, replace: bool, owner: FileOwner | None
) -> Target:
    """Open a device, or begin a disk.img in a directory, for a backup of `size` bytes, `data_bytes` of them no holes.

    Everything that can be known beforehand is checked before anything is written: TargetMissingError,
    TargetTooSmallError, TargetExistsError, TargetFullError, TargetBusyError.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise TargetMissingError(f"{path}: expected a block device or a directory: {error.strerror}") from None
    if stat.S_ISBLK(mode):
        return open_device(path, size)
    if not stat.S_ISDIR(mode):
        raise TargetMissingError(f"{path}: expected a block device or a directory, found a file")
    return open_image(path / DISK_IMAGE, max(size, image_size or 0), data_bytes, replace, owner)


def open_device(path: Path, size: int, exclusive: bool = False) -> DeviceTarget:
    """Open a block device of at least `size` bytes; `exclusive` refuses one that is mounted or otherwise in use."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise TargetBusyError(f"{path}: is in use (mounted, or part of another device); free it first") from None
        raise TargetWriteError(f"{path}: can not be opened for writing: {error.strerror}") from None
    capacity = device_size(handle)
    if capacity < size:
        os.close(handle)
        raise _too_small(path, capacity, size)
    return DeviceTarget(path, handle, capacity)


def open_image(image: Path, size: int, data_bytes: int, replace: bool, owner: FileOwner | None = None) -> ImageTarget:
    """Begin, or go on with, a sparse file of `size` bytes, `data_bytes` of them no holes, that is to be named `image`.

    TargetExistsError, TargetTooSmallError, TargetFullError, TargetBusyError; nothing was written then.
    """
    if not replace and os.path.lexists(image):
        raise TargetExistsError(f"{image.parent}: there is a {image.name} already; restore into a new volume")
    partial = partial_path(image)
    _check_room(image.parent, size, data_bytes, partial)
    try:
        handle, blank = open_partial(partial)
        os.ftruncate(handle, size)
        if owner is not None and os.geteuid() == 0:
            os.fchown(handle, owner.uid, owner.gid)
    except OSError as error:
        raise write_error(partial, "creating it", error) from None
    return ImageTarget(partial, handle, size, blank, image)


def open_partial(partial: Path) -> tuple[int, bool]:
    """Open the file of an unfinished image, made if it is not there; return its handle and whether it is new.

    OSError, or TargetBusyError if another process is writing it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        found = partial.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            partial.unlink()
    handle = os.open(partial, flags, 0o660)
    try:
        _lock(partial, handle)
    except BaseException:
        os.close(handle)
        raise
    return handle, os.fstat(handle).st_size == 0


def write_error(path: Path, what: str, error: OSError) -> Exception:
    """Return the error to raise for a failed write: full, or anything else."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return TargetFullError(f"{path}: {what}: {error.strerror}; give the new claim more space")
    return TargetWriteError(f"{path}: {what}: {error.strerror}")


def _lock(partial: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks; there two writers write the same bytes.
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            raise TargetBusyError(f"{partial}: another restore is writing it; wait for it, or stop it") from None
    # Whoever held the lock may just have given the file its name.
    if not os.path.samestat(os.fstat(handle), partial.lstat()):
        raise TargetBusyError(f"{partial}: another restore has just ended; look at its result")


def _check_room(folder: Path, size: int, data_bytes: int, partial: Path) -> None:
    volume = os.statvfs(folder)
    if volume.f_blocks * volume.f_frsize < size:
        raise _too_small(folder, volume.f_blocks * volume.f_frsize, size)
    # What a replaced image occupies becomes free only once the new one is complete; an unfinished one is gone on with.
    with contextlib.suppress(OSError):
        data_bytes -= partial.lstat().st_blocks * 512
    if volume.f_bavail * volume.f_frsize < data_bytes:
        free = volume.f_bavail * volume.f_frsize
        raise TargetFullError(f"{folder}: {free} bytes are free, the data needs {data_bytes}; enlarge the claim")


def _too_small(path: Path, capacity: int, size: int) -> TargetTooSmallError:
    return TargetTooSmallError(
        f"{path}: has {capacity} bytes, the backup needs {size}; restore into a claim of at least that size"
    )


def _reopened_direct(handle: int) -> int | None:
    try:
        return os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


_local = threading.local()


def _buffer() -> AlignedBuffer:
    found: AlignedBuffer | None = getattr(_local, "buffer", None)
    if found is None:
        found = _local.buffer = AlignedBuffer(_STEP)
    return found
