"""Manifests in the repository: writing, finding and listing them.

A disk manifest is `disks/<hash of the disk key>/<UTC time>-<hash of the backup's name>`; a backup manifest is
`backups/<hash of the name>/<revision>`, the highest revision counts. Both are created, never overwritten. The hashes
are keyed, so that tenants' names neither shape object names nor can be guessed from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import TypeVar

from pydantic import JsonValue

from .crypto import HEADER_BYTES
from .documents import MAX_DOCUMENT_OBJECT, open_document, seal_document
from .errors import (
    BackupBeingRemovedError,
    BackupNotFoundError,
    DamagedError,
    ManifestConflictError,
    ObjectExistsError,
    ObjectNotFoundError,
    RepositoryError,
    StoreError,
)
from .layout import (
    BACKUPS,
    DISKS,
    FORMAT_VERSION,
    ID_BYTES,
    REMOVING,
    TOMBSTONES,
    Kind,
    backup_manifest_name,
    disk_manifest_name,
    hash_below,
    split_backup_manifest_name,
    split_disk_manifest_name,
    split_moved_name,
)
from .listing import list_disks
from .manifests import BackupManifest, DiskManifest, DiskReference
from .object_store import contents, exists, put_once
from .repository import Repository

M = TypeVar("M", DiskManifest, BackupManifest)


@dataclass(frozen=True)
class StoredDisk:
    """A disk manifest, its object's name, and the object's random id, both those of the export.

    `place` is the name of the very object that it was read from.
    """

    name: str
    object_id: str
    manifest: DiskManifest
    place: str = field(default="", compare=False)


def disk_manifest_object(repository: Repository, manifest: DiskManifest) -> str:
    """Return the name under which a disk manifest is stored."""
    return disk_manifest_name(
        repository.keys.name_hash(manifest.disk.disk_key),
        manifest.created,
        repository.keys.name_hash(manifest.backup_name),
    )


def write_disk_manifest(repository: Repository, manifest: DiskManifest) -> StoredDisk:
    """Store a disk manifest, the last step of an export.

    If another attempt of the same backup and disk was first, its manifest is returned instead. ManifestConflictError
    if the manifest in its place is of data of another moment.
    """
    name, object_id = disk_manifest_object(repository, manifest), repository.random(ID_BYTES)
    try:
        put_once(repository.store, name, seal_document(repository.keys, Kind.DISK_MANIFEST, object_id, manifest))
    except ObjectExistsError:
        return _same_moment(read_disk_manifest(repository, name), manifest)
    return StoredDisk(name, object_id.hex(), manifest, name)


def read_disk_manifest(repository: Repository, name: str, object_id: str | None = None) -> StoredDisk:
    """Return the disk manifest of that object name; BackupNotFoundError, DamagedError or a StoreError.

    It is the one that a prune wrote in its place if that counts; it has the same name and object id. Where the name has
    several versions that can be read, the one with this object id, if there is one.
    """
    if split_disk_manifest_name(name) is None:
        raise BackupNotFoundError(f"{name!r} is not the name of a disk manifest (disks/<hash>/<time>-<hash>)")
    return read_disk_at(repository, name, place_of_disk(repository, name), object_id)


def read_disk_at(repository: Repository, name: str, place: str, object_id: str | None = None) -> StoredDisk:
    """Return the disk manifest of that name from one of the objects that there are of it."""
    return read_moved(repository, name, place) if place != name else read_original(repository, name, object_id)


def place_of_disk(repository: Repository, name: str) -> str:
    """Return the name of the object that is to be read as the disk manifest of that name.

    Of the export's and those that prunes wrote it is the oldest one, by the store's time stamps: whoever may only
    create objects can't put another one before it, nor under the export's name when that object has gone.
    """
    listed = list_disks(repository, name.rsplit("/", 1)[0] + "/").get(name)
    return listed.current.name if listed else name


def disk_exists(repository: Repository, name: str) -> bool:
    """Tell whether there is a disk manifest of that name, wherever."""
    return exists(repository.store, place_of_disk(repository, name))


def read_moved(repository: Repository, name: str, place: str) -> StoredDisk:
    """Return what a prune wrote at `place` for the disk manifest of that name; errors as read_disk_manifest()."""
    parts = split_moved_name(place)
    try:
        data = repository.store.get(place, MAX_DOCUMENT_OBJECT)
    except ObjectNotFoundError:
        raise BackupNotFoundError(f"{repository.store.describe()}: there is no disk manifest {place}") from None
    object_id, manifest = _open_at(repository, Kind.DISK_MANIFEST, place, data, DiskManifest)
    named = disk_manifest_object(repository, manifest), object_id
    if parts != named or named[0] != name or manifest.original is None:
        raise DamagedError(f"{place}: the manifest in this place belongs under another name")
    return StoredDisk(name, manifest.original, manifest, place)


def read_original(repository: Repository, name: str, object_id: str | None = None) -> StoredDisk:
    """Return what an export wrote under that name; errors as read_disk_manifest()."""
    try:
        data = _wanted_version(repository, name, object_id)
    except ObjectNotFoundError:
        raise BackupNotFoundError(f"{repository.store.describe()}: there is no disk manifest {name}") from None
    object_id, manifest = _open_at(repository, Kind.DISK_MANIFEST, name, data, DiskManifest)
    if disk_manifest_object(repository, manifest) != name or manifest.original is not None:
        raise DamagedError(f"{name}: the manifest in this place belongs to another disk or backup")
    return StoredDisk(name, object_id, manifest, name)


def _wanted_version(repository: Repository, name: str, object_id: str | None) -> bytes:
    if object_id is None:
        return repository.store.get(name, MAX_DOCUMENT_OBJECT)
    found = contents(repository.store, name, MAX_DOCUMENT_OBJECT)
    first = next(found)
    # The header is not authenticated yet: it only says which version is worth being opened.
    wanted = bytes.fromhex(object_id)
    return next(
        (each for each in chain([first], found) if each[HEADER_BYTES - ID_BYTES : HEADER_BYTES] == wanted), first
    )


def find_disk_manifest(repository: Repository, disk_key: str, backup_name: str, created: datetime) -> StoredDisk | None:
    """Return the manifest that a backup has of a disk's data of this very moment, or None.

    A backup of the same name that was given up and made anew has another moment: its manifest is not the one wanted.
    """
    hashes = repository.keys.name_hash(disk_key), repository.keys.name_hash(backup_name)
    try:
        found = read_disk_manifest(repository, disk_manifest_name(hashes[0], created, hashes[1]))
    except BackupNotFoundError:
        return None
    return found if found.manifest.created == created else None


def disk_manifest_names(repository: Repository, disk_key: str) -> list[str]:
    """Return the object names of a disk's manifests, newest first; nothing is read."""
    return sorted(_disk_names(repository, disk_key), reverse=True)


