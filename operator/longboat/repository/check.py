"""Checking a store before it is relied on: each way in which it can be unusable has a problem and a remedy."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal
from urllib.parse import urlsplit

from .bucket_clients import Patience
from .errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ClockSkewError,
    CredentialsError,
    ObjectExistsError,
    ObjectLockedError,
    ObjectNotFoundError,
    PreconditionError,
    StoreError,
    StoreSettingsError,
    StoreUnsupportedError,
    TlsError,
    UnreachableError,
)
from .object_store import ObjectStore
from .open_store import open_store
from .settings import StoreSettings, forbidden_host, loopback_host

CHECK_NAME = "checks/create-only"
REMOVABLE_NAME = "checks/removable"
MAX_SKEW = timedelta(minutes=5)
CHECK_PATIENCE = Patience(connect=5, request=15, retries=1, retry_for=15, after_timeout=0)
_CONTENT = b"Written by longboat to check this store; it may be deleted.\n"


class StoreProblem(StrEnum):
    """What is wrong with a store; fit as a condition's reason."""

    NONE = "Available"
    SETTINGS = "InvalidSettings"
    UNREACHABLE = "Unreachable"
    TLS = "TLSFailure"
    CREDENTIALS = "WrongCredentials"
    DENIED = "AccessDenied"
    BUCKET = "BucketNotFound"
    CREATE_ONLY = "CreateOnlyUnsupported"
    CONDITIONAL = "ConditionalWriteUnsupported"
    CLOCK = "ClockSkew"
    FAILURE = "StoreFailure"


_REMEDIES: dict[type[StoreError], tuple[StoreProblem, str]] = {
    StoreSettingsError: (StoreProblem.SETTINGS, "correct the store's settings"),
    UnreachableError: (
        StoreProblem.UNREACHABLE,
        "check the endpoint's host and port, its DNS name, and network policies between the operator and it",
    ),
    TlsError: (
        StoreProblem.TLS,
        "check that the endpoint speaks TLS for this host name, and give its CA's certificate as CA bundle",
    ),
    CredentialsError: (StoreProblem.CREDENTIALS, "correct the credentials' Secret"),
    AccessDeniedError: (
        StoreProblem.DENIED,
        "correct the credentials' Secret, or let them get, create and list objects in the bucket",
    ),
    BucketNotFoundError: (
        StoreProblem.BUCKET,
        "create it, or correct bucket, region and path; it is never created for you",
    ),
    ClockSkewError: (StoreProblem.CLOCK, "set the clocks of this cluster and of the store by NTP"),
    StoreUnsupportedError: (
        StoreProblem.CREATE_ONLY,
        "use a store that supports conditional writes (If-None-Match and If-Match on PUT)",
    ),
}


