"""Keeps write-once buckets: locks of what backups need are extended. What was hidden is for prunes to remove.

Every repository of this cluster in the bucket is looked at, also those of namespaces that are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from longboat.api import BackupStore
from longboat.api.backup_store import BackupStoreStatus
from longboat.api.common import Condition
from longboat.plan.conditions import find, with_condition, without_condition
from longboat.plan.maintenance import bucket_of, repositories_in
from longboat.plan.store_locks import EVERY, FAILED, NOT_LOOKED_AT, may_be_looked_at, overdue, was_looked_at
from longboat.reconcile import maintenance_records
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import StoreAccess, folders
from longboat.repository import RepositoryError, StoreSettings, WriteOnceReport, keep_write_once

AT_ONCE = timedelta(minutes=2)
"""The store's checks wait meanwhile: what is not looked at by then is with the next ones."""


class Keep(Protocol):
    """See keep_write_once."""

    def __call__(
        self, settings: StoreSettings, path: str, now: datetime, after: str, enough: Callable[[], bool]
    ) -> WriteOnceReport:
        """Look at a repository."""


Folders = Callable[[StoreSettings, str], list[str]]
"""Returns the names of the folders in a folder of a store."""


def keep_locks(
    ctx: Context,
    store: BackupStore,
    status: BackupStoreStatus,
    *,
    keep: Keep = keep_write_once,
    inside: Folders = folders,
) -> BackupStoreStatus:
    """Look at a store's locks, if it is time and for a bounded time; return the status with how far that came."""
    if store.spec.s3 is None or store.spec.s3.object_lock is None:
        return _with(status, without_condition(status.conditions, FAILED))
    if not _is_due(ctx, status):
        return _with_overdue(ctx, store, status)
    try:
        reached = _look(ctx, store, status, keep, inside)
    except (StoreProblemError, RepositoryError) as error:
        message = f"the locks of what backups need were not all extended, and will end: {error}"
        return _told(ctx, store, status, error.reason, message)
    done = {"locks_kept_time": ctx.now().replace(microsecond=0)} if reached is None else {}
    conditions = without_condition(status.conditions, FAILED)
    status = status.model_copy(update={"locks_reached": reached, "conditions": conditions, **done})
    return _with_overdue(ctx, store, status)


def _is_due(ctx: Context, status: BackupStoreStatus) -> bool:
    if not may_be_looked_at(status) or not ctx.settings.cluster_id:
        return False
    last = status.locks_kept_time
    # A last time in the future is a clock that was put back.
    return status.locks_reached is not None or last is None or not timedelta(0) <= ctx.now() - last < EVERY


def _look(ctx: Context, store: BackupStore, status: BackupStoreStatus, keep: Keep, inside: Folders) -> str | None:
    """Return the last object that was looked at, <repository's folder>/<name>, or None if that was the last one."""
    settings = StoreAccess(ctx.cluster, ctx.settings).settings_of(store, "maintenance")
    begun, skew = ctx.now(), timedelta(seconds=status.clock_skew_seconds or 0)
    first, _, after = (status.locks_reached or "").partition("/")
    every = maintenance_records.all_records(ctx.cluster, ctx.settings.namespace)
    records = {each.folder: each for each in every if each.store == store.name}
    for folder in sorted(repositories_in(inside(settings, f"{ctx.settings.cluster_id}/"))):
        if folder < first or was_looked_at(records.get(folder), store, bucket_of(store), ctx.now()):
            continue
        path = f"{ctx.settings.cluster_id}/{folder}"
        report = keep(
            settings, path, ctx.now() + skew, after if folder == first else "", lambda: ctx.now() - begun > AT_ONCE
        )
        if report.reached is not None:
            return f"{folder}/{report.reached}"
    return None


def _with_overdue(ctx: Context, store: BackupStore, status: BackupStoreStatus) -> BackupStoreStatus:
    """Tell of locks that end soon though nothing has failed; what has failed says more."""
    before, message = find(status.conditions, FAILED), overdue(store, status, ctx.now())
    if before is not None and before.reason != NOT_LOOKED_AT:
        return status
    if message is None:
        return _with(status, without_condition(status.conditions, FAILED))
    return _told(ctx, store, status, NOT_LOOKED_AT, message)


def _told(ctx: Context, store: BackupStore, status: BackupStoreStatus, reason: str, message: str) -> BackupStoreStatus:
    now, generation = ctx.now(), store.metadata.generation
    return _with(
        status, with_condition(status.conditions, FAILED, "True", reason, message, now=now, generation=generation)
    )


def _with(status: BackupStoreStatus, conditions: list[Condition]) -> BackupStoreStatus:
    return status.model_copy(update={"conditions": conditions})