def list_disk_manifests(repository: Repository, disk_key: str) -> Iterator[StoredDisk]:
    """Yield a disk's manifests, newest first; DamagedError at the first one that can't be read."""
    for name in disk_manifest_names(repository, disk_key):
        yield read_disk_manifest(repository, name)


def reference_to(stored: StoredDisk, disk: str) -> DiskReference:
    """Return what a backup manifest says of a disk, called `disk` in the machine."""
    return DiskReference(
        disk=disk,
        disk_key=stored.manifest.disk.disk_key,
        manifest=stored.name,
        object_id=stored.object_id,
        size_bytes=stored.manifest.size_bytes,
        stored_bytes=stored.manifest.statistics.stored_bytes,
    )


def write_backup_manifest(
    repository: Repository,
    name: str,
    created: datetime,
    disks: Sequence[DiskReference],
    expiry: JsonValue = None,
    metadata: JsonValue = None,
) -> BackupManifest:
    """Store the manifest of a backup after those of its disks; `created` has a time zone.

    Writing the same disks again returns what is stored. ManifestConflictError if a backup of this name has other ones,
    BackupNotFoundError if a disk manifest is not there, or was removed for good meanwhile.
    """
    _require_disks(repository, disks)
    manifest = _backup_manifest(repository, name, 1, created, disks, expiry, metadata)
    try:
        place = _put_backup(repository, manifest)
    except ObjectExistsError:
        return _existing(repository, manifest)
    # A sweep that removes the disks after this look finds the manifest; one that has removed them may not have seen it.
    gone = [disk.manifest for disk in disks if not disk_exists(repository, disk.manifest)]
    if gone:
        with contextlib.suppress(StoreError):
            repository.store.delete(place)
        raise BackupNotFoundError(
            f"{repository.store.describe()}: {gone[0]} was removed for good, and its backup with it"
        )
    return manifest


