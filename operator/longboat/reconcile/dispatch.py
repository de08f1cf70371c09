"""Which reconciler works on which key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta

from pydantic import ValidationError

from longboat.api import DiskBackup
from longboat.kube.kinds import DISK_BACKUP
from longboat.reconcile import (
    backup_policy,
    backup_store,
    base_snapshots,
    deletion,
    disk_backup,
    disk_snapshot,
    maintenance,
    restore,
    restore_cleanup,
    retention,
    stored_data,
    trash,
    trash_notes,
)
from longboat.reconcile.context import Context
from longboat.reconcile.maintenance_records import is_pruning
from longboat.reconcile.objects import load
from longboat.reconcile.queue import Key, Work
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.routing import ABANDONED, BASE_SNAPSHOTS, MAINTENANCE, RETENTION, STORED_DATA, TRASH
from longboat.reconcile.unreadable import attend

log = logging.getLogger(__name__)

AFTER_PRUNE = timedelta(minutes=5)

Reconcile = Callable[[Context, str, str], timedelta | None]


def work(ctx: Context) -> Work:
    """Return the function that works on a key."""
    reconcilers: Mapping[str, Reconcile] = {
        "BackupPolicy": backup_policy.reconcile,
        "BackupStore": backup_store.reconcile,
        "DiskBackup": reconcile_disk_backup,
        "DiskSnapshot": disk_snapshot.reconcile,
        "Restore": restore.reconcile,
        ABANDONED: restore_cleanup.abandon,
        MAINTENANCE: maintenance.reconcile,
        RETENTION: retention.reconcile,
        BASE_SNAPSHOTS: sweep_base_snapshots,
        STORED_DATA: stored_data.look_up,
        TRASH: sweep_trash,
    }
    return lambda key: _work(ctx, reconcilers, key)


def _work(ctx: Context, reconcilers: Mapping[str, Reconcile], key: Key) -> timedelta | None:
    try:
        return reconcilers[key.kind](ctx, key.namespace, key.name)
    except ValidationError:
        unreadable, again = attend(ctx, key.kind, key.namespace, key.name)
        if not unreadable:
            # It is another object that can't be read: whether that is mended has to be looked at again.
            raise
        return again


def reconcile_disk_backup(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Run a DiskBackup, or see to its deletion. The finalizer is there before the run leaves anything behind."""
    backup = load(ctx.cluster, DISK_BACKUP, DiskBackup, namespace, name)
    if backup is None:
        return None
    if backup.metadata.deletion_timestamp is not None:
        return deletion.delete(ctx, backup, disk_backup.abandon)
    deletion.guard(ctx, backup)
    return disk_backup.reconcile(ctx, namespace, name)


def sweep_base_snapshots(ctx: Context, _namespace: str, _name: str) -> timedelta | None:
    """Remove the kept snapshots that no export will ask about."""
    base_snapshots.sweep(ctx)
    return None


def sweep_trash(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Remove what has been in a repository's trash for long enough; ``name`` is that of its ConfigMap."""
    place = next((each for each in trash_notes.places(ctx) if each.name == name), None)
    try:
        if place is not None and is_pruning(ctx, place.store, place.folder):
            # The sweep would take over the epoch, which ends the prune.
            return AFTER_PRUNE
        if place is not None:
            trash.sweep(ctx, place)
    except StoreProblemError as problem:
        log.warning("%s: the trash stays as it is: %s: %s", namespace, problem.reason, problem.message)
    return None
