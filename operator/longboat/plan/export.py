"""Decisions about the export of one disk: its Job's name, what comes after a failure, what a result says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.mover import ExportResult
from longboat.plan.backup_snapshots import labels_of
from longboat.plan.change_tracking import MISMATCH
from longboat.plan.driver_trust import DISTRUSTED, told
from longboat.plan.hand_over import key_of
from longboat.plan.mover import ATTEMPT, LOST
from longboat.plan.names import DISK, DISK_KEY, child_name, digest, joined
from longboat.repository import DiskIdentity

Object = dict[str, Any]

ATTEMPTS = 3
PENDING_TOLD = timedelta(minutes=2)
"""A mover that has not begun after this says what it waits for."""
PENDING_PATIENCE = timedelta(hours=1)
"""A mover that has not begun after this has failed."""


MISMATCH_LENGTH = 500
"""Characters of what an export found out that are kept with its disk."""


def job_name(disk: DiskResult) -> str:
    """Return the name of a disk's export Job, the same for all its backups: it is exported once at a time.

    Two exports at once would each store the changes that the other one stores, too.
    """
    assert disk.claim is not None
    return joined(f"export-{disk.claim.name}", digest(key_of(disk), length=10))


def identity_of(disk: DiskResult) -> DiskIdentity:
    """Return what a manifest says of which disk it is."""
    claim = disk.claim
    return DiskIdentity(
        disk_key=key_of(disk),
        claim_name=claim.name if claim else "",
        claim_uid=claim.uid if claim else "",
        volume_handle=disk.volume_handle or "",
    )


def secret_name(backup: DiskBackup, disk: DiskResult) -> str:
    """Return the name of the Secret of an attempt."""
    return child_name(f"{backup.name[:32]}-{disk.name[:16]}", backup.uid, "export", disk.name, str(disk.attempts))


def labels(backup: DiskBackup, disk: DiskResult) -> dict[str, str]:
    """Return the labels of a disk's export Job: they tell whose and which attempt it is."""
    return {**labels_of(backup), DISK_KEY: key_of(disk), ATTEMPT: str(disk.attempts), DISK: disk_label(disk)}


def disk_label(disk: DiskResult) -> str:
    """Return what a label says of a disk's name: that of a claim may be longer than the value of a label."""
    return digest(disk.name, length=10)


def retry_delay(attempt: int, reason: str) -> timedelta:
    """Return how long to wait after an attempt (1, 2, …) that failed for a reason.

    >>> retry_delay(1, "StoreUnavailable"), retry_delay(2, "StoreUnavailable"), retry_delay(2, "PodLost")
    (datetime.timedelta(seconds=30), datetime.timedelta(seconds=120), datetime.timedelta(seconds=40))
    """
    # What found its driver wrong has nothing to wait for either.
    return timedelta(seconds=(10 if reason in LOST or reason == MISMATCH else 30) << 2 * max(0, attempt - 1))


def most_attempts(disk: DiskResult) -> int:
    """Return how many attempts the export of a disk has: the one that found its driver wrong does not count."""
    return ATTEMPTS + (disk.mismatch is not None)


def with_mismatch(disk: DiskResult, found: str) -> DiskResult:
    """Return the disk with what was found out about its driver; what was found first stays."""
    return disk.model_copy(update={"mismatch": disk.mismatch or (found or MISMATCH)[:MISMATCH_LENGTH]})


def distrusted(result: ExportResult) -> str | None:
    """Return why everything was read if the word of a change source was not to be had or not to be trusted.

    A base that is missing is no failure: a disk's first backup with change tracking has none.
    """
    reasons = (result.distrust, result.full_reason)
    return next((each for each in reasons if each and each.startswith("ChangeTracking")), None)


def completed(disk: DiskResult, result: ExportResult) -> DiskResult:
    """Return the disk as the result of its export says."""
    # An earlier attempt, or backup, may have found out; this one was told, and says nothing of it.
    earlier = disk.mismatch if disk.mismatch and disk.mismatch not in result.note else None
    if disk.distrust and distrusted(result) == DISTRUSTED:
        earlier = told(disk.distrust)
    return disk.model_copy(
        update={
            "phase": "Completed",
            "reason": None,
            "message": "; ".join(filter(None, (earlier, result.note))) or None,
            "progress": "100%",
            "bytes_done": result.logical_bytes,
            "logical_bytes": result.logical_bytes,
            "read_bytes": result.read_bytes,
            "stored_bytes": result.stored_bytes,
            "mode": result.mode,
            "full_reason": result.full_reason,
            "since_full_read": result.since_full_read,
            "parent": result.parent,
            "manifest": result.manifest,
            "object_id": result.object_id,
            "retry_at": None,
            "job": None,
            "started_at": None,
            "progressed_at": None,
        }
    )
