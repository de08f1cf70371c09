"""ObjectStore on a bucket of S3, Google Cloud Storage or Azure (a container), through obstore."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError

from .bucket_clients import BucketClients, Patience
from .bucket_errors import BROKEN, CONFLICT, MAY_NOT_OVERWRITE, translate
from .errors import (
    AccessDeniedError,
    DamagedError,
    NoAnswerError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreFailureError,
)
from .object_store import Data, ObjectInfo, check_name
from .settings import StoreSettings

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion

R = TypeVar("R")
_ATTEMPTS = 4
_LARGE = 256 << 10  # Ranges of so many bytes are worth an event loop.
_PAUSE = 0.2  # Seconds before the second attempt; more before those that follow.
_NO_GENERATION = "1"
"""A generation is the microseconds of its writing: no object of Google Cloud Storage has this one."""


class BucketStore:
    """A bucket, or a prefix of one. A version tag is the ETag, or the generation on Google Cloud Storage."""

    def __init__(self, settings: StoreSettings, patience: Patience | None = None) -> None:
        """Prepare the client; nothing is sent. StoreSettingsError if CA bundle or credentials are unusable."""
        self._place = settings.describe()
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._type = settings.type
        self._by_generation = settings.type == "gcs"
        patience = patience or Patience()
        self._after_timeout = patience.after_timeout
        self._clients = BucketClients(settings, patience)
        self._client = self._clients.small

    def put_new(self, name: str, data: Data) -> str:
        """See ObjectStore; after a broken connection ObjectExistsError may mean this very write."""
        try:
            return self._create(name, data)
        except AccessDeniedError as error:
            if self._is_taken(name, error):
                raise ObjectExistsError(f"{self._place}: {name} exists") from None
            raise

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        """See ObjectStore."""
        return self._put(name, data, self._version(etag))

    def get(self, name: str, max_size: int) -> bytes:
        """See ObjectStore."""
        path = self._path(name)
        return self._run(name, lambda: self._read(path, max_size))

    def get_range(self, name: str, offset: int, length: int) -> Data:
        """See ObjectStore."""
        path = self._path(name)
        fetch = partial(self._run, name, lambda: memoryview(self._fetch(path, offset, length)))
        data = fetch() if length < _LARGE else self._patiently(fetch)
        if len(data) != length:
            raise DamagedError(f"{self._place}: {name} ends before byte {offset + length}")
        return data

    def head(self, name: str) -> ObjectInfo:
        """See ObjectStore."""
        path = self._path(name)
        try:
            meta = self._run(name, lambda: obstore.head(self._client, path))
        except (AccessDeniedError, ObjectNotFoundError):
            # HEAD answers without a body: what is missing, and why access is denied, a GET tells.
            self._run(name, lambda: self._read(path, 1 << 40, probe=True))
            raise
        return self._info(meta)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        chunks = iter(obstore.list(self._client, self._prefix + prefix.rstrip("/") or None))
        while True:
            chunk = self._run(prefix, lambda: next(chunks, None))
            if chunk is None:
                return
            yield from (info for info in map(self._info, chunk) if info.name.startswith(prefix))

    def folders(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        place = self._prefix + prefix
        found = self._run(prefix, lambda: obstore.list_with_delimiter(self._client, place.rstrip("/") or None))
        yield from (each.rstrip("/").removeprefix(place) for each in found["common_prefixes"])

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        path = self._path(name)
        with contextlib.suppress(ObjectNotFoundError):
            self._run(name, lambda: obstore.delete(self._client, path))

    def describe(self) -> str:
        """See ObjectStore."""
        return self._place

    def _is_taken(self, name: str, error: AccessDeniedError) -> bool:
        """Return whether a creation was denied because the name is taken.

        Google Cloud Storage and Azure may ask whether one may overwrite before they look at the condition. Google
        names the right. Azure doesn't, so that credentials that may only read are told of it at names that are free.
        """
        if self._type == "gcs":
            return MAY_NOT_OVERWRITE in str(error)
        if self._type != "azure":
            return False
        try:
            self.head(name)
        except (ObjectNotFoundError, AccessDeniedError):
            return False
        return True

    def _create(self, name: str, data: Data) -> str:
        # S3 answers 409 to two creations at once; a moment later it is clear which one won. A connection that breaks
        # may have created the object or not: the client does not try that again, but here both ends are the same.
        put = partial(self._put, name, data, "create")
        for attempt in range(1, _ATTEMPTS):
            try:
                return self._patiently(put)
            except StoreFailureError as error:
                if CONFLICT not in str(error) and BROKEN not in str(error):
                    raise
                time.sleep(_PAUSE * attempt)
        return put()

    def _patiently(self, call: Callable[[], R]) -> R:
        """Make a call again that had no answer in time: on a link that others use as well the next one may have."""
        for _ in range(self._after_timeout):
            with contextlib.suppress(NoAnswerError):
                return call()
        return call()

    def _put(self, name: str, data: Data, mode: PutMode) -> str:
        path, client = self._path(name), self._clients.upload(len(data))
        return self._run(name, lambda: self._tag(obstore.put(client, path, data, mode=mode, use_multipart=False)))

    def _read(self, path: str, max_size: int, probe: bool = False) -> bytes:
        result = obstore.get(self._client, path)
        if probe:
            return b""
        if result.meta["size"] > max_size:
            raise DamagedError(f"{self._place}: {path} has {result.meta['size']} bytes, expected at most {max_size}")
        return bytes(result.bytes())

    def _fetch(self, path: str, offset: int, length: int) -> obstore.Bytes:
        if length < _LARGE:
            return obstore.get_range(self._client, path, start=offset, length=length)
        # A thread that waits for an answer is woken for every few KiB of it; a loop is woken at its end.
        from .event_loop import run_in_loop

        return run_in_loop(
            partial(obstore.get_range_async, self._clients.download(), path, start=offset, length=length)
        )

    def _path(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _info(self, meta: obstore.ObjectMeta) -> ObjectInfo:
        name = meta["path"].removeprefix(self._prefix)
        return ObjectInfo(name, meta["size"], meta["last_modified"], self._tag(meta))

    def _tag(self, found: obstore.PutResult | obstore.ObjectMeta) -> str:
        return (found["version"] if self._by_generation else found["e_tag"]) or ""

    def _version(self, etag: str) -> UpdateVersion:
        if self._by_generation:
            return {"version": etag if etag.isdigit() else _NO_GENERATION}
        return {"e_tag": etag}

    def _run(self, name: str, call: Callable[[], R]) -> R:
        try:
            return call()
        except (BaseError, OSError, ValueError) as error:
            raise translate(error, f"{self._place}: {name or 'listing'}") from None