@dataclass(frozen=True)
class StoreCheck:
    """The result of a check; `message` names the remedy, `clock_skew` is the store's time minus ours if it is known."""

    problem: StoreProblem
    message: str
    clock_skew: timedelta | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the store can be used."""
        return self.problem is StoreProblem.NONE


Rights = Literal["create", "read", "remove"]
"""What credentials are for: exports create, read and list; restores read and list; maintenance removes as well."""


def check_store(settings: StoreSettings, now: datetime | None = None, rights: Rights = "create") -> StoreCheck:
    """Try out one small object below the store's prefix, as far as the rights should go; never raises a StoreError.

    Takes up to half a minute if the endpoint does not answer. `now` is this machine's time, UTC.
    """
    refused = _forbidden_address(settings)
    if refused:
        return StoreCheck(StoreProblem.SETTINGS, refused)
    try:
        return check_open_store(open_store(settings, CHECK_PATIENCE), now, rights)
    except StoreError as error:
        return _explain(error)


def check_open_store(store: ObjectStore, now: datetime | None = None, rights: Rights = "create") -> StoreCheck:
    """Check a store that is open already; raises a StoreError for what the store itself refuses."""
    if rights == "read":
        return _check_reading(store)
    if rights == "remove":
        return _check_removing(store)
    _create_if_missing(store)
    if not _refuses_second_creation(store):
        return StoreCheck(
            StoreProblem.CREATE_ONLY,
            f"{store.describe()}: an existing object was overwritten by a create-only write (If-None-Match: *);"
            " backups could be destroyed: use a store that supports conditional writes",
        )
    # Credentials that may only create can't do this; then the store's clock stays unknown.
    try:
        if not _refuses_wrong_version(store):
            return _no_conditional_write(store)
        store.put_if_match(CHECK_NAME, _CONTENT, store.head(CHECK_NAME).etag)
        skew = store.head(CHECK_NAME).modified - (now or datetime.now(UTC))
    except AccessDeniedError:
        skew = None
    except PreconditionError:
        return _available(store, None)  # Another check runs at this moment.
    return _available(store, skew)


def _check_reading(store: ObjectStore) -> StoreCheck:
    # It is not there before the credentials of exports were tried out: that it may be asked for is what counts.
    with contextlib.suppress(ObjectNotFoundError):
        store.get(CHECK_NAME, 1 << 16)
    next(iter(store.list("checks/")), None)
    return StoreCheck(StoreProblem.NONE, f"{store.describe()}: read and listed")


def _check_removing(store: ObjectStore) -> StoreCheck:
    with contextlib.suppress(ObjectExistsError):
        store.put_new(REMOVABLE_NAME, _CONTENT)
    # Where objects are locked for a while it stays for as long, and is removed by a later check.
    with contextlib.suppress(ObjectLockedError):
        store.delete(REMOVABLE_NAME)
    return StoreCheck(StoreProblem.NONE, f"{store.describe()}: written and removed")


def _create_if_missing(store: ObjectStore) -> None:
    try:
        store.put_new(CHECK_NAME, _CONTENT)
    except ObjectExistsError:
        store.get(CHECK_NAME, 1 << 16)
    next(iter(store.list("checks/")), None)


def _refuses_second_creation(store: ObjectStore) -> bool:
    try:
        store.put_new(CHECK_NAME, _CONTENT)
    except ObjectExistsError:
        return True
    return False


def _refuses_wrong_version(store: ObjectStore) -> bool:
    try:
        store.put_if_match(CHECK_NAME, _CONTENT, '"00000000000000000000000000000000"')
    except PreconditionError:
        return True
    return False


def _no_conditional_write(store: ObjectStore) -> StoreCheck:
    return StoreCheck(
        StoreProblem.CONDITIONAL,
        f"{store.describe()}: a write with If-Match replaced another version; two clusters could not be kept apart:"
        " use a store that supports conditional writes",
    )


def _available(store: ObjectStore, skew: timedelta | None) -> StoreCheck:
    if skew is not None and abs(skew) > MAX_SKEW:
        off = f"{abs(skew).total_seconds():.0f} s {'ahead of' if skew > timedelta() else 'behind'}"
        return StoreCheck(
            StoreProblem.CLOCK, f"{store.describe()}: its clock is {off} this cluster's; set both by NTP", skew
        )
    return StoreCheck(StoreProblem.NONE, f"{store.describe()}: written, read and listed", skew)


def _explain(error: StoreError) -> StoreCheck:
    problem, remedy = _REMEDIES.get(type(error), (StoreProblem.FAILURE, "look at the store's own health and logs"))
    place = str(error).replace(f": {CHECK_NAME}: ", ": ", 1)
    return StoreCheck(problem, f"{place}; {remedy}")


def _forbidden_address(settings: StoreSettings) -> str:
    host = urlsplit(settings.service_endpoint).hostname
    if not host:
        return ""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return ""  # Whatever is wrong with the name is found, and explained, by the check itself.
    # An address of loopback may be meant, by whoever runs a store beside a program; a name that leads there is not.
    hidden = not loopback_host(host)
    bad = sorted(each for each in found if forbidden_host(each) or (hidden and loopback_host(each)))
    return (
        f"endpoint: {host} is {bad[0]}, a link-local, loopback or metadata address; give the address of an object store"
        if bad
        else ""
    )
