"""BackupPolicy: creates a DiskBackup per target when a slot is due, and tells whether the targets are protected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import BackupPolicyStatus
from longboat.api.common import Condition, parse_duration
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP
from longboat.kube.port import AlreadyExistsError, Cluster, Object
from longboat.plan import change_tracking, kstatus
from longboat.plan.conditions import ConditionStatus, holds, with_condition
from longboat.plan.policy import (
    Protection,
    Target,
    backup_for,
    is_crowded,
    is_run_of,
    newest_success,
    protection,
    runs_of,
    target_text,
)
from longboat.plan.policy_figures import counted, interval_seconds, remembered, target_states, usage
from longboat.plan.problem import Problem
from longboat.plan.quantities import size_text
from longboat.plan.schedule import (
    ScheduleError,
    latest_due_slot,
    next_slot,
    previous_slot,
    schedule_text,
    validate,
)
from longboat.plan.stored_data import DATA_MISSING
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, readable, reference, salvage
from longboat.reconcile.outcome import save
from longboat.reconcile.policy_targets import targets_of
from longboat.reconcile.store_choice import store_for

RECHECK = timedelta(minutes=1)
"""How soon a policy that cannot run is looked at again: what it lacks may have been made."""


@dataclass(frozen=True)
class Observed:
    """The world of a policy, read once per reconcile."""

    policy: BackupPolicy
    anchor: datetime
    targets: Sequence[Target]
    runs: Sequence[DiskBackup]
    problem: Problem | None
    now: datetime


@dataclass
class Started:
    """What came of a slot: the newest run's name, and a name that somebody else's object holds."""

    taken: list[str] = field(default_factory=list)
    created: list[DiskBackup] = field(default_factory=list)


def reconcile(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Do what is due now, write the status, and return when the next slot or change of the status comes."""
    policy = load(ctx.cluster, BACKUP_POLICY, BackupPolicy, namespace, name)
    if policy is None or policy.metadata.deletion_timestamp:
        return None
    seen = _observe(ctx, policy)
    status = _with_clockwork(seen)
    started = Started()
    if seen.problem is None and not policy.spec.suspend:
        status, started = _run_due(ctx, seen, status)
    guard = _protection(seen)
    save(ctx, policy, _described(seen, status, started, guard))
    return _next_look(seen, guard)


def _observe(ctx: Context, policy: BackupPolicy) -> Observed:
    targets = targets_of(ctx.cluster, policy)
    problem = _schedule_problem(policy) or (targets if isinstance(targets, Problem) else None)
    store = store_for(ctx.cluster, policy.namespace, policy.spec.store_ref.name if policy.spec.store_ref else None)
    if problem is None and isinstance(store, Problem):
        problem = store
    return Observed(
        policy=policy,
        anchor=policy.status.anchor or policy.metadata.creation_timestamp,
        targets=[] if isinstance(targets, Problem) else targets,
        runs=policy_runs(ctx.cluster, policy.namespace, policy.name),
        problem=problem,
        now=ctx.now(),
    )


def policy_runs(cluster: Cluster, namespace: str, policy: str) -> list[DiskBackup]:
    """Return the DiskBackups of a policy, the oldest first."""
    found = cluster.list(DISK_BACKUP, namespace, fields=(f"spec.policyRef.name={policy}",))
    return runs_of(policy, readable(DiskBackup, found))


def _schedule_problem(policy: BackupPolicy) -> Problem | None:
    try:
        validate(policy.spec.schedule, policy.spec.time_zone)
    except ScheduleError as error:
        return Problem(error.reason, error.message)
    return None


def _with_clockwork(seen: Observed) -> BackupPolicyStatus:
    """Return the status with suspension, resumption and changes of the schedule noted: none of them runs the past."""
    spec, status = seen.policy.spec, seen.policy.status.model_copy()
    now = seen.now.replace(microsecond=0)
    if spec.suspend:
        status.suspended_at = status.suspended_at or now
    elif status.suspended_at is not None:
        status.suspended_at, status.resumed_at = None, now
    if not _unscheduled(seen):
        text = schedule_text(spec.schedule, spec.time_zone)
        if status.observed_schedule not in (None, text):
            status.resumed_at = now
        status.observed_schedule = text
    return status


def _unscheduled(seen: Observed) -> bool:
    return seen.problem is not None and seen.problem.reason in ("TimeZoneUnknown", "CronInvalid")


def _run_due(ctx: Context, seen: Observed, status: BackupPolicyStatus) -> tuple[BackupPolicyStatus, Started]:
    spec, started = seen.policy.spec, Started()
    slot = latest_due_slot(
        spec.schedule,
        spec.time_zone,
        seen.anchor,
        now=seen.now,
        last_slot=status.last_slot,
        starting_deadline=parse_duration(spec.starting_deadline),
        resumed_at=status.resumed_at,
    )
    if slot is None:
        return _with_missed_slot(ctx, seen, status), started
    for target in seen.targets:
        _start(ctx, seen, target, slot, started)
    # Written after the runs exist: an operator that is killed in between finds them by their names.
    return status.model_copy(update={"last_slot": slot}), started


def _start(ctx: Context, seen: Observed, target: Target, slot: datetime, started: Started) -> None:
    wanted = backup_for(seen.policy, target, slot)
    name = wanted["metadata"]["name"]
    if all(run.name != name for run in seen.runs) and is_crowded(target, seen.runs, slot):
        message = f"{slot:%Y-%m-%dT%H:%MZ}: a backup of {target.name} is under way and another one is waiting"
        ctx.cluster.event(reference(seen.policy), "Warning", "SlotSkipped", message)
        return
    try:
        found = ctx.cluster.create(wanted)
    except AlreadyExistsError:
        found = ctx.cluster.get(DISK_BACKUP, name, seen.policy.namespace) or wanted
    _note(ctx, seen, target, slot, found, started)


