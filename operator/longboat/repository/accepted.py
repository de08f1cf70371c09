"""What is believed of a closed repository although the store stamped it too late, as somebody has said that it is good.

A manifest that was put back from a copy, and all of a bucket that was copied, has a later time stamp than its closing.
`accepted/<object id>` lies in the closed repository and is sealed with the key of the newest one, as a closing is. It
names objects together with their time stamps: whoever has the leaked key can write another manifest under an accepted
name, with the same object id, but not at that moment.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

from pydantic import AwareDatetime

from .backups import read_backup_manifest, read_moved, read_original
from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import ACCEPTED, DISKS, ID_BYTES, Kind, accepted_name, split_accepted_name, split_moved_name
from .manifests import Count, Id, Text
from .object_store import ObjectInfo, ObjectStore, put_fresh
from .repository import Repository

MAX_ACCEPTED = 20_000
"""Objects that are accepted in one repository: what a prune's Job is told of has to fit into a Secret."""
_MARK_BYTES = 12
_SECOND = timedelta(seconds=1)
_CODE_BYTES = 8  # Somebody copies it by hand; yet nobody is to find another set that has the same one.


class AcceptedObject(Document):
    """One manifest: its name, the store's time stamp in whole seconds, and its bytes."""

    name: Text
    stamped: AwareDatetime
    size: Count


class AcceptedList(Document):
    """Which manifests of which repository are accepted."""

    repository_id: Id
    objects: tuple[AcceptedObject, ...]


@dataclass(frozen=True)
class LateManifest:
    """A manifest that came too late: its object, whose backup it says it is, and the moment that says it is from."""

    info: ObjectInfo
    backup: str
    created: str


def mark_of(info: ObjectInfo) -> str:
    """Return by what an object is known to be an accepted one: a hash of its name, time stamp and size, in hex."""
    # Listings have fractions of a second, answers about one object do not.
    return _mark(info, info.modified.replace(microsecond=0))


def is_accepted(info: ObjectInfo, accepted: Container[str]) -> bool:
    """Tell whether an object is among those that have these marks."""
    second = info.modified.replace(microsecond=0)
    # Some services round where others cut off, in one answer or the other.
    return any(_mark(info, second + each * _SECOND) in accepted for each in (0, -1, 1))


def _mark(info: ObjectInfo, second: datetime) -> str:
    text = f"{info.name}\n{second.isoformat()}\n{info.size}"
    return blake2b(text.encode(), digest_size=_MARK_BYTES).hexdigest()


def code_of(repository_id: str, late: Iterable[ObjectInfo]) -> str:
    """Return by what somebody who was shown these objects of a repository says that exactly they are meant, in hex."""
    marks = "\n".join([repository_id, *sorted(map(mark_of, late))])
    return blake2b(marks.encode(), digest_size=_CODE_BYTES).hexdigest()


def look_at(repository: Repository, info: ObjectInfo) -> LateManifest:
    """Return what a late manifest says; DamagedError, BackupNotFoundError or a StoreError if it can't be read."""
    if info.name.startswith(DISKS):
        moved = split_moved_name(info.name)
        stored = read_moved(repository, moved[0], info.name) if moved else read_original(repository, info.name)
        disk = stored.manifest
        return LateManifest(info, disk.backup_name, disk.created.isoformat())
    backup = read_backup_manifest(repository, info.name)
    return LateManifest(info, backup.name, backup.created.isoformat())


def write_accepted(old: ObjectStore, repository_id: str, objects: Iterable[ObjectInfo], newest: Repository) -> str:
    """Write into the closed repository's folder which of its objects are accepted; return the new object's name."""
    object_id, accepted = newest.random(ID_BYTES), tuple(map(_accepted, objects))
    name = accepted_name(object_id)
    content = AcceptedList(repository_id=repository_id, objects=accepted)
    put_fresh(old, name, seal_document(newest.keys, Kind.ACCEPTED, object_id, content))
    return name


def read_accepted(old: ObjectStore, repository_id: str, newest: Repository) -> frozenset[str]:
    """Return by their marks which objects of the repository of that id, in that folder, are accepted.

    What is sealed with other keys does not count, nor what can't be read: then somebody is asked once more.
    """
    names = [info.name for info in list(old.list(ACCEPTED)) if split_accepted_name(info.name)]
    found = filter(None, (_read(old, name, newest) for name in names))
    return frozenset(
        mark_of(ObjectInfo(each.name, each.size, each.stamped, ""))
        for content in found
        if content.repository_id == repository_id
        for each in content.objects
    )


def _accepted(info: ObjectInfo) -> AcceptedObject:
    return AcceptedObject(name=info.name, stamped=info.modified.replace(microsecond=0), size=info.size)


def _read(store: ObjectStore, name: str, newest: Repository) -> AcceptedList | None:
    try:
        data = store.get(name, MAX_DOCUMENT_OBJECT)
        object_id, content = open_document(newest.keys, Kind.ACCEPTED, data, AcceptedList)
    except (ObjectNotFoundError, DamagedError, UnsupportedFormatError):
        return None
    return content if object_id == split_accepted_name(name) else None
