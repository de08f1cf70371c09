"""Third stage of a restore: a mover fills a volume through a claim in the operator's namespace."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from longboat.api import Restore
from longboat.api.common import Condition
from longboat.kube.kinds import (
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    STORAGE_CLASS,
)
from longboat.kube.port import AlreadyExistsError, Object, RefusedError
from longboat.mover import Failure, RestoreResult
from longboat.plan.conditions import with_condition
from longboat.plan.disks import vm_disks
from longboat.plan.mover import Mover, hung, standing_since
from longboat.plan.new_volume import is_bound
from longboat.plan.problem import Problem
from longboat.plan.restore_job import (
    ATTEMPTS,
    PENDING_PATIENCE,
    PENDING_TOLD,
    SALVAGED,
    affinity_for,
    filled,
    hurt_by,
    job_name,
    lost,
    mover_of,
    restore_job,
    retry_delay,
    secret_name,
)
from longboat.plan.restore_source import Waiting
from longboat.plan.restore_target import binds_late, staging_claim, staging_name
from longboat.reconcile import mover as movers
from longboat.reconcile.context import Context
from longboat.reconcile.mover import MoverState
from longboat.reconcile.new_volume import claim_says, proven_new_of_class
from longboat.reconcile.objects import reference
from longboat.reconcile.repositories import for_namespace
from longboat.reconcile.restore_bind import staging_of
from longboat.reconcile.restore_damage import note_damage
from longboat.reconcile.restore_stage import Stage, updated
from longboat.reconcile.restore_stored import opened
from longboat.reconcile.snapshot_support import machine


def fill(ctx: Context, restore: Restore) -> Stage:
    """Fill a volume with the backup; afterwards status.volume names it and status.filledAt is set."""
    if restore.status.volume_snapshot:
        return Stage(restore)
    if restore.status.filled_at:
        _stop(ctx, restore)
        return Stage(restore)
    staging = staging_of(ctx, restore) or _create_staging(ctx, restore)
    if isinstance(staging, Problem):
        return Stage(restore, staging)
    if "deletionTimestamp" in staging["metadata"]:
        return Stage(restore, Waiting("StagingGone", f"claim {staging_name(restore)!r} is being deleted"))
    return _attempt(ctx, restore, staging)


def _create_staging(ctx: Context, restore: Restore) -> Object | Problem:
    try:
        return ctx.cluster.create(staging_claim(restore, ctx.settings.namespace))
    except AlreadyExistsError:
        message = f"claim {staging_name(restore)!r} in the operator's namespace is not ours; delete it"
        return Problem("NameTaken", message)
    except RefusedError as error:
        return Problem("StagingRefused", f"the claim in the operator's namespace was refused: {error.answer}")


def _attempt(ctx: Context, restore: Restore, staging: Object) -> Stage:
    number = restore.status.attempts or 0
    if restore.status.retry_at and restore.status.retry_at > ctx.now():
        _stop(ctx, restore)
        return Stage(restore, Waiting("Retrying", f"attempt {number} of {ATTEMPTS} failed; trying again"))
    if number == 0 or restore.status.retry_at:
        # The number is written before the Job is made: whoever was killed in between makes the same one.
        _stop(ctx, restore)
        restore = updated(ctx, restore, attempts=number + 1, retry_at=None, progressed_at=None)
    return _follow(ctx, restore, staging)


def _follow(ctx: Context, restore: Restore, staging: Object) -> Stage:
    state = movers.observe(ctx.cluster, ctx.settings.namespace, job_name(restore, restore.status.attempts or 1))
    if state.job and not filled(state.job, staging):
        movers.stop(ctx.cluster, state.job)
        return Stage(restore, Waiting("Restoring", "an earlier mover is being removed"))
    if state.phase == "Succeeded":
        return _filled(ctx, restore, RestoreResult.model_validate(state.result))
    if state.phase == "Failed":
        return _failed(ctx, restore, state)
    if state.phase == "Running":
        return _running(ctx, restore, state)
    if problem := _start(ctx, restore, staging, state):
        return Stage(restore, problem)
    return _pending(ctx, restore, staging, state)


def _pending(ctx: Context, restore: Restore, staging: Object, state: MoverState) -> Stage:
    """Say what a mover that has not begun waits for; give it up in the end, so that others get their turn."""
    begun = datetime.fromisoformat(state.job["metadata"]["creationTimestamp"]) if state.job else ctx.now()
    waited = ctx.now() - begun
    trouble = claim_says(ctx.cluster, staging) if waited >= PENDING_TOLD else ""
    if waited >= PENDING_PATIENCE:
        failure = Failure(reason="MoverNotStarted", message=trouble or state.message, retryable=True)
        return _failed(ctx, restore, replace(state, failure=failure))
    if trouble:
        return Stage(restore, Problem("VolumeNotProvisioned", trouble))
    return Stage(restore, Waiting("Restoring", state.message or "the mover is being started"))


def _start(ctx: Context, restore: Restore, staging: Object, state: MoverState) -> Problem | Waiting | None:
    """Make the Job, and its Secret once the volume is known to be a new one, or what of them is missing."""
    secret = secret_name(restore, restore.status.attempts or 1, staging["metadata"]["uid"])
    if state.job and ctx.cluster.get(SECRET, secret, ctx.settings.namespace):
        return None
    # Also before there is a Job: the Secret of an earlier one of its name may not have been collected yet.
    if is_bound(staging) and (problem := proven_new_of_class(ctx.cluster, staging)):
        return problem
    settings, now = movers.mover_settings(ctx.settings), ctx.now()
    name = job_name(restore, restore.status.attempts or 1)
    if state.job is None and (full := movers.crowded(ctx.cluster, "restore", name, restore.namespace, settings, now)):
        return Waiting("MoversBusy", full)
    mover = _mover(ctx, restore, staging)
    if isinstance(mover, Problem):
        return mover
    try:
        made = state.job or movers.start(ctx.cluster, mover, settings, now)
    except movers.NoRoomError as error:
        return Waiting("MoversBusy", str(error))
    except RefusedError as error:
        return Problem("MoverRefused", f"the restore Job in the operator's namespace was refused: {error.answer}")
    if made is None:
        # A Job that is just being deleted keeps its name for a moment.
        return Problem("NameTaken", f"Job {mover.name!r} in the operator's namespace is not ours")
    if is_bound(staging):
        movers.equip(ctx.cluster, mover, made)
    return None


def _mover(ctx: Context, restore: Restore, staging: Object) -> Mover | Problem:
    access = opened(ctx, restore)
    if isinstance(access, Problem):
        return access
    job = restore_job(restore, access.settings, access.path, access.master_key, ctx.settings.mover_user)
    return mover_of(restore, restore.status.attempts or 1, staging, job, _affinity(ctx, restore))


def _affinity(ctx: Context, restore: Restore) -> Object | None:
    attach = restore.spec.attach
    storage_class = ctx.cluster.get(STORAGE_CLASS, restore.status.storage_class_name or "")
    if attach is None or not binds_late(storage_class):
        # A volume that exists already says itself where it can be reached.
        return None
    its = machine(ctx.cluster, restore.namespace, attach.virtual_machine)
    claims = [disk.claim for disk in vm_disks(its.vm, its.vmi)] if its.vm else []
    return affinity_for(its.vmi, [volume for claim in claims if claim and (volume := _volume(ctx, restore, claim))])


def _volume(ctx: Context, restore: Restore, claim: str) -> Object | None:
    found = ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, claim, restore.namespace)
    name = found["spec"].get("volumeName") if found else None
    return ctx.cluster.get(PERSISTENT_VOLUME, name) if name else None


def _running(ctx: Context, restore: Restore, state: MoverState) -> Stage:
    done, total = (state.progress.done, state.progress.total) if state.progress else (None, None)
    since = standing_since(done, restore.status.bytes_done, restore.status.progressed_at, ctx.now())
    if failure := hung(done, total, since, ctx.now()):
        return _failed(ctx, restore, replace(state, failure=failure))
    changes: dict[str, object] = {"progressed_at": since}
    if done is not None:
        changes |= {"bytes_done": done}
    if done is not None and total:
        changes |= {"progress": f"{100 * done // total}%"}
    restore = updated(ctx, restore, **changes)
    return Stage(restore, Waiting("Restoring", "the backup is being written into the new volume"))


def _filled(ctx: Context, restore: Restore, result: RestoreResult) -> Stage:
    """Write down the volume and its reclaim policy before anything about it is changed."""
    staging = staging_of(ctx, restore) or {"spec": {}}
    volume = ctx.cluster.get(PERSISTENT_VOLUME, staging["spec"].get("volumeName", ""))
    if volume is None:
        return Stage(restore, Problem("VolumeLost", "the filled volume is gone; create another Restore", True))
    if result.unrecorded:
        note_damage(ctx, restore, lost=result.lost_bytes > 0)
    restore = updated(
        ctx,
        restore,
        phase="Binding",
        filled_at=ctx.now(),
        volume=volume["metadata"]["name"],
        reclaim_policy=volume["spec"].get("persistentVolumeReclaimPolicy", "Delete"),
        bytes_done=restore.status.data_bytes,
        progress="100%",
        lost_bytes=result.lost_bytes if restore.spec.salvage else None,
        healed_bytes=result.healed_bytes or None,
        conditions=_with_losses(ctx, restore, result),
    )
    _stop(ctx, restore)
    return Stage(restore)


def _with_losses(ctx: Context, restore: Restore, result: RestoreResult) -> list[Condition] | None:
    """Return the conditions; written with the end of the filling, so that no disk with holes is ever bound without."""
    if not result.lost_bytes:
        return restore.status.conditions
    message = lost(result)
    ctx.cluster.event(reference(restore), "Warning", "DataLost", message)
    now, generation = ctx.now(), restore.metadata.generation
    return with_condition(
        restore.status.conditions, SALVAGED, "True", "DataLost", message, now=now, generation=generation
    )


def _failed(ctx: Context, restore: Restore, state: MoverState) -> Stage:
    number, failure = restore.status.attempts or 1, state.failure
    reason, message = (failure.reason, failure.message) if failure else ("PodFailed", "no reason given")
    message = for_namespace(restore.status.store or "", reason, message) + (hurt_by(failure) if failure else "")
    if failure and failure.retryable and number < ATTEMPTS:
        restore = updated(ctx, restore, retry_at=ctx.now() + retry_delay(number, reason))
        _stop(ctx, restore)
        return Stage(restore, Waiting("Retrying", f"attempt {number} of {ATTEMPTS} failed ({reason}: {message})"))
    if failure and failure.unrecorded:
        note_damage(ctx, restore, lost=True, at=failure.lost_from)
    tried = f" ({number} attempts)" if number > 1 else ""
    return Stage(restore, Problem(reason, f"restoring {restore.status.source} failed{tried}: {message}", final=True))


def _stop(ctx: Context, restore: Restore) -> None:
    """Delete the Job of the attempt that has ended; a volume can't change hands while a pod refers to its claim."""
    if not restore.status.attempts:
        return
    job = movers.observe(ctx.cluster, ctx.settings.namespace, job_name(restore, restore.status.attempts)).job
    if job:
        movers.stop(ctx.cluster, job)
