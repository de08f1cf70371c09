"""Closing a repository whose master key has leaked: from some moment on nothing new in it is believed.

`closed/<object id>` lies in the old repository and is sealed with the key of the newest one, so that who has the old
key can't make it. It says when, by the store's clock, the repository that came after the old one was there. An export
that was at work may still end within a lease's life; a manifest that the store stamped later was forged, or is late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from pydantic import AwareDatetime

from .accepted import is_accepted
from .backups import find_backup, place_of_disk, read_backup_manifest
from .crypto import HEADER, HEADER_BYTES
from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import BackupNotFoundError, DamagedError, LateManifestError, ObjectNotFoundError, UnsupportedFormatError
from .layout import (
    BACKUPS,
    CLOSED,
    DISKS,
    ID_BYTES,
    Kind,
    closing_name,
    split_backup_manifest_name,
    split_closing_name,
)
from .leases import LEASE_TTL
from .manifests import BackupManifest, Id
from .object_store import ObjectInfo, ObjectStore, put_fresh
from .repository import Repository

Accepted = Collection[str]
NOTHING: Accepted = frozenset()


class ClosingRecord(Document):
    """Which repository was closed, and when by the store's clock."""

    repository_id: Id
    closed: AwareDatetime


@dataclass(frozen=True)
class Closing:
    """Since when a repository is closed, by the store's clock.

    `sealed` is false while the object that says so is missing, as a rotation was interrupted: then it is the time
    stamp of the header of the repository that came after it. `accepted` are the marks of objects that are believed
    although they came too late, see accepted.py.
    """

    closed: datetime
    sealed: bool
    accepted: Accepted = NOTHING


def write_closing(old: ObjectStore, record: ClosingRecord, newest: Repository) -> str:
    """Write into the old repository's folder that it is closed; return the object's name."""
    object_id = newest.random(ID_BYTES)
    name = closing_name(object_id)
    put_fresh(old, name, seal_document(newest.keys, Kind.CLOSING, object_id, record))
    return name


def read_closing(old: ObjectStore, repository_id: str, newest: Repository) -> datetime | None:
    """Return since when the repository of that id, in that folder, is closed as the newest key says, or None.

    What is sealed with other keys does not count. DamagedError names an object of the newest key that can't be read.
    """
    found = [_read(old, info.name, newest) for info in list(old.list(CLOSED)) if split_closing_name(info.name)]
    moments = [each.closed for each in found if each is not None and each.repository_id == repository_id]
    return min(moments, default=None)


def has_closing(repository: Repository) -> bool:
    """Tell whether anything says that a repository is closed, perhaps for one that is gone, whoever wrote it."""
    return next(iter(repository.store.list(CLOSED)), None) is not None


def is_late(info: ObjectInfo, closed: datetime, accepted: Accepted = NOTHING) -> bool:
    """Tell whether an object was written when no export could have been at work any more, and nobody accepted it."""
    return info.modified > closed + LEASE_TTL and not is_accepted(info, accepted)


def late_objects(repository: Repository, closed: datetime, accepted: Accepted = NOTHING) -> list[ObjectInfo]:
    """Return the manifests that were written too late after the repository was closed, by name; nothing is read.

    Further revisions of a backup that was there already are none: they change when it expires, and nothing else.
    """
    found = chain(repository.store.list(DISKS), _first_revisions(repository.store))
    return sorted((info for info in found if is_late(info, closed, accepted)), key=lambda each: each.name)


def late_manifests(repository: Repository, closed: datetime, accepted: Accepted = NOTHING) -> list[str]:
    """Return the names of these."""
    return [info.name for info in late_objects(repository, closed, accepted)]


def require_none_late(repository: Repository, closed: datetime | None, accepted: Accepted = NOTHING) -> None:
    """Check that no manifest was written too late; LateManifestError names the first of them. None: not closed."""
    late = late_manifests(repository, closed, accepted) if closed is not None else []
    if closed is not None and late:
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        raise _late(repository, f"{late[0]}{more}", closed)


