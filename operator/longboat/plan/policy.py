"""What a BackupPolicy has made, should make, and whether its targets are protected as it promises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import Target as TargetSpec
from longboat.api.common import API_VERSION, format_time
from longboat.api.disk_backup import DiskResult
from longboat.plan.backup import AD_HOC_PATIENCE
from longboat.plan.conditions import find, holds
from longboat.plan.maintenance_findings import VERIFIED
from longboat.plan.names import FINALIZER, MANAGED_BY, MANAGER, POLICY_UID, backup_name
from longboat.plan.retention import FINISHED
from longboat.plan.schedule import late_at
from longboat.plan.state import NO_STATE_YET
from longboat.plan.stored_data import DATA_MISSING

Object = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One thing that gets a DiskBackup of its own; ``machine`` is spec.virtualMachine of it (selectors only).

    ``claim_uid`` is the UID of the one PersistentVolumeClaim to back up; None: every disk of the virtual machine.
    """

    kind: str
    name: str
    uid: str
    machine: str | None = None
    claim_uid: str | None = None


@dataclass(frozen=True)
class Protection:
    """Whether the targets have good backups as recent as the schedule promises; ``short`` is for tables."""

    short: str
    holds: bool
    reason: str
    message: str
    changes_at: datetime | None = None


def target_text(target: TargetSpec) -> str:
    """Return the target in words, for tables."""
    if (disk := target.disk) is not None:
        return f"disk {disk.virtual_machine}/{disk.name}" if disk.name else f"claim {disk.persistent_volume_claim}"
    if target.virtual_machine is not None:
        return f"VM {target.virtual_machine.name}"
    labels = target.selector.match_labels if target.selector else {}
    return "VMs " + ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def backup_for(policy: BackupPolicy, target: Target, slot: datetime) -> Object:
    """Return the DiskBackup of a policy for a target in a slot. Its name says all three: it can be made only once."""
    spec: Object = {"policyRef": {"name": policy.name}, "slot": format_time(slot)}
    return {
        "apiVersion": API_VERSION,
        "kind": "DiskBackup",
        "metadata": {
            "name": backup_name(policy.name, target.uid, slot),
            "namespace": policy.namespace,
            "labels": {MANAGED_BY: MANAGER, POLICY_UID: policy.uid},
            "finalizers": [FINALIZER],
        },
        "spec": spec | ({"virtualMachine": target.machine} if target.machine else {}),
    }


def is_run_of(backup: DiskBackup, policy: BackupPolicy, target: Target, slot: datetime) -> bool:
    """Return whether an object of the run's name is that run, and not something of somebody else's."""
    spec = backup.spec
    return spec.policy_ref.name == policy.name and spec.virtual_machine == target.machine and spec.slot == slot


def runs_of(policy_name: str, backups: Iterable[DiskBackup]) -> list[DiskBackup]:
    """Return a policy's DiskBackups, the oldest first."""
    found = [each for each in backups if each.spec.policy_ref.name == policy_name]
    return sorted(found, key=lambda each: (each.metadata.creation_timestamp, each.name))


def is_crowded(target: Target, runs: Iterable[DiskBackup], slot: datetime) -> bool:
    """Return whether one run of a target is under way and another is waiting already: then a slot is skipped.

    One that has waited for long to begin, for a store that does not answer, is in nobody's way.
    """
    unfinished = [
        each
        for each in runs
        if each.spec.virtual_machine == target.machine
        and each.status.phase not in FINISHED
        and each.metadata.deletion_timestamp is None
        and (each.status.started_at is not None or slot - each.metadata.creation_timestamp < AD_HOC_PATIENCE)
    ]
    return len(unfinished) > 1


def captured_at(backup: DiskBackup) -> datetime:
    """Return the moment that a backup holds."""
    cut = backup.status.cut.cut_at if backup.status.cut else None
    return cut or backup.status.started_at or backup.metadata.creation_timestamp


def newest_success(target: Target, runs: Iterable[DiskBackup]) -> datetime | None:
    """Return the moment of a target's newest backup in which every disk that can be captured is good."""
    newest = newest_good(target, runs)
    return captured_at(newest) if newest else None


def newest_good(target: Target, runs: Iterable[DiskBackup]) -> DiskBackup | None:
    """Return a target's newest backup in which every disk that can be captured is good."""
    return max((each for each in _whole_runs(target, runs) if not is_lost(each)), key=captured_at, default=None)


def lost_runs(target: Target, runs: Iterable[DiskBackup]) -> list[DiskBackup]:
    """Return a target's backups that ended well, and can't be restored whole any more."""
    return [each for each in _whole_runs(target, runs) if is_lost(each)]


def is_lost(backup: DiskBackup) -> bool:
    """Return whether data of a finished backup is gone from the store, or was found damaged for good."""
    verified = find(backup.status.conditions, VERIFIED)
    return holds(backup.status.conditions, DATA_MISSING) or (verified is not None and verified.status == "False")