def _note(ctx: Context, seen: Observed, target: Target, slot: datetime, found: Object, started: Started) -> None:
    backup = salvage(DiskBackup, found).resource
    if backup is not None and is_run_of(backup, seen.policy, target, slot):
        started.created.append(backup)
        return
    name = found["metadata"]["name"]
    started.taken.append(name)
    message = f"DiskBackup {name!r} exists and is not this policy's run of {slot:%Y-%m-%dT%H:%MZ}; delete it"
    ctx.cluster.event(reference(seen.policy), "Warning", "NameTaken", message)


def _with_missed_slot(ctx: Context, seen: Observed, status: BackupPolicyStatus) -> BackupPolicyStatus:
    """Return the status with a slot that can no longer run noted, so that it is told of once."""
    spec = seen.policy.spec
    slot = previous_slot(spec.schedule, spec.time_zone, seen.anchor, seen.now)
    dealt_with = [moment for moment in (status.last_slot, status.resumed_at) if moment is not None]
    if slot is None or any(slot <= moment for moment in dealt_with):
        return status
    message = f"{slot:%Y-%m-%dT%H:%MZ} was missed by more than spec.startingDeadline ({spec.starting_deadline})"
    ctx.cluster.event(reference(seen.policy), "Warning", "SlotMissed", message)
    return status.model_copy(update={"last_slot": slot})


def _protection(seen: Observed) -> Protection:
    if seen.problem is not None:
        return Protection("No", False, seen.problem.reason, seen.problem.message)
    return protection(seen.policy, seen.anchor, seen.targets, seen.runs, seen.now)


def _described(seen: Observed, status: BackupPolicyStatus, started: Started, guard: Protection) -> BackupPolicyStatus:
    spec = seen.policy.spec
    known = {run.name: run for run in [*seen.runs, *started.created]}
    runs = runs_of(seen.policy.name, known.values())
    successes = [moment for target in seen.targets if (moment := newest_success(target, runs))]
    success = min(successes, default=None)
    stored = sum(run.status.stored_bytes or 0 for run in runs)
    target = target_text(spec.target)
    # Backups may be gone by now; but those of what the target was before an edit say nothing of this one.
    known_success = remembered(status.last_success_time, seen.targets, runs) if status.target == target else None
    changes = {
        "target": target,
        "schedule": schedule_text(spec.schedule, spec.time_zone),
        "anchor": seen.anchor,
        "next_slot": _next_slot(seen),
        "last_success_time": success.replace(microsecond=0) if success else known_success,
        "last_backup": runs[-1].name if runs else None,
        "backups": len(runs),
        "stored_bytes": stored,
        "stored": size_text(stored),
        "protected": guard.short,
        **_figures(seen, status, runs),
        "conditions": _conditions(seen, status, started, guard),
    }
    return status.model_copy(update=changes)


def _figures(seen: Observed, status: BackupPolicyStatus, runs: Sequence[DiskBackup]) -> dict[str, object]:
    """Return what monitoring reads. Of a schedule that can't be evaluated nothing is late."""
    policy, anchor, states, interval = seen.policy, seen.anchor, None, None
    if not _unscheduled(seen):
        states = target_states(policy, anchor, seen.targets, runs, status.targets or (), seen.now)
        interval = interval_seconds(policy, anchor, seen.now)
    return {
        "expected_interval_seconds": interval,
        "targets": states,
        "usage": usage(runs),
        "totals": counted(status.totals, policy.uid, runs, seen.now),
        "data_missing": sum(holds(run.status.conditions, DATA_MISSING) for run in runs),
        "suspect_backups": len(change_tracking.suspected_runs(runs)),
        "change_tracking_mismatches": len(change_tracking.mismatches(runs)),
    }


def _conditions(seen: Observed, status: BackupPolicyStatus, started: Started, guard: Protection) -> list[Condition]:
    now, generation = seen.now, seen.policy.metadata.generation
    problem = seen.problem
    if started.taken:
        message = f"DiskBackups of another origin hold the names of this slot's runs: {', '.join(started.taken)}"
        problem = Problem("NameTaken", f"{message}; delete them")
    held: ConditionStatus = "True" if guard.holds else "False"
    conditions = with_condition(
        status.conditions, "Protected", held, guard.reason, guard.message, now=now, generation=generation
    )
    conditions = change_tracking.of_policy(conditions, seen.runs, now=now, generation=generation)
    if problem is not None:
        return kstatus.stalled(conditions, problem, now=now, generation=generation)
    if seen.policy.spec.suspend:
        message = "spec.suspend is true: no backups are scheduled; ad-hoc ones still run"
        return kstatus.ready(conditions, "Suspended", message, now=now, generation=generation)
    return kstatus.ready(conditions, "Scheduled", "backups are made by the schedule", now=now, generation=generation)


def _next_slot(seen: Observed) -> datetime | None:
    spec = seen.policy.spec
    if seen.problem is not None or spec.suspend:
        return None
    return next_slot(spec.schedule, spec.time_zone, seen.anchor, seen.now)


def _next_look(seen: Observed, guard: Protection) -> timedelta | None:
    if seen.problem is not None:
        return RECHECK
    moments = [moment for moment in (_next_slot(seen), guard.changes_at) if moment is not None]
    return max(min(moments) - seen.now, timedelta(0)) if moments else None
