"""Deletion of a DiskBackup: a finalizer lets the operator see it and mark the data, which then stays in the trash."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from longboat.api import DiskBackup
from longboat.kube.kinds import CUSTOM_RESOURCE_DEFINITION, DISK_BACKUP, NAMESPACE
from longboat.kube.port import NotFoundError, Object
from longboat.plan import kstatus
from longboat.plan.conditions import find, with_condition
from longboat.plan.deletion import ABANDON_WAIT, CONFIRM, SETTLE, STORE_WAIT, Act, Facts, Verdict, decide, gave_up
from longboat.plan.names import FINALIZER
from longboat.plan.problem import Problem
from longboat.plan.recorded_rule import unconfirmed
from longboat.plan.retention import FINISHED, has_data
from longboat.reconcile import trash, trash_notes
from longboat.reconcile.context import Context
from longboat.reconcile.objects import readable, reference, save_status
from longboat.reconcile.repositories import StoreProblemError, told_in_namespace

log = logging.getLogger(__name__)

RETRY = timedelta(seconds=30)
ASK_AGAIN = timedelta(minutes=1)
COUNT_AGAIN = timedelta(seconds=30)
"""As long, "too many" is believed without counting: to hold a deletion for a little longer harms nobody."""

Abandon = Callable[[Context, DiskBackup], bool]
"""Stops a run and clears away what it made in the cluster; returns whether nothing of it is left."""


def guard(ctx: Context, backup: DiskBackup) -> DiskBackup:
    """Return the DiskBackup with the finalizer it needs, and without it once there is no data that it could keep."""
    wanted = backup.status.phase not in FINISHED or has_data(backup)
    if wanted and FINALIZER not in backup.metadata.finalizers:
        return _patch(ctx, backup, [*backup.metadata.finalizers, FINALIZER])
    if not wanted and FINALIZER in backup.metadata.finalizers:
        return _patch(ctx, backup, _others(backup))
    return backup


def delete(ctx: Context, backup: DiskBackup, abandon: Abandon) -> timedelta | None:
    """Take the next steps of a deletion that somebody asked for; return when to look again, None when it is done."""
    if FINALIZER not in backup.metadata.finalizers:
        return None
    tidy = backup.status.phase in FINISHED and backup.status.cleaned_up
    if not tidy and not abandon(ctx, backup) and _age(ctx, backup) < ABANDON_WAIT:
        return SETTLE
    verdict = _verdict(ctx, backup)
    if verdict.act is Act.WAIT:
        return SETTLE
    if verdict.act is Act.HOLD:
        return _hold(ctx, backup, verdict)
    if verdict.act is Act.BURY:
        return _bury(ctx, backup)
    if backup.status.store is None:
        # It may have been applied again to undo a deletion, while its store was away.
        trash_notes.note_unseen(ctx, backup)
    _release(ctx, backup, verdict)
    return None


def _verdict(ctx: Context, backup: DiskBackup) -> Verdict:
    facts = _facts(ctx, backup)
    verdict = decide(facts)
    if verdict.act is not Act.BURY or facts.answer is not None:
        return verdict
    # Only now does it matter how many there are; counting them reads all DiskBackups of the namespace.
    return decide(replace(facts, deletions=_deletions(ctx, backup.namespace)))


def _deletions(ctx: Context, namespace: str) -> int:
    """Return how many deletions there are within an hour; too many are not counted anew for each of them."""
    since, counted = ctx.many_deletions.get(namespace, (ctx.now(), 0))
    if counted > ctx.settings.deletion_limit and abs(ctx.now() - since) < COUNT_AGAIN:
        return counted
    counted = _pending(ctx, namespace) + trash_notes.recent_deletions(ctx, namespace)
    ctx.many_deletions[namespace] = (ctx.now(), counted)
    return counted


def _facts(ctx: Context, backup: DiskBackup) -> Facts:
    return Facts(
        has_data=backup.status.store is not None and (has_data(backup) or backup.status.phase not in FINISHED),
        tombstoned=backup.status.tombstoned_at is not None,
        namespace_going=_is_going(ctx.cluster.get(NAMESPACE, backup.namespace)),
        kind_going=_is_going(ctx.cluster.get(CUSTOM_RESOURCE_DEFINITION, f"{DISK_BACKUP.plural}.longboat.dev")),
        answer=backup.metadata.annotations.get(CONFIRM),
        age=_age(ctx, backup),
        deletions=0,
        limit=ctx.settings.deletion_limit,
        hold=_is_on_hold(backup),
    )


def _is_on_hold(backup: DiskBackup) -> bool:
    return backup.spec.hold or unconfirmed(backup).hold


def _age(ctx: Context, backup: DiskBackup) -> timedelta:
    """Return how long ago somebody asked for the deletion; a time stamp of the API server is cut to whole seconds."""
    return ctx.now() - (backup.metadata.deletion_timestamp or ctx.now())


def _pending(ctx: Context, namespace: str) -> int:
    """Return how many DiskBackups with data wait for the same decision."""
    going = (each for each in ctx.cluster.list(DISK_BACKUP, namespace) if _is_going(each))
    waiting = readable(DiskBackup, going)
    return sum(
        each.status.tombstoned_at is None
        and CONFIRM not in each.metadata.annotations
        and not _is_on_hold(each)
        and has_data(each)
        for each in waiting
    )


def _is_going(obj: Object | None) -> bool:
    return obj is not None and "deletionTimestamp" in obj["metadata"]


def _hold(ctx: Context, backup: DiskBackup, verdict: Verdict) -> timedelta:
    before = find(backup.status.conditions, "DeletionHeld")
    if before is None or before.status != "True" or before.reason != verdict.reason:
        conditions = with_condition(
            backup.status.conditions, "DeletionHeld", "True", verdict.reason, verdict.message, now=ctx.now()
        )
        backup = save_status(ctx.cluster, backup, backup.status.model_copy(update={"conditions": conditions}))
        ctx.cluster.event(reference(backup), "Warning", "DeletionHeld", verdict.message)
    if backup.status.tombstoned_at is not None:
        _unmark(ctx, backup)
    return ASK_AGAIN


def _unmark(ctx: Context, backup: DiskBackup) -> None:
    """Take off the mark of an expiry, or of this deletion, that the hold came too late for."""
    try:
        trash.dig_out(ctx, backup)
    except StoreProblemError as problem:
        log.warning("%s/%s: on hold, but still marked for removal: %s", backup.namespace, backup.name, problem.message)
        return
    save_status(ctx.cluster, backup, backup.status.model_copy(update={"tombstoned_at": None}))


def _bury(ctx: Context, backup: DiskBackup) -> timedelta | None:
    try:
        trash.bury(ctx, backup, by="deletion of the DiskBackup")
        if CONFIRM not in backup.metadata.annotations:
            trash_notes.note_deletion(ctx, backup)
    except StoreProblemError as problem:
        if _age(ctx, backup) < STORE_WAIT:
            _tell(ctx, backup, problem)
            return RETRY
        store = backup.status.store.name if backup.status.store else ""
        _release(ctx, backup, gave_up(f"{problem.reason}: {told_in_namespace(store, problem)}"))
    else:
        _release(ctx, backup, Verdict(Act.RELEASE))
    return None


def _tell(ctx: Context, backup: DiskBackup, problem: StoreProblemError) -> None:
    """Say at once what a deletion waits for, and for how long at most."""
    log.info("%s/%s: deletion waits for the store: %s", backup.namespace, backup.name, problem.message)
    stalled = find(backup.status.conditions, "Stalled")
    if stalled is not None and stalled.reason == problem.reason and stalled.message.startswith(_WAITS):
        return
    store = backup.status.store.name if backup.status.store else ""
    minutes = int(STORE_WAIT.total_seconds() // 60)
    message = f"{_WAITS} for {minutes} minutes at most, then the data stays: {told_in_namespace(store, problem)}"
    its, generation = Problem(problem.reason, message), backup.metadata.generation
    conditions = kstatus.stalled(backup.status.conditions, its, now=ctx.now(), generation=generation)
    save_status(ctx.cluster, backup, backup.status.model_copy(update={"conditions": conditions}))
    ctx.cluster.event(reference(backup), "Warning", problem.reason, message)


_WAITS = "its deletion waits for the store"


def _release(ctx: Context, backup: DiskBackup, verdict: Verdict) -> None:
    if verdict.reason:
        ctx.cluster.event(reference(backup), "Warning", verdict.reason, verdict.message)
    try:
        _patch(ctx, backup, _others(backup))
    except NotFoundError:
        # It went as soon as the finalizer did.
        return


def _others(backup: DiskBackup) -> list[str]:
    return [each for each in backup.metadata.finalizers if each != FINALIZER]


def _patch(ctx: Context, backup: DiskBackup, finalizers: list[str]) -> DiskBackup:
    """Replace the finalizers of the very object that was read; raises ConflictError if it has changed."""
    version = {"op": "test", "path": "/metadata/resourceVersion", "value": backup.metadata.resource_version}
    change = {"op": "add", "path": "/metadata/finalizers", "value": finalizers}
    patched = ctx.cluster.patch(DISK_BACKUP, backup.name, [version, change], backup.namespace)
    # Nothing but the metadata has changed; the rest may be what could be salvaged of an unreadable object.
    rest = {"spec": backup.spec.wire(), "status": backup.status.wire()}
    return DiskBackup.model_validate(patched | rest)
