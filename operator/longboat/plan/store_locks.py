"""Whose locks need no look of the operator's, as a prune has extended them: both list all versions of a repository."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from longboat.api import BackupStore

if TYPE_CHECKING:
    from longboat.plan.maintenance import RepositoryRecord

EVERY = timedelta(hours=12)
"""A lock lasts for two days or more, and is extended when less than half of it is left."""


def locks_of(store: BackupStore) -> str:
    """Return what locks a store asks for, nothing if it asks for none: a look that was made for others is no look."""
    lock = store.spec.s3.object_lock if store.spec.s3 else None
    return f"{lock.mode} {lock.days}" if lock else ""


def was_looked_at(record: RepositoryRecord | None, store: BackupStore, bucket: str, now: datetime) -> bool:
    """Return whether a prune has seen to a repository's locks so lately that the operator's next look is in time.

    After a look everything is locked for half a period at least; a quarter of it is not used, for clocks, for looks
    that fail, and for what takes long. ``bucket`` is where the store leads now.
    """
    runs = record.prune if record is not None and record.missing is None else None
    if runs is None or runs.result is None or runs.result.dry_run or runs.ended is None:
        return False
    lock = store.spec.s3.object_lock if store.spec.s3 else None
    if lock is None or (runs.bucket, runs.locks) != (bucket, locks_of(store)):
        return False
    # An end in the future is a clock that was put back.
    return timedelta(0) <= now - runs.ended < timedelta(days=lock.days) / 4 - EVERY
