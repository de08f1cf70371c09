"""ObjectStore on an S3 bucket that keeps versions: removes all of them, or reads the oldest ones.

Objects are created once, so that the oldest version of a name is the one that its writer made: whatever came after it,
a newer version or a delete marker, is somebody else's. Reading the oldest undoes both.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import groupby

import obstore

from .bucket_clients import Patience
from .bucket_store import BucketStore
from .errors import AccessDeniedError, DamagedError, ObjectLockedError, ObjectNotFoundError, StoreError
from .layout import REMOVING
from .object_store import Data, ObjectInfo
from .s3_versions import S3Versions, Version
from .settings import StoreSettings


class RemovingStore(BucketStore):
    """Removes every version of an object, not the newest one alone."""

    def __init__(self, settings: StoreSettings, patience: Patience | None = None) -> None:
        """Prepare the clients; nothing is sent."""
        super().__init__(settings, patience)
        self._versions, self._locks = S3Versions(settings, patience), settings.lock_mode is not None

    def delete(self, name: str) -> None:
        """See ObjectStore. A version that is locked is hidden by a delete marker, and goes with a later purge.

        So does the announcement of a removal where objects are locked: by it what that has hidden is told from what
        others have.
        """
        versions = self._versions.of(name)
        if self._locks and f"/{REMOVING}" in f"/{name}" and versions:
            if not versions[0].marker:
                self._versions.hide(name)
            return
        # Delete markers go last: what they hide must not come into sight again, should this be interrupted.
        for version in sorted(versions, key=lambda each: each.marker):
            try:
                self._versions.delete(version)
            except ObjectLockedError:
                if not versions[0].marker:
                    self._versions.hide(name)
                return

    def has_versions(self, prefix: str) -> bool:
        """Tell whether anything below a folder is left, be it hidden by a delete marker."""
        return any(not each.marker for each in self._versions.below(prefix))

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        """See ObjectStore. What was replaced is removed, as far as the credentials allow."""
        written = super().put_if_match(name, data, etag)
        with contextlib.suppress(StoreError):
            # The oldest first: the younger ones may be locked still, and go when the next ones are written.
            for version in reversed(self._versions.of(name)[1:]):
                self._versions.delete(version)
        return written


class OldestStore(BucketStore):
    """Reads the oldest version of each object, as if nothing had been overwritten or deleted since; writes nothing."""

    def __init__(self, settings: StoreSettings, patience: Patience | None = None) -> None:
        """Prepare the clients; nothing is sent."""
        super().__init__(settings, patience)
        self._versions = S3Versions(settings, patience)
        self._known: dict[str, Version] = {}
        self._lock = threading.Lock()

    def get(self, name: str, max_size: int) -> bytes:
        """See ObjectStore."""
        return self._whole(name, self._oldest(name), max_size)

    def get_versions(self, name: str, max_size: int) -> Iterator[bytes]:
        """Yield all versions, the oldest first: a name that was removed and created again has more than one true one.

        ObjectNotFoundError if there is none.
        """
        yield self.get(name, max_size)
        oldest = self._oldest(name)
        for version in reversed(self._versions.of(name)):
            if not version.marker and version.id != oldest.id:
                yield self._whole(name, version, max_size)

    def get_range(self, name: str, offset: int, length: int) -> Data:
        """See ObjectStore."""
        version, path = self._oldest(name), self._path(name)
        if offset + length > version.size:
            raise DamagedError(f"{self._place}: {name} ends before byte {offset + length}")
        options: obstore.GetOptions = {"version": version.id, "range": (offset, offset + length)}
        data = self._run(name, lambda: memoryview(self._get(path, options).bytes()))
        if len(data) != length:
            raise DamagedError(f"{self._place}: {name} ends before byte {offset + length}")
        return data

    def head(self, name: str) -> ObjectInfo:
        """See ObjectStore."""
        return _info(self._oldest(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore. Objects that were deleted are listed as long as a version of them is left."""
        for _, group in groupby(self._versions.below(prefix), key=lambda each: each.name):
            version = _oldest_of([*group])
            if version is not None:
                yield _info(version)

    def put_new(self, name: str, data: Data) -> str:  # noqa: ARG002
        """Refuse: what is written now would not be seen."""
        raise self._refused(name)

    def put_if_match(self, name: str, data: Data, etag: str) -> str:  # noqa: ARG002
        """Refuse: what is written now would not be seen."""
        raise self._refused(name)

    def delete(self, name: str) -> None:
        """Refuse: nothing may be lost while a repository is being recovered."""
        raise self._refused(name)

    def _whole(self, name: str, version: Version, max_size: int) -> bytes:
        if version.size > max_size:
            raise DamagedError(f"{self._place}: {name} has {version.size} bytes, expected at most {max_size}")
        path = self._path(name)
        return self._run(name, lambda: bytes(self._get(path, {"version": version.id}).bytes()))

    def _get(self, path: str, options: obstore.GetOptions) -> obstore.GetResult:
        return obstore.get(self._clients.download(), path, options=options)

    def _oldest(self, name: str) -> Version:
        with self._lock:
            known = self._known.get(name)
        if known is None:
            known = _oldest_of(self._versions.of(name))
            if known is None:
                raise ObjectNotFoundError(f"{self._place}: there is no version of {name}")
            with self._lock:
                self._known[name] = known
        return known

    def _refused(self, name: str) -> AccessDeniedError:
        return AccessDeniedError(
            f"{self._place}: {name}: the oldest versions are read (readVersions), nothing is written"
        )


def _oldest_of(versions: list[Version]) -> Version | None:
    # The store lists the newest first; its times have whole seconds and would not tell two versions apart.
    return next((each for each in reversed(versions) if not each.marker), None)


def _info(version: Version) -> ObjectInfo:
    return ObjectInfo(version.name, version.size, version.modified, version.etag)
