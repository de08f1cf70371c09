"""Which run of a slot cuts and exports, and which one shares what that one captured: pure decisions.

A run follows another one of its namespace and slot that has all of its disks. Of two that could each follow the other,
the one with more disks leads, then the one whose name comes first; one that has cut already leads in any case. Whoever
follows is followed by nobody, and who has a cut of its own follows nobody: nobody waits for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import Target
from longboat.api.common import format_time
from longboat.api.disk_backup import Cut, DiskBackupStatus, DiskResult, SharedCut
from longboat.plan.backoff import look_again
from longboat.plan.conditions import find
from longboat.plan.cut import Verdict, is_open, verdict
from longboat.plan.driver_trust import is_distrusted
from longboat.plan.policy import is_lost
from longboat.plan.retention import FINISHED

PATIENCE = timedelta(seconds=30)
"""How long a run waits to learn which disks the other runs of its slot have."""
CUT_PATIENCE = timedelta(minutes=30)
"""How long a run waits for the cut of the one that it follows: disks that it does not want may hold that one up."""
_FIRST_LOOK = timedelta(seconds=1)


@dataclass(frozen=True)
class GiveUp:
    """Why a run can't share another's cut any more; it makes one of its own."""

    why: str


def is_undecided(backup: DiskBackup) -> bool:
    """Return whether a run may still follow another one: only scheduled ones do, and only before a cut of their own."""
    status = backup.status
    return backup.spec.slot is not None and status.cut is None and status.shared_cut is None and bool(_wanted(backup))


def is_shared(status: DiskBackupStatus) -> bool:
    """Return whether a run shares the cut and the export of another one."""
    return status.shared_cut is not None and status.shared_cut.given_up is None


def leader_of(backup: DiskBackup, others: Iterable[DiskBackup]) -> DiskBackup | None:
    """Return the run that an undecided one follows, None if there is none."""
    fit = [each for each in others if _leads(each, backup)]
    return min(fit, key=_rank, default=None)


def unknown_yet(
    backup: DiskBackup, others: Iterable[DiskBackup], policies: Iterable[BackupPolicy], now: datetime
) -> bool:
    """Return whether a run of the slot that may have all of the disks is about to be made, or to say which it has."""
    if now - (backup.status.started_at or now) >= PATIENCE:
        return False
    by_name = {each.name: each for each in policies}
    runs = [each for each in others if each.uid != backup.uid and each.spec.slot == backup.spec.slot]
    if any(_is_beginning(each) and _may_hold(by_name, each, backup) for each in runs):
        return True
    return any(_is_due(each, backup) and _concerns(each.spec.target, backup) for each in by_name.values())


def decide_again(backup: DiskBackup, now: datetime) -> timedelta:
    """Return when a run that waits to learn what the others have looks again: ever later, and once patience ends."""
    waited = now - (backup.status.started_at or now)
    return min(look_again(waited, _FIRST_LOOK), max(PATIENCE - waited, _FIRST_LOOK))


def obstacle(backup: DiskBackup, leader: DiskBackup | None) -> GiveUp | None:
    """Return why what another run captures is not for this one, None while nothing speaks against it."""
    shared = backup.status.shared_cut
    assert shared is not None
    name = f"DiskBackup {shared.name!r}"
    if leader is None or leader.uid != shared.uid:
        return GiveUp(f"{name} is gone")
    if leader.metadata.deletion_timestamp is not None or leader.status.tombstoned_at is not None:
        return GiveUp(f"{name} was deleted")
    if not _same_place(leader, backup) or leader.status.adopted:
        return GiveUp(f"{name} is in another place by now")
    if is_lost(leader):
        return GiveUp(f"{name} was found damaged")
    held = _held(leader)
    for disk in _wanted(backup):
        if _key(disk) not in held:
            return GiveUp(f"{name} does not have disk {disk.name!r}: see its status.disks")
    return None


def impatience(backup: DiskBackup, leader: DiskBackup, now: datetime) -> GiveUp | None:
    """Return why a run does not wait any longer for the cut of the one that it follows; for its export it does."""
    shared = backup.status.shared_cut
    begun = (shared.since if shared else None) or backup.status.started_at or now
    if _has_cut(leader.status.cut) or now - begun < CUT_PATIENCE:
        return None
    minutes = int(CUT_PATIENCE / timedelta(minutes=1))
    return GiveUp(f"DiskBackup {leader.name!r} has captured nothing within {minutes} minutes")


def is_waiting(backup: DiskBackup) -> bool:
    """Return whether a run waits for what another one captures."""
    shared = backup.status.shared_cut
    return shared is not None and is_shared(backup.status) and not shared.taken_over


def circle(backup: DiskBackup, followed: Iterable[DiskBackup]) -> GiveUp | None:
    """Return why a run that waits for itself ends that; `followed` are the run it follows, the one that follows, etc.

    Runs decide by what they saw a moment before, so that each may follow another one. One of them ends it: that with
    the highest UID.
    """
    others = list[DiskBackup]()
    for each in followed:
        if each.uid == backup.uid:
            last = all(backup.uid > other.uid for other in others)
            return GiveUp(f"DiskBackup {others[0].name!r} waits for this one") if last and others else None
        others.append(each)
    return None


def is_exported(backup: DiskBackup, leader: DiskBackup, now: datetime) -> bool:
    """Return whether a run has exported all disks that the one which follows it wants, and its cut is over."""
    held, status = _held(leader), leader.status
    stored = all(held[_key(disk)].phase == "Completed" and held[_key(disk)].manifest for disk in _wanted(backup))
    return stored and status.cut is not None and not is_open(status.cut, now)


def waiting(backup: DiskBackup, leader: DiskBackup) -> list[DiskResult]:
    """Return the disks with what they wait for."""
    held = _held(leader)
    shared = backup.status.shared_cut
    since = f" since {format_time(shared.since.replace(microsecond=0))}" if shared and shared.since else ""
    message = f"waiting for DiskBackup {leader.name!r}{since}, which captures and exports it for this backup as well"
    return [
        disk.model_copy(update={"message": message, "progress": held[_key(disk)].progress})
        if disk.phase == "Pending"
        else disk
        for disk in backup.status.disks or ()
    ]


def taken_over(backup: DiskBackup, leader: DiskBackup, unfreeze_timeout: timedelta) -> dict[str, Any]:
    """Return the changes of a status that takes over what another run captured: nothing is claimed beyond its evidence.

    What is said of the moment is said of this run's disks alone.
    """
    held, cut, shared = _held(leader), leader.status.cut, backup.status.shared_cut
    assert cut is not None and shared is not None
    disks = [_captured(disk, held[_key(disk)]) if disk.phase == "Pending" else disk for disk in _disks(backup)]
    said = verdict(cut, [disk for disk in disks if disk.phase == "Exporting"], unfreeze_timeout)
    return {
        "shared_cut": shared.model_copy(update={"taken_over": True}),
        "store": leader.status.store,
        "cut": cut,
        "disks": disks,
        "driver_distrusted": is_distrusted(disks),
        **_said(said),
    }


def given_up(backup: DiskBackup, why: str) -> dict[str, Any]:
    """Return the changes of a status by which a run goes its own way: as if it had never followed, but for the note."""
    shared = backup.status.shared_cut
    assert shared is not None
    disks = [_anew(disk) if _is_under_way(disk) else disk for disk in _disks(backup)]
    return {
        "shared_cut": shared.model_copy(update={"given_up": why[:1000]}),
        "cut": None,
        "disks": disks,
        "driver_distrusted": is_distrusted(disks),
        **_said(None),
    }


def following(leader: DiskBackup, now: datetime) -> SharedCut:
    """Return the note that a run follows another one."""
    return SharedCut(name=leader.name, uid=leader.uid, since=now)


def _leads(other: DiskBackup, backup: DiskBackup) -> bool:
    status, its = other.status, {_key(disk) for disk in _wanted(backup)}
    if other.uid == backup.uid or other.spec.slot != backup.spec.slot or is_shared(status) or status.disks is None:
        return False
    if other.metadata.deletion_timestamp is not None or status.tombstoned_at is not None or status.adopted:
        return False
    if not _same_place(other, backup) or is_lost(other) or not its <= _held(other).keys():
        return False
    return _has_cut(status.cut) or _rank(other) < _rank(backup)


def _has_cut(cut: Cut | None) -> bool:
    # One that is only announced may be taken back.
    return cut is not None and cut.ended_at is not None


def _rank(backup: DiskBackup) -> tuple[int, str]:
    return -len(_held(backup)), backup.name


def _same_place(one: DiskBackup, other: DiskBackup) -> bool:
    """Return whether two runs freeze the same guest and store into the same BackupStore in the same way."""
    stores = [(each.name, each.dedupe) for run in (one, other) if (each := run.status.store) is not None]
    same = len(stores) == 2 and stores[0] == stores[1]
    return same and one.status.virtual_machine == other.status.virtual_machine


def _disks(backup: DiskBackup) -> Sequence[DiskResult]:
    return backup.status.disks or ()


def _wanted(backup: DiskBackup) -> list[DiskResult]:
    return [disk for disk in _disks(backup) if disk.phase == "Pending"]


def _held(backup: DiskBackup) -> dict[tuple[str, ...], DiskResult]:
    """Return the disks that a run has captured well or is about to, by what they are."""
    good = (disk for disk in _disks(backup) if disk.phase not in ("Failed", "Unsupported") and not disk.suspected_by)
    return {_key(disk): disk for disk in good if disk.claim is not None and disk.volume_handle}


def _key(disk: DiskResult) -> tuple[str, ...]:
    return disk.claim.uid if disk.claim else "", disk.volume_handle or "", disk.content


def _is_beginning(backup: DiskBackup) -> bool:
    """Return whether a run is about to say which disks it has, with nothing in its way."""
    status = backup.status
    begins = status.disks is None and status.phase not in FINISHED and backup.metadata.deletion_timestamp is None
    return begins and find(status.conditions, "Stalled") is None


def _is_due(policy: BackupPolicy, backup: DiskBackup) -> bool:
    """Return whether a policy has yet to make its runs of the slot."""
    slot, next_slot = backup.spec.slot, policy.status.next_slot
    going = policy.metadata.deletion_timestamp is not None or policy.spec.suspend
    return slot is not None and next_slot is not None and next_slot <= slot and not going


def _may_hold(policies: dict[str, BackupPolicy], other: DiskBackup, backup: DiskBackup) -> bool:
    if other.spec.virtual_machine is not None:
        return other.spec.virtual_machine == backup.status.virtual_machine
    policy = policies.get(other.spec.policy_ref.name)
    return policy is not None and _concerns(policy.spec.target, backup)


def _concerns(target: Target, backup: DiskBackup) -> bool:
    """Return whether a run on this target may have all disks of the backup."""
    machine, wanted = backup.status.virtual_machine, _wanted(backup)
    if target.selector is not None:
        return machine is not None
    if target.virtual_machine is not None:
        return target.virtual_machine.name == machine
    disk = target.disk
    if disk is None or len(wanted) != 1:
        return False
    if disk.virtual_machine is not None:
        return disk.virtual_machine == machine
    claim = wanted[0].claim
    return claim is not None and claim.name == disk.persistent_volume_claim


def _captured(disk: DiskResult, its: DiskResult) -> DiskResult:
    return disk.model_copy(
        update={
            "phase": "Exporting",
            "cut_time": its.cut_time,
            "parent": its.manifest,
            "since_full_read": its.since_full_read,
            "distrust": its.distrust,
            "block_size": its.block_size,
            "logical_bytes": its.logical_bytes,
            "progress": "99%",
            "message": None,
        }
    )


def _is_under_way(disk: DiskResult) -> bool:
    return disk.phase in ("Pending", "Exporting", "Completed")


def _anew(disk: DiskResult) -> DiskResult:
    return disk.model_copy(update={"phase": "Pending"} | dict.fromkeys(_OF_THE_EXPORT))


_OF_THE_EXPORT = (
    "cut_time",
    "parent",
    "since_full_read",
    "distrust",
    "logical_bytes",
    "read_bytes",
    "stored_bytes",
    "bytes_done",
    "mode",
    "full_reason",
    "manifest",
    "object_id",
    "progress",
    "message",
)


def _said(said: Verdict | None) -> dict[str, Any]:
    names = ("consistency", "consistency_reason", "same_moment", "same_moment_reason")
    return {name: getattr(said, name) if said else None for name in names}
