"""DiskSnapshot: resolve the disk, make its VolumeSnapshot, report what it says, delete it when it expires."""

from __future__ import annotations

from datetime import timedelta

from longboat.api import DiskSnapshot
from longboat.api.disk_backup import ClaimIdentity
from longboat.api.disk_snapshot import DiskSnapshotStatus
from longboat.kube.kinds import DISK_SNAPSHOT, PERSISTENT_VOLUME_CLAIM, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT
from longboat.kube.port import AlreadyExistsError, Object, RefusedError
from longboat.plan import kstatus
from longboat.plan.automatic import CLAIM_UID
from longboat.plan.backoff import look_again
from longboat.plan.disks import claim_problem, resolve_disk
from longboat.plan.problem import Problem
from longboat.plan.quantities import size_text
from longboat.plan.snapshots import (
    ERROR_PATIENCE,
    SnapshotState,
    expiry,
    foreign,
    gave_up,
    not_ready,
    state_of,
    volume_snapshot,
    volume_snapshot_name,
)
from longboat.reconcile import clock
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, owner_reference
from longboat.reconcile.outcome import save
from longboat.reconcile.snapshot_support import machine, snapshot_class_of
from longboat.reconcile.snapshot_use import SnapshotUsers

SOON = timedelta(seconds=5)
LATER = timedelta(seconds=30)