def require_on_time(
    repository: Repository, names: Iterable[str], closed: datetime | None, accepted: Accepted = NOTHING
) -> None:
    """Check that these objects were written in time; LateManifestError, or BackupNotFoundError. None: not closed."""
    for name in names if closed is not None else ():
        try:
            place = place_of_disk(repository, name) if name.startswith(DISKS) else name
            info = repository.store.head(place)
        except ObjectNotFoundError:
            raise BackupNotFoundError(f"{repository.store.describe()}: there is no {name}") from None
        if closed is not None and is_late(info, closed, accepted):
            raise _late(repository, name, closed)


def find_backup_in_time(
    repository: Repository, name: str, closed: datetime | None, accepted: Accepted = NOTHING
) -> BackupManifest | None:
    """Return the newest revision of a backup's manifest, as find_backup() does, if it and its disks are not late.

    LateManifestError if they are, or if a later revision changes more than when the backup expires.
    """
    newest = find_backup(repository, name)
    if newest is not None:
        require_backup_in_time(repository, newest, closed, accepted)
    return newest


def require_backup_in_time(
    repository: Repository, backup: BackupManifest, closed: datetime | None, accepted: Accepted = NOTHING
) -> None:
    """Check that a backup, of which some revision is given, and its disks are not late. None: not closed.

    LateManifestError if they are, or if that revision changes more than when the backup expires.
    """
    if closed is None:
        return
    first = _first_revision(repository, backup.name)
    require_on_time(repository, [first, *(disk.manifest for disk in backup.disks)], closed, accepted)
    original = read_backup_manifest(repository, first)
    if original.model_copy(update={"expiry": backup.expiry, "revision": backup.revision}) != backup:
        raise LateManifestError(
            f"{repository.store.describe()}: revision {backup.revision} of backup {backup.name!r} says something else"
            f" of its disks than {first}, which was written before the repository was closed: it is not believed"
        )


def _first_revision(repository: Repository, name: str) -> str:
    listed = repository.store.list(f"{BACKUPS}{repository.keys.name_hash(name)}/")
    names = sorted(info.name for info in listed if split_backup_manifest_name(info.name))
    if not names:
        raise BackupNotFoundError(f"{repository.store.describe()}: backup {name!r} is gone")
    return names[0]


def _first_revisions(store: ObjectStore) -> Iterator[ObjectInfo]:
    """Yield the first revision that there is of each backup: if that is late, all of them were written late."""
    oldest: dict[str, ObjectInfo] = {}
    for info in store.list(BACKUPS):
        parts = split_backup_manifest_name(info.name)
        if parts and (parts[0] not in oldest or info.name < oldest[parts[0]].name):
            oldest[parts[0]] = info
    return iter(oldest.values())


def _read(store: ObjectStore, name: str, newest: Repository) -> ClosingRecord | None:
    try:
        data = store.get(name, MAX_DOCUMENT_OBJECT)
    except ObjectNotFoundError:
        return None
    # Those of repositories between the old and the newest one are sealed with their keys, which may have leaked, too.
    if len(data) >= HEADER_BYTES and HEADER.unpack(data[:HEADER_BYTES])[5] != newest.keys.key_id:
        return None
    try:
        object_id, record = open_document(newest.keys, Kind.CLOSING, data, ClosingRecord)
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"{store.describe()}: {name}: {error}") from None
    if object_id != split_closing_name(name):
        raise DamagedError(f"{store.describe()}: {name}: it belongs under another name")
    return record


def _late(repository: Repository, what: str, closed: datetime) -> LateManifestError:
    return LateManifestError(
        f"{repository.store.describe()}: {what}: written more than {LEASE_TTL} after this repository was closed"
        f" ({closed:%Y-%m-%dT%H:%M:%SZ}): forged with the old key, by an export that ended too late, or put back"
        " or copied; it is not believed. If it is good, accept it: longboat repo prune --accept-late --repository …;"
        " delete it if nobody needs it"
    )
