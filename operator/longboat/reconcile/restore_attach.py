"""Last stage of a restore: the disk is attached to its virtual machine, running or stopped."""

from __future__ import annotations

from longboat.api import Restore
from longboat.kube.kinds import KUBEVIRT, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from longboat.kube.port import ConflictError, NotFoundError, RefusedError
from longboat.plan.attach import (
    Step,
    declarative_hot_plug,
    hot_plug_request,
    losses_held,
    next_step,
    original_beside,
    spec_patch,
)
from longboat.plan.conditions import ConditionStatus, with_condition
from longboat.plan.disks import claims_in_use
from longboat.plan.problem import Problem
from longboat.plan.restore_source import Waiting
from longboat.reconcile.context import Context
from longboat.reconcile.restore_stage import Stage, updated
from longboat.reconcile.snapshot_support import Machine, machine


def attach(ctx: Context, restore: Restore) -> Stage:
    """Attach the disk if that was asked for, and say so in the condition Attached."""
    wanted = restore.spec.attach
    if wanted is None:
        return Stage(restore)
    its = machine(ctx.cluster, restore.namespace, wanted.virtual_machine)
    step = next_step(restore, its.vm, its.vmi)
    if isinstance(step, Step) and step.verb in ("HotPlug", "Edit"):
        if problem := losses_held(restore) or _in_use(ctx, restore):
            return Stage(_marked(ctx, restore, "Attached", False, problem.reason, problem.message), problem)
        obstacle = _take(ctx, restore, its, step)
        its = machine(ctx.cluster, restore.namespace, wanted.virtual_machine)
        step = next_step(restore, its.vm, its.vmi)
        if obstacle and isinstance(step, Step) and step.verb in ("HotPlug", "Edit"):
            return Stage(_marked(ctx, restore, "Attached", False, obstacle.reason, obstacle.message), obstacle)
    return _said(ctx, restore, its, step)


def _in_use(ctx: Context, restore: Restore) -> Problem | None:
    """Return ClaimInUse if another machine has the disk: the user moved it there, and this status is from before."""
    attach, claim, namespace = restore.spec.attach, restore.spec.claim.name, restore.namespace
    machines = (
        each
        for each in ctx.cluster.list(VIRTUAL_MACHINE, namespace)
        if attach and each["metadata"]["name"] != attach.virtual_machine
    )
    users = claims_in_use(machines, ctx.cluster.list(VIRTUAL_MACHINE_INSTANCE, namespace))
    if (namespace, claim) not in users:
        return None
    user, disk = users[namespace, claim]
    return Problem(
        "ClaimInUse",
        f"spec.attach: VirtualMachine {user!r} has PersistentVolumeClaim {claim!r} as its disk {disk!r}, and two"
        " machines must not write to it; take it out there, or delete this Restore: the disk stays",
    )


def _take(ctx: Context, restore: Restore, its: Machine, step: Step) -> Problem | Waiting | None:
    """Attach; what came of it is seen by looking again, as a call may take effect although it failed."""
    try:
        if step.verb == "Edit":
            _edit(ctx, restore, its, hot=False)
        else:
            _hot_plug(ctx, restore, its)
    except (ConflictError, NotFoundError) as error:
        # The machine has changed, or is starting or stopping.
        return Waiting("AttachConflict", f"trying again: {error}")
    except RefusedError as error:
        return _refused(restore, error.answer)
    return None


def _edit(ctx: Context, restore: Restore, its: Machine, *, hot: bool) -> None:
    assert its.vm is not None
    operations = spec_patch(restore, its.vm, hot=hot)
    ctx.cluster.patch(VIRTUAL_MACHINE, its.vm["metadata"]["name"], operations, restore.namespace)


def _hot_plug(ctx: Context, restore: Restore, its: Machine) -> None:
    assert its.vm is not None
    try:
        ctx.virtual_machines.add_volume(its.vm["metadata"]["name"], restore.namespace, hot_plug_request(restore))
    except RefusedError:
        # Where disks are plugged in by editing the machine, KubeVirt may not offer the call.
        if not declarative_hot_plug(list(ctx.cluster.list(KUBEVIRT))):
            raise
        _edit(ctx, restore, its, hot=True)


def _refused(restore: Restore, error: str) -> Problem:
    vm = restore.spec.attach.virtual_machine if restore.spec.attach else ""
    return Problem(
        "AttachRefused",
        f"spec.attach: KubeVirt will not plug the disk into the running VirtualMachine {vm!r}: {error}. Enable "
        "hot-plug in KubeVirt, or stop the machine: then it is attached at once",
    )


def _said(ctx: Context, restore: Restore, its: Machine, step: Step | Problem) -> Stage:
    if isinstance(step, Problem):
        return Stage(_marked(ctx, restore, "Attached", False, step.reason, step.message), step)
    if step.verb != "Done":
        message = "waiting for KubeVirt to plug the disk in"
        return Stage(_marked(ctx, restore, "Attached", False, "Attaching", message), Waiting("Attaching", message))
    if its.vm is not None and original_beside(restore, its.vm, its.vmi):
        restore = _marked(ctx, restore, "DuplicateIdentity", True, "DuplicateIdentity", _twins(restore))
    where = f"in the guest as {step.device}" if step.device else "in the spec; the guest sees it when it is started"
    restore = _marked(ctx, restore, "Attached", True, "Attached", f"the disk is {where}")
    return Stage(updated(ctx, restore, attached_as=step.device))


def _twins(restore: Restore) -> str:
    return (
        f"the machine has the original disk (claim {restore.status.source_claim!r}) too: both carry the same "
        "file-system UUIDs, LVM and GPT ids. Mount the new one by its serial number, and give it new ids "
        "(xfs_admin -U generate, tune2fs -U random, vgimportclone, sgdisk -G) before the next boot"
    )


def _marked(ctx: Context, restore: Restore, type_: str, holds: bool, reason: str, message: str) -> Restore:
    status: ConditionStatus = "True" if holds else "False"
    before, generation = restore.status.conditions, restore.metadata.generation
    after = with_condition(before, type_, status, reason, message, now=ctx.now(), generation=generation)
    return updated(ctx, restore, conditions=after)
