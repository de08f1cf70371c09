"""Deleting a backup: a tombstone first, removal of the manifests after the trash period, undo until then.

`tombstones/<hash of the backup's name>` hides a backup. Removal is announced by `removing/<hash>`, so that an undo that
comes too late says so. What is not there any more counts as removed only if that says so, too: manifests may be out of
sight. Packs are never removed here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain

from pydantic import AwareDatetime

from .backups import list_backups, read_backup_manifest, removing_hashes, tombstoned_hashes
from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .epoch import Epoch, require_epoch
from .errors import DamagedError, ObjectExistsError, ObjectNotFoundError
from .layout import (
    BACKUPS,
    ID_BYTES,
    REMOVING,
    TOMBSTONES,
    Kind,
    hash_below,
    split_backup_manifest_name,
)
from .listing import ListedDisk, list_disks
from .manifests import BackupManifest, DiskReference, Text
from .object_store import ObjectInfo, exists, put_once
from .removal import (
    Removal,
    announce,
    marker_of,
    note_removal,
    read_removal,
    refuse_if_removing,
    stale_markers,
    taken_by,
)
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
    revisions = repository.store.list(f"{BACKUPS}{hashed}/")
    return next(chain(revisions, _disks_of(repository, hashed)), None) is not None


def read_tombstones(repository: Repository) -> list[Tombstone]:
    """Return all tombstones, the oldest first; DamagedError if one can't be read."""
    names = [f"{TOMBSTONES}{hashed}" for hashed in tombstoned_hashes(repository)]
    return sorted((_read(repository, name) for name in names), key=lambda tombstone: tombstone.deleted)


def has_tombstone(repository: Repository, backup_name: str) -> bool:
    """Return whether a backup is marked as deleted, only by reading; BackupBeingRemovedError as below."""
    refuse_if_removing(repository, backup_name)
    return exists(repository.store, _name(repository, backup_name))


def remove_tombstone(repository: Repository, backup_name: str) -> bool:
    """Undo a deletion and tell whether there was one; BackupBeingRemovedError if its removal has begun."""
    if not has_tombstone(repository, backup_name):
        return False
    repository.store.delete(_name(repository, backup_name))
    # The removal may have been announced in between; it looks for the tombstone after its announcement.
    refuse_if_removing(repository, backup_name)
    return True


def sweep_tombstones(
    repository: Repository,
    now: datetime,
    trash_period: timedelta,
    keep: Collection[str] = (),
    epoch: Epoch | None = None,
) -> SweepReport:
    """Remove the manifests of backups whose tombstones are older than the trash period.

    Ages count from the later of the tombstone's own time and that of the store's time stamp, and `now` should
    therefore be the store's time. Backups named in `keep` stay, however old their tombstones are. A disk manifest stays
    while a backup that remains refers to it, and so does whatever was written after the tombstone: a new backup of that
    name. Everything that can't be read raises before anything is removed. `epoch` is what advance_epoch() returned;
    EpochConflictError as soon as another one is found. Safe to repeat after a crash at any point.
    """
    aged = (stone for stone in _aged(repository) if stone.tombstone.backup_name not in keep)
    expired = [stone for stone in aged if stone.aged + trash_period <= now]
    stale, report = stale_markers(repository), SweepReport()
    if not expired and not stale:
        return report
    backups = {backup.name: backup for backup in list_backups(repository, tombstoned=True)}
    begun = _begun(repository, {*backups, *(stone.tombstone.backup_name for stone in expired)})
    for name in [name for name in backups if marker_of(repository, name) in stale]:
        require_epoch(repository, epoch)
        if _settle(repository, name, begun.get(name), backups, report):
            stale.remove(marker_of(repository, name))
            del backups[name]
    for marker in stale:
        # An announcement that is left alone would forbid the undo of a later deletion.
        repository.store.delete(marker)
    _remove_all(repository, {stone.tombstone.backup_name: stone.info for stone in expired}, backups, epoch, report)
    return report


