"""Announcements of removals: `removing/<hash of the backup's name>`, from which on a deletion can't be undone.

The object is empty at first. Once it is certain that no undo came in between it is replaced by the list of what goes,
and only then anything does. So an empty one says that nothing was removed, and whatever is missing is out of sight or
somebody else's doing; with a list, what is on it and missing was taken by the removal, and nothing else was.
"""

from __future__ import annotations

import contextlib

from pydantic import AwareDatetime

from .backups import disk_exists, removing_hashes, tombstoned_hashes
from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import (
    BackupBeingRemovedError,
    DamagedError,
    ObjectExistsError,
    ObjectNotFoundError,
    PreconditionError,
    UnsupportedFormatError,
)
from .layout import ID_BYTES, REMOVING, TOMBSTONES, Kind
from .manifests import Text
from .object_store import ObjectInfo, exists
from .repository import Repository


class Removal(Document):
    """What the removal of a backup takes: the disk manifests (names) that the store stamped at `until` or before.

    Those that other backups refer to are among them and stay.
    """

    backup_name: Text
    until: AwareDatetime
    disks: tuple[Text, ...]


def announce(repository: Repository, tombstone: ObjectInfo) -> bool:
    """Announce the removal of the backup of a tombstone; False, and no announcement, if it was undone by now."""
    marker = tombstone.name.replace(TOMBSTONES, REMOVING)
    # It exists already if a sweep before this one was interrupted.
    with contextlib.suppress(ObjectExistsError):
        repository.store.put_new(marker, b"")
    with contextlib.suppress(ObjectNotFoundError):
        if repository.store.head(tombstone.name).modified == tombstone.modified:
            return True
    with contextlib.suppress(ObjectNotFoundError):
        # One that lists what goes is of a removal that has begun: the next sweep ends it.
        if repository.store.head(marker).size == 0:
            repository.store.delete(marker)
    return False


def note_removal(repository: Repository, removal: Removal) -> bool:
    """Note in the announcement what goes, beside what is noted there; False if another sweep is at work on it."""
    name = marker_of(repository, removal.backup_name)
    try:
        info = repository.store.head(name)
        known = read_removal(repository, removal.backup_name)
        disks = tuple(sorted({*removal.disks, *(known.disks if known else ())}))
        if known != (noted := removal.model_copy(update={"disks": disks})):
            data = seal_document(repository.keys, Kind.REMOVAL, repository.random(ID_BYTES), noted)
            repository.store.put_if_match(name, data, info.etag)
    except (ObjectNotFoundError, PreconditionError):
        return False
    return True


def read_removal(repository: Repository, backup_name: str) -> Removal | None:
    """Return what the removal of a backup has begun to take; None if nothing of it was removed.

    DamagedError or UnsupportedFormatError if its announcement can't be read.
    """
    name = marker_of(repository, backup_name)
    try:
        data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
        found = open_document(repository.keys, Kind.REMOVAL, data, Removal)[1] if data else None
    except ObjectNotFoundError:
        return None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"{repository.store.describe()}: {name}: {error}") from None
    if found is not None and found.backup_name != backup_name:
        raise DamagedError(
            f"{repository.store.describe()}: {name}: the announcement in this place is of another backup"
        )
    return found


def taken_by(repository: Repository, removal: Removal | None) -> set[str]:
    """Return the disk manifests (names) that a removal has taken."""
    return {disk for disk in (removal.disks if removal else ()) if not disk_exists(repository, disk)}


def refuse_if_removing(repository: Repository, backup_name: str) -> None:
    """Raise BackupBeingRemovedError if the removal of a backup was announced."""
    if exists(repository.store, marker_of(repository, backup_name)):
        raise BackupBeingRemovedError(f"backup {backup_name!r}: its trash period is over and its removal has begun")


def stale_markers(repository: Repository) -> list[str]:
    """Return the announcements of removals (object names) whose tombstone is not there any more."""
    return [f"{REMOVING}{hashed}" for hashed in sorted(removing_hashes(repository) - tombstoned_hashes(repository))]


def marker_of(repository: Repository, backup_name: str) -> str:
    """Return the name of the announcement of a backup's removal."""
    return f"{REMOVING}{repository.keys.name_hash(backup_name)}"
