"""Takes the steps of a snapshot's hand-over to the operator's namespace; which one is next is for plan.hand_over."""

from __future__ import annotations

from datetime import datetime, timedelta

from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT
from longboat.kube.port import AlreadyExistsError, NotFoundError, Object, RefusedError
from longboat.plan.backup_snapshots import is_ours, labels_of, name_taken
from longboat.plan.hand_over import Seen, Step, copied_content, copied_snapshot, copy_name, next_step
from longboat.plan.problem import Problem
from longboat.reconcile.backup_cleanup import seen_of
from longboat.reconcile.backup_run import SOON, Run
from longboat.reconcile.snapshot_contents import delete_this, set_policy

PATIENCE = timedelta(hours=1)
"""How long the copy may take to be bound and ready."""
TOLD = timedelta(minutes=1)
"""A hand-over that has not come further after this says what it waits for."""
_MOST_STEPS = 12


def step(run: Run) -> None:
    """Hand over every snapshot that is ready, as far as it goes now."""
    for disk in run.in_phase("Snapshotted"):
        _hand_over(run, disk)


def _hand_over(run: Run, disk: DiskResult) -> None:
    for _ in range(_MOST_STEPS):
        seen = seen_of(run.ctx.cluster, run.ctx.settings.namespace, run.backup, disk)
        following = next_step(seen)
        if following == "Done":
            record = disk.hand_over
            done = record.model_copy(update={"done": True}) if record else None
            run.update(disk, phase="HandedOver", hand_over=done, message=None)
            return
        if following == "Wait":
            _wait(run, disk, seen)
            return
        if problem := _take(run, disk, seen, following):
            run.fail(disk, problem)
            return
    run.wait(SOON)


def _take(run: Run, disk: DiskResult, seen: Seen, step: Step) -> Problem | None:
    """Take one step; return what makes the hand-over impossible."""
    try:
        return _act(run, disk, seen, step)
    except NotFoundError:
        # It went between the look and the step: the next look says what that means.
        return None
    except RefusedError as error:
        message = (
            f"the hand-over of VolumeSnapshot {disk.volume_snapshot!r} to the operator's namespace was refused: "
            f"{error.answer}; see the operator's rights and the cluster's admission policies"
        )
        return Problem("HandOverRefused", message)


def _act(run: Run, disk: DiskResult, seen: Seen, step: Step) -> Problem | None:
    cluster, backup, system = run.ctx.cluster, run.backup, run.ctx.settings.namespace
    match step:
        case "Lost":
            return _lost(disk)
        case "CopyContent":
            return _create(run, copied_content(backup, disk, seen.content or {}, system))
        case "CopySnapshot":
            class_name = (seen.copy_content or {})["spec"].get("volumeSnapshotClassName")
            return _create(run, copied_snapshot(backup, disk, system, class_name))
        case "RetainOriginal":
            set_policy(cluster, seen.content or {}, "Retain", labels_of(backup))
        case "OwnCopy":
            set_policy(cluster, seen.copy_content or {}, "Delete")
        case "DeleteSnapshot":
            delete_this(cluster, VOLUME_SNAPSHOT, seen.snapshot)
        case "DeleteContent":
            delete_this(cluster, VOLUME_SNAPSHOT_CONTENT, seen.content)
    return None


def _create(run: Run, obj: Object) -> Problem | None:
    kind = VOLUME_SNAPSHOT if obj["kind"] == "VolumeSnapshot" else VOLUME_SNAPSHOT_CONTENT
    meta = obj["metadata"]
    try:
        run.ctx.cluster.create(obj)
    except AlreadyExistsError:
        found = run.ctx.cluster.get(kind, meta["name"], meta.get("namespace", ""))
        if found is not None and not is_ours(found, run.backup):
            return name_taken(kind.name, meta["name"])
    return None


def _wait(run: Run, disk: DiskResult, seen: Seen) -> None:
    ended = run.status.cut.ended_at if run.status.cut else None
    status = (seen.copy_snapshot or {}).get("status") or {}
    error = (status.get("error") or {}).get("message")
    begun = (seen.copy_snapshot or {}).get("metadata", {}).get("creationTimestamp")
    since = _moment(begun) or ended
    waited = run.ctx.now() - since if since else timedelta()
    why = f"status.error: {error}" if error else "it is not bound and ready"
    where = f"in the namespace {run.ctx.settings.namespace!r}"
    message = f"VolumeSnapshot {copy_name(run.backup, disk.name)!r} {where}: {why}; see the snapshot controller"
    if waited >= PATIENCE:
        run.fail(disk, Problem("HandOverFailed", message))
        return
    if error or waited >= TOLD:
        run.update(disk, message=f"waiting for the hand-over: {message}")
    run.wait(SOON)


def _lost(disk: DiskResult) -> Problem:
    record = disk.hand_over
    name = record.original_content if record else disk.volume_snapshot
    return Problem(
        "SnapshotLost", f"VolumeSnapshotContent {name!r} was deleted before its snapshot was handed over; run again"
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