def _remove_all(
    repository: Repository,
    stones: Mapping[str, ObjectInfo],
    backups: Mapping[str, BackupManifest],
    epoch: Epoch | None,
    report: SweepReport,
) -> None:
    """Remove the backups of these tombstones, by name, but for those that are undone by now."""
    live, announced = _disks_but_of(backups, stones), dict[str, bool]()
    for name in sorted(stones):
        require_epoch(repository, epoch)
        together = _sharing(repository, name, backups, stones)
        for each in (each for each in together if each not in announced):
            announced[each] = announce(repository, stones[each])
            live |= set() if announced[each] else _disks_in(backups, [each])
        # What this one takes, none of the others may need after an undo that comes too late: it is noted of each first.
        begun = {each: _begin(repository, each, stones[each].modified, live) for each in together if announced[each]}
        if removal := begun.get(name):
            _remove(repository, name, removal, report)


def _sharing(
    repository: Repository, name: str, backups: Mapping[str, BackupManifest], among: Collection[str]
) -> list[str]:
    """Return a backup's name and those of others, among some, that name disk manifests which its removal may take."""
    hashed = repository.keys.name_hash(name)
    own = _disks_in(backups, [name])
    return [
        each
        for each in among
        if each == name or any(disk in own or disk.endswith(f"-{hashed}") for disk in _disks_in(backups, [each]))
    ]


def _disks_but_of(backups: Mapping[str, BackupManifest], names: Collection[str]) -> set[str]:
    return _disks_in(backups, [name for name in backups if name not in names])


def _disks_in(backups: Mapping[str, BackupManifest], names: Iterable[str]) -> set[str]:
    return {disk.manifest for name in names if name in backups for disk in backups[name].disks}


def _begun(repository: Repository, names: Iterable[str]) -> dict[str, Removal]:
    """Return the removals of these backups that have taken something; DamagedError if one can't be read."""
    announced = removing_hashes(repository)
    found = {name: read_removal(repository, name) for name in names if repository.keys.name_hash(name) in announced}
    return {name: removal for name, removal in found.items() if removal is not None}


def _settle(
    repository: Repository,
    name: str,
    removal: Removal | None,
    backups: Mapping[str, BackupManifest],
    report: SweepReport,
) -> bool:
    """End a removal that has lost its tombstone, by an undo or a crash; tell if it goes on, here or in another sweep.

    Once it has taken a disk manifest the backup can't come back; it must not be taken for a good one.
    """
    if removal is None or taken_by(repository, removal).isdisjoint(disk.manifest for disk in backups[name].disks):
        return False
    if begun := _begin(repository, name, removal.until, _disks_but_of(backups, {name})):
        _remove(repository, name, begun, report)
    return True


@dataclass(frozen=True)
class _Removal:
    """What goes of a backup: what the store stamped at `until` or before, of it and of its disk manifests (by name).

    `taken` are those that went before, `live` those that others refer to.
    """

    until: datetime
    disks: Mapping[str, ListedDisk]
    taken: set[str]
    live: set[str]


def _begin(repository: Repository, name: str, until: datetime, live: set[str]) -> _Removal | None:
    """Note what goes of the backup of this name; None if another sweep is at work on it."""
    hashed = repository.keys.name_hash(name)
    taken, revisions = taken_by(repository, read_removal(repository, name)), _revisions(repository, hashed)
    named = {disk.manifest for newest in revisions[-1:] for disk in _disks_at(repository, newest)}
    if _is_anew(revisions, until) and named.isdisjoint(taken):
        live, named = live | named, set()
    found = {disk.name: disk for disk in _disks_of(repository, hashed, named) if disk.current.modified <= until}
    noted = note_removal(repository, Removal(backup_name=name, until=until, disks=tuple(found)))
    return _Removal(until, found, taken, live) if noted else None


