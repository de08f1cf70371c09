"""What a verification says of one DiskBackup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from longboat.api import DiskBackup
from longboat.api.common import Condition, Model
from longboat.api.disk_backup import DiskBackupStatus
from longboat.mover import VerifyResult
from longboat.plan.conditions import ConditionStatus, find, holds, with_condition, without_condition
from longboat.plan.maintenance import ALL
from longboat.plan.stored_data import DATA_MISSING

VERIFIED, DAMAGED, RECOVERABLE = "Verified", "Damaged", "Recoverable"
DAMAGE_MET = "DamageMet"
"""Reason of Verified: a restore has met damage, and no verification has looked since."""


class Hurt(Model):
    """A damaged backup, as the mover names it: its damaged disks, and whether data of it is lost for good."""

    backup: str
    lost: bool = True
    disks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Knowledge:
    """What a run has found: the damaged backups that are known by name, which may not be all."""

    hurt: Mapping[str, Hurt]
    result: VerifyResult

    @property
    def complete(self) -> bool:
        """Whether all damaged backups are known, so that the others are whole."""
        return len(self.hurt) >= self.result.damaged

    @property
    def whole(self) -> bool:
        """Whether all data was read."""
        return self.result.share >= ALL


@dataclass(frozen=True)
class Finding:
    """The condition Verified of a DiskBackup."""

    status: ConditionStatus
    reason: str
    message: str

    @property
    def verified(self) -> str:
        """What status.verified says."""
        return "Yes" if self.reason == VERIFIED else self.reason


def finding(backup: DiskBackup, known: Knowledge) -> Finding | None:
    """Return what is to be said of a backup that a run has looked at, None if that is not known."""
    hurt, is_missing = known.hurt.get(backup.name), holds(backup.status.conditions, DATA_MISSING)
    if hurt is not None and (hurt.lost or not is_missing):
        return _hurt(hurt)
    if hurt is not None or is_missing or not known.complete:
        return None
    return Finding("True", VERIFIED, "everything that it is made of is there, and what was read of its data is whole")


def _hurt(hurt: Hurt) -> Finding:
    disks = f"disk{'s' * (len(hurt.disks) > 1)} {', '.join(hurt.disks)}" if hurt.disks else "the backup"
    if not hurt.lost:
        message = f"{disks}: damaged in the store, and whole in other backups, from which a restore takes it"
        return Finding("True", RECOVERABLE, message)
    message = (
        f"{disks}: data in the store is damaged or missing; back the disk up now, which stores anew what is still on"
        " it, and keep its other backups; `longboat repo verify` names the objects"
    )
    return Finding("False", DAMAGED, message)


def with_finding(backup: DiskBackup, found: Finding, now: datetime, renewed_after: timedelta) -> DiskBackupStatus:
    """Return the backup's status with a finding; one that says the same is renewed after a time only."""
    status, moment = backup.status, now.replace(microsecond=0)
    conditions = with_condition(
        status.conditions,
        VERIFIED,
        found.status,
        found.reason,
        found.message,
        now=moment,
        generation=backup.metadata.generation,
    )
    before = find(status.conditions, VERIFIED)
    same = before is not None and (before.reason, before.message) == (found.reason, found.message)
    if same and status.verified_at is not None and timedelta(0) <= now - status.verified_at < renewed_after:
        return status
    return status.model_copy(update={"conditions": conditions, "verified": found.verified, "verified_at": moment})


def with_damage_met(backup: DiskBackup, restore: str, lost: bool, now: datetime) -> DiskBackupStatus:
    """Return the backup's status after a restore of it, by name, has met damage: data is lost, or was elsewhere.

    A verification, due at once, takes the place of this. What one has called damaged before stays so until then.
    """
    before = find(backup.status.conditions, VERIFIED)
    if before is not None and before.status == "False":
        return backup.status
    what = "data that is damaged or missing" if lost else "damaged data, which it took from other backups"
    message = (
        f"Restore {restore!r} has met {what}: all data of this backup is verified as soon as a Job can run, or a day"
        " after that has found nothing to note, and then this says what came of it; back its disks up after that, which"
        " stores anew what is still on them"
    )
    status: ConditionStatus = "False" if lost else "Unknown"
    generation, moment = backup.metadata.generation, now.replace(microsecond=0)
    conditions = with_condition(
        backup.status.conditions, VERIFIED, status, DAMAGE_MET, message, now=moment, generation=generation
    )
    return backup.status.model_copy(update={"conditions": conditions, "verified": DAMAGE_MET})


def with_presence(backup: DiskBackup, missing: str | None, now: datetime) -> DiskBackupStatus:
    """Return the backup's status with what a look at the store found: what is missing in words, None if all is there.

    An earlier verification's word does not outlive the data. Once it is back nobody knows whether it is whole before
    the next verification; a backup that was damaged before says so until then.
    """
    moment, generation = now.replace(microsecond=0), backup.metadata.generation
    status, before = backup.status, find(backup.status.conditions, VERIFIED)
    conditions = without_condition(status.conditions, DATA_MISSING)
    if missing:
        conditions = with_condition(
            conditions, DATA_MISSING, "True", DATA_MISSING, missing, now=moment, generation=generation
        )
    verified = status.verified
    if missing and (before is None or before.reason != DAMAGED):
        verified = DATA_MISSING
        conditions = with_condition(conditions, VERIFIED, "False", verified, missing, now=moment, generation=generation)
    elif not missing and before is not None and (before.reason == DATA_MISSING or _contradicted(status, before)):
        verified, message = None, "the store holds its data again: the next verification says whether it is whole"
        conditions = with_condition(
            conditions, VERIFIED, "Unknown", "NotYet", message, now=moment, generation=generation
        )
    return status.model_copy(update={"conditions": conditions, "verified": verified})


def _contradicted(status: DiskBackupStatus, verified: Condition) -> bool:
    """Return whether a backup was called verified and without its data at once, as older versions left it."""
    return verified.status == "True" and holds(status.conditions, DATA_MISSING)
