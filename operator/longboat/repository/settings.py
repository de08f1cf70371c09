"""How to reach an object store: the settings that the operator and the movers share."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from collections.abc import Callable
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, model_validator

from .wire import Wire

_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata", "instance-data"})
_METADATA_ADDRESSES = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


SECRETS = ("access_key_id", "secret_access_key", "service_account_key", "account_key", "sas_token", "client_secret")
"""Fields that are never part of a representation, and lie in a mover's Secret only."""
AZURE_ENDPOINT = "https://{account}.blob.core.windows.net"
GCS_ENDPOINT = "https://storage.googleapis.com"


class StoreSettings(Wire):
    """Settings of one object store; as JSON in camelCase (snake_case is read, too).

    `prefix` is put before every object name. Secrets are never part of the representation. Needed for each type:

    - `s3`: endpoint (https), bucket, accessKeyId, secretAccessKey; `region` if it is not us-east-1.
    - `gcs`: bucket, serviceAccountKey (the JSON text of a service account's key). Endpoint: Google's own if empty.
    - `azure`: account, bucket (the container), and one of accountKey, sasToken, or tenantId with clientId and
      clientSecret. Endpoint: the account's own if empty.
    - `folder`: path.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["s3", "gcs", "azure", "folder"]
    endpoint: str = ""
    region: str = "us-east-1"
    account: str = ""
    bucket: str = ""
    prefix: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?$")
    ca_pem: str = Field(default="", repr=False)
    access_key_id: str = Field(default="", repr=False)
    secret_access_key: str = Field(default="", repr=False)
    service_account_key: str = Field(default="", repr=False)
    account_key: str = Field(default="", repr=False)
    sas_token: str = Field(default="", repr=False)
    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = Field(default="", repr=False)
    path: str = ""
    # Of S3 buckets that keep versions: see versioned_store and write_once.
    delete_versions: bool = False
    read_versions: Literal["Latest", "Oldest"] = "Latest"
    lock_mode: Literal["Governance", "Compliance"] | None = None
    lock_days: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problem = _PROBLEMS[self.type](self)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def url(self) -> str:
        """What and where in one word: `s3://bucket/prefix`, `gs://…`, `azure://account/container/prefix`, a path."""
        parts = {"s3": ("s3:/", self.bucket), "gcs": ("gs:/", self.bucket), "folder": (self.path,)}
        place = parts.get(self.type, ("azure:/", self.account, self.bucket))
        return "/".join([*place, self.prefix]).rstrip("/")

    @property
    def service_endpoint(self) -> str:
        """The https address that is talked to; empty for a folder."""
        own = {"gcs": GCS_ENDPOINT, "azure": AZURE_ENDPOINT.format(account=self.account)}
        return (self.endpoint or own.get(self.type, "")).rstrip("/")

    def describe(self) -> str:
        """Return the store's name for messages: `s3://bucket/prefix at https://endpoint` or the folder."""
        if self.type == "folder":
            return f"folder {self.url}"
        return f"{self.url} at {self.endpoint}" if self.endpoint else self.url


def forbidden_host(host: str) -> bool:
    """Tell whether a host is a link-local or metadata address, where no object store has business to be."""
    address = _address(host)
    if address is None:
        return _name(host) in _METADATA_HOSTS
    return address in _METADATA_ADDRESSES or address.is_link_local or address.is_multicast or address.is_unspecified


def loopback_host(host: str) -> bool:
    """Tell whether a host is the very machine, or pod, that asks."""
    address = _address(host)
    if address is None:
        return _name(host) == "localhost" or _name(host).endswith(".localhost")
    return address.is_loopback


def _name(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host stands for, None for a name. Resolvers take 0x7f000001, 2130706433, 127.1, too."""
    text = _name(host).split("%")[0]
    if ":" not in text:
        with contextlib.suppress(OSError):
            return ipaddress.IPv4Address(socket.inet_aton(text))
        return None
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    embedded = address in _NAT64 or (address in _V4_COMPATIBLE and int(address) > 1)
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if embedded else address.ipv4_mapped or address


def _s3_problem(settings: StoreSettings) -> str:
    if not settings.access_key_id or not settings.secret_access_key:
        missing = "accessKeyId and secretAccessKey: both are needed; give the Secret with the store's credentials"
    else:
        missing = ""
    return _endpoint_problem(settings) or _bucket_problem(settings) or missing


def _gcs_problem(settings: StoreSettings) -> str:
    problem = (settings.endpoint and _endpoint_problem(settings)) or _bucket_problem(settings)
    return problem or _service_account_problem(settings.service_account_key)


def _service_account_problem(text: str) -> str:
    expected = "serviceAccountKey: expected the JSON text of a service account's key"
    try:
        found = json.loads(text)
    except ValueError:
        return f"{expected}, which is what Google Cloud gives as a file"
    needed = {"client_email", "private_key"}
    missing = needed - found.keys() if isinstance(found, dict) else needed
    return f"{expected}; it lacks {', '.join(sorted(missing))}" if missing else ""


def _azure_problem(settings: StoreSettings) -> str:
    problem = (settings.endpoint and _endpoint_problem(settings, path=True)) or _bucket_problem(settings)
    if problem or not settings.account:
        return problem or "account: missing; give the name of the storage account"
    principal = [bool(each) for each in (settings.tenant_id, settings.client_id, settings.client_secret)]
    if any(principal) and not all(principal):
        return "tenantId, clientId and clientSecret: a service principal needs all three"
    if [bool(settings.account_key), bool(settings.sas_token), all(principal)].count(True) != 1:
        return "credentials: give exactly one of accountKey, sasToken, and tenantId with clientId and clientSecret"
    return ""


def _endpoint_problem(settings: StoreSettings, path: bool = False) -> str:
    url = urlsplit(settings.endpoint)
    if url.scheme != "https" or not url.hostname:
        return f"endpoint: expected https://<host>[:port], got {settings.endpoint!r}; plain HTTP is not supported"
    if (url.path.strip("/") and not path) or url.query or url.username:
        return (
            f"endpoint: expected https://<host>[:port] alone, got {settings.endpoint!r}; the bucket has its own field"
        )
    if forbidden_host(url.hostname):
        return f"endpoint: {url.hostname} is a link-local or metadata address; give the address of an object store"
    return ""


def _bucket_problem(settings: StoreSettings) -> str:
    return "" if settings.bucket else "bucket: missing; give the name of an existing bucket or container"


def _folder_problem(settings: StoreSettings) -> str:
    return "" if settings.path.startswith("/") else f"path: expected an absolute folder, got {settings.path!r}"


_PROBLEMS: dict[str, Callable[[StoreSettings], str]] = {
    "s3": _s3_problem,
    "gcs": _gcs_problem,
    "azure": _azure_problem,
    "folder": _folder_problem,
}
