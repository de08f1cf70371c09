"""ObjectStore on S3: HTTPS with HTTP/1.1, unsigned payload with CRC64NVME, path style, bounded retries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.exceptions import PreconditionError as ObstorePreconditionError
from obstore.store import S3Store as ObstoreS3

from .errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ClockSkewError,
    CredentialsError,
    DamagedError,
    ObjectExistsError,
    ObjectNotFoundError,
    PreconditionError,
    RepositoryError,
    StoreError,
    StoreFailureError,
    StoreSettingsError,
    StoreUnsupportedError,
    TlsError,
    UnreachableError,
)
from .object_store import Data, ObjectInfo, check_name
from .settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig

R = TypeVar("R")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_CODES: dict[str, type[RepositoryError]] = {
    "InvalidRange": DamagedError,
    "NoSuchKey": ObjectNotFoundError,
    "NoSuchBucket": BucketNotFoundError,
    "AccessDenied": AccessDeniedError,
    "AllAccessDisabled": AccessDeniedError,
    "InvalidAccessKeyId": CredentialsError,
    "SignatureDoesNotMatch": CredentialsError,
    "XAdminUserNotFound": CredentialsError,
    "ExpiredToken": CredentialsError,
    "InvalidToken": CredentialsError,
    "RequestTimeTooSkewed": ClockSkewError,
    "PreconditionFailed": PreconditionError,
    "ConditionalRequestConflict": StoreFailureError,
    "OperationAborted": StoreFailureError,
    "NotImplemented": StoreUnsupportedError,
}
_TLS_SIGN = re.compile(r"InvalidCertificate\(\s*(\w+)|(InvalidMessage|AlertReceived|NoCertificatesPresented)")
_NETWORK_SIGN = re.compile(r"kind: (Connect|Timeout)\b")
_VARYING = re.compile(
    r"(Generic S3 error: )?Error performing \w+ \S+ in \S+( - )?"
    r"|, after \d+ retries|, max_retries: \d+|, retry_timeout: \S+"
)
_ATTEMPTS = 4


@dataclass(frozen=True)
class Patience:
    """How long requests may take (seconds) and how often they are retried."""

    connect: int = 10
    request: int = 180
    retries: int = 6
    retry_for: int = 150


class S3Store:
    """A bucket, or a prefix of one."""

    def __init__(self, settings: StoreSettings, patience: Patience | None = None) -> None:
        """Prepare the client; nothing is sent. StoreSettingsError if the CA bundle holds no certificate."""
        self._place = settings.describe()
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._store = _client(settings, patience or Patience())

    def put_new(self, name: str, data: Data) -> str:
        """See ObjectStore."""
        path = self._path(name)
        # Servers answer 409 to two creations at once; a moment later it is clear which one won.
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._run(
                    name, lambda: _etag(obstore.put(self._store, path, data, mode="create", use_multipart=False))
                )
            except StoreFailureError as error:
                if "ConditionalRequestConflict" not in str(error):
                    raise
        return self._run(name, lambda: _etag(obstore.put(self._store, path, data, mode="create", use_multipart=False)))

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        """See ObjectStore."""
        path = self._path(name)
        return self._run(
            name, lambda: _etag(obstore.put(self._store, path, data, mode={"e_tag": etag}, use_multipart=False))
        )

    def get(self, name: str, max_size: int) -> bytes:
        """See ObjectStore."""
        path = self._path(name)
        return self._run(name, lambda: self._read(path, max_size))

    def get_range(self, name: str, offset: int, length: int) -> Data:
        """See ObjectStore."""
        path = self._path(name)
        data = self._run(name, lambda: memoryview(obstore.get_range(self._store, path, start=offset, length=length)))
        if len(data) != length:
            raise DamagedError(f"{self._place}: {name} ends before byte {offset + length}")
        return data

    def head(self, name: str) -> ObjectInfo:
        """See ObjectStore."""
        path = self._path(name)
        try:
            meta = self._run(name, lambda: obstore.head(self._store, path))
        except (AccessDeniedError, ObjectNotFoundError):
            # HEAD answers without a body: what is missing, and why access is denied, a GET tells.
            self._run(name, lambda: self._read(path, 1 << 40, probe=True))
            raise
        return self._info(meta)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        chunks = iter(obstore.list(self._store, self._prefix + prefix.rstrip("/") or None))
        while True:
            chunk = self._run(prefix, lambda: next(chunks, None))
            if chunk is None:
                return
            yield from (info for info in map(self._info, chunk) if info.name.startswith(prefix))

    def delete(self, name: str) -> None:
        """See ObjectStore."""
        path = self._path(name)
        try:
            self._run(name, lambda: obstore.delete(self._store, path))
        except ObjectNotFoundError:
            return

    def describe(self) -> str:
        """See ObjectStore."""
        return self._place

    def _read(self, path: str, max_size: int, probe: bool = False) -> bytes:
        result = obstore.get(self._store, path)
        if probe:
            return b""
        if result.meta["size"] > max_size:
            raise DamagedError(f"{self._place}: {path} has {result.meta['size']} bytes, expected at most {max_size}")
        return bytes(result.bytes())

    def _path(self, name: str) -> str:
        return self._prefix + check_name(name)

    def _info(self, meta: obstore.ObjectMeta) -> ObjectInfo:
        name = meta["path"].removeprefix(self._prefix)
        return ObjectInfo(name, meta["size"], meta["last_modified"], meta["e_tag"] or "")

    def _run(self, name: str, call: Callable[[], R]) -> R:
        try:
            return call()
        except (BaseError, OSError, ValueError) as error:
            raise _translate(error, f"{self._place}: {name or 'listing'}") from None


def _client(settings: StoreSettings, patience: Patience) -> ObstoreS3:
    http: ClientConfig = {
        "http1_only": True,
        "connect_timeout": timedelta(seconds=patience.connect),
        "timeout": timedelta(seconds=patience.request),
        "user_agent": "longboat",
    }
    if settings.ca_pem:
        http["root_certificate"] = settings.ca_pem
    try:
        return ObstoreS3(
            settings.bucket,
            endpoint=settings.endpoint.rstrip("/"),
            region=settings.region,
            access_key_id=settings.access_key_id,
            secret_access_key=settings.secret_access_key,
            virtual_hosted_style_request=False,
            unsigned_payload=True,
            checksum_algorithm="CRC64NVME",
            conditional_put="etag",
            disable_bulk_delete=True,
            client_options=http,
            retry_config={"max_retries": patience.retries, "retry_timeout": timedelta(seconds=patience.retry_for)},
        )
    except (ValueError, BaseError) as error:
        raise StoreSettingsError(
            f"{settings.describe()}: caPem or endpoint can not be used: {_detail(error)}"
        ) from None


def _translate(error: Exception, what: str) -> Exception:
    text = str(error)
    code = _CODE.search(text)
    kind = _CODES.get(code[1]) if code else None
    if isinstance(error, AlreadyExistsError):
        kind = StoreFailureError if code and code[1] == "ConditionalRequestConflict" else ObjectExistsError
    elif isinstance(error, ObstorePreconditionError):
        kind = PreconditionError
    kind = kind or _by_class(error) or _by_status(text) or _by_transport(text)
    return kind(f"{what}: {code[1] if code else _detail(error)}")


def _by_class(error: Exception) -> type[StoreError] | None:
    if isinstance(error, FileNotFoundError):
        return ObjectNotFoundError
    if isinstance(error, PermissionDeniedError):
        return AccessDeniedError
    return CredentialsError if isinstance(error, UnauthenticatedError) else None


def _by_status(text: str) -> type[StoreError] | None:
    status = _STATUS.search(text)
    if status is None:
        return None
    return {"501": StoreUnsupportedError, "401": CredentialsError, "403": AccessDeniedError}.get(
        status[1], StoreFailureError if status[1][0] == "5" or status[1] in {"408", "429"} else StoreError
    )


def _by_transport(text: str) -> type[StoreError]:
    if _TLS_SIGN.search(text):
        return TlsError
    return UnreachableError if _NETWORK_SIGN.search(text) else StoreFailureError


def _detail(error: Exception) -> str:
    """Return one line without times and counts, as it may become a condition that should not change by itself."""
    text = str(error)
    tls, network = _TLS_SIGN.search(text), _NETWORK_SIGN.search(text)
    if tls:
        return f"the TLS handshake failed: {tls[1] or tls[2]}"
    if network:
        return "no connection" if network[1] == "Connect" else "no answer in time"
    line = text.split("\n", 1)[0].split(": <?xml", 1)[0]
    return _VARYING.sub("", line)[:400].strip(" :-")


def _etag(result: obstore.PutResult) -> str:
    return result["e_tag"] or ""
