"""ObjectStore on a folder: objects are files, written beside their place, synced and linked into it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from .errors import (
    AccessDeniedError,
    BucketNotFoundError,
    DamagedError,
    ObjectExistsError,
    ObjectNotFoundError,
    PreconditionError,
    StoreFailureError,
)
from .object_store import Data, ObjectInfo, check_name
from .settings import StoreSettings

_LARGE, _PAGE = 1 << 20, 4096
_STAGING = ".longboat-staging"  # Begins with a dot, so that no object can have this name.
_HALF = "tmp"


class FolderStore:
    """An existing folder; a version tag is the hash of a file's inode, size and time of writing."""

    def __init__(self, settings: StoreSettings) -> None:
        """Use the folder `path`, below it `prefix`; it is looked at with the first operation."""
        self._root = Path(settings.path)
        self._base = self._root / settings.prefix if settings.prefix else self._root
        self._place = settings.describe()

    def put_new(self, name: str, data: Data) -> str:
        """See ObjectStore."""
        path = self._path(name)
        with self._guard(name), self._staged(path, data) as staged:
            try:
                os.link(staged, path)
            except FileExistsError:
                raise ObjectExistsError(f"{self._place}: {name} exists") from None
            _sync_folder(path.parent)
            return _etag(path.stat())

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        """See ObjectStore."""
        path = self._path(name)
        with self._guard(name), self._locked(), self._staged(path, data) as staged:
            current = _etag(path.stat()) if path.exists() else ""
            if current != etag or not etag:
                raise PreconditionError(f"{self._place}: {name} has version {current!r}, expected {etag!r}")
            staged.replace(path)
            _sync_folder(path.parent)
            return _etag(path.stat())

    def get(self, name: str, max_size: int) -> bytes:
        """See ObjectStore."""
        with self._guard(name), self._path(name).open("rb") as file:
            data = file.read(max_size + 1)
        if len(data) > max_size:
            raise DamagedError(f"{self._place}: {name} has more than {max_size} bytes")
        return data

    def get_range(self, name: str, offset: int, length: int) -> Data:
        """See ObjectStore."""
        with self._guard(name), self._path(name).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise DamagedError(f"{self._place}: {name} ends before byte {offset + length}")
        return data

    def head(self, name: str) -> ObjectInfo:
        """See ObjectStore."""
        with self._guard(name):
            return _info(name, self._path(name).stat())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        with self._guard(prefix):
            self._root.stat()
        base = self._base / prefix
        for folder, _, files in os.walk(base, onerror=self._walk_error):
            for file in files:
                path = Path(folder) / file
                with contextlib.suppress(FileNotFoundError):
                    if not file.startswith("."):
                        yield _info(str(path.relative_to(self._base)), path.stat())

    def folders(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        with self._guard(prefix):
            self._root.stat()
            if not (self._base / prefix).is_dir():
                return
            names = [each.name for each in (self._base / prefix).iterdir() if each.is_dir()]
        yield from (name for name in names if not name.startswith("."))

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        path = self._path(name)
        with contextlib.suppress(ObjectNotFoundError), self._guard(name):
            path.unlink()
            _sync_folder(path.parent)

    def staged(self) -> Iterator[ObjectInfo]:
        """Yield the files of writes that are under way or were killed; no object of the store has such a name."""
        for path in (self._root / _STAGING).glob(f"{_HALF}*"):
            with contextlib.suppress(FileNotFoundError):
                yield _info(path.name, path.stat())

    def remove_staged(self, info: ObjectInfo) -> None:
        """Remove a file that staged() told of."""
        with contextlib.suppress(ObjectNotFoundError), self._guard(info.name):
            (self._root / _STAGING / info.name).unlink()

    def describe(self) -> str:
        """See ObjectStore."""
        return self._place

    def _path(self, name: str) -> Path:
        return self._base / check_name(name)

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            if not self._root.is_dir():
                raise BucketNotFoundError(f"{self._place}: the folder {self._root} does not exist") from None
            raise ObjectNotFoundError(f"{self._place}: there is no {name}") from None
        except PermissionError as error:
            raise AccessDeniedError(
                f"{self._place}: {name}: {error.strerror}; check the folder's owner and mode"
            ) from None
        except OSError as error:
            raise StoreFailureError(f"{self._place}: {name}: {error.strerror}") from None

    @contextlib.contextmanager
    def _staged(self, path: Path, data: Data) -> Iterator[Path]:
        self._root.stat()
        staging = self._root / _STAGING
        staging.mkdir(exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=staging, prefix=_HALF)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                _write_all(file.fileno(), data)
                os.fsync(file.fileno())
            yield Path(staged)
        finally:
            Path(staged).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        (self._root / _STAGING).mkdir(exist_ok=True)
        with (self._root / _STAGING / "lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _walk_error(self, error: OSError) -> None:
        # A folder that does not exist has no objects; one that can't be read must not look empty.
        if error.errno not in {errno.ENOENT, errno.ENOTDIR}:
            raise AccessDeniedError(f"{self._place}: {error.filename} can not be listed: {error.strerror}")


def _write_all(handle: int, data: Data) -> None:
    view = memoryview(data)
    if len(view) >= _LARGE:
        view = view[_write_directly(handle, view) :]
    while view:
        view = view[os.write(handle, view) :]


def _write_directly(handle: int, view: memoryview) -> int:
    """Write whole pages past the page cache, which would cost 1 to 2 ns of CPU time per byte; return how many bytes."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    done, end = 0, len(view) // _PAGE * _PAGE
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < end:
            done += os.write(handle, view[done:end])
    except OSError as error:
        # Neither every file system nor all memory is fit for it.
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _etag(stat: os.stat_result) -> str:
    return hashlib.sha256(f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]


def _info(name: str, stat: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC), _etag(stat))
