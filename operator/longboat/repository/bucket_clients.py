"""obstore's clients for each kind of bucket: HTTPS with HTTP/1.1, bounded retries, no credentials but those given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from .bucket_errors import detail
from .errors import StoreSettingsError
from .layout import PACK_TARGET
from .settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig

Client = S3Store | GCSStore | AzureStore


_LARGE = 1 << 20  # Uploads of so many bytes are given time by their size.
_STEPS = (8 << 20, PACK_TARGET)  # Few sizes, as each has connections of its own; nothing larger is written.


@dataclass(frozen=True)
class Patience:
    """How long requests may take (seconds) and how often they are retried.

    `request` is for small ones, all in all; large transfers get more by their size: a connection needs `least_rate`,
    in bytes per second. A download may pause for `idle`.
    `retry_for` is longer than `request`, so that one without an answer is tried again. Uploads and large downloads
    are tried again `after_timeout` times by ourselves, signed anew: signatures are good for minutes only.
    """

    connect: int = 10
    request: int = 180
    idle: int = 90
    retries: int = 6
    retry_for: int = 240
    after_timeout: int = 1
    least_rate: int = 32 << 10

    def for_size(self, size: int) -> int:
        """Return the seconds that a transfer of so many bytes may take, all in all.

        With the largest this is less than the time after which the operator takes a mover that comes no further for
        hung, and with its repetition less than the least grace period of condemned packs, in which manifests come.
        """
        if size <= _LARGE:
            return self.request
        return self.request + next((step for step in _STEPS if size <= step), _STEPS[-1]) // self.least_rate


class BucketClients:
    """obstore's clients of one bucket, one for each time-out: a client has a single one, for all of its requests."""

    def __init__(self, settings: StoreSettings, patience: Patience) -> None:
        """Make the client for small requests; nothing is sent. StoreSettingsError names what can't be used."""
        self._settings, self._patience = settings, patience
        self._made: dict[tuple[int, int], Client] = {}
        self.small = self._client(patience.request)

    def download(self) -> Client:
        """Return the client for large downloads: they may last while they move."""
        return self._client(self._patience.for_size(PACK_TARGET), self._patience.idle)

    def upload(self, size: int) -> Client:
        """Return the client for an upload of so many bytes. Nothing tells whether one moves: its size says how long."""
        return self._client(self._patience.for_size(size))

    def _client(self, request: int, idle: int = 0) -> Client:
        key = request, idle
        if key not in self._made:
            # Two threads may make it at once: one is used, the other forgotten.
            self._made[key] = _bucket_client(self._settings, self._patience, request, idle)
        return self._made[key]


def _bucket_client(settings: StoreSettings, patience: Patience, request: int, idle: int) -> Client:
    make = {"s3": _s3, "gcs": _gcs, "azure": _azure}[settings.type]
    retry: RetryConfig = {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.retry_for),
    }
    try:
        return make(settings, _http(settings, patience, request, idle), retry)
    except (ValueError, BaseError) as error:
        raise StoreSettingsError(
            f"{settings.describe()}: caPem, endpoint or credentials can not be used: {detail(error)}"
        ) from None


def _http(settings: StoreSettings, patience: Patience, request: int, idle: int) -> ClientConfig:
    http: ClientConfig = {
        "http1_only": True,
        "connect_timeout": timedelta(seconds=patience.connect),
        "timeout": timedelta(seconds=request),
        "user_agent": "longboat",
    }
    if idle:
        http["read_timeout"] = timedelta(seconds=idle)
    if settings.ca_pem:
        http["root_certificate"] = settings.ca_pem
    return http


def _s3(settings: StoreSettings, http: ClientConfig, retry: RetryConfig) -> Client:
    return S3Store(
        settings.bucket,
        endpoint=settings.service_endpoint,
        region=settings.region,
        access_key_id=settings.access_key_id,
        secret_access_key=settings.secret_access_key,
        virtual_hosted_style_request=False,
        unsigned_payload=True,
        checksum_algorithm="CRC64NVME",
        conditional_put="etag",
        disable_bulk_delete=True,
        client_options=http,
        retry_config=retry,
    )


def _gcs(settings: StoreSettings, http: ClientConfig, retry: RetryConfig) -> Client:
    # The address is always said: a key's file could name another one.
    return GCSStore(
        settings.bucket,
        base_url=settings.service_endpoint,
        service_account_key=settings.service_account_key,
        client_options=http,
        retry_config=retry,
    )


def _azure(settings: StoreSettings, http: ClientConfig, retry: RetryConfig) -> Client:
    return AzureStore(
        settings.bucket,
        account_name=settings.account,
        endpoint=settings.service_endpoint,
        config=_azure_credentials(settings),
        client_options=http,
        retry_config=retry,
    )


def _azure_credentials(settings: StoreSettings) -> AzureConfig:
    if settings.account_key:
        return {"account_key": settings.account_key, "credential_type": "access_key"}
    if settings.sas_token:
        return {"sas_key": settings.sas_token.lstrip("?"), "credential_type": "sas_token"}
    return {
        "tenant_id": settings.tenant_id,
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "credential_type": "client_secret",
    }