def update_backup_expiry(repository: Repository, name: str, expiry: JsonValue) -> BackupManifest:
    """Store a further revision of a backup's manifest with another expiry rule (a hold, for one); return it.

    BackupNotFoundError if there is no such backup, or it was removed for good meanwhile; BackupBeingRemovedError while
    that goes on.
    """
    current = find_backup(repository, name)
    if current is None:
        raise BackupNotFoundError(f"{repository.store.describe()}: there is no backup {name!r}")
    if current.expiry == expiry:
        return current
    changed = current.model_copy(update={"expiry": expiry, "revision": current.revision + 1})
    try:
        place = _put_backup(repository, changed)
    except ObjectExistsError:
        return update_backup_expiry(repository, name, expiry)
    if gone := _removal_of(repository, name, changed.revision):
        # Alone it would bring back a backup whose disks are gone.
        with contextlib.suppress(StoreError):
            repository.store.delete(place)
        raise gone
    return changed


def _removal_of(repository: Repository, name: str, revision: int) -> RepositoryError | None:
    """Return why a backup that has this revision, written just now, is none: its removal may not have seen it."""
    hashed = repository.keys.name_hash(name)
    # In this order: one that was not announced yet sees the revision, one that has ended has left no other.
    if exists(repository.store, f"{REMOVING}{hashed}"):
        return BackupBeingRemovedError(f"backup {name!r}: its trash period is over and its removal has begun")
    found = (split_backup_manifest_name(info.name) for info in repository.store.list(f"{BACKUPS}{hashed}/"))
    if any(parts and parts[1] < revision for parts in found):
        return None
    return BackupNotFoundError(f"{repository.store.describe()}: backup {name!r} was removed for good")


def find_backup(repository: Repository, name: str) -> BackupManifest | None:
    """Return the newest revision of a backup's manifest, tombstoned or not, or None."""
    hashed = repository.keys.name_hash(name)
    revisions = [info.name for info in repository.store.list(f"{BACKUPS}{hashed}/")]
    names = sorted(found for found in revisions if split_backup_manifest_name(found))
    return read_backup_manifest(repository, names[-1]) if names else None


def list_backups(repository: Repository, *, tombstoned: bool = False) -> Iterator[BackupManifest]:
    """Yield the newest revision of every backup's manifest; those with a tombstone only if asked for.

    DamagedError at the first one that can't be read: who expires data has to know all of them.
    """
    newest = newest_revisions(repository)
    hidden = set() if tombstoned else tombstoned_hashes(repository)
    for hashed in sorted(newest.keys() - hidden):
        yield read_backup_manifest(repository, newest[hashed])


def newest_revisions(repository: Repository) -> dict[str, str]:
    """Return the object name of the newest revision of every backup's manifest, by the hash of the backup's name."""
    return {hashed: names[0] for hashed, names in all_revisions(repository).items()}


