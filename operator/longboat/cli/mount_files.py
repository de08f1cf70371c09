"""The file system of `longboat repo mount`: the calls that libfuse makes, answered from a tree of disks of backups."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longboat.cli.mount_tree import DiskFile, Tree
from longboat.cli.repo_restore import read_disk
from longboat.mover.disk_reader import DiskReader, LostBlocksError, Shared
from longboat.repository import RepositoryError

_SECTOR = 512
_SECOND = 1_000_000_000
_QUIET = 10.0  # Seconds for which the same failure is not told again: the kernel asks for each page by itself.
_TOLD = 10_000  # Failures that are remembered as told.

Tell = Callable[[str, str, RepositoryError], None]
"""Is told of what can't be read: the file's path, `read` or `open`, and the failure."""


@dataclass
class _Open:
    reader: DiskReader
    handles: int


class BackupFiles:
    """Operations as mfusepy calls them, from many threads; failures are raised as OSError."""

    use_ns = True  # Times are whole nanoseconds.

    def __init__(
        self, tree: Tree, shared: Shared, tell: Tell, clock: Callable[[], float], ready: Callable[[], None]
    ) -> None:
        """Show a tree; `ready` is called when the mount is there, `clock` counts seconds."""
        self._tree, self._shared, self._tell, self._clock, self._ready = tree, shared, tell, clock, ready
        self._open: dict[str, _Open] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self.lost = False

    def init(self, _path: str) -> None:
        """Take note that the kernel has mounted it."""
        self._ready()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Return what stat() tells."""
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if path in self._tree.folders:
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2} | _times(self._tree.moments[path]) | owner
        file = self._file(path)
        # To some programs a file without a sector has no data, and is not read.
        sectors = max(1, -(-min(file.allocated, file.size) // _SECTOR))
        sizes = {"st_size": file.size, "st_blocks": sectors}
        return {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1} | sizes | _times(file.created) | owner

    def readdir(self, path: str, _handle: int) -> list[str]:
        """Return the names in a directory."""
        if path not in self._tree.folders:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return [".", "..", *self._tree.folders[path]]

    def open(self, path: str, flags: int) -> int:
        """Read the disk's manifest; what is opened several times is read once."""
        file = self._file(path)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        with self._lock:
            if path not in self._open:
                self._open[path] = _Open(self._reader(path, file), 0)
            self._open[path].handles += 1
        return 0

    def read(self, path: str, size: int, offset: int, _handle: int) -> bytes:
        """Return bytes of a disk; EIO, never other bytes, if a block is damaged or can't be had."""
        try:
            return self._open[path].reader.read(offset, size)
        except RepositoryError as error:
            raise self._failed(path, "read", error) from None

    def release(self, path: str, _handle: int) -> int:
        """Forget the manifest when nobody has the file open any more."""
        with self._lock:
            self._open[path].handles -= 1
            if not self._open[path].handles:
                del self._open[path]
        return 0

    def _file(self, path: str) -> DiskFile:
        file = self._tree.files.get(path)
        if file is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return file

    def _reader(self, path: str, file: DiskFile) -> DiskReader:
        try:
            return DiskReader(file.repository, read_disk(file.repository, file.reference), self._shared)
        except RepositoryError as error:
            raise self._failed(path, "open", error) from None

    def _failed(self, path: str, call: str, error: RepositoryError) -> OSError:
        self.lost = self.lost or not error.retryable
        now, what = self._clock(), (path, self._place(error))
        last = self._told.get(what)
        if last is None or now - last > _QUIET:
            if len(self._told) >= _TOLD:
                self._told.clear()
            self._told[what] = now
            self._tell(path, call, error)
        return OSError(errno.EIO, os.strerror(errno.EIO))

    @staticmethod
    def _place(error: RepositoryError) -> str:
        return str(error.damage.ranges) if isinstance(error, LostBlocksError) else error.reason


def _times(moment: datetime) -> dict[str, int]:
    return dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), int(moment.timestamp()) * _SECOND)


def failure_json(path: str, call: str, error: RepositoryError) -> dict[str, Any]:
    """Return what can't be read as JSON: the file, ranges of the disk in bytes if they are known, and why."""
    if isinstance(error, LostBlocksError):
        return {"file": path, "call": call, "ranges": error.damage.ranges, "cause": error.damage.cause}
    return {"file": path, "call": call, "ranges": [], "cause": str(error)}
