"""Versions and locks of the objects of an S3 bucket, for maintenance and for recovery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree

from .bucket_clients import Patience
from .errors import AccessDeniedError, ObjectNotFoundError, RepositoryError, StoreFailureError
from .object_store import check_name
from .s3_requests import S3Requests
from .settings import StoreSettings

_NO_LOCK = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest", "NotImplemented")
_RETENTION = (
    '<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Mode>{mode}</Mode>'
    "<RetainUntilDate>{until}</RetainUntilDate></Retention>"
)


@dataclass(frozen=True)
class Version:
    """One version of an object, or a delete marker; `modified` is by the store's clock."""

    name: str
    id: str
    size: int
    modified: datetime
    etag: str
    latest: bool
    marker: bool


class S3Versions:
    """The versions below the store's prefix; every failure is a StoreError."""

    def __init__(self, settings: StoreSettings, patience: Patience | None = None) -> None:
        """Prepare the client; nothing is sent."""
        self._place = settings.describe()
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._requests = S3Requests(settings, patience or Patience())

    def below(self, prefix: str, after: str = "") -> Iterator[Version]:
        """Yield every version and delete marker of the names that begin with prefix: by name, the newest first.

        Only of those `after` a name, if one is given.
        """
        query = {"versions": "", "prefix": self._prefix + prefix}
        following: dict[str, str] = {"key-marker": self._prefix + after} if after else {}
        while True:
            page = _parsed(self._requests.send("GET", "", query | following, self._what(prefix)), self._what(prefix))
            # Services differ in whether the listing begins with the name itself or after it.
            yield from (each for each in self._versions(page) if not after or each.name > after)
            if _text(page, "IsTruncated") != "true":
                return
            marks = {"key-marker": _text(page, "NextKeyMarker")}
            if version := _text(page, "NextVersionIdMarker"):
                marks["version-id-marker"] = version
            if marks == following or not marks["key-marker"]:
                raise StoreFailureError(f"{self._what(prefix)}: the listing does not go on")
            following = marks

    def of(self, name: str) -> list[Version]:
        """Return the versions of one object, the newest first; none if there are none."""
        versions = []
        for each in self.below(check_name(name)):
            if each.name != name:
                break
            versions.append(each)
        return versions

    def delete(self, version: Version) -> None:
        """Remove a version for good; ObjectLockedError while it is locked."""
        self._send("DELETE", version.name, {"versionId": version.id})

    def hide(self, name: str) -> None:
        """Put a delete marker over an object; locks do not prevent it."""
        self._send("DELETE", check_name(name), {})

    def locked_until(self, version: Version) -> datetime | None:
        """Return until when a version is locked, None if it is not."""
        return self._retention(version.name, {"versionId": version.id})

    def locks(self, name: str) -> bool:
        """Tell whether the bucket locks what is written, or the newest version of this object was locked.

        AccessDeniedError if the credentials may see neither (s3:GetBucketObjectLockConfiguration,
        s3:GetObjectRetention): there are services on which only the one or the other tells.
        """
        try:
            answer = self._requests.send("GET", "", {"object-lock": ""}, f"{self._place}: locks of the bucket")
            if any(_tag(each) == "DefaultRetention" for each in _parsed(answer, self._place).iter()):
                return True
        except AccessDeniedError:
            pass
        except RepositoryError as error:
            if str(error).rpartition(": ")[2] not in _NO_LOCK:
                raise
            return False
        return self._retention(check_name(name), {}) is not None

    def _retention(self, name: str, version: dict[str, str]) -> datetime | None:
        try:
            data = self._send("GET", name, {"retention": "", **version})
        except ObjectNotFoundError:
            return None
        except RepositoryError as error:
            if str(error).rpartition(": ")[2] in _NO_LOCK:
                return None
            raise
        until = _text(_parsed(data, self._what(name)), "RetainUntilDate")
        return _time(until) if until else None

    def lock(self, version: Version, mode: str, until: datetime) -> None:
        """Lock a version until a moment; `mode` is Governance or Compliance."""
        moment = until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = _RETENTION.format(mode=mode.upper(), until=moment).encode()
        self._send("PUT", version.name, {"retention": "", "versionId": version.id}, body)

    def _versions(self, page: ElementTree.Element) -> Iterator[Version]:
        # Versions and markers of one name may be listed apart: which came first, only their order among all tells.
        found = [self._version(each) for each in page if _tag(each) in ("Version", "DeleteMarker")]
        yield from sorted(found, key=lambda each: (each.name.encode(), not each.latest, -each.modified.timestamp()))

    def _version(self, found: ElementTree.Element) -> Version:
        return Version(
            name=_text(found, "Key").removeprefix(self._prefix),
            id=_text(found, "VersionId") or "null",
            size=int(_text(found, "Size") or 0),
            modified=_time(_text(found, "LastModified")),
            etag=_text(found, "ETag"),
            latest=_text(found, "IsLatest") == "true",
            marker=_tag(found) == "DeleteMarker",
        )

    def _send(self, method: str, name: str, query: dict[str, str], body: bytes = b"") -> bytes:
        return self._requests.send(method, self._prefix + name, query, self._what(name), body)

    def _what(self, name: str) -> str:
        return f"{self._place}: versions of {name or 'the bucket'}"


def _parsed(data: bytes, what: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError:
        raise StoreFailureError(f"{what}: the answer is no XML") from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element, tag: str) -> str:
    return next((each.text or "" for each in element if _tag(each) == tag), "")


def _time(text: str) -> datetime:
    """Return a time with as many digits of its second as Python can hold; services write nanoseconds, too."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}").replace(tzinfo=UTC)
