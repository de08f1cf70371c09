"""Tombstones: written when a backup is deleted or expires, swept when the trash period is over.

What has to be known from one look to the next is noted in the cluster: see trash_notes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime

from longboat.api import BackupStore, DiskBackup
from longboat.api.common import format_time
from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP
from longboat.kube.port import Object
from longboat.plan.names import FINALIZER
from longboat.reconcile.context import Context
from longboat.reconcile.epochs import Token, fence, new_token, require_charge
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.reconcile.store_choice import held_at
from longboat.reconcile.trash_held import held_back
from longboat.reconcile.trash_notes import (
    EVERYTHING,
    Place,
    forget_unseen,
    place_of,
    renew_unseen,
    unseen_at,
    update,
)
from longboat.repository import (
    MAX_SKEW,
    RepositoryError,
    SweepReport,
    Tombstone,
    epoch_time,
    holds_backup,
    read_tombstones,
    remove_tombstone,
    stale_markers,
    sweep_tombstones,
    write_tombstone,
)
from longboat.repository.errors import BackupBeingRemovedError

log = logging.getLogger(__name__)


def bury(ctx: Context, backup: DiskBackup, by: str) -> None:
    """Mark a backup's data for removal after the trash period. Raises StoreProblemError; can be repeated.

    A mark from before this deletion (the object's deletionTimestamp, else status.tombstonedAt) is replaced.
    """
    place = place_of(ctx, backup)
    access = own_repository(ctx, backup)
    require_charge(ctx, place, access)
    _require_data(access, backup)
    # Noted first: a tombstone that nobody knows of would never be swept.
    update(ctx, place, lambda data: data)
    try:
        since = backup.metadata.deletion_timestamp or backup.status.tombstoned_at
        write_tombstone(access.repository, backup.name, ctx.now(), by, since=since)
    except RepositoryError as error:
        raise problem_of(error) from error


def require_own(ctx: Context, backup: DiskBackup) -> None:
    """Return if a backup's data can be marked here and now; StoreProblemError otherwise."""
    require_charge(ctx, place_of(ctx, backup), own_repository(ctx, backup))


def dig_out(ctx: Context, backup: DiskBackup) -> None:
    """Take the mark off a backup's data: it is kept after all. Raises StoreProblemError; can be repeated."""
    access = own_repository(ctx, backup)
    try:
        remove_tombstone(access.repository, backup.name)
    except RepositoryError as error:
        raise problem_of(error) from error


def sweep(ctx: Context, place: Place, token: Token = new_token) -> SweepReport:
    """Remove what was deleted longer ago than the trash period, by the store's clock. Raises StoreProblemError."""
    renew_unseen(ctx, place, lambda name: bool(_applied_again(ctx, place, [name])))
    access = _open(ctx, place)
    period = ctx.settings.trash_period
    try:
        stones = read_tombstones(access.repository)
        _put_off(ctx, place, access, [stone for stone in stones if stone.deleted + period / 2 <= ctx.now()])
        # Asked also when there is nothing to remove, so that an administrator learns of it before there is.
        require_charge(ctx, place, access, token)
        # What is not in the trash needs nothing to keep it from being swept.
        forget_unseen(ctx, place, unseen_at(ctx, place).keys() - {stone.backup_name for stone in stones} - {EVERYTHING})
        if _is_held(ctx, place):
            return SweepReport()
        if not any(stone.deleted + period <= ctx.now() for stone in stones) and not stale_markers(access.repository):
            return SweepReport()
        epoch = fence(ctx, place, access, token())
        now = _store_time(ctx, access)
        back = _back(ctx, place, [stone.backup_name for stone in stones], now)
        held = held_back(ctx, place.namespace, access.repository, stones)
        report = sweep_tombstones(access.repository, now, period, keep=back | held, epoch=epoch)
    except RepositoryError as error:
        raise problem_of(error) from error
    if held:
        log.warning("%s: all other backups of disks of %s are lost: their data stays", place.namespace, sorted(held))
    if back:
        log.warning("%s: DiskBackups %s exist, or did of late: their data stays", place.namespace, sorted(back))
    log.info("%s: removed %s from store %s", place.namespace, ", ".join(report.removed_backups), place.store)
    return report


def _is_held(ctx: Context, place: Place) -> bool:
    """Tell whether its bucket's stores ask that nothing be removed; the condition Pruned says so to administrators."""
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", place.store)
    return store is None or bool(held_at(ctx.cluster, store))


def _applied_again(ctx: Context, place: Place, names: Iterable[str]) -> set[str]:
    """Return the names under which there are DiskBackups that nobody is deleting."""
    found = ((name, ctx.cluster.get(DISK_BACKUP, name, place.namespace)) for name in names)
    return {name for name, each in found if each is not None and "deletionTimestamp" not in each["metadata"]}


def _back(ctx: Context, place: Place, names: Sequence[str], now: datetime) -> set[str]:
    """Return which of these names are not to be swept, now that their tombstones have been read.

    They were applied again; and those that are gone since then, before anybody looked for their data, can be applied
    again for another trash period.
    """
    # The notes are read last: who deletes an object that was not looked for makes its note before it lets it go.
    there = {name for name in names if _is_there(ctx.cluster.get(DISK_BACKUP, name, place.namespace))}
    period, noted = ctx.settings.trash_period, unseen_at(ctx, place)
    lately = {name for name, when in noted.items() if now < when + period}
    forget_unseen(ctx, place, noted.keys() - lately)
    return set(names) if EVERYTHING in lately else there | (lately & set(names))


def _is_there(backup: Object | None) -> bool:
    """Return whether a DiskBackup stands for its data, or goes and has not been looked at for the last time."""
    meta = backup["metadata"] if backup else None
    return meta is not None and ("deletionTimestamp" not in meta or FINALIZER in (meta.get("finalizers") or ()))


def _put_off(ctx: Context, place: Place, access: RepositoryAccess, stones: Sequence[Tombstone]) -> None:
    """Begin the trash period of what was applied again anew: should its undo fail, its deletion has to be a new one."""
    back = _applied_again(ctx, place, (stone.backup_name for stone in stones))
    for stone in (each for each in stones if each.backup_name in back):
        with contextlib.suppress(BackupBeingRemovedError):
            write_tombstone(access.repository, stone.backup_name, ctx.now(), stone.deleted_by, since=ctx.now())


def _store_time(ctx: Context, access: RepositoryAccess) -> datetime:
    """Return the store's time, as it has just stamped the epoch with; refuse if one of the two clocks must be wrong.

    A node's clock that jumped ahead would otherwise empty the trash at once.
    """
    now = epoch_time(access.repository)
    if abs(now - ctx.now()) > MAX_SKEW:
        raise StoreProblemError(
            "ClockSkew",
            f"the store's clock says {format_time(now)}, the operator's {format_time(ctx.now())}: nothing is removed"
            " from the trash; set the clock that is wrong",
        )
    return now


def _require_data(access: RepositoryAccess, backup: DiskBackup) -> None:
    """Refuse to mark what is not there: the store is not what it was, and the backup may be elsewhere."""
    status = backup.status
    if status.manifest is None and not any(disk.manifest for disk in status.disks or ()):
        return
    try:
        found = holds_backup(access.repository, backup.name)
    except RepositoryError as error:
        raise problem_of(error) from error
    if not found:
        raise StoreProblemError(
            "BackupNotFound",
            f"the repository {access.path!r} holds nothing of backup {backup.name!r}: nothing is marked there; see"
            f" whether BackupStore {status.store.name if status.store else ''!r} leads where it did",
            retryable=False,
        )


def own_repository(ctx: Context, backup: DiskBackup) -> RepositoryAccess:
    """Return the repository that a backup says it lies in; StoreProblemError if it is not its namespace's own."""
    pinned = backup.status.store
    access = _open(ctx, place_of(ctx, backup), pinned.id if pinned else None)
    if pinned is None or access.path != pinned.repository:
        raise StoreProblemError(
            "ForeignRepository",
            f"status.store.repository is not the repository of this namespace ({access.path}): nothing is done there",
            retryable=False,
        )
    return access


def _open(ctx: Context, place: Place, repository_id: str | None = None) -> RepositoryAccess:
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", place.store)
    if store is None:
        raise StoreProblemError("StoreNotFound", f"there is no BackupStore {place.store!r} any more; make it again")
    return ctx.repositories.find(
        store,
        place.namespace_uid,
        repository_id,
        namespace=place.namespace,
        purpose="maintenance",
        generation=place.generation,
    )
