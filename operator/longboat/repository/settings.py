"""How to reach an object store: the settings that the operator and the movers share."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata", "instance-data"})
_METADATA_ADDRESSES = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")


class StoreSettings(BaseModel):
    """Settings of one object store; as JSON in camelCase (snake_case is read, too).

    `type: s3` needs endpoint (https), bucket and credentials; `type: folder` needs path. `prefix` is put before every
    object name. Secrets are never part of the representation.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    type: Literal["s3", "folder"]
    endpoint: str = ""
    region: str = "us-east-1"
    bucket: str = ""
    prefix: str = Field(default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?$")
    ca_pem: str = Field(default="", repr=False)
    access_key_id: str = Field(default="", repr=False)
    secret_access_key: str = Field(default="", repr=False)
    path: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problem = _s3_problem(self) if self.type == "s3" else _folder_problem(self)
        if problem:
            raise ValueError(problem)
        return self

    def describe(self) -> str:
        """Return the store's name for messages: `s3://bucket/prefix at https://endpoint` or the folder."""
        place = f"{self.bucket}/{self.prefix}".rstrip("/")
        return (
            f"s3://{place} at {self.endpoint}" if self.type == "s3" else f"folder {self.path}/{self.prefix}".rstrip("/")
        )


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
    url = urlsplit(settings.endpoint)
    if url.scheme != "https" or not url.hostname:
        return f"endpoint: expected https://<host>[:port], got {settings.endpoint!r}; plain HTTP is not supported"
    if url.path.strip("/") or url.query or url.username:
        return (
            f"endpoint: expected https://<host>[:port] alone, got {settings.endpoint!r}; the bucket has its own field"
        )
    if forbidden_host(url.hostname):
        return f"endpoint: {url.hostname} is a link-local or metadata address; give the address of an object store"
    if not settings.bucket:
        return "bucket: missing; give the name of an existing bucket"
    if not settings.access_key_id or not settings.secret_access_key:
        return "accessKeyId and secretAccessKey: both are needed; give the Secret with the store's credentials"
    return ""


def _folder_problem(settings: StoreSettings) -> str:
    return "" if settings.path.startswith("/") else f"path: expected an absolute folder, got {settings.path!r}"
