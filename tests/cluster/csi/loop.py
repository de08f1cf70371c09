"""Loop devices, by ioctl: attached with direct I/O, found by the file behind them, detached."""

import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOOP_SET_FD, LOOP_CLR_FD, LOOP_GET_STATUS64, LOOP_SET_CAPACITY = 0x4C00, 0x4C01, 0x4C05, 0x4C07
LOOP_CONFIGURE, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
READ_ONLY, AUTOCLEAR, DIRECT_IO = 1, 4, 16
LOOP_MAJOR = 7
SYS = Path("/sys/block")


class _LoopInfo(ctypes.Structure):
    """struct loop_info64 of linux/loop.h."""

    _fields_ = (
        ("device", ctypes.c_uint64),
        ("inode", ctypes.c_uint64),
        ("rdevice", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("sizelimit", ctypes.c_uint64),
        ("number", ctypes.c_uint32),
        ("encrypt_type", ctypes.c_uint32),
        ("encrypt_key_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("file_name", ctypes.c_char * 64),
        ("crypt_name", ctypes.c_char * 64),
        ("encrypt_key", ctypes.c_uint8 * 32),
        ("init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    """struct loop_config of linux/loop.h."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo),
        ("reserved", ctypes.c_uint64 * 8),
    )


@dataclass(frozen=True)
class LoopDevice:
    """An attached loop device.

    `device` and `inode` name the file behind it: its path says nothing once the mount namespace it lies in is gone.
    `target` is the device number of what lies behind it if that is itself a block device, else 0.
    `leaving`: detached already, but somebody still has it open.
    """

    number: int
    device: int
    inode: int
    target: int
    read_only: bool
    leaving: bool

    @property
    def path(self) -> Path:
        return Path(f"/dev/loop{self.number}")

    @property
    def device_number(self) -> int:
        """The number of this device, as st_rdev."""
        return _device_number(self.number)


def _device_number(number: int) -> int:
    sysfs = SYS / f"loop{number}" / "dev"
    try:
        major, minor = sysfs.read_text().split(":")
    except FileNotFoundError:
        return os.makedev(LOOP_MAJOR, number)
    return os.makedev(int(major), int(minor))


def node(number: int) -> Path:
    """The device node of a loop device, made if this /dev lacks it (a container's /dev is filled by nobody)."""
    path = Path(f"/dev/loop{number}")
    if not path.exists():
        os.mknod(path, 0o600 | stat.S_IFBLK, _device_number(number))
    return path


def attach(file: Path, read_only: bool = False) -> LoopDevice:
    """Puts a loop device with direct I/O over `file`, or answers the one of that kind that is there already."""
    found = find(file, read_only)
    if found:
        return found
    backing = os.open(file, os.O_RDONLY if read_only else os.O_RDWR)
    try:
        _configure_free(backing, (READ_ONLY if read_only else 0) | DIRECT_IO)
    finally:
        os.close(backing)
    found = find(file, read_only)
    if not found:
        raise OSError(errno.ENODEV, "the loop device vanished while it was attached", str(file))
    return found


def _configure_free(backing: int, flags: int) -> None:
    """Tries free devices until one is ours: others on this kernel take them too, between the asking and the taking."""
    with _opened(Path("/dev/loop-control"), os.O_RDWR) as control:
        for _ in range(64):
            number = fcntl.ioctl(control.fd, LOOP_CTL_GET_FREE)
            if _configure(number, backing, flags):
                return
    raise OSError(errno.EBUSY, "no free loop device after 64 tries")


def _configure(number: int, backing: int, flags: int) -> bool:
    config = _LoopConfig(fd=backing, block_size=512, info=_LoopInfo(flags=flags))
    try:
        with _opened(node(number), os.O_RDONLY if flags & READ_ONLY else os.O_RDWR) as device:
            fcntl.ioctl(device.fd, LOOP_CONFIGURE, config)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENXIO, errno.ENOENT):
            return False
        raise
    return True


class _opened:  # noqa: N801  (reads as the verb it stands for)
    """A file descriptor for the length of a with block."""

    def __init__(self, path: Path, flags: int) -> None:
        self.fd = os.open(path, flags | os.O_CLOEXEC)

    def __enter__(self) -> "_opened":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def attached() -> Iterator[LoopDevice]:
    """Every attached loop device of this kernel, of whomever."""
    for folder in SYS.glob("loop*"):
        if (folder / "loop").is_dir():
            status = _status(int(folder.name.removeprefix("loop")))
            if status:
                yield status


def _status(number: int) -> LoopDevice | None:
    info = _LoopInfo()
    try:
        with _opened(node(number), os.O_RDONLY) as device:
            fcntl.ioctl(device.fd, LOOP_GET_STATUS64, info)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.EBUSY):
            return None
        raise
    flags = info.flags
    return LoopDevice(number, info.device, info.inode, info.rdevice, bool(flags & READ_ONLY), bool(flags & AUTOCLEAR))


def over(file: Path) -> list[LoopDevice]:
    """The loop devices over `file`, none if the file is not there."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return []
    return [each for each in attached() if (each.device, each.inode) == (status.st_dev, status.st_ino)]


def find(file: Path, read_only: bool = False) -> LoopDevice | None:
    """The loop device over `file` of that kind. One that is leaving may vanish any moment and does not count."""
    return next((each for each in over(file) if each.read_only == read_only and not each.leaving), None)


def grow(device: LoopDevice) -> None:
    """Makes the device as large as the file behind it has become."""
    with _opened(node(device.number), os.O_RDONLY) as opened:
        fcntl.ioctl(opened.fd, LOOP_SET_CAPACITY)


def flush(device: LoopDevice) -> None:
    """Writes what the kernel still holds for this device through to the file behind it."""
    with _opened(node(device.number), os.O_RDONLY) as opened:
        os.fsync(opened.fd)


def detach(device: LoopDevice) -> None:
    """Takes the device off its file; while somebody has it open, the kernel does so at the last close."""
    try:
        with _opened(node(device.number), os.O_RDONLY) as opened:
            fcntl.ioctl(opened.fd, LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise


def detach_over(file: Path) -> None:
    for each in over(file):
        detach(each)


def wait_gone(still: list[LoopDevice], timeout: float) -> list[LoopDevice]:
    """Waits up to `timeout` seconds until none of `still` is attached; answers those that are."""
    deadline = time.monotonic() + timeout
    while True:
        now = {(each.number, each.device, each.inode) for each in attached()}
        still = [each for each in still if (each.number, each.device, each.inode) in now]
        if not still or time.monotonic() > deadline:
            return still
        time.sleep(0.05)
