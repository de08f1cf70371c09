"""Deleting a backup: a tombstone first, removal of the manifests after the trash period, undo until then.

`tombstones/<hash of the backup's name>` hides a backup. Removal is announced by `removing/<hash>`, so that an undo that
comes too late says so. Packs are never removed here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain

from pydantic import AwareDatetime

from .backups import list_backups, tombstoned_hashes
from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import BackupBeingRemovedError, DamagedError, ObjectExistsError, ObjectNotFoundError
from .layout import BACKUPS, DISKS, ID_BYTES, REMOVING, TOMBSTONES, Kind, split_disk_manifest_name
from .manifests import BackupManifest, Text
from .object_store import put_once
from .repository import Repository


class Tombstone(Document):
    """A deleted backup: its name, when (with time zone) and by whom or what it was deleted."""

    backup_name: Text
    deleted: AwareDatetime
    deleted_by: Text


@dataclass
class SweepReport:
    """What a sweep did: names of the backups it removed, how many disk manifests went and were kept for others."""

    removed_backups: list[str] = field(default_factory=list)
    removed_disk_manifests: int = 0
    kept_disk_manifests: int = 0


def write_tombstone(
    repository: Repository, backup_name: str, when: datetime, by: str, *, since: datetime | None = None
) -> Tombstone:
    """Mark a backup as deleted; the first tombstone counts, writing another one returns it.

    One from before `since` belongs to an earlier deletion and is replaced, so that the trash period begins anew;
    BackupBeingRemovedError if the removal that it led to has begun.
    """
    tombstone = Tombstone(backup_name=backup_name, deleted=when, deleted_by=by)
    name = _name(repository, backup_name)
    data = seal_document(repository.keys, Kind.TOMBSTONE, repository.random(ID_BYTES), tombstone)
    try:
        put_once(repository.store, name, data)
    except ObjectExistsError:
        found = _read(repository, name)
        if since is None or found.deleted >= since:
            return found
        remove_tombstone(repository, backup_name)
        put_once(repository.store, name, data)
    return tombstone


def holds_backup(repository: Repository, backup_name: str) -> bool:
    """Return whether there is a manifest of a backup or of one of its disks; nothing is read."""
    hashed = repository.keys.name_hash(backup_name)
    manifests = chain(repository.store.list(f"{BACKUPS}{hashed}/"), _own_disks(repository, hashed))
    return next(iter(manifests), None) is not None


def read_tombstones(repository: Repository) -> list[Tombstone]:
    """Return all tombstones, the oldest first; DamagedError if one can't be read."""
    names = [f"{TOMBSTONES}{hashed}" for hashed in tombstoned_hashes(repository)]
    return sorted((_read(repository, name) for name in names), key=lambda tombstone: tombstone.deleted)


def has_tombstone(repository: Repository, backup_name: str) -> bool:
    """Return whether a backup is marked as deleted, only by reading; BackupBeingRemovedError as below."""
    _refuse_if_removing(repository, backup_name)
    try:
        repository.store.head(_name(repository, backup_name))
    except ObjectNotFoundError:
        return False
    return True


def remove_tombstone(repository: Repository, backup_name: str) -> bool:
    """Undo a deletion and tell whether there was one; BackupBeingRemovedError if its removal has begun."""
    if not has_tombstone(repository, backup_name):
        return False
    repository.store.delete(_name(repository, backup_name))
    # The removal may have been announced in between; it looks for the tombstone after its announcement.
    _refuse_if_removing(repository, backup_name)
    return True


