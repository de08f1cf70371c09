"""Decisions about a DiskBackup as a whole: refusing, giving up, phase, sizes, expiry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import Retention
from longboat.api.common import format_time, parse_duration
from longboat.api.disk_backup import BackupPhase, DiskBackupStatus, DiskResult
from longboat.plan.problem import Problem
from longboat.plan.quantities import size_text
from longboat.plan.recorded_rule import unconfirmed
from longboat.plan.retention import FINISHED

ENDED = frozenset({"Completed", "Failed", "Unsupported"})
AD_HOC_PATIENCE = timedelta(days=1)
"""How long a backup that was asked for by hand waits for what it lacks before it has begun."""
SLOT_PATIENCE = timedelta(hours=1)
"""The same for one of a slot whose policy, and with it the starting deadline, is not there."""
RUN_PATIENCE = timedelta(days=1)
"""How long a backup whose disks are captured waits for a store that can't be used."""


def slot_missed(backup: DiskBackup, policy: BackupPolicy | None) -> Problem | None:
    """Return SlotMissed if the object was created too long after its slot: it was applied again, from Git for one."""
    slot = backup.spec.slot
    if slot is None:
        return None
    deadline = parse_duration(policy.spec.starting_deadline) if policy else SLOT_PATIENCE
    late = backup.metadata.creation_timestamp - slot
    if late <= deadline:
        return None
    return Problem(
        "SlotMissed",
        f"spec.slot: the slot {slot:%Y-%m-%dT%H:%MZ} was {_hours(late)} past when this object was created, more than "
        f"the policy's startingDeadline ({_hours(deadline)}), and the store holds no backup of this name; create a "
        "DiskBackup without a slot to run the policy now",
        final=True,
    )


def is_punctual(backup: DiskBackup, policy: BackupPolicy | None) -> bool:
    """Return whether the object was created for its slot in time: the schedule's new run, not an old backup's."""
    return backup.spec.slot is not None and slot_missed(backup, policy) is None


def gave_up(backup: DiskBackup, policy: BackupPolicy | None, now: datetime) -> bool:
    """Return whether a backup that could not begin yet should not begin any more."""
    return now >= last_begin(backup, policy)


def last_begin(backup: DiskBackup, policy: BackupPolicy | None) -> datetime:
    """Return until when a backup may begin: what is in its way then has to be seen at that moment, or later."""
    patience = AD_HOC_PATIENCE
    if backup.spec.slot is not None:
        patience = parse_duration(policy.spec.starting_deadline) if policy else SLOT_PATIENCE
    return backup.metadata.creation_timestamp + patience


def expiry_rule(backup: DiskBackup, retention: Retention) -> dict[str, Any]:
    """Return the expiry rule that a manifest carries, as JSON."""
    recorded = unconfirmed(backup)
    rule: dict[str, Any] = {"retention": retention.wire(), "hold": backup.spec.hold or recorded.hold}
    ends = [each for each in (backup.spec.expires_at, recorded.expires_at) if each]
    if ends:
        rule["expiresAt"] = format_time(max(ends))
    return rule


def expires_at(backup: DiskBackup, status: DiskBackupStatus) -> datetime | None:
    """Return when the backup expires, in whole seconds, unless something keeps it."""
    if backup.spec.expires_at or status.retention is None:
        return backup.spec.expires_at and backup.spec.expires_at.replace(microsecond=0)
    moment = (status.cut and status.cut.cut_at) or status.started_at or backup.metadata.creation_timestamp
    return moment.replace(microsecond=0) + parse_duration(status.retention.keep_for)


def is_finished(status: DiskBackupStatus) -> bool:
    """Return whether a run has ended; it never begins again."""
    return status.phase in FINISHED


def all_ended(disks: Sequence[DiskResult]) -> bool:
    """Return whether no disk is under way."""
    return all(disk.phase in ENDED for disk in disks)


def phase_of(disks: Sequence[DiskResult]) -> BackupPhase:
    """Return how far a backup with these disks is. A disk that can never be captured is no failure of the others."""
    if not all_ended(disks):
        captured = any(disk.phase in ("HandedOver", "Exporting", "Completed") for disk in disks)
        return "Exporting" if captured else "Snapshotting"
    if not any(disk.phase == "Completed" for disk in disks):
        return "Failed"
    return "PartiallyFailed" if any(disk.phase == "Failed" for disk in disks) else "Completed"


def progress_of(disks: Sequence[DiskResult]) -> str:
    """Return the progress over all disks in percent of their bytes; 100% only when every disk has ended."""
    counted = [disk for disk in disks if disk.phase not in ("Failed", "Unsupported")]
    total = sum(_size(disk) for disk in counted)
    done = sum(_size(disk) if disk.phase == "Completed" else min(disk.bytes_done or 0, _size(disk)) for disk in counted)
    return percent(done, total, ended=all_ended(disks))


def progress_text(disks: Sequence[DiskResult]) -> str | None:
    """Return how far each disk is, the ones under way first, for tables; when all have ended, only what went wrong.

    >>> progress_text([DiskResult(name="root", phase="Completed"), DiskResult(name="data", progress="43%")])
    'data 43%, root 100%'
    """
    told = [disk for disk in disks if disk.phase != "Completed"] if all_ended(disks) else sorted(disks, key=_has_ended)
    texts = [f"{disk.name} {_share(disk)}" for disk in told[:_TOLD]]
    rest = [f"+{len(told) - _TOLD}"] if len(told) > _TOLD else []
    return ", ".join(texts + rest) or None


def _has_ended(disk: DiskResult) -> bool:
    return disk.phase in ENDED


def _share(disk: DiskResult) -> str:
    if disk.phase in ("Failed", "Unsupported"):
        return disk.phase.lower()
    return "100%" if disk.phase == "Completed" else disk.progress or "0%"


def percent(done: int, total: int, *, ended: bool) -> str:
    """Return a share in percent, rounded down; 100% is kept for what has ended.

    >>> percent(1, 3, ended=False), percent(3, 3, ended=False), percent(0, 0, ended=True)
    ('33%', '99%', '100%')
    """
    if ended:
        return "100%"
    return f"{min(99, 100 * done // total) if total else 0}%"


def totals(disks: Sequence[DiskResult]) -> dict[str, Any]:
    """Return the sizes of the backup, of all its good disks together: in bytes, and as texts for tables."""
    good = [disk for disk in disks if disk.phase == "Completed"]
    logical = sum(disk.logical_bytes or 0 for disk in good)
    read = sum(disk.read_bytes or 0 for disk in good)
    stored = sum(disk.stored_bytes or 0 for disk in good)
    sizes = {"logical_bytes": logical, "read_bytes": read, "stored_bytes": stored}
    return {**sizes, "size": size_text(logical), "read": size_text(read), "stored": size_text(stored)}


def failures(disks: Sequence[DiskResult]) -> str:
    """Return in words which disks failed, and why."""
    return "; ".join(f"disk {disk.name!r}: {disk.message or disk.reason}" for disk in disks if disk.phase == "Failed")


def waits(disks: Sequence[DiskResult]) -> str:
    """Return in words what the disks that are under way wait for."""
    told = [f"disk {disk.name!r}: {disk.message}" for disk in disks if disk.phase not in ENDED and disk.message]
    return "; ".join(told[:_TOLD] + (["…"] if len(told) > _TOLD else []))


_TOLD = 3
"""Disks that a condition or a column tells of; the others are in status.disks."""


def _size(disk: DiskResult) -> int:
    return disk.logical_bytes or disk.claim_bytes or 1


def _hours(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