def all_revisions(repository: Repository, folder: str = BACKUPS) -> dict[str, list[str]]:
    """Return the object names of all revisions of every backup's manifest, the newest first, by the same hash."""
    found: dict[str, list[int]] = {}
    for info in repository.store.list(folder):
        parts = split_backup_manifest_name(info.name)
        if parts:
            found.setdefault(parts[0], []).append(parts[1])
    return {
        hashed: [backup_manifest_name(hashed, n) for n in sorted(some, reverse=True)] for hashed, some in found.items()
    }


def read_backup_manifest(repository: Repository, name: str) -> BackupManifest:
    """Return the revision of a backup's manifest in this place; ObjectNotFoundError, DamagedError or a StoreError."""
    data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
    _, manifest = _open_at(repository, Kind.BACKUP_MANIFEST, name, data, BackupManifest)
    if backup_manifest_name(repository.keys.name_hash(manifest.name), manifest.revision) != name:
        raise DamagedError(f"{name}: the manifest in this place belongs to another backup")
    return manifest


def tombstoned_hashes(repository: Repository) -> set[str]:
    """Return the name hashes of all backups that have a tombstone."""
    return _hashes(repository, TOMBSTONES)


def removing_hashes(repository: Repository) -> set[str]:
    """Return the name hashes of all backups whose removal has begun."""
    return _hashes(repository, REMOVING)


def _hashes(repository: Repository, folder: str) -> set[str]:
    # Objects of other names are not ours.
    found = (hash_below(folder, info.name) for info in repository.store.list(folder))
    return {hashed for hashed in found if hashed}


def _same_moment(found: StoredDisk, wanted: DiskManifest) -> StoredDisk:
    # Names have whole seconds: an older run's manifest may be in the place without being of the same data.
    if found.manifest.created != wanted.created:
        moments = f"{found.manifest.created}, expected {wanted.created}"
        raise ManifestConflictError(f"{found.name}: it holds the disk of {moments}; make the backup anew")
    return found


def _disk_names(repository: Repository, disk_key: str) -> Iterator[str]:
    prefix = f"{DISKS}{repository.keys.name_hash(disk_key)}/"
    return iter(list_disks(repository, prefix))


def _require_disks(repository: Repository, disks: Sequence[DiskReference]) -> None:
    for disk in disks:
        stored = read_disk_manifest(repository, disk.manifest)
        if stored.object_id != disk.object_id:
            raise ManifestConflictError(f"{disk.manifest}: it is object {stored.object_id}, expected {disk.object_id}")


def _backup_manifest(
    repository: Repository,
    name: str,
    revision: int,
    created: datetime,
    disks: Sequence[DiskReference],
    expiry: JsonValue,
    metadata: JsonValue,
) -> BackupManifest:
    return BackupManifest(
        format_version=FORMAT_VERSION,
        repository_id=repository.id,
        key_id=repository.key_id,
        name=name,
        revision=revision,
        created=created,
        disks=list(disks),
        expiry=expiry,
        metadata=metadata,
    )


def _put_backup(repository: Repository, manifest: BackupManifest) -> str:
    name = backup_manifest_name(repository.keys.name_hash(manifest.name), manifest.revision)
    object_id = repository.random(ID_BYTES)
    put_once(repository.store, name, seal_document(repository.keys, Kind.BACKUP_MANIFEST, object_id, manifest))
    return name


def _existing(repository: Repository, manifest: BackupManifest) -> BackupManifest:
    current = find_backup(repository, manifest.name)
    if current is None or {d.object_id for d in current.disks} != {d.object_id for d in manifest.disks}:
        raise ManifestConflictError(f"backup {manifest.name!r} is in the store with other disks; choose another name")
    return current


def _open_at(repository: Repository, kind: Kind, name: str, data: bytes, model: type[M]) -> tuple[str, M]:
    try:
        object_id, manifest = open_document(repository.keys, kind, data, model)
    except DamagedError as error:
        raise DamagedError(f"{repository.store.describe()}: {name}: {error}") from None
    if manifest.repository_id != repository.id or manifest.key_id != repository.key_id:
        raise DamagedError(f"{name}: the manifest belongs to another repository or key")
    return object_id.hex(), manifest