def _whole_runs(target: Target, runs: Iterable[DiskBackup]) -> Iterator[DiskBackup]:
    for each in runs:
        if each.status.phase == "Completed" and _is_of(each, target) and _holds(each, target):
            yield each


def left_out(backup: DiskBackup) -> list[DiskResult]:
    """Return the disks of a good backup that are not in it, although they hold what a restore would miss."""
    return [
        disk
        for disk in backup.status.disks or ()
        if disk.phase == "Unsupported" and disk.reason not in _NOTHING_TO_LOSE
    ]


def protection(
    policy: BackupPolicy, anchor: datetime, targets: Sequence[Target], runs: Sequence[DiskBackup], now: datetime
) -> Protection:
    """Return how well the targets are protected; the worst one counts. The schedule must be valid."""
    if policy.spec.suspend:
        return Protection("Suspended", False, "Suspended", "spec.suspend is true: no backups are scheduled")
    successes = {target: newest_success(target, runs) for target in targets}
    never = [target for target, moment in successes.items() if moment is None]
    if never:
        return Protection("Never", False, "NeverBackedUp", f"{_none(never, runs)}{last_failure(never, runs)}")
    lateness = {
        target: late_at(policy.spec.schedule, policy.spec.time_zone, anchor, moment)
        for target, moment in successes.items()
        if moment is not None
    }
    late = [target for target, moment in lateness.items() if moment <= now]
    if late:
        since = min(moment for moment in successes.values() if moment is not None)
        names = ", ".join(sorted(target.name for target in late))
        text = f"the newest good backup of {names} is from {format_time(since)}, older than the schedule allows"
        why = last_failure(late, runs) or ": look at the policy's latest DiskBackups"
        return Protection("Late", False, "Late", f"{text}{why}")
    changes_at = min(lateness.values(), default=None)
    if lacking := _lacking(targets, runs):
        return Protection("Partly", False, DISKS_LEFT_OUT, lacking, changes_at)
    message = "every target has a good backup as recent as the schedule promises"
    return Protection("Yes", True, "Protected", message, changes_at)


def _none(targets: Sequence[Target], runs: Sequence[DiskBackup]) -> str:
    names = ", ".join(sorted(target.name for target in targets))
    if lost := sum(len(lost_runs(target, runs)) for target in targets):
        return f"no good backup of {names}: {lost} damaged or gone from the store, see their condition Verified"
    return f"no good backup yet of {names}"


def _lacking(targets: Iterable[Target], runs: Sequence[DiskBackup]) -> str:
    """Return in words which disks the newest good backups do not hold, and why; empty if they hold all."""
    newest = [backup for target in targets if (backup := newest_good(target, runs))]
    told = [
        f"disk {disk.name!r} of {backup.status.target.name if backup.status.target else backup.name} ({disk.reason}: "
        f"{(disk.message or '')[:_MOST_WORDS].rstrip('.')})"
        for backup in newest
        for disk in left_out(backup)
    ]
    if not told:
        return ""
    more = f"; and {len(told) - _MOST_DISKS} more" if len(told) > _MOST_DISKS else ""
    return f"not in the newest good backups, and never in any as things are: {'; '.join(told[:_MOST_DISKS])}{more}"


def last_failure(targets: Iterable[Target], runs: Iterable[DiskBackup]) -> str:
    """Return in words which of the targets' runs failed last, and why; empty if none did."""
    wanted = list(targets)
    failed = [
        each
        for each in runs
        if each.status.phase in ("Failed", "PartiallyFailed") and any(_is_of(each, target) for target in wanted)
    ]
    if not failed:
        return ""
    last = max(failed, key=lambda each: (each.metadata.creation_timestamp, each.name))
    ready = find(last.status.conditions, "Ready")
    why = f" ({ready.reason}: {ready.message[:_MOST_WORDS].rstrip('.')})" if ready else ""
    return f"; the last run that failed is DiskBackup {last.name!r}{why}"


DISKS_LEFT_OUT = "DisksLeftOut"
"""Reason of the condition Protected: what is backed up is backed up well, and something never is."""
_NOTHING_TO_LOSE = frozenset({"Ephemeral", NO_STATE_YET})
"""Reasons of disks that hold nothing which outlives a run of the machine, or nothing yet."""
_MOST_DISKS = 5
"""Disks that a policy names: the others are in the DiskBackups."""
_MOST_WORDS = 300
"""Characters of a run's message that a policy repeats: the rest is in the DiskBackup."""


def _is_of(backup: DiskBackup, target: Target) -> bool:
    """Return whether a backup holds this very target, not one that had its name before."""
    if backup.spec.virtual_machine != target.machine:
        return False
    seen = backup.status.target
    return seen is None or (seen.kind, seen.uid) == (target.kind, target.uid)


def _holds(backup: DiskBackup, target: Target) -> bool:
    """Return whether a backup has the target's disk, or all disks: the policy may have been about others before."""
    status = backup.status
    if target.claim_uid is None:
        return status.target is None or status.target.disk is None
    good = (disk.claim for disk in status.disks or () if disk.phase == "Completed")
    return any(claim is not None and claim.uid == target.claim_uid for claim in good)
