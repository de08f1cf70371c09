"""Fourth stage of a restore: the volume with the data becomes that of the user's claim."""

from __future__ import annotations

from longboat.api import Restore
from longboat.kube.kinds import PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS, VOLUME_SNAPSHOT
from longboat.kube.port import Object
from longboat.plan.new_volume import is_bound
from longboat.plan.problem import Problem
from longboat.plan.rebind import Step, next_step
from longboat.plan.restore_source import Waiting
from longboat.plan.restore_target import binds_late, is_staging, staging_name
from longboat.reconcile import mover as movers
from longboat.reconcile.context import Context
from longboat.reconcile.new_volume import proven_new_of_class
from longboat.reconcile.restore_claim import find_claim
from longboat.reconcile.restore_stage import Stage, updated

_STEPS = 5
_POD_REMEDY = "if its node is lost for good, delete the Node, or the pod when the node is surely off"


def bind(ctx: Context, restore: Restore) -> Stage:
    """Go on until the user's claim is bound to the volume with the data, and nothing but it is left."""
    if restore.status.volume_snapshot:
        return _from_snapshot(ctx, restore)
    if restore.status.phase in ("Attaching", "Completed"):
        return Stage(restore)
    if pod := movers.running_pod(ctx.cluster, ctx.settings.namespace, restore.uid):
        # It would write into the volume under the machine that has got it by then.
        return Stage(restore, Waiting("Binding", f"pod {pod!r} of an earlier mover has not ended: {_POD_REMEDY}"))
    for _ in range(_STEPS):
        step = _next(ctx, restore)
        if isinstance(step, Problem):
            return Stage(restore, step)
        if step.verb == "Done":
            _tell_losses(ctx, restore)
            return Stage(updated(ctx, restore, phase="Attaching"))
        if step.verb == "Wait":
            break
        _take(ctx, restore, step)
    return Stage(restore, Waiting("Binding", f"the volume {restore.status.volume!r} is changing hands"))


def staging_of(ctx: Context, restore: Restore) -> Object | None:
    """Return the claim in the operator's namespace through which the volume is filled, if it is there and ours."""
    found = ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, staging_name(restore), ctx.settings.namespace)
    return found if found is not None and is_staging(restore, found) else None


def _next(ctx: Context, restore: Restore) -> Step | Problem:
    claim = find_claim(ctx, restore)
    if claim is None or claim["metadata"]["uid"] != restore.status.claim_uid:
        return Problem("ClaimDeleted", "the new claim was deleted; create another Restore", final=True)
    volume = ctx.cluster.get(PERSISTENT_VOLUME, restore.status.volume or "")
    return next_step(restore, volume, staging_of(ctx, restore), claim)


def _tell_losses(ctx: Context, restore: Restore) -> None:
    """Say it on the claim as well: that is what is left when the Restore is deleted."""
    claim, lost = find_claim(ctx, restore), restore.status.lost_bytes
    if claim is not None and lost:
        message = f"{lost} bytes of {restore.status.source} are not on this disk; Restore {restore.name!r} says which"
        ctx.cluster.event(claim, "Warning", "DataLost", message)


def _take(ctx: Context, restore: Restore, step: Step) -> None:
    if step.verb == "Patch":
        ctx.cluster.patch(PERSISTENT_VOLUME, restore.status.volume or "", step.operations)
        return
    staging = staging_of(ctx, restore)
    if staging:
        meta = staging["metadata"]
        ctx.cluster.delete(PERSISTENT_VOLUME_CLAIM, meta["name"], meta["namespace"], uid=meta["uid"])


def _from_snapshot(ctx: Context, restore: Restore) -> Stage:
    if restore.status.phase in ("Attaching", "Completed"):
        return Stage(restore)
    claim = find_claim(ctx, restore) or {"spec": {}}
    if is_bound(claim):
        if problem := proven_new_of_class(ctx.cluster, claim):
            return Stage(restore, problem)
        return Stage(updated(ctx, restore, phase="Attaching", volume=claim["spec"].get("volumeName")))
    if binds_late(ctx.cluster.get(STORAGE_CLASS, restore.status.storage_class_name or "")):
        # Its first consumer is the machine: waiting for it before it is attached would be waiting for ever.
        if problem := _snapshot_lost(ctx, restore):
            return Stage(restore, problem)
        return Stage(updated(ctx, restore, phase="Attaching"))
    if problem := _snapshot_lost(ctx, restore):
        return Stage(restore, problem)
    return Stage(restore, Waiting("Binding", "waiting for the CSI driver to make the volume from the snapshot"))


def _snapshot_lost(ctx: Context, restore: Restore) -> Problem | None:
    name = restore.status.volume_snapshot or ""
    found = ctx.cluster.get(VOLUME_SNAPSHOT, name, restore.namespace)
    if found is not None and "deletionTimestamp" not in found["metadata"]:
        return None
    return Problem(
        "SnapshotLost",
        f"VolumeSnapshot {name!r} was deleted before the volume was made from it: PersistentVolumeClaim "
        f"{restore.spec.claim.name!r} stays empty; delete it, and restore from another snapshot",
        final=True,
    )
