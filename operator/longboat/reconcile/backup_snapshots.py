"""Follows the snapshots of a backup until they are ready, and says what may be claimed of the moment."""

from __future__ import annotations

from datetime import timedelta

from longboat.api.disk_backup import Cut, DiskResult
from longboat.kube.kinds import VOLUME_SNAPSHOT
from longboat.plan.backup_snapshots import volume_replaced
from longboat.plan.cut import captured, verdict
from longboat.plan.hand_over import record_of
from longboat.plan.problem import Problem
from longboat.plan.snapshots import SnapshotState, not_ready, state_of
from longboat.reconcile.backup_cleanup import bound_content
from longboat.reconcile.backup_run import SOON, Run

CUT_PATIENCE = timedelta(minutes=10)
"""How long a snapshot may take to be cut: one taken much later is not of the moment that was meant."""
ERROR_PATIENCE = timedelta(minutes=30)


def step(run: Run) -> None:
    """Look at every snapshot that is not ready yet."""
    cut = run.status.cut
    if cut is None or cut.ended_at is None:
        return
    for disk in run.in_phase("Pending"):
        _follow(run, disk, cut)
    _conclude(run, cut)


def _follow(run: Run, disk: DiskResult, cut: Cut) -> None:
    found = run.ctx.cluster.get(VOLUME_SNAPSHOT, disk.volume_snapshot or "", run.backup.namespace)
    if found is None:
        run.fail(disk, _lost(disk))
        return
    content = bound_content(run.ctx.cluster, found)
    state = state_of(found, content)
    changes: dict[str, object] = {"cut_time": state.taken_at or disk.cut_time, "message": state.error}
    if content is not None and (problem := volume_replaced(disk, content)):
        run.fail(disk, problem)
        return
    if content is not None and state.ready and state.handle:
        changes |= {"phase": "Snapshotted", "message": None, "hand_over": record_of(content, state.size)}
        run.update(disk, **changes)
        return
    disk = run.update(disk, **changes)
    if problem := _too_late(run, disk, cut, state):
        run.fail(disk, problem)
    else:
        run.wait(SOON)


def _too_late(run: Run, disk: DiskResult, cut: Cut, state: SnapshotState) -> Problem | None:
    waited = run.ctx.now() - cut.started_at
    name = f"VolumeSnapshot {disk.volume_snapshot!r}"
    if state.error and waited >= ERROR_PATIENCE:
        return Problem("SnapshotFailed", f"{name}: status.error: {state.error}")
    if disk.cut_time is None and waited >= CUT_PATIENCE:
        why = f"status.error: {state.error}" if state.error else "it has no status.creationTime"
        return Problem("SnapshotNotCut", f"{name} was not cut within {_minutes(CUT_PATIENCE)}: {why}")
    patience = run.ctx.settings.snapshot_ready_within
    if waited >= patience:
        return not_ready(disk.volume_snapshot or "", patience)
    return None


def _conclude(run: Run, cut: Cut) -> None:
    """Write the verdict once every disk is captured or has failed."""
    disks = captured(run.disks)
    waiting = [disk for disk in run.in_phase("Pending") if disk.cut_time is None]
    if run.status.consistency or waiting or not disks:
        return
    if cut.cut_at is None:
        cut = cut.model_copy(update={"cut_at": run.ctx.now()})
    said = verdict(cut, disks, run.ctx.settings.unfreeze_timeout)
    run.write(
        cut=cut,
        consistency=said.consistency,
        consistency_reason=said.consistency_reason,
        same_moment=said.same_moment,
        same_moment_reason=said.same_moment_reason,
    )
    run.event("Normal", "Captured", f"{said.consistency} consistent: {said.consistency_reason}")


def _lost(disk: DiskResult) -> Problem:
    return Problem("SnapshotLost", f"VolumeSnapshot {disk.volume_snapshot!r} was deleted before it was handed over")


def _minutes(time: timedelta) -> str:
    return f"{int(time.total_seconds() // 60)} minutes"