def reconcile(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Bring a DiskSnapshot on its way; return when to look again, None if only a change of something matters."""
    snapshot = load(ctx.cluster, DISK_SNAPSHOT, DiskSnapshot, namespace, name)
    if snapshot is None or snapshot.metadata.deletion_timestamp:
        # The VolumeSnapshot goes with its owner.
        return None
    due = expiry(snapshot, snapshot.status.taken_at)
    if due and due <= ctx.now():
        if SnapshotUsers(ctx.cluster).of(snapshot):
            return look_again(ctx.now() - due, LATER)
        if clock.problem(ctx):
            return clock.AGAIN
        # What is deleted is the very object that was just read: another one of this name stays.
        ctx.cluster.delete(DISK_SNAPSHOT, name, namespace, uid=snapshot.uid)
        return None
    return _step(ctx, snapshot) or (due - ctx.now() if due else None)


def _step(ctx: Context, snapshot: DiskSnapshot) -> timedelta | None:
    found = ctx.cluster.get(VOLUME_SNAPSHOT, volume_snapshot_name(snapshot), snapshot.namespace)
    if found is not None:
        if problem := foreign(found, snapshot):
            return _fail(ctx, snapshot, problem)
        return _observe(ctx, snapshot, found)
    if snapshot.status.phase == "Ready":
        return _fail(ctx, snapshot, _lost(snapshot))
    if snapshot.status.phase == "Failed":
        return None
    return _take(ctx, snapshot)


def _take(ctx: Context, snapshot: DiskSnapshot) -> timedelta | None:
    claim = _find_claim(ctx, snapshot)
    if isinstance(claim, Problem):
        return _wait_or_fail(ctx, snapshot, claim)
    snapshot_class = snapshot_class_of(ctx.cluster, claim)
    if isinstance(snapshot_class, Problem):
        return _wait_or_fail(ctx, snapshot, snapshot_class)
    snapshot = save(ctx, snapshot, _with_claim(ctx, snapshot, claim))
    wanted = volume_snapshot(snapshot, claim["metadata"]["name"], snapshot_class, owner_reference(snapshot))
    try:
        ctx.cluster.create(wanted)
    except AlreadyExistsError:
        # The next look tells whether it is ours.
        return SOON
    except RefusedError as error:
        return _wait_or_fail(
            ctx, snapshot, Problem("SnapshotRefused", f"the VolumeSnapshot was refused: {error.answer}")
        )
    return SOON


def _find_claim(ctx: Context, snapshot: DiskSnapshot) -> Object | Problem:
    ref = snapshot.spec.disk
    its = machine(ctx.cluster, snapshot.namespace, ref.virtual_machine)
    disk = resolve_disk(ref, its.vm, its.vmi)
    if isinstance(disk, Problem):
        return disk
    name = disk.claim or ""
    claim = ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, name, snapshot.namespace) or {}
    return claim_problem(claim, name) or _replaced(snapshot, claim) or claim


def _replaced(snapshot: DiskSnapshot, claim: Object) -> Problem | None:
    """An automatic snapshot is of one claim; under the disk's name there may be another one by now."""
    meant = snapshot.metadata.labels.get(CLAIM_UID)
    if snapshot.spec.origin != "Automatic" or meant in (None, claim["metadata"]["uid"]):
        return None
    message = f"PersistentVolumeClaim {claim['metadata']['name']!r} is not the one this snapshot was planned for"
    return Problem("ClaimReplaced", message, final=True)


def _with_claim(ctx: Context, snapshot: DiskSnapshot, claim: Object) -> DiskSnapshotStatus:
    meta, spec, ref = claim["metadata"], claim["spec"], snapshot.spec.disk
    return snapshot.status.model_copy(
        update={
            "phase": "Pending",
            "target": f"{ref.virtual_machine}/{ref.name}" if ref.virtual_machine else meta["name"],
            "virtual_machine": ref.virtual_machine,
            "claim": ClaimIdentity(name=meta["name"], uid=meta["uid"]),
            "volume_mode": spec.get("volumeMode", "Filesystem"),
            "storage_class_name": spec.get("storageClassName"),
            "volume_snapshot": volume_snapshot_name(snapshot),
            "expires_at": expiry(snapshot, None),
            "conditions": kstatus.under_way(
                snapshot.status.conditions,
                "Snapshotting",
                f"waiting for VolumeSnapshot {volume_snapshot_name(snapshot)!r}",
                now=ctx.now(),
                generation=snapshot.metadata.generation,
            ),
        }
    )


def _observe(ctx: Context, snapshot: DiskSnapshot, found: Object) -> timedelta | None:
    bound = (found.get("status") or {}).get("boundVolumeSnapshotContentName")
    state = state_of(found, ctx.cluster.get(VOLUME_SNAPSHOT_CONTENT, bound) if bound else None)
    if state.ready:
        save(ctx, snapshot, _ready(ctx, snapshot, state))
        return None
    if snapshot.status.phase == "Ready" and found["metadata"].get("deletionTimestamp"):
        return _fail(ctx, snapshot, _lost(snapshot))
    if state.error:
        return _failing(ctx, snapshot, state.error)
    if snapshot.status.phase == "Ready":
        return LATER
    within = ctx.settings.snapshot_ready_within
    if ctx.now() - snapshot.metadata.creation_timestamp < within:
        return SOON
    return _fail(ctx, snapshot, not_ready(found["metadata"]["name"], within))


def _ready(ctx: Context, snapshot: DiskSnapshot, state: SnapshotState) -> DiskSnapshotStatus:
    conditions = kstatus.ready(
        snapshot.status.conditions,
        "SnapshotReady",
        "the snapshot can be restored; a disk captured without a freeze is as after a power cut",
        now=ctx.now(),
        generation=snapshot.metadata.generation,
    )
    return snapshot.status.model_copy(
        update={
            "phase": "Ready",
            "taken_at": state.taken_at and state.taken_at.replace(microsecond=0),
            "size_bytes": state.size,
            "size": size_text(state.size),
            "snapshot_handle": state.handle,
            "expires_at": expiry(snapshot, state.taken_at),
            "conditions": conditions,
        }
    )


def _failing(ctx: Context, snapshot: DiskSnapshot, error: str) -> timedelta | None:
    """The CSI driver's error is retried by the snapshot controller: it is told at once, and failure after a while."""
    problem = Problem("SnapshotFailed", f"the CSI driver could not take the snapshot: {error}")
    if ctx.now() - snapshot.metadata.creation_timestamp < ERROR_PATIENCE:
        return _stall(ctx, snapshot, problem)
    return _fail(ctx, snapshot, problem)


def _wait_or_fail(ctx: Context, snapshot: DiskSnapshot, problem: Problem) -> timedelta | None:
    give_up = gave_up(snapshot, problem, ctx.now())
    return _fail(ctx, snapshot, problem) if give_up else _stall(ctx, snapshot, problem)


def _stall(ctx: Context, snapshot: DiskSnapshot, problem: Problem) -> timedelta:
    _save_problem(ctx, snapshot, problem, "Pending")
    return look_again(ctx.now() - snapshot.metadata.creation_timestamp, LATER)


def _fail(ctx: Context, snapshot: DiskSnapshot, problem: Problem) -> timedelta | None:
    _save_problem(ctx, snapshot, problem, "Failed")
    return None


def _save_problem(ctx: Context, snapshot: DiskSnapshot, problem: Problem, phase: str) -> None:
    conditions = kstatus.stalled(
        snapshot.status.conditions, problem, now=ctx.now(), generation=snapshot.metadata.generation
    )
    update = {"phase": phase, "conditions": conditions, "expires_at": expiry(snapshot, snapshot.status.taken_at)}
    save(ctx, snapshot, snapshot.status.model_copy(update=update))


def _lost(snapshot: DiskSnapshot) -> Problem:
    return Problem(
        "SnapshotLost",
        f"VolumeSnapshot {snapshot.status.volume_snapshot!r} was deleted, and the data with it; "
        "delete this DiskSnapshot and take another",
    )
