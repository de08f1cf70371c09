"""Expiry: applies the retention of a policy to its DiskBackups, also when the policy is gone."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import Retention
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP, RESTORE
from longboat.plan.backup import expiry_rule
from longboat.plan.names import digest
from longboat.plan.retention import FINISHED, Decision, decide, has_data, point_of, rule_of
from longboat.reconcile import trash
from longboat.reconcile.backup_policy import policy_runs
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, reference, save_status
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.repository import RepositoryError, update_backup_expiry

log = logging.getLogger(__name__)

STORE_RETRY = timedelta(minutes=10)


def reconcile(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Expire what is due of the policy of this name, which need not exist; return when the next one is."""
    runs = [run for run in policy_runs(ctx.cluster, namespace, name) if run.metadata.deletion_timestamp is None]
    if not runs:
        return None
    policy = load(ctx.cluster, BACKUP_POLICY, BackupPolicy, namespace, name)
    gone_since = None if policy else _gone_since(runs, ctx.now())
    retention = policy.spec.retention if policy else None
    rule = rule_of(retention, gone_since, ctx.settings.trash_period, ctx.now())
    used = _in_use(ctx, namespace)
    decisions = decide([point_of(run, run.name in used) for run in runs], rule, ctx.now())
    by_name = {run.name: run for run in runs}
    troubled = False
    for decision in decisions:
        run = by_name[decision.point.name]
        try:
            _apply(ctx, run, decision, policy, gone_since)
        except StoreProblemError as problem:
            # Other backups may lie in another store; what could not be done here is tried again.
            log.warning("%s/%s: retention waits for the store: %s", namespace, run.name, problem)
            troubled = True
    return STORE_RETRY if troubled else _next_look(ctx, decisions)


def _gone_since(runs: Sequence[DiskBackup], now: datetime) -> datetime:
    noted = [run.status.policy_gone_at for run in runs if run.status.policy_gone_at]
    return min(noted, default=now.replace(microsecond=0))


def _in_use(ctx: Context, namespace: str) -> set[str]:
    """Return the names of the DiskBackups that a Restore reads or is about to read."""
    used = set()
    for restore in ctx.cluster.list(RESTORE, namespace):
        source = restore["spec"]["source"].get("diskBackup")
        if source and (restore.get("status") or {}).get("phase") not in ("Completed", "Failed"):
            used.add(source["name"])
    return used


def _apply(
    ctx: Context, run: DiskBackup, decision: Decision, policy: BackupPolicy | None, gone_since: datetime | None
) -> None:
    if not decision.keep:
        _expire(ctx, run, decision)
        return
    if run.status.tombstoned_at is not None:
        # It was about to go, and something (a hold, a longer rule) keeps it now.
        trash.dig_out(ctx, run)
    _describe(ctx, run, decision, policy, gone_since)


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


def _expire(ctx: Context, run: DiskBackup, decision: Decision) -> None:
    """Mark the data, then delete the object, after a second look at it."""
    fresh = load(ctx.cluster, DISK_BACKUP, DiskBackup, run.namespace, run.name)
    if fresh is None or fresh.uid != run.uid or fresh.metadata.deletion_timestamp:
        return
    if point_of(fresh) != decision.point:
        log.info("%s/%s has changed and is looked at again", run.namespace, run.name)
        return
    if has_data(fresh) and fresh.status.store is not None:
        if fresh.status.tombstoned_at is None:
            trash.own_repository(ctx, fresh)
            # Noted before it is done, so that it is undone should the backup be kept after all. It also tells the
            # deletion that follows that it is no user's.
            fresh = save_status(ctx.cluster, fresh, fresh.status.model_copy(update={"tombstoned_at": ctx.now()}))
        trash.bury(ctx, fresh, by="retention")
        looked_again = load(ctx.cluster, DISK_BACKUP, DiskBackup, run.namespace, run.name)
        if looked_again is None or point_of(looked_again) != decision.point:
            return
    ctx.cluster.event(reference(fresh), "Normal", "Expired", "the retention of its policy keeps the backup no longer")
    ctx.cluster.delete(DISK_BACKUP, fresh.name, fresh.namespace, uid=fresh.uid)
