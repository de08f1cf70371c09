"""System calls that Python has no function for."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_PUNCH_HOLE_KEEP_SIZE = 0x03
_BLKZEROOUT = 0x127F
_BLKGETSIZE64 = 0x80081272
_HUGE_PAGE = 2 << 20
_WORTH_IT = 1 << 20  # Smaller buffers would waste most of a huge page.


class AlignedBuffer:
    """Page-aligned memory, as O_DIRECT needs it, that can be asked quickly whether it holds zeros."""

    def __init__(self, size: int) -> None:
        """Allocate `size` bytes."""
        # Within a huge page the kernel pins one page for a direct read, not hundreds; it is used where there is one.
        whole = -(-size // _HUGE_PAGE) * _HUGE_PAGE
        length = whole + _HUGE_PAGE if size >= _WORTH_IT else size
        self._map = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        start = -self._address % _HUGE_PAGE if size >= _WORTH_IT else 0
        if size >= _WORTH_IT:
            with contextlib.suppress(OSError):
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)[start : start + size]
        self._address += start

    @property
    def address(self) -> int:
        """Where in memory the view begins."""
        return self._address

    def is_zero(self, start: int, length: int) -> bool:
        """Tell whether a part is all zeros; the GIL is released, and most data is told apart at its first bytes."""
        # A stretch is all zeros if its first byte is and it equals itself shifted by one.
        if not length:
            return True
        if self.view[start]:
            return False
        at = self._address + start
        return bool(_LIBC.memcmp(at, at + 1, length - 1) == 0)


def device_size(handle: int) -> int:
    """Return the size in bytes of an open block device."""
    answer = fcntl.ioctl(handle, _BLKGETSIZE64, bytes(8))
    return int(struct.unpack("=Q", answer)[0])


def punch_hole(handle: int, offset: int, length: int) -> None:
    """Make a range of a device or file read as zeros, giving its space back where possible; OSError if unsupported."""
    if _LIBC.fallocate(handle, _PUNCH_HOLE_KEEP_SIZE, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def zero_out(handle: int, offset: int, length: int) -> None:
    """Have the kernel write zeros to a range of a block device (multiples of 512 bytes); OSError if unsupported."""
    fcntl.ioctl(handle, _BLKZEROOUT, struct.pack("=QQ", offset, length))
