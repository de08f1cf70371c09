"""What is known of a BackupStore from its last check, for those who would otherwise begin to use it."""

from __future__ import annotations

from datetime import datetime, timedelta

from longboat.api import BackupStore
from longboat.plan.conditions import find, holds
from longboat.plan.problem import Problem

BELIEVED = timedelta(minutes=5)
"""A store in trouble is tried out every 30 s: what is older than this is no news of it, it is tried by who needs it."""


def known_bad(store: BackupStore, now: datetime) -> Problem | None:
    """Return what is wrong with a store to which nothing could be written at its last check; None if that is not so.

    Nor if the check was of other settings, or too long ago to be believed.
    """
    status = store.status
    if status.writable is not False or status.observed_generation != store.metadata.generation:
        return None
    if status.last_check_time is None or not timedelta(0) <= now - status.last_check_time <= BELIEVED:
        return None
    available = find(status.conditions, "Available")
    if available is None or available.status == "True":
        return None
    passing = not holds(status.conditions, "Stalled")
    return Problem(
        available.reason,
        f"BackupStore {store.name!r} could not be written to at {status.last_check_time:%Y-%m-%dT%H:%MZ}: the backup"
        " begins when that is mended; an administrator finds what is wrong in the conditions of the BackupStore",
        passing=passing,
    )
