"""A bucket with versions and Object Lock in memory: every version is locked as it is written, and none goes before."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from longboat.repository import StoreSettings
from longboat.repository.errors import (
    AccessDeniedError,
    DamagedError,
    ObjectExistsError,
    ObjectLockedError,
    ObjectNotFoundError,
    PreconditionError,
)
from longboat.repository.object_store import Data, ObjectInfo
from longboat.repository.s3_versions import Version
from longboat.repository.versioned_store import RemovingStore
from tests.fakes.object_store import KilledError

Strike = Callable[[], None]
"""Called before each request; may raise."""


@dataclass(frozen=True)
class Stored:
    """A version, or a delete marker, which has no lock."""

    version: Version
    data: bytes = b""
    until: datetime | None = None


class LockedBucket:
    """Versions by name, the newest first; `now` is the bucket's clock, `days` its default retention."""

    def __init__(self, now: Callable[[], datetime], days: int) -> None:
        self.now, self.days = now, days
        self.names: dict[str, list[Stored]] = {}
        self.lock = threading.RLock()
        self._ids = itertools.count(1)

    def copy(self) -> LockedBucket:
        """Return an independent bucket with the same versions."""
        other = LockedBucket(self.now, self.days)
        other.names = {name: [*of] for name, of in self.names.items()}
        other._ids = itertools.count(next(self._ids))
        return other

    def add(self, name: str, data: bytes, *, marker: bool = False) -> Stored:
        now, number = self.now(), str(next(self._ids))
        until = None if marker else now + timedelta(days=self.days)
        version = Version(name, number, len(data), now.replace(microsecond=0), number, latest=True, marker=marker)
        self.names.setdefault(name, []).insert(0, made := Stored(version, data, until))
        return made

    def seen(self, name: str) -> Stored:
        """Return what is seen of a name; ObjectNotFoundError if nothing is."""
        found = self.names.get(name)
        if not found or found[0].version.marker:
            raise ObjectNotFoundError(name)
        return found[0]

    def visible(self, prefix: str = "") -> list[str]:
        """Return the names that can be seen."""
        with self.lock:
            return sorted(
                name for name, of in self.names.items() if name.startswith(prefix) and not of[0].version.marker
            )

    def locked_until(self, name: str) -> datetime | None:
        """Return until when the version that its writer made is locked."""
        return self.names[name][-1].until


class Client:
    """Requests of one process; they all fail once `strike` has raised KilledError."""

    def __init__(self, bucket: LockedBucket, strike: Strike = lambda: None) -> None:
        self.bucket, self._strike = bucket, strike

    def request(self) -> None:
        with self.bucket.lock:
            self._strike()


class Versions(Client):
    """Stands in for S3Versions below a prefix."""

    def __init__(self, bucket: LockedBucket, prefix: str = "", strike: Strike = lambda: None) -> None:
        super().__init__(bucket, strike)
        self._prefix = prefix

    def below(self, prefix: str, after: str = "") -> Iterator[Version]:
        self.request()
        with self.bucket.lock:
            start = self._prefix + prefix
            names = sorted(name for name in self.bucket.names if name.startswith(start) and name > self._prefix + after)
            found = [each.version for name in names for each in self.bucket.names[name]]
        return iter([replace(each, name=each.name.removeprefix(self._prefix)) for each in found])

    def of(self, name: str) -> list[Version]:
        return [each for each in self.below(name) if each.name == name]

    def delete(self, version: Version) -> None:
        self.request()
        with self.bucket.lock:
            name = self._prefix + version.name
            its = self.bucket.names.get(name, [])
            for each in [each for each in its if each.version.id == version.id]:
                if each.until is not None and each.until > self.bucket.now():
                    raise ObjectLockedError(name)
                its.remove(each)
            if not its:
                self.bucket.names.pop(name, None)

    def hide(self, name: str) -> None:
        self.request()
        with self.bucket.lock:
            self.bucket.add(self._prefix + name, b"", marker=True)

    def locked_until(self, version: Version) -> datetime | None:
        self.request()
        return self._stored(version).until

    def lock(self, version: Version, mode: str, until: datetime) -> None:
        self.request()
        with self.bucket.lock:
            found = self._stored(version)
            if found.until is not None and until < found.until:
                raise AccessDeniedError("a lock is never shortened")
            its = self.bucket.names[self._prefix + version.name]
            its[its.index(found)] = replace(found, until=until)

    def _stored(self, version: Version) -> Stored:
        its = self.bucket.names.get(self._prefix + version.name, [])
        try:
            return next(each for each in its if each.version.id == version.id)
        except StopIteration:
            raise ObjectNotFoundError(version.name) from None


class Objects(Client):
    """Implements ObjectStore as exports have it: they create, read and list, and may remove nothing."""

    def put_new(self, name: str, data: Data) -> str:
        self.request()
        with self.bucket.lock:
            if name in self.bucket.visible(name):
                raise ObjectExistsError(name)
            return self.bucket.add(name, bytes(data)).version.etag

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        self.request()
        with self.bucket.lock:
            if name not in self.bucket.visible(name) or self.bucket.seen(name).version.etag != etag:
                raise PreconditionError(name)
            return self.bucket.add(name, bytes(data)).version.etag

    def get(self, name: str, max_size: int) -> bytes:
        self.request()
        data = self.bucket.seen(name).data
        if len(data) > max_size:
            raise DamagedError(name)
        return data

    def get_range(self, name: str, offset: int, length: int) -> Data:
        data = self.get(name, 1 << 40)[offset : offset + length]
        if len(data) != length:
            raise DamagedError(name)
        return data

    def head(self, name: str) -> ObjectInfo:
        self.request()
        return _info(self.bucket.seen(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.request()
        with self.bucket.lock:
            return iter([_info(self.bucket.seen(name)) for name in self.bucket.visible(prefix)])

    def folders(self, prefix: str) -> Iterator[str]:
        below = [each.name.removeprefix(prefix) for each in self.list(prefix)]
        return iter(sorted({each.split("/")[0] for each in below if "/" in each}))

    def delete(self, name: str) -> None:
        self.request()
        raise AccessDeniedError(name)

    def describe(self) -> str:
        return "locked bucket"


class Keeper(Objects):
    """As maintenance has it: it removes all versions of what is not locked, and hides what is."""

    def __init__(self, bucket: LockedBucket, strike: Strike = lambda: None) -> None:
        super().__init__(bucket, strike)
        self._versions, self._locks = Versions(bucket, strike=strike), True

    delete = RemovingStore.delete  # type: ignore[assignment]
    has_versions = RemovingStore.has_versions


def opened(bucket: LockedBucket, settings: StoreSettings, strike: Strike = lambda: None) -> Objects:
    """Return the bucket as the settings of a purpose open it."""
    return Keeper(bucket, strike) if settings.delete_versions else Objects(bucket, strike)


class Death:
    """Kills a process at its nth request (0, 1, …), before that is done; counts them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.requests = at, 0

    def __call__(self) -> None:
        self.requests += 1
        if self.at is not None and self.requests > self.at:
            raise KilledError


def _info(stored: Stored) -> ObjectInfo:
    its = stored.version
    return ObjectInfo(its.name, its.size, its.modified, its.etag)
