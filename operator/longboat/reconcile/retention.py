"""Expiry: applies the retention of a policy to its DiskBackups, also when the policy is gone."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import Retention
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP, RESTORE
from longboat.plan.backup import expiry_rule
from longboat.plan.names import digest
from longboat.plan.problem import Problem
from longboat.plan.retention import FINISHED, Decision, decide, has_data, point_of, rule_of
from longboat.reconcile import clock, damaged_backups, edited_expiry, trash, trash_notes
from longboat.reconcile.backup_policy import policy_runs
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, reference, save_status
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.reconcile.trash_held import EXPIRED
from longboat.repository import RepositoryError, update_backup_expiry

log = logging.getLogger(__name__)

STORE_RETRY = timedelta(minutes=10)
EDITS_RETRY = timedelta(seconds=5)


@dataclass(frozen=True)
class Pass:
    """What one look at a policy's backups goes by: what expires because of edits, and what of that waits, by name."""

    policy: BackupPolicy | None
    gone_since: datetime | None
    edits: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()


def reconcile(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Expire what is due of the policy of this name, which need not exist; return when the next one is."""
    runs = [run for run in policy_runs(ctx.cluster, namespace, name) if run.metadata.deletion_timestamp is None]
    policy = load(ctx.cluster, BACKUP_POLICY, BackupPolicy, namespace, name)
    if not runs:
        # Nothing waits any more, whatever was asked.
        edited_expiry.hold(ctx, namespace, {}, policy)
        return None
    gone_since = None if policy else _gone_since(runs, ctx.now())
    retention = policy.spec.retention if policy else None
    rule = rule_of(retention, gone_since, ctx.settings.trash_period, ctx.now())
    used = _in_use(ctx, namespace)
    decisions = decide([point_of(run, run.name in used) for run in runs], rule, ctx.now())
    try:
        decisions, unclear = damaged_backups.spared(ctx, runs, decisions, rule), False
    except StoreProblemError as problem:
        log.warning("%s/%s: nothing expires before it is known what is damaged: %s", namespace, name, problem)
        decisions, unclear = [each for each in decisions if each.keep or not each.point.disks], True
    if untimely := _untimely(ctx, runs, decisions, gone_since):
        edited_expiry.hold_all(ctx, policy, untimely)
        if policy is not None:
            _apply_all(ctx, runs, [each for each in decisions if each.keep], Pass(policy, gone_since))
        return STORE_RETRY
    decisions, off = _timely(ctx, runs, decisions, gone_since)
    edits = edited_expiry.unconfirmed(ctx, runs, decisions, rule, policy)
    # Two policies that were edited at once must not each think of itself alone: what goes by edits goes one by one.
    going = ctx.expiring_edits.setdefault(namespace, threading.Lock())
    if edits and not going.acquire(blocking=False):
        # What time alone lets go does not wait for that.
        rest = [each for each in decisions if each.point.name not in edits]
        _apply_all(ctx, runs, rest, Pass(policy, gone_since))
        return EDITS_RETRY
    try:
        held = edited_expiry.hold(ctx, namespace, edits, policy, off)
        pass_ = Pass(policy, gone_since, frozenset(edits), frozenset(held))
        troubled = _apply_all(ctx, runs, decisions, pass_)
    finally:
        if edits:
            going.release()
    return STORE_RETRY if troubled or unclear or off else _next_look(ctx, decisions)


def _apply_all(ctx: Context, runs: Sequence[DiskBackup], decisions: Sequence[Decision], pass_: Pass) -> bool:
    """Do what was decided; return whether some of it has to be tried again."""
    by_name, troubled = {run.name: run for run in runs}, False
    for decision in decisions:
        run = by_name[decision.point.name]
        try:
            _apply(ctx, run, decision, pass_)
        except StoreProblemError as problem:
            # Other backups may lie in another store; what could not be done here is tried again.
            log.warning("%s/%s: retention waits for the store: %s", run.namespace, run.name, problem)
            troubled = True
    return troubled


def _untimely(
    ctx: Context, runs: Sequence[DiskBackup], decisions: Sequence[Decision], gone_since: datetime | None
) -> Problem | None:
    """Return why no backup expires now, nor a policy is noted to be gone: the clock here is not to be believed."""
    noted = {run.status.policy_gone_at for run in runs}
    if all(each.keep for each in decisions) and (gone_since is None or gone_since in noted):
        return None
    return clock.problem(ctx)


def _timely(
    ctx: Context, runs: Sequence[DiskBackup], decisions: Sequence[Decision], gone_since: datetime | None
) -> tuple[list[Decision], Problem | None]:
    """Return the decisions that the clocks of their backups' own stores do not speak against, and what the others do.

    Of a policy that is gone it is not even noted then, since when.
    """
    by_name, going = {run.name: run for run in runs}, {each.point.name for each in decisions if not each.keep}
    off = clock.problems_of_stores(ctx, (by_name[name] for name in going))
    told = "; ".join(each.message for each in off.values())

    def stands(decision: Decision) -> bool:
        store = by_name[decision.point.name].status.store
        return store is None or store.name not in off or (decision.keep and gone_since is None)

    return [each for each in decisions if stands(each)], Problem(clock.REASON, told) if off else None


def _gone_since(runs: Sequence[DiskBackup], now: datetime) -> datetime:
    noted = [run.status.policy_gone_at for run in runs if run.status.policy_gone_at]
    return min(noted, default=now.replace(microsecond=0))


def _in_use(ctx: Context, namespace: str) -> set[str]:
    """Return the names of the DiskBackups that a Restore reads or is about to read."""
    used = set()
    for restore in ctx.cluster.list(RESTORE, namespace):
        source, status = restore["spec"]["source"].get("diskBackup"), restore.get("status") or {}
        # What is on the new disk already may wait long for somebody who lets it be attached.
        if source and not status.get("filledAt") and status.get("phase") not in ("Completed", "Failed"):
            used.add(source["name"])
    return used


def _apply(ctx: Context, run: DiskBackup, decision: Decision, pass_: Pass) -> None:
    if run.name in pass_.held:
        edited_expiry.keep_waiting(ctx, run, pass_.policy)
        return
    if not decision.keep:
        if _expire(ctx, run, decision) and run.name in pass_.edits:
            trash_notes.note_deletion(ctx, run)
        return
    if run.status.tombstoned_at is not None:
        # It was about to go, and something (a hold, a longer rule) keeps it now.
        trash.dig_out(ctx, run)
    _describe(ctx, run, decision, pass_.policy, pass_.gone_since)


def _describe(
    ctx: Context, run: DiskBackup, decision: Decision, policy: BackupPolicy | None, gone_since: datetime | None
) -> None:
    """Tell on a finished DiskBackup how long it stays and why; running ones are written by their own reconciler."""
    if run.status.phase not in FINISHED or not decision.keep:
        return
    # The rule is carried along, so that it is known when the policy is gone.
    retention = policy.spec.retention if policy and run.status.retention else run.status.retention
    recorded = _record(ctx, run, retention)
    changes = {
        # Of a failed run nothing can expire; kept_because says how long the object stays.
        "expires_at": None if run.status.phase == "Failed" else decision.expires_at,
        "kept_because": decision.why(),
        "policy_gone_at": gone_since,
        "retention": retention,
        "tombstoned_at": None,
        "recorded_rule": recorded,
    }
    save_status(ctx.cluster, run, run.status.model_copy(update=changes))


def _record(ctx: Context, run: DiskBackup, retention: Retention | None) -> str | None:
    """Have the manifest carry the rule as it is now, so that it is known without the cluster; return its hash.

    Raises StoreProblemError. A backup without a manifest carries none.
    """
    if run.status.manifest is None or run.status.store is None:
        return None
    rule = expiry_rule(run, retention) if retention else None
    rule_hash = digest(json.dumps(rule, sort_keys=True))
    if rule_hash != run.status.recorded_rule:
        access = trash.own_repository(ctx, run)
        try:
            update_backup_expiry(access.repository, run.name, rule)
        except RepositoryError as error:
            raise problem_of(error) from error
    return rule_hash


def _next_look(ctx: Context, decisions: Sequence[Decision]) -> timedelta | None:
    coming = [each.expires_at for each in decisions if each.keep and each.expires_at and each.expires_at > ctx.now()]
    return min(coming) - ctx.now() if coming else None


def _expire(ctx: Context, run: DiskBackup, decision: Decision) -> bool:
    """Mark the data, then delete the object, after a second look at it; return whether that was done."""
    fresh = load(ctx.cluster, DISK_BACKUP, DiskBackup, run.namespace, run.name)
    if fresh is None or fresh.uid != run.uid or fresh.metadata.deletion_timestamp:
        return False
    if point_of(fresh) != decision.point:
        log.info("%s/%s has changed and is looked at again", run.namespace, run.name)
        return False
    if has_data(fresh) and fresh.status.store is not None:
        if fresh.status.tombstoned_at is None:
            trash.require_own(ctx, fresh)
            # Noted before it is done, so that it is undone should the backup be kept after all. It also tells the
            # deletion that follows that it is no user's.
            fresh = save_status(ctx.cluster, fresh, fresh.status.model_copy(update={"tombstoned_at": ctx.now()}))
        trash.bury(ctx, fresh, by=EXPIRED)
        looked_again = load(ctx.cluster, DISK_BACKUP, DiskBackup, run.namespace, run.name)
        if looked_again is None or point_of(looked_again) != decision.point:
            return False
    ctx.cluster.event(reference(fresh), "Normal", "Expired", "the retention of its policy keeps the backup no longer")
    ctx.cluster.delete(DISK_BACKUP, fresh.name, fresh.namespace, uid=fresh.uid)
    return True
