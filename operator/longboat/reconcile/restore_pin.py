"""First stage of a restore: find the source, look at everything that may speak against it, and write down the plan."""

from __future__ import annotations

from longboat.api import DiskBackup, DiskSnapshot, Restore
from longboat.api.common import Condition
from longboat.kube.kinds import (
    DISK_BACKUP,
    DISK_SNAPSHOT,
    PERSISTENT_VOLUME_CLAIM,
    STORAGE_CLASS,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.plan.attach import name_problem, serial_of
from longboat.plan.change_tracking import MISMATCH, SUSPECT_SOURCE
from longboat.plan.conditions import with_condition
from longboat.plan.disks import vm_not_found
from longboat.plan.problem import Problem
from longboat.plan.restore_source import Point, Waiting, not_attachable, point_in_backup, point_in_snapshot
from longboat.plan.restore_target import claim_ownership, size_of, storage_class_name, storage_class_problem
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, reference
from longboat.reconcile.restore_stage import Stage, updated
from longboat.reconcile.snapshot_support import machine


def pin(ctx: Context, restore: Restore) -> Stage:
    """Write the plan into the status; nothing is made before all of it is known to be possible."""
    if restore.status.started_at:
        return Stage(restore)
    point = _point(ctx, restore)
    if not isinstance(point, Point):
        return Stage(restore, point)
    if restore.spec.attach and (problem := not_attachable(point)):
        return Stage(restore, problem)
    name, size = storage_class_name(restore, point), size_of(restore, point)
    for each in (name, size):
        if isinstance(each, Problem):
            return Stage(restore, each)
    storage_class = str(name)
    if problem := _target_problem(ctx, restore, point, storage_class):
        return Stage(restore, problem)
    return Stage(_written(ctx, restore, point, storage_class, size))


def _written(ctx: Context, restore: Restore, point: Point, storage_class: str, size: int | Problem) -> Restore:
    return updated(
        ctx,
        restore,
        phase="Restoring",
        started_at=ctx.now(),
        source=point.title,
        source_claim=point.source_claim,
        volume_mode=point.volume_mode,
        storage_class_name=storage_class,
        size_bytes=size,
        data_bytes=point.data_bytes,
        store=point.store,
        repository=point.repository,
        repository_id=point.repository_id,
        manifest=point.manifest,
        object_id=point.object_id,
        content=point.content,
        volume_snapshot=point.volume_snapshot,
        serial=serial_of(restore) if restore.spec.attach else None,
        conditions=_warned(ctx, restore, point),
    )


def _warned(ctx: Context, restore: Restore, point: Point) -> list[Condition] | None:
    if point.suspected_by is None:
        return restore.status.conditions
    message = (
        f"{point.title} may hold blocks that are older than the rest: DiskBackup {point.suspected_by!r} found the CSI"
        " driver wrong on what has changed. Check the restored data, or restore from that DiskBackup or a later one"
    )
    ctx.cluster.event(reference(restore), "Warning", SUSPECT_SOURCE, message)
    now, generation = ctx.now(), restore.metadata.generation
    return with_condition(
        restore.status.conditions, SUSPECT_SOURCE, "True", MISMATCH, message, now=now, generation=generation
    )


def _point(ctx: Context, restore: Restore) -> Point | Waiting | Problem:
    source, namespace = restore.spec.source, restore.namespace
    if source.disk_backup:
        return point_in_backup(restore, load(ctx.cluster, DISK_BACKUP, DiskBackup, namespace, source.disk_backup.name))
    assert source.disk_snapshot is not None
    snapshot = load(ctx.cluster, DISK_SNAPSHOT, DiskSnapshot, namespace, source.disk_snapshot.name)
    name = snapshot.status.volume_snapshot if snapshot else None
    volume_snapshot = ctx.cluster.get(VOLUME_SNAPSHOT, name, namespace) if name else None
    bound = ((volume_snapshot or {}).get("status") or {}).get("boundVolumeSnapshotContentName")
    content = ctx.cluster.get(VOLUME_SNAPSHOT_CONTENT, bound) if bound else None
    return point_in_snapshot(restore, snapshot, volume_snapshot, content)


def _target_problem(ctx: Context, restore: Restore, point: Point, storage_class: str) -> Problem | None:
    claim = ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, restore.spec.claim.name, restore.namespace)
    if claim is not None and (problem := claim_ownership(restore, claim)):
        return problem
    found = ctx.cluster.get(STORAGE_CLASS, storage_class)
    return storage_class_problem(storage_class, found, point) or _attach_problem(ctx, restore)


def _attach_problem(ctx: Context, restore: Restore) -> Problem | None:
    attach = restore.spec.attach
    if attach is None:
        return None
    its = machine(ctx.cluster, restore.namespace, attach.virtual_machine)
    if its.vm is None:
        return vm_not_found("spec.attach.virtualMachine", attach.virtual_machine)
    return name_problem(restore, its.vm, its.vmi)
