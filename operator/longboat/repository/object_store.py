"""The port to object storage: few operations, all of them create-only but for the epoch object and removal."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol, TypeVar

from .errors import DamagedError, ObjectExistsError, ObjectNotFoundError

Data = bytes | bytearray | memoryview
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
MAX_NAME = 900
_ATTEMPTS = 3  # What can't be read so often in a row is damaged; less may be the network's fault.
T = TypeVar("T")


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows of an object: name, bytes, time of the last write by the store's clock, version tag."""

    name: str
    size: int
    modified: datetime
    etag: str


class ObjectStore(Protocol):
    """An object store as the repository needs it; every failure is a StoreError.

    Names are relative, `/`-separated, of letters, digits, `.`, `_` and `-`. Methods may be called from many threads.
    """

    def put_new(self, name: str, data: Data) -> str:
        """Create an object and return its version tag; ObjectExistsError if the name is taken."""

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        """Replace an object that still has this version tag; PreconditionError otherwise."""

    def get(self, name: str, max_size: int) -> bytes:
        """Return an object's bytes; ObjectNotFoundError, or DamagedError if it is larger than max_size."""

    def get_range(self, name: str, offset: int, length: int) -> Data:
        """Return exactly `length` bytes from `offset`; DamagedError if the object ends before."""

    def head(self, name: str) -> ObjectInfo:
        """Return what is known of an object; ObjectNotFoundError if it is not there."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object below the folder `prefix` (ending in `/`, or empty), in no particular order."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the folders directly below the folder `prefix`, without listing what is in them."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""

    def describe(self) -> str:
        """Return the store's name for messages."""


def check_name(name: str) -> str:
    """Return the name if it is safe as an object name and as a path; ValueError otherwise."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ValueError(f"object name {name!r}: expected parts of letters, digits, '.', '_' and '-', joined by '/'")
    return name


class ScopedStore:
    """An ObjectStore below a folder of another one."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        """Scope the store to a folder such as `prod/7f…/a1…`; ValueError if it is not a safe name."""
        self._store = store
        self._folder = check_name(folder) + "/"

    def put_new(self, name: str, data: Data) -> str:
        """See ObjectStore."""
        return self._store.put_new(self._folder + name, data)

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        """See ObjectStore."""
        return self._store.put_if_match(self._folder + name, data, etag)

    def get(self, name: str, max_size: int) -> bytes:
        """See ObjectStore."""
        return self._store.get(self._folder + name, max_size)

    def get_versions(self, name: str, max_size: int) -> Iterator[bytes]:
        """See contents()."""
        return contents(self._store, self._folder + name, max_size)

    def has_versions(self, prefix: str) -> bool:
        """See has_versions()."""
        return has_versions(self._store, self._folder + prefix)

    def staged(self) -> Iterator[ObjectInfo]:
        """Yield the half-written files of the whole store, if it is one that has such."""
        staged = getattr(self._store, "staged", None)
        return iter(()) if staged is None else staged()

    def remove_staged(self, info: ObjectInfo) -> None:
        """Remove a file that staged() told of."""
        self._store.remove_staged(info)  # type: ignore[attr-defined]  # Only a store that has such tells of any.

    def get_range(self, name: str, offset: int, length: int) -> Data:
        """See ObjectStore."""
        return self._store.get_range(self._folder + name, offset, length)

    def head(self, name: str) -> ObjectInfo:
        """See ObjectStore."""
        return self._relative(self._store.head(self._folder + name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return map(self._relative, self._store.list(self._folder + prefix))

    def folders(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        return self._store.folders(self._folder + prefix)

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        self._store.delete(self._folder + name)

    def describe(self) -> str:
        """See ObjectStore."""
        return f"{self._store.describe()}, folder {self._folder}"

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, name=info.name.removeprefix(self._folder))


def contents(store: ObjectStore, name: str, max_size: int) -> Iterator[bytes]:
    """Yield what get() returns, then the object's other versions if the store is one that tells them apart."""
    versions = getattr(store, "get_versions", None)
    yield from versions(name, max_size) if versions is not None else [store.get(name, max_size)]


def has_versions(store: ObjectStore, prefix: str) -> bool:
    """Tell whether there is an object below a folder, or if the store is one that tells, a hidden version of one."""
    hidden = getattr(store, "has_versions", None)
    return bool(hidden(prefix)) if hidden is not None else next(iter(store.list(prefix)), None) is not None


def put_once(store: ObjectStore, name: str, data: bytes) -> None:
    """Create a small object; a lost acknowledgement of the same write is recognised by the content.

    ObjectExistsError only if the name is taken by other bytes.
    """
    try:
        store.put_new(name, data)
    except ObjectExistsError:
        if not _holds(store, name, data):
            raise


def put_fresh(store: ObjectStore, name: str, data: Data) -> ObjectInfo:
    """Create an object under a fresh random name and read its size back; return what the store says of it.

    Whatever has this name is ours: a retry after a lost acknowledgement finds it in place. DamagedError if the store
    kept another number of bytes than it was given.
    """
    with contextlib.suppress(ObjectExistsError):
        store.put_new(name, data)
    stored = store.head(name)
    if stored.size != len(data):
        raise DamagedError(f"object {name}: wrote {len(data)} bytes but the store holds {stored.size}; check the store")
    return stored


def exists(store: ObjectStore, name: str) -> bool:
    """Tell whether there is an object of this name."""
    try:
        store.head(name)
    except ObjectNotFoundError:
        return False
    return True


def _holds(store: ObjectStore, name: str, data: bytes) -> bool:
    try:
        return store.get(name, len(data)) == data
    except DamagedError:
        return False


def persistently(read: Callable[[], T]) -> T:
    """Read a few times before something counts as damaged or missing; other errors are raised at once."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read()
        except (DamagedError, ObjectNotFoundError):
            continue
    return read()
