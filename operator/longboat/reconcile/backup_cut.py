"""The cut: freeze the guest, ask for a snapshot of every disk, thaw as soon as all are cut, write down the evidence.

The status tells of the cut before the guest is frozen, so that an operator that was killed in the middle finds it,
thaws first, and does it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from longboat.api import DiskBackup
from longboat.api.disk_backup import Cut, DiskBackupStatus, DiskResult
from longboat.kube.kinds import DISK_BACKUP, PERSISTENT_VOLUME_CLAIM, VIRTUAL_MACHINE_INSTANCE, VOLUME_SNAPSHOT
from longboat.kube.port import AlreadyExistsError, ConflictError, KubeError, NotFoundError, Object, RefusedError
from longboat.plan.backup_snapshots import claim_replaced, is_ours, name_taken, snapshot_name, volume_snapshot
from longboat.plan.cut import (
    MAX_ATTEMPTS,
    freeze_plan,
    holding_up,
    interrupted,
    is_open,
    needs_thaw,
    not_running,
)
from longboat.plan.disks import other_user
from longboat.plan.problem import Problem
from longboat.reconcile.backup_cleanup import discard_originals
from longboat.reconcile.backup_run import SOON, Run, replaced
from longboat.reconcile.context import Context
from longboat.reconcile.objects import owner_reference, salvage

POLL = 0.5
MAX_WINDOW = timedelta(seconds=20)
MARGIN = timedelta(seconds=5)
"""The guest is thawed by us this long before it would thaw by itself."""
THAWS = 3


def step(run: Run) -> bool:
    """Bring the cut about; return whether it is over."""
    thaw_if_needed(run)
    cut = run.status.cut
    if cut is not None and not interrupted(cut):
        return True
    if needs_thaw(cut, run.ctx.now()):
        # Freezing a frozen guest does not start its own timer anew: the evidence would be worth nothing.
        return False
    if cut is not None and not _throw_away(run, cut):
        return True
    if not run.in_phase("Pending"):
        return True
    return _claim(run) and _take(run)


def thaw_if_needed(run: Run) -> None:
    """Thaw a guest that a cut of this backup may have left frozen: the first thing to do, whatever else is wrong."""
    cut = run.status.cut
    if cut is None or not needs_thaw(cut, run.ctx.now()):
        return
    error = _thaw(run)
    if cut.ended_at is None:
        # The attempt is thrown away. That it is thawed is written down: a second thaw might end another cut's freeze.
        run.write(cut=cut.model_copy(update=_thawed(run, error)))
    elif error is None:
        run.write(cut=cut.model_copy(update={"thawed_at": run.ctx.now()}))
    if needs_thaw(run.status.cut, run.ctx.now()):
        run.wait(SOON)


def _throw_away(run: Run, cut: Cut) -> bool:
    """Remove what an interrupted attempt made; return whether there may be another one."""
    discard_originals(run.ctx, run.backup)
    if cut.attempt < MAX_ATTEMPTS:
        return True
    message = f"{cut.attempt} attempts to capture the disks were interrupted; see why the operator restarts"
    for disk in run.in_phase("Pending"):
        run.fail(disk, Problem("CutInterrupted", message))
    run.write(cut=cut.model_copy(update={"ended_at": run.ctx.now()}))
    return False


def _claim(run: Run) -> bool:
    """Announce the cut; return False if another one of this virtual machine is open.

    Whoever sees another one's announcement steps back, also when both do: it is seen by at least the later of two.
    """
    if _held_up(run):
        return False
    before = run.status.cut_attempts or 0
    run.write(cut=Cut(attempt=before + 1, started_at=run.ctx.now()), cut_attempts=before + 1, phase="Snapshotting")
    if _held_up(run):
        run.write(cut=None, cut_attempts=before)
        return False
    return True


def _held_up(run: Run) -> bool:
    machine = run.status.virtual_machine
    other = holding_up(_others(run, machine), machine, run.ctx.now()) if machine else None
    if other is None:
        return False
    # Two that stepped back from each other must not come back at the same time.
    run.wait(SOON + timedelta(seconds=int(run.backup.uid.encode().hex()[-2:], 16) % 5))
    return True


def _others(run: Run, machine: str) -> Iterator[tuple[str, DiskBackupStatus]]:
    of_machine = (f"status.virtualMachine={machine}",)
    for found in run.ctx.cluster.list(DISK_BACKUP, run.backup.namespace, fields=of_machine):
        if found["metadata"]["uid"] != run.backup.uid and (found.get("status") or {}).get("cut"):
            # Also one that can be read in part only may hold the guest frozen.
            backup = salvage(DiskBackup, found).resource
            if backup is not None and is_open(backup.status.cut, run.ctx.now()):
                yield backup.name, backup.status


def _take(run: Run) -> bool:
    vmi = _instance(run.ctx, run.backup)
    cut = run.status.cut
    assert cut is not None
    plan = freeze_plan(run.status.virtual_machine, vmi, cut.attempt)
    cut = cut.model_copy(update={"shared_with": _other_user(run)})
    if plan != "Freeze":
        _record(run, cut.model_copy(update={"freeze": plan}), _capture(run, cut))
        return True
    run.write(cut=cut.model_copy(update={"freeze": "Requested"}))
    captured: list[DiskResult] = []
    try:
        cut = _freeze(run, run.status.cut or cut)
        captured = _capture(run, cut)
        if all(disk.cut_time for disk in captured if disk.phase == "Pending"):
            cut = cut.model_copy(update={"cut_at": run.ctx.now()})
    finally:
        error = _thaw(run)
    _record(run, cut.model_copy(update=_thawed(run, error)), captured)
    return True


def _freeze(run: Run, cut: Cut) -> Cut:
    timeout = f"{int(run.ctx.settings.unfreeze_timeout.total_seconds())}s"
    try:
        run.ctx.virtual_machines.freeze(run.status.virtual_machine or "", run.backup.namespace, timeout)
    except KubeError as error:
        # It may still happen: whatever the answer was, the guest is thawed afterwards.
        return cut.model_copy(update={"freeze": "Refused", "freeze_error": str(error)[:1000]})
    return cut.model_copy(update={"freeze": "Frozen", "frozen_at": run.ctx.now()})


def _thaw(run: Run) -> str | None:
    """Thaw the guest; return what went wrong."""
    problem = ""
    for attempt in range(THAWS):
        try:
            run.ctx.virtual_machines.unfreeze(run.status.virtual_machine or "", run.backup.namespace)
            return None
        except (NotFoundError, ConflictError) as error:
            return f"{_STOPPED}: {error}"
        except KubeError as error:
            problem = str(error)[:1000]
        if attempt < THAWS - 1:
            run.ctx.sleep(1)
    run.event("Warning", "ThawFailed", f"VirtualMachine {run.status.virtual_machine!r}: {problem}")
    return problem


_STOPPED = "the virtual machine is not running any more"


def _thawed(run: Run, error: str | None) -> dict[str, object]:
    if error is None:
        return {"thawed_at": run.ctx.now()}
    # What does not run is not frozen; anything else is thawed again by the next look.
    return {"thaw_error": error} | ({"thawed_at": run.ctx.now()} if error.startswith(_STOPPED) else {})


def _capture(run: Run, cut: Cut) -> list[DiskResult]:
    """Ask for all snapshots and wait, for a bounded time, until each is cut; return the disks as they are then."""
    disks = [_ask(run, disk, cut.attempt) for disk in run.in_phase("Pending")]
    window = min(MAX_WINDOW, run.ctx.settings.unfreeze_timeout - MARGIN)
    until = run.ctx.now() + window
    for _ in range(max(1, int(window.total_seconds() / POLL))):
        disks = [_look(run, disk) for disk in disks]
        waiting = [disk for disk in disks if disk.phase == "Pending" and disk.cut_time is None]
        # A failing snapshot is tried again by its controller, but not at the cost of a frozen guest.
        if run.ctx.now() >= until or all(disk.message for disk in waiting):
            break
        run.ctx.sleep(POLL)
    return disks


def _ask(run: Run, disk: DiskResult, attempt: int) -> DiskResult:
    name = snapshot_name(run.backup, disk.name, attempt)
    if problem := claim_replaced(disk, _claim_of(run, disk)):
        return _failed(disk, problem)
    try:
        run.ctx.cluster.create(volume_snapshot(run.backup, disk, attempt, owner_reference(run.backup)))
    except AlreadyExistsError:
        found = run.ctx.cluster.get(VOLUME_SNAPSHOT, name, run.backup.namespace)
        if found is None or not is_ours(found, run.backup):
            return _failed(disk, name_taken("VolumeSnapshot", name))
    except RefusedError as error:
        return _failed(disk, Problem("SnapshotRefused", f"VolumeSnapshot {name!r} was refused: {error.answer}"))
    return disk.model_copy(update={"volume_snapshot": name})


def _claim_of(run: Run, disk: DiskResult) -> Object | None:
    # A VolumeSnapshot names its claim, not the claim's UID: under the name there may be another disk by now.
    name = disk.claim.name if disk.claim else ""
    return run.ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, name, run.backup.namespace)


def _look(run: Run, disk: DiskResult) -> DiskResult:
    if disk.phase != "Pending" or disk.cut_time is not None:
        return disk
    found = run.ctx.cluster.get(VOLUME_SNAPSHOT, disk.volume_snapshot or "", run.backup.namespace) or {}
    status = found.get("status") or {}
    cut_time = status.get("creationTime")
    error = (status.get("error") or {}).get("message")
    moment = datetime.fromisoformat(cut_time) if cut_time else None
    return disk.model_copy(update={"cut_time": moment, "message": None if moment else error})


def _failed(disk: DiskResult, problem: Problem) -> DiskResult:
    return disk.model_copy(update={"phase": "Failed", "reason": problem.reason, "message": problem.message})


def _record(run: Run, cut: Cut, disks: list[DiskResult]) -> None:
    now = run.ctx.now()
    changes: dict[str, object] = {"ended_at": now, "shared_with": cut.shared_with or _other_user(run)}
    if cut.freeze == "NotRunning" and not not_running(_instance(run.ctx, run.backup)):
        changes["freeze_error"] = "but it was started during the cut"
    if cut.cut_at is None and all(disk.cut_time for disk in disks if disk.phase == "Pending"):
        changes["cut_at"] = now
    run.write(cut=cut.model_copy(update=changes), disks=replaced(run.disks, disks))


def _other_user(run: Run) -> str | None:
    claims = [disk.claim.name for disk in run.in_phase("Pending") if disk.claim]
    vmis = run.ctx.cluster.list(VIRTUAL_MACHINE_INSTANCE, run.backup.namespace)
    return other_user(vmis, claims, run.status.virtual_machine)


def _instance(ctx: Context, backup: DiskBackup) -> Object | None:
    name = backup.status.virtual_machine
    return ctx.cluster.get(VIRTUAL_MACHINE_INSTANCE, name, backup.namespace) if name else None