def _remove(repository: Repository, name: str, removal: _Removal, report: SweepReport) -> None:
    """Remove what goes of the backup of this name."""
    hashed = repository.keys.name_hash(name)
    # A disk manifest of another backup (a shared export) goes with its own backup, unless that one is gone already.
    going = sorted(removal.disks.keys() - removal.live)
    _delete_disks(repository, [removal.disks[each] for each in going])
    # The first revision, by which a new backup is told from the old one, goes after the others. The tombstone goes
    # after the manifests, so that a repeated sweep finds what a crash has left.
    revisions = _revisions(repository, hashed)
    if not _is_to_stay(repository, revisions, removal.until, removal.taken.union(going)):
        _delete(repository, [info.name for info in reversed(revisions)])
    _delete(repository, [f"{TOMBSTONES}{hashed}", f"{REMOVING}{hashed}"])
    report.removed_backups.append(name)
    report.removed_disk_manifests += len(going)
    report.kept_disk_manifests += len(removal.disks) - len(going)


def _is_to_stay(repository: Repository, revisions: list[ObjectInfo], until: datetime, taken: set[str]) -> bool:
    """Tell whether this is a new backup of the name, and not the old one by a writer that slept: its disks are gone.

    That a disk is missing is no proof: it may be out of sight. That this removal has taken it is one.
    """
    if not _is_anew(revisions, until):
        return False
    return taken.isdisjoint(disk.manifest for newest in revisions[-1:] for disk in _disks_at(repository, newest))


def _revisions(repository: Repository, backup_hash: str) -> list[ObjectInfo]:
    found = repository.store.list(f"{BACKUPS}{backup_hash}/")
    return sorted((each for each in found if split_backup_manifest_name(each.name)), key=lambda each: each.name)


def _disks_at(repository: Repository, revision: ObjectInfo) -> list[DiskReference]:
    try:
        return read_backup_manifest(repository, revision.name).disks
    except ObjectNotFoundError:
        return []  # Another sweep was quicker.


def _is_anew(revisions: list[ObjectInfo], until: datetime) -> bool:
    """Tell whether this is a new backup of the name; later revisions of an old one may be younger than its end."""
    return any(info.modified > until for info in revisions[:1])


def _disks_of(repository: Repository, backup_hash: str, names: Collection[str] = ()) -> Iterator[ListedDisk]:
    """Yield the disk manifests that were made for a backup, and those of these names."""
    for disk in list_disks(repository).values():
        if disk.backup_hash == backup_hash or disk.name in names:
            yield disk


def _delete_disks(repository: Repository, disks: Iterable[ListedDisk]) -> None:
    # What prunes wrote goes before what it is to replace: it may be younger than the tombstone.
    for disk in disks:
        _delete(repository, [info.name for info in reversed(disk.ordered)])


def _delete(repository: Repository, names: Iterable[str]) -> None:
    for name in names:
        repository.store.delete(name)


@dataclass(frozen=True)
class _Aged:
    """A tombstone, its object, and the moment from which its age counts."""

    tombstone: Tombstone
    info: ObjectInfo
    aged: datetime


def _aged(repository: Repository) -> Iterator[_Aged]:
    for info in [info for info in repository.store.list(TOMBSTONES) if hash_below(TOMBSTONES, info.name)]:
        stone = _read(repository, info.name)
        yield _Aged(stone, info, max(stone.deleted, info.modified))


def _name(repository: Repository, backup_name: str) -> str:
    return f"{TOMBSTONES}{repository.keys.name_hash(backup_name)}"


def _read(repository: Repository, name: str) -> Tombstone:
    _, stone = open_document(
        repository.keys, Kind.TOMBSTONE, repository.store.get(name, MAX_DOCUMENT_OBJECT), Tombstone
    )
    if _name(repository, stone.backup_name) != name:
        raise DamagedError(f"{name}: the tombstone in this place belongs to another backup")
    return stone
