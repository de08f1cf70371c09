"""What follows from a CSI driver that called unchanged what had changed: which backups may hold wrong blocks.

The export that finds out reads everything and is right. The backups before it relied on the same driver, back to the
last one that read everything: each of them may lack changes, and nothing tells which.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from longboat.api import DiskBackup
from longboat.api.common import Condition
from longboat.api.disk_backup import DiskBackupStatus, DiskResult
from longboat.plan.conditions import with_condition, without_condition
from longboat.plan.hand_over import key_of
from longboat.plan.policy import captured_at

MISMATCH = "ChangeTrackingMismatch"
"""Reason of exports, and condition of the DiskBackup that found out and of the policies that are concerned."""
SUSPECT = "Suspect"
"""Condition of a DiskBackup that may hold wrong blocks."""
SUSPECT_SOURCE = "SuspectSource"
"""Condition of a Restore from such a DiskBackup."""
_TOLD = 10
"""Names that a message lists; the others can be found by their conditions."""


def suspects(finder: DiskBackup, disk: DiskResult, backups: Iterable[DiskBackup]) -> list[DiskBackup]:
    """Return the backups of a disk that relied on its driver before ``finder`` found it wrong, the newest first.

    ``backups`` are those of the namespace. Each repository has a chain of its own, and a full read for one makes
    nothing right in another. Where the last full read is no longer there, more are returned rather than fewer: what an
    expired backup had read is not known.
    """
    moment = _moment(finder, disk)
    found = [
        (_moment(each, its), each, its)
        for each in backups
        if each.uid != finder.uid and (its := same_disk(each, disk)) is not None and _moment(each, its) < moment
    ]
    relied, sound = list[DiskBackup](), set[tuple[str, str]]()
    for _, each, its in sorted(found, key=lambda one: (one[0], one[1].name), reverse=True):
        if read_everything(its):
            sound.add(_chain(each))
        elif _chain(each) not in sound:
            relied.append(each)
    return relied


def _chain(backup: DiskBackup) -> tuple[str, str]:
    store = backup.status.store
    return (store.id or store.name, store.repository) if store else ("", "")


def same_disk(backup: DiskBackup, disk: DiskResult) -> DiskResult | None:
    """Return what a backup holds of this very disk, None if it does not hold it."""
    good = (each for each in backup.status.disks or () if each.phase == "Completed" and each.claim is not None)
    return next((each for each in good if disk.claim is not None and key_of(each) == key_of(disk)), None)


def read_everything(disk: DiskResult) -> bool:
    """Return whether nothing of a disk's backup rests on what its driver said."""
    if disk.since_full_read is not None:
        return disk.since_full_read == 0
    # Made before that was written down: a first backup may have been told what is allocated.
    return disk.mode == "Full" and disk.full_reason != "NoParent"


def as_suspect(suspect: DiskBackup, disk: DiskResult, finder: DiskBackup, now: datetime) -> DiskBackupStatus:
    """Return the status of a backup of which it is known now that it may hold wrong blocks of a disk."""
    its = same_disk(suspect, disk)
    disks = [
        each.model_copy(update={"suspected_by": finder.name}) if its is not None and each.name == its.name else each
        for each in suspect.status.disks or ()
    ]
    generation = suspect.metadata.generation
    conditions = with_condition(
        suspect.status.conditions, SUSPECT, "True", MISMATCH, _suspicion(disks), now=now, generation=generation
    )
    return suspect.status.model_copy(update={"disks": disks, "conditions": conditions})


def _suspicion(disks: Sequence[DiskResult]) -> str:
    told = [f"disk {each.name!r} (found by DiskBackup {each.suspected_by!r})" for each in disks if each.suspected_by]
    return (
        "may hold blocks that are older than the rest: its CSI driver was believed on what has changed, and was found"
        f" wrong later: {', '.join(told)}. Restore from that DiskBackup if it was completed, or from a later one, if"
        " you can, and check what you restore from this one"
    )


def found_out(
    backup: DiskBackup, disks: Sequence[DiskResult], suspected: Sequence[str], now: datetime
) -> list[Condition]:
    """Return the conditions of a run with what it found out about the drivers of its disks."""
    wrong = [each for each in disks if each.mismatch]
    if not wrong:
        return list(backup.status.conditions or ())
    told = "; ".join(f"disk {each.name!r}: {each.mismatch}" for each in wrong)
    others = f"earlier backups that may hold wrong blocks: {_names(suspected) or 'none'}"
    message = f"{told}. {_fate(wrong)}; {others}"
    before, generation = backup.status.conditions, backup.metadata.generation
    return with_condition(before, MISMATCH, "True", "BlocksDiffer", message, now=now, generation=generation)


def _fate(wrong: Sequence[DiskResult]) -> str:
    failed = [each.name for each in wrong if each.phase != "Completed"]
    if not failed:
        return "Everything was read, so this backup is right"
    return f"This backup failed for {_names([repr(name) for name in failed])}: only a later one can be right"


def of_policy(
    conditions: Sequence[Condition] | None, runs: Sequence[DiskBackup], *, now: datetime, generation: int
) -> list[Condition]:
    """Return a policy's conditions with what concerns its backups; nothing is said once those have expired."""
    finders, doubtful = mismatches(runs), suspected_runs(runs)
    if not finders and not doubtful:
        return without_condition(conditions, MISMATCH)
    told = []
    if doubtful:
        told.append(f"backups that may hold wrong blocks: {_names([each.name for each in doubtful])}")
    if finders:
        told.append(f"backups that found their CSI driver wrong on what has changed: {_names(finders)}")
    message = f"{'; '.join(told)}. The next backups of the disk don't ask the driver. Report it to the driver's makers"
    reason = "SuspectBackups" if doubtful else "BlocksDiffer"
    return with_condition(conditions, MISMATCH, "True", reason, message, now=now, generation=generation)


def mismatches(runs: Iterable[DiskBackup]) -> list[str]:
    """Return the names of the runs that found their driver wrong."""
    return [each.name for each in runs if any(disk.mismatch for disk in each.status.disks or ())]


def suspected_runs(runs: Iterable[DiskBackup]) -> list[DiskBackup]:
    """Return the runs that may hold wrong blocks."""
    return [each for each in runs if any(disk.suspected_by for disk in each.status.disks or ())]


def _names(names: Sequence[str]) -> str:
    rest = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f" and {rest} more" if rest > 0 else "")


def _moment(backup: DiskBackup, disk: DiskResult) -> datetime:
    return disk.cut_time or captured_at(backup)