def sweep_tombstones(
    repository: Repository, now: datetime, trash_period: timedelta, keep: Collection[str] = ()
) -> SweepReport:
    """Remove the manifests of backups whose tombstone is older than the trash period.

    A tombstone's age counts from its own time or from the store's time of writing, whichever is later; `now` should
    therefore be the store's time. Backups named in `keep` stay, however old their tombstones are. A disk manifest stays
    while a backup that remains refers to it. Everything that can't be read raises before anything is removed. Safe to
    repeat after a crash at any point.
    """
    # An interrupted sweep may have left the announcement alone; it would forbid the undo of a later deletion.
    _delete(repository, stale_markers(repository))
    aged = (stone for stone in _aged(repository) if stone[0].backup_name not in keep)
    expired = [stone for stone in aged if stone[1] + trash_period <= now]
    report = SweepReport()
    if not expired:
        return report
    names = {stone.backup_name for stone, _ in expired}
    backups = list(list_backups(repository, tombstoned=True))
    live = {disk.manifest for backup in backups if backup.name not in names for disk in backup.disks}
    for name in sorted(names):
        _remove(repository, name, [b for b in backups if b.name == name], live, report)
    return report


def stale_markers(repository: Repository) -> list[str]:
    """Return the announcements of removals (object names) whose tombstone is not there any more."""
    announced = {info.name.removeprefix(REMOVING) for info in repository.store.list(REMOVING)}
    return [f"{REMOVING}{hashed}" for hashed in sorted(announced - tombstoned_hashes(repository))]


def _remove(
    repository: Repository, name: str, manifests: list[BackupManifest], live: set[str], report: SweepReport
) -> None:
    hashed = repository.keys.name_hash(name)
    if not _announce(repository, hashed):
        return
    disks = {disk.manifest for manifest in manifests for disk in manifest.disks} | set(_own_disks(repository, hashed))
    # A disk manifest of another backup (a shared export) goes with its own backup, unless that one is gone already.
    _delete(repository, disks - live)
    # The tombstone goes after the manifests, so that a repeated sweep finds what a crash has left.
    _delete(repository, [info.name for info in repository.store.list(f"{BACKUPS}{hashed}/")])
    _delete(repository, [f"{TOMBSTONES}{hashed}", f"{REMOVING}{hashed}"])
    report.removed_backups.append(name)
    report.removed_disk_manifests += len(disks - live)
    report.kept_disk_manifests += len(disks & live)


def _announce(repository: Repository, hashed: str) -> bool:
    # It exists already if a sweep before this one was interrupted.
    with contextlib.suppress(ObjectExistsError):
        repository.store.put_new(f"{REMOVING}{hashed}", b"")
    try:
        repository.store.head(f"{TOMBSTONES}{hashed}")
    except ObjectNotFoundError:
        repository.store.delete(f"{REMOVING}{hashed}")
        return False
    return True


def _own_disks(repository: Repository, backup_hash: str) -> Iterator[str]:
    for info in repository.store.list(DISKS):
        parts = split_disk_manifest_name(info.name)
        if parts and parts[2] == backup_hash:
            yield info.name


def _delete(repository: Repository, names: Iterable[str]) -> None:
    for name in names:
        repository.store.delete(name)


def _aged(repository: Repository) -> Iterator[tuple[Tombstone, datetime]]:
    for info in list(repository.store.list(TOMBSTONES)):
        stone = _read(repository, info.name)
        yield stone, max(stone.deleted, info.modified)


def _refuse_if_removing(repository: Repository, backup_name: str) -> None:
    try:
        repository.store.head(f"{REMOVING}{repository.keys.name_hash(backup_name)}")
    except ObjectNotFoundError:
        return
    raise BackupBeingRemovedError(f"backup {backup_name!r}: its trash period is over and its removal has begun")


def _name(repository: Repository, backup_name: str) -> str:
    return f"{TOMBSTONES}{repository.keys.name_hash(backup_name)}"


def _read(repository: Repository, name: str) -> Tombstone:
    _, stone = open_document(
        repository.keys, Kind.TOMBSTONE, repository.store.get(name, MAX_DOCUMENT_OBJECT), Tombstone
    )
    if _name(repository, stone.backup_name) != name:
        raise DamagedError(f"{name}: the tombstone in this place belongs to another backup")
    return stone
