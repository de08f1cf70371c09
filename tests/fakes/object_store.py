"""Object stores for tests: one in memory with a clock of its own, and one that fails or dies at the nth operation."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from longboat.repository.errors import (
    BucketNotFoundError,
    CredentialsError,
    DamagedError,
    ObjectExistsError,
    ObjectNotFoundError,
    PreconditionError,
    StoreError,
    StoreFailureError,
)
from longboat.repository.object_store import Data, ObjectInfo, ObjectStore

R = TypeVar("R")


class MemoryStore:
    """Objects in a dictionary; `now` is the store's clock and can be set."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime, int]] = {}
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self._lock = threading.Lock()
        self._version = 0

    def put_new(self, name: str, data: Data) -> str:
        with self._lock:
            if name in self.objects:
                raise ObjectExistsError(name)
            return self._put(name, data)

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        with self._lock:
            if name not in self.objects or str(self.objects[name][2]) != etag:
                raise PreconditionError(name)
            return self._put(name, data)

    def get(self, name: str, max_size: int) -> bytes:
        data = self._find(name)[0]
        if len(data) > max_size:
            raise DamagedError(f"{name} is larger than {max_size}")
        return data

    def get_range(self, name: str, offset: int, length: int) -> Data:
        data = self._find(name)[0][offset : offset + length]
        if len(data) != length:
            raise DamagedError(f"{name} is too short")
        return data

    def head(self, name: str) -> ObjectInfo:
        data, modified, version = self._find(name)
        return ObjectInfo(name, len(data), modified, str(version))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            names = [name for name in self.objects if name.startswith(prefix)]
        return iter([self.head(name) for name in names])

    def folders(self, prefix: str) -> Iterator[str]:
        with self._lock:
            below = [name.removeprefix(prefix) for name in self.objects if name.startswith(prefix)]
        return iter(sorted({name.split("/")[0] for name in below if "/" in name}))

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)

    def describe(self) -> str:
        return "memory"

    def copy(self) -> MemoryStore:
        """Return an independent store with the same objects."""
        other = MemoryStore()
        other.objects, other.now, other._version = dict(self.objects), self.now, self._version
        return other

    def advance(self, period: timedelta) -> None:
        """Move the store's clock."""
        self.now += period

    def _put(self, name: str, data: Data) -> str:
        self._version += 1
        self.objects[name] = (bytes(data), self.now, self._version)
        return str(self._version)

    def _find(self, name: str) -> tuple[bytes, datetime, int]:
        try:
            return self.objects[name]
        except KeyError:
            raise ObjectNotFoundError(name) from None


LASTING: dict[str, type[StoreError]] = {"bucket-gone": BucketNotFoundError, "credentials-changed": CredentialsError}


def _cut(result: R) -> R:
    return result[:-1] if isinstance(result, bytes | bytearray | memoryview) else result  # type: ignore[return-value]


class KilledError(BaseException):
    """The process ended here, as far as the test is concerned."""


class FaultyStore:
    """Passes operations on until the nth one, which goes wrong as `fault` says; counts operations.

    `killed-before` and `killed-after`: that operation, undone or done, is the last one of this process. `fails`: it
    raises once, undone. `acknowledgement-lost`: it is done, but raises. `truncated`: if it reads bytes, one is
    missing. `duplicated`: if it writes, it does so twice and reports the second time. `bucket-gone` and
    `credentials-changed`: from then on every operation raises that.
    """

    def __init__(self, store: ObjectStore, fault: str = "", at: int = -1) -> None:
        self.store, self.fault, self.at = store, fault, at
        self.operations = 0
        self._dead = False
        self._lock = threading.Lock()

    def put_new(self, name: str, data: Data) -> str:
        return self._run(lambda: self.store.put_new(name, data), writes=True)

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        return self._run(lambda: self.store.put_if_match(name, data, etag), writes=True)

    def get(self, name: str, max_size: int) -> bytes:
        return self._run(lambda: self.store.get(name, max_size))

    def get_range(self, name: str, offset: int, length: int) -> Data:
        return self._run(lambda: self.store.get_range(name, offset, length))

    def head(self, name: str) -> ObjectInfo:
        return self._run(lambda: self.store.head(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._run(lambda: self.store.list(prefix))

    def folders(self, prefix: str) -> Iterator[str]:
        return self._run(lambda: self.store.folders(prefix))

    def delete(self, name: str) -> None:
        self._run(lambda: self.store.delete(name))

    def describe(self) -> str:
        return "faulty memory"

    def _run(self, operation: Callable[[], R], writes: bool = False) -> R:
        with self._lock:
            number, self.operations = self.operations, self.operations + 1
            if self._dead:
                raise KilledError
            if self.fault in LASTING and 0 <= self.at <= number:
                raise LASTING[self.fault](self.fault)
            if number != self.at:
                return operation()
            return self._break(operation, writes)

    def _break(self, operation: Callable[[], R], writes: bool) -> R:
        if self.fault == "truncated":
            return _cut(operation())
        if self.fault == "duplicated":
            if writes:
                operation()
            return operation()
        self._dead = self.fault.startswith("killed")
        if self.fault in {"killed-after", "acknowledgement-lost"}:
            with contextlib.suppress(StoreError):
                operation()
        raise KilledError if self._dead else StoreFailureError(self.fault)
