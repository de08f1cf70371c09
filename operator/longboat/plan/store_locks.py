"""Whose locks need no look of the operator's, as a prune has extended them: both list all versions of a repository."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from longboat.api import BackupStore
from longboat.api.backup_store import BackupStoreStatus
from longboat.api.common import format_time
from longboat.plan.stores import OF_CREDENTIALS

if TYPE_CHECKING:
    from longboat.plan.maintenance import RepositoryRecord

EVERY = timedelta(hours=12)
"""A lock lasts for two days or more, and is extended when less than half of it is left."""
FAILED = "LocksNotExtended"
"""Condition of a store whose locks could not be extended, or have not been looked at for too long."""
NOT_LOOKED_AT = "LocksNotLookedAt"
"""Its reason while nothing has failed, and yet some locks end soon."""


def locks_of(store: BackupStore) -> str:
    """Return what locks a store asks for, nothing if it asks for none: a look that was made for others is no look."""
    lock = store.spec.s3.object_lock if store.spec.s3 else None
    return f"{lock.mode} {lock.days}" if lock else ""


def may_be_looked_at(status: BackupStoreStatus) -> bool:
    """Return whether a store is well enough for maintenance, as far as its last check tells.

    What is wrong with the credentials of backups and restores alone is not. Whether its own work is seen by trying.
    """
    return status.available == "Yes" or status.writable is not False or status.available in OF_CREDENTIALS


def overdue(store: BackupStore, status: BackupStoreStatus, now: datetime) -> str | None:
    """Return what is told of locks that end soon, as they were not all looked at for too long; None if all is well.

    A look leaves half a period at least: there is time left when this is told.
    """
    lock = store.spec.s3.object_lock if store.spec.s3 else None
    since = status.locks_kept_time or store.metadata.creation_timestamp
    if lock is None or now - since <= max(1.5 * EVERY, timedelta(days=lock.days) / 4):
        return None
    why = (
        "a look takes too long: see how large the bucket is and how fast it answers"
        if may_be_looked_at(status)
        else f"the store can't be used ({status.available}): see the condition Available"
    )
    ends = since + timedelta(days=lock.days) / 2
    return (
        f"the locks of what backups need were all looked at for the last time at {format_time(since)}; some may end"
        f" from {format_time(ends)} on, and {why}"
    )


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
