"""Who is in charge of a repository: an operator that finds another's epoch stops until an administrator has decided.

The answer names the moment up to which the other one's epochs count for nothing. So it holds once: what this operator,
or the other one, writes afterwards is later.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from longboat.api import BackupStore
from longboat.api.common import format_time

TAKE_OVER = "longboat.dev/confirm-take-over"
"""Annotation of a BackupStore: repositories whose epoch was written until this moment (RFC 3339) are taken over."""
CONFLICT = "EpochConflict"
"""The condition of a BackupStore, and the reason of what waits for the answer."""


def approved(store: BackupStore, now: datetime) -> datetime | None:
    """Return until when epochs of others are taken over; None if nothing that counts is said.

    A moment that has not come counts for nothing: it would be an answer to questions that nobody has asked yet.
    """
    try:
        moment = datetime.fromisoformat(store.metadata.annotations.get(TAKE_OVER, ""))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None and moment <= now else None


def whole_seconds(written: datetime) -> datetime:
    """Return the moment as it is asked for: never before the epoch, as a service's clock may know fractions."""
    return written.replace(microsecond=0) + timedelta(seconds=1 if written.microsecond else 0)


def question(contested: Collection[datetime]) -> str | None:
    """Return what is said of repositories whose epochs were written by somebody else then; None if there is none."""
    if not contested:
        return None
    latest = format_time(max(contested))
    several = f"{len(contested)} repositories" if len(contested) > 1 else "1 repository"
    return (
        f"another operator was in charge of {several} of this store, last at {latest}: a clone of this cluster, or this"
        " one before its etcd was restored from a copy. In these nothing is marked, taken over or removed here; backups"
        " are made. If no other cluster uses this store any more, annotate this BackupStore with"
        f' {TAKE_OVER}="{latest}"; if one does, delete this BackupStore here and make one with another prefix'
    )
