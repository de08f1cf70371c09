"""obstore's clients for each kind of bucket: HTTPS with HTTP/1.1, bounded retries, no credentials but those given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from .bucket_errors import detail
from .errors import StoreSettingsError
from .settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig

Client = S3Store | GCSStore | AzureStore


@dataclass(frozen=True)
class Patience:
    """How long requests may take (seconds) and how often they are retried."""

    connect: int = 10
    request: int = 180
    retries: int = 6
    retry_for: int = 150


def bucket_client(settings: StoreSettings, patience: Patience) -> Client:
    """Return the client for the settings; nothing is sent. StoreSettingsError names what can't be used."""
    make = {"s3": _s3, "gcs": _gcs, "azure": _azure}[settings.type]
    retry: RetryConfig = {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.retry_for),
    }
    try:
        return make(settings, _http(settings, patience), retry)
    except (ValueError, BaseError) as error:
        raise StoreSettingsError(
            f"{settings.describe()}: caPem, endpoint or credentials can not be used: {detail(error)}"
        ) from None


def _http(settings: StoreSettings, patience: Patience) -> ClientConfig:
    http: ClientConfig = {
        "http1_only": True,
        "connect_timeout": timedelta(seconds=patience.connect),
        "timeout": timedelta(seconds=patience.request),
        "user_agent": "longboat",
    }
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
