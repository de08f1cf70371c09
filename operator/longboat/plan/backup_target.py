"""What a run of a policy is about: which virtual machine or claim, and which of its disks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.common import DiskContent, DiskRef
from longboat.api.disk_backup import BackupTarget, ClaimIdentity, DiskResult
from longboat.plan.block_size import block_size_of
from longboat.plan.disks import VmDisk, resolve_disk, vm_disks, vm_not_found
from longboat.plan.problem import Problem
from longboat.plan.quantities import bytes_of
from longboat.plan.state import is_state_claim, state_disk, state_problem

Object = dict[str, Any]

UNSUPPORTED = frozenset({"NoSnapshotSupport", "NoSnapshotClass"})
"""Problems of a disk's storage that no run can do anything about: no failure, but nothing to be had either."""


@dataclass(frozen=True)
class Wanted:
    """What the policy asks a run to back up: a virtual machine (all of its disks, or the one named), or a claim."""

    virtual_machine: str | None = None
    disk: DiskRef | None = None
    labels: Mapping[str, str] | None = None
    """Labels that the virtual machine must carry, if the policy selects by label."""


def wanted(backup: DiskBackup, policy: BackupPolicy) -> Wanted | Problem:
    """Return what to back up, or VirtualMachineMissing or VirtualMachineMismatch."""
    target, named = policy.spec.target, backup.spec.virtual_machine
    if target.selector is not None:
        if named is None:
            return Problem("VirtualMachineMissing", _missing(policy), final=True)
        return Wanted(named, labels=target.selector.match_labels)
    disk = target.disk
    its = target.virtual_machine.name if target.virtual_machine else disk.virtual_machine if disk else None
    if named is not None and named != its:
        return Problem("VirtualMachineMismatch", _mismatch(policy, named, its), final=True)
    return Wanted(its, disk=disk)


def disks_of(
    ask: Wanted, vm: Object | None, vmi: Object | None, state_claims: Iterable[Object] = ()
) -> list[VmDisk] | Problem:
    """Return the disks to back up, those that can't be captured included; or why there is nothing to look at.

    ``state_claims`` are the claims that may hold the TPM and EFI state of the virtual machine: it comes last.
    """
    if ask.disk is not None:
        disk = resolve_disk(ask.disk, vm, vmi, field="the policy's spec.target.disk")
        if isinstance(disk, Problem):
            return [VmDisk(ask.disk.name or "", None, disk)] if disk.final else disk
        return [disk]
    if vm is None:
        return vm_not_found("the policy's spec.target", ask.virtual_machine or "")
    if not _carries(vm, ask.labels or {}):
        return Problem(
            "VirtualMachineNotSelected",
            f"spec.virtualMachine: {ask.virtual_machine!r} does not carry the labels that the policy selects",
            final=True,
        )
    state = state_disk(vm, vmi, state_claims)
    found = [*vm_disks(vm, vmi), *([state] if state else [])]
    return found or Problem("NoDisks", f"VirtualMachine {ask.virtual_machine!r} has no disk that could be backed up")


def content_of(disk: VmDisk, ask: Wanted, claim: Object) -> DiskContent:
    """Return what a disk is: a claim that the policy names itself may be that of a machine's state."""
    direct = ask.disk is not None and ask.disk.persistent_volume_claim is not None
    return "Archive" if direct and is_state_claim(claim) else disk.content


def target_of(vm: Object | None, claim: Object | None, disk: DiskRef | None = None) -> BackupTarget:
    """Return what the status says is backed up: the virtual machine or a disk of it, or the claim if there is none."""
    if vm is None:
        its = (claim or {})["metadata"]
        return BackupTarget(kind="PersistentVolumeClaim", name=its["name"], uid=its["uid"])
    its, only = vm["metadata"], disk.name if disk else None
    return BackupTarget(kind="VirtualMachine", name=its["name"], uid=its["uid"], disk=only)


def pinned(
    name: str, claim: Object, volume: Object | None, snapshot_class: str | Problem, content: DiskContent = "Disk"
) -> DiskResult:
    """Return a disk as it is found at the beginning of a run."""
    csi = ((volume or {}).get("spec") or {}).get("csi") or {}
    capacity = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
    asked = claim["spec"].get("resources", {}).get("requests", {}).get("storage", "0")
    block_size = block_size_of(claim)
    disk = DiskResult(
        name=name,
        content=content,
        claim=ClaimIdentity(name=claim["metadata"]["name"], uid=claim["metadata"]["uid"]),
        volume_handle=csi.get("volumeHandle"),
        volume_mode=claim["spec"].get("volumeMode", "Filesystem"),
        storage_class_name=claim["spec"].get("storageClassName"),
        node_affinity_pv=claim["spec"].get("volumeName"),
        driver=csi.get("driver"),
        claim_bytes=bytes_of(capacity or asked),
        block_size=block_size if isinstance(block_size, int) else None,
    )
    problem = state_problem(claim) if content == "Archive" else None
    if isinstance(snapshot_class, Problem):
        problem = problem or snapshot_class
    if problem is not None:
        return with_problem(disk, problem)
    return disk.model_copy(update={"snapshot_class": snapshot_class})


def with_problem(disk: DiskResult, problem: Problem) -> DiskResult:
    """Return a disk that can't be captured: Unsupported if it never can, else Failed."""
    never = problem.final or problem.reason in UNSUPPORTED
    phase = "Unsupported" if never else "Failed"
    return disk.model_copy(update={"phase": phase, "reason": problem.reason, "message": problem.message})


def hopeless(disks: Sequence[DiskResult]) -> Problem | None:
    """Return the problem of a run that has nothing to capture; one that is final if no disk ever can be."""
    if any(disk.phase == "Pending" for disk in disks):
        return None
    failed = [disk for disk in disks if disk.phase == "Failed"]
    if failed:
        return Problem(failed[0].reason or "", failed[0].message or "")
    why = "; ".join(f"{disk.name}: {disk.message}" for disk in disks)
    return Problem("NothingToBackUp", f"no disk of the target can be backed up: {why}", final=True)


def _carries(vm: Object, labels: Mapping[str, str]) -> bool:
    has = vm["metadata"].get("labels") or {}
    return all(has.get(key) == value for key, value in labels.items())


def _missing(policy: BackupPolicy) -> str:
    return (
        f"spec.virtualMachine: missing; BackupPolicy {policy.name!r} selects by label, so say which machine to back up"
    )


def _mismatch(policy: BackupPolicy, named: str, its: str | None) -> str:
    about = f"VirtualMachine {its!r}" if its else "a PersistentVolumeClaim"
    return f"spec.virtualMachine: {named!r} is not what BackupPolicy {policy.name!r} backs up ({about}); leave it out"
