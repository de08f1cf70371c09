"""Restore: plan, is it there?, claim, fill, bind, attach. Each stage finds out itself whether it is done already."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from longboat.api import Restore
from longboat.api.common import Condition
from longboat.api.restore import RestoreStatus
from longboat.kube.kinds import RESTORE
from longboat.plan import kstatus
from longboat.plan.attach import WITH_LOSSES
from longboat.plan.backoff import look_again
from longboat.plan.conditions import find
from longboat.plan.problem import Problem
from longboat.plan.restore_job import SALVAGED
from longboat.plan.restore_source import Waiting
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.outcome import save
from longboat.reconcile.restore_attach import attach
from longboat.reconcile.restore_bind import bind
from longboat.reconcile.restore_claim import claim
from longboat.reconcile.restore_cleanup import left_empty, take_back
from longboat.reconcile.restore_fill import fill
from longboat.reconcile.restore_pin import pin
from longboat.reconcile.restore_stored import stored

AT_FIRST, SOON = timedelta(seconds=1), timedelta(seconds=3)
FIRST_RETRY, LAST_RETRY = timedelta(seconds=10), timedelta(minutes=10)
_STAGES = (pin, stored, claim, fill, bind, attach)


def reconcile(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Bring a Restore on its way; return when to look again, None if only a change of something matters."""
    restore = load(ctx.cluster, RESTORE, Restore, namespace, name)
    if restore is None or restore.metadata.deletion_timestamp or restore.status.phase == "Completed":
        return None
    if restore.status.phase == "Failed":
        # Killed between saying so and taking back: it is taken back now.
        take_back(ctx, restore.namespace, restore.uid)
        return None
    for stage in _STAGES:
        result = stage(ctx, restore)
        restore = result.restore
        if isinstance(result.stop, Problem):
            return _trouble(ctx, restore, result.stop)
        if result.stop:
            return _wait(ctx, restore, result.stop)
    _complete(ctx, restore)
    return None


def _wait(ctx: Context, restore: Restore, waiting: Waiting) -> timedelta:
    conditions = _conditions(ctx, restore, waiting)
    _save(ctx, restore, phase=restore.status.phase or "Pending", conditions=conditions)
    retry_at = restore.status.retry_at
    # A small disk is restored within seconds.
    soon = look_again(ctx.now() - restore.metadata.creation_timestamp, AT_FIRST, SOON)
    return max(soon, retry_at - ctx.now()) if retry_at else soon


def _trouble(ctx: Context, restore: Restore, problem: Problem) -> timedelta | None:
    now, generation = ctx.now(), restore.metadata.generation
    if problem.final:
        problem = replace(problem, message=problem.message + left_empty(ctx, restore))
    conditions = kstatus.stalled(restore.status.conditions, problem, now=now, generation=generation)
    if problem.final:
        restore = _save(ctx, restore, phase="Failed", completed_at=now, conditions=conditions)
        take_back(ctx, restore.namespace, restore.uid)
        return None
    _save(ctx, restore, phase=restore.status.phase or "Pending", conditions=conditions)
    # Looked at again ever less often: what is missing may come in a moment, or never.
    stalled = find(conditions, "Stalled")
    return look_again(now - stalled.last_transition_time if stalled else timedelta(), FIRST_RETRY, LAST_RETRY)


def _complete(ctx: Context, restore: Restore) -> None:
    status, attach = restore.status, restore.spec.attach
    what = f"{status.source} is in PersistentVolumeClaim {restore.spec.claim.name!r}"
    if attach:
        what += f", attached to VirtualMachine {attach.virtual_machine!r} as {attach.disk_name!r}"
    elif status.volume is None:
        what += ", whose volume is made for the first pod that uses it"
    if status.healed_bytes:
        what += f"; {status.healed_bytes} bytes are damaged in this backup and were taken from others"
    if status.lost_bytes:
        what += f"; {status.lost_bytes} bytes of it are lost, as the condition {SALVAGED} says"
    reason, generation = WITH_LOSSES if status.lost_bytes else "Restored", restore.metadata.generation
    conditions = kstatus.ready(status.conditions, reason, what, now=ctx.now(), generation=generation)
    _save(ctx, restore, phase="Completed", completed_at=ctx.now(), conditions=conditions)


def _conditions(ctx: Context, restore: Restore, waiting: Waiting) -> list[Condition]:
    now, generation = ctx.now(), restore.metadata.generation
    return kstatus.under_way(restore.status.conditions, waiting.reason, waiting.message, now=now, generation=generation)


def _save(ctx: Context, restore: Restore, **fields: object) -> Restore:
    status: RestoreStatus = restore.status.model_copy(update=fields)
    return save(ctx, restore, status)
