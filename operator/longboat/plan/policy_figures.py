"""What a policy's status says in figures: its targets' newest backups, what they occupy, and all runs there ever were.

Monitoring reads them from the policies alone: the backups may be thirty times as many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import DiskUsage, RunTotals, TargetState
from longboat.plan.policy import Target, captured_at, lost_runs, newest_success
from longboat.plan.retention import FINISHED
from longboat.plan.schedule import interval_at, late_at, next_slot, previous_slot

MOST_TARGETS = 500
"""Targets that a status tells of one by one."""
MOST_DISKS = 1000
"""Disks that a status tells of one by one: the smallest ones are added up under no name."""
SETTLED = timedelta(minutes=2)
"""A run's end is seen later than it says itself, by a few calls of the API server; never as late as this."""


def interval_seconds(policy: BackupPolicy, anchor: datetime, now: datetime) -> int:
    """Return the seconds between the two slots that now lies between. The schedule must be valid."""
    spec = policy.spec
    slot = previous_slot(spec.schedule, spec.time_zone, anchor, now)
    slot = slot or next_slot(spec.schedule, spec.time_zone, anchor, now)
    return int(interval_at(spec.schedule, spec.time_zone, anchor, slot).total_seconds())


def target_states(
    policy: BackupPolicy,
    anchor: datetime,
    targets: Sequence[Target],
    runs: Sequence[DiskBackup],
    before: Iterable[TargetState],
    now: datetime,
) -> list[TargetState]:
    """Return the newest good backup of each target, and when it is too old. The schedule must be valid.

    ``before`` is what was said last: the backups that it was said of may have expired, but not been lost.
    """
    known = {each.uid: each for each in before}
    found = []
    for target in sorted(targets, key=lambda each: (each.kind, each.name))[:MOST_TARGETS]:
        # A machine that was made again under its name has no backup of its own yet.
        uid = target.claim_uid or target.uid
        said = known.get(uid) or TargetState(kind=target.kind, name=target.name, uid=uid, since=now)
        success = newest_success(target, runs) or remembered(said.last_success_time, [target], runs)
        changes = {
            "name": target.name,
            "since": (said.since or now).replace(microsecond=0),
            "last_success_time": success.replace(microsecond=0) if success else None,
        }
        said = said.model_copy(update=changes)
        found.append(said.model_copy(update={"overdue_at": _late(policy, anchor, said)}))
    return found


def remembered(told: datetime | None, targets: Iterable[Target], runs: Sequence[DiskBackup]) -> datetime | None:
    """Return the success that was told last, unless a backup as new as that is still there, and its data is lost."""
    lost = [each for target in targets for each in lost_runs(target, runs)]
    if told is None or any(captured_at(each).replace(microsecond=0) >= told for each in lost):
        return None
    return told


def _late(policy: BackupPolicy, anchor: datetime, target: TargetState) -> datetime | None:
    spec, since = policy.spec, target.last_success_time or target.since
    if spec.suspend or since is None:
        return None
    if target.last_success_time is None:
        # Late is who was passed over by a slot that there was for it.
        since = max(since, policy.status.resumed_at or since)
    return late_at(spec.schedule, spec.time_zone, anchor, since).replace(microsecond=0)


def usage(runs: Iterable[DiskBackup]) -> list[DiskUsage]:
    """Return what the backups of each disk have added to each store, the disks in the order of their names."""
    sums: dict[tuple[str, str, str, str], list[int]] = {}
    for run in runs:
        store = run.status.store.name if run.status.store else ""
        for disk in run.status.disks or () if run.status.manifest else ():
            if disk.phase == "Completed":
                key = (store, run.status.virtual_machine or "", disk.name, disk.claim.name if disk.claim else "")
                its = sums.setdefault(key, [0, 0])
                its[0] += 1
                its[1] += disk.stored_bytes or 0
    return _listed(sums)


def _listed(sums: Mapping[tuple[str, str, str, str], Sequence[int]]) -> list[DiskUsage]:
    largest = sorted(sums, key=lambda key: (-sums[key][1], key))
    told = [_usage(*key, *sums[key]) for key in sorted(largest[:MOST_DISKS])]
    rest: dict[str, list[int]] = {}
    for key in largest[MOST_DISKS:]:
        its = rest.setdefault(key[0], [0, 0])
        its[0], its[1] = its[0] + sums[key][0], its[1] + sums[key][1]
    return told + [_usage(store, "", "", "", *its) for store, its in sorted(rest.items())]


def _usage(store: str, machine: str, disk: str, claim: str, backups: int, stored: int) -> DiskUsage:
    return DiskUsage(store=store, virtual_machine=machine, disk=disk, claim=claim, backups=backups, stored_bytes=stored)


def counted(totals: RunTotals | None, policy_uid: str, runs: Sequence[DiskBackup], now: datetime) -> RunTotals:
    """Return the totals with the runs that have ended since; each is counted once, and stays counted when it is gone.

    Runs are told apart by when they ended, so that no list of all of them is needed: ``counted`` names those that
    ended after ``counted_until``.
    """
    before = totals or RunTotals()
    ended = {run.name: run for run in runs if _counts(run, policy_uid) and _is_after(run, before.counted_until)}
    new = [run for name, run in ended.items() if name not in (before.counted or ())]
    if not new:
        return before
    until = max(now - SETTLED, before.counted_until or now - SETTLED).replace(microsecond=0)
    changes = {
        "completed": before.completed + _with_phase(new, "Completed"),
        "partially_failed": before.partially_failed + _with_phase(new, "PartiallyFailed"),
        "failed": before.failed + _with_phase(new, "Failed"),
        "stored_bytes": before.stored_bytes + sum(run.status.stored_bytes or 0 for run in new),
        "read_bytes": before.read_bytes + sum(run.status.read_bytes or 0 for run in new),
        "seconds": before.seconds + sum(map(_seconds, new)),
        "counted_until": until,
        "counted": sorted(name for name, run in ended.items() if _is_after(run, until)),
    }
    return before.model_copy(update=changes)


def _counts(run: DiskBackup, policy_uid: str) -> bool:
    status = run.status
    own = status.policy is None or status.policy.uid == policy_uid
    return own and status.phase in FINISHED and status.completed_at is not None and not status.adopted


def _is_after(run: DiskBackup, moment: datetime | None) -> bool:
    return moment is None or (run.status.completed_at is not None and run.status.completed_at > moment)


def _with_phase(runs: Sequence[DiskBackup], phase: str) -> int:
    return sum(run.status.phase == phase for run in runs)


def _seconds(run: DiskBackup) -> int:
    started, ended = run.status.started_at, run.status.completed_at
    return max(0, int((ended - started).total_seconds())) if started and ended else 0
