"""Finds what a policy is to back up."""

from __future__ import annotations

from longboat.api import BackupPolicy
from longboat.api.common import DiskRef, NamedRef
from longboat.kube.kinds import PERSISTENT_VOLUME_CLAIM, VIRTUAL_MACHINE
from longboat.kube.port import Cluster, Object
from longboat.plan.disks import claim_problem, resolve_disk, vm_not_found
from longboat.plan.policy import Target
from longboat.plan.problem import Problem
from longboat.reconcile.snapshot_support import machine


def targets_of(cluster: Cluster, policy: BackupPolicy) -> list[Target] | Problem:
    """Return a policy's targets, one DiskBackup each, or why there are none.

    Problems: VirtualMachineNotFound, DiskNotFound, the reason a disk is unsupported, ClaimNotFound, ClaimNotBound,
    NothingSelected.
    """
    spec = policy.spec.target
    if spec.disk is not None:
        return _disk(cluster, policy.namespace, spec.disk)
    if spec.virtual_machine is not None:
        return _machine(cluster, policy.namespace, spec.virtual_machine)
    labels = spec.selector.match_labels if spec.selector else {}
    return _selected(cluster, policy.namespace, labels)


def _disk(cluster: Cluster, namespace: str, ref: DiskRef) -> list[Target] | Problem:
    field = "spec.target.disk"
    found = machine(cluster, namespace, ref.virtual_machine)
    disk = resolve_disk(ref, found.vm, found.vmi, field=field)
    if isinstance(disk, Problem):
        return disk
    claim = cluster.get(PERSISTENT_VOLUME_CLAIM, disk.claim or "", namespace)
    if (problem := claim_problem(claim, disk.claim or "", field=field)) or claim is None:
        return problem or Problem("ClaimNotFound", f"{field}: there is no PersistentVolumeClaim {disk.claim!r}")
    uid = claim["metadata"]["uid"]
    if found.vm is not None:
        its = found.vm["metadata"]
        return [Target("VirtualMachine", its["name"], its["uid"], claim_uid=uid)]
    return [Target("PersistentVolumeClaim", claim["metadata"]["name"], uid, claim_uid=uid)]


def _machine(cluster: Cluster, namespace: str, ref: NamedRef) -> list[Target] | Problem:
    vm = cluster.get(VIRTUAL_MACHINE, ref.name, namespace)
    if vm is None:
        return vm_not_found("spec.target.virtualMachine.name", ref.name)
    return [Target("VirtualMachine", ref.name, vm["metadata"]["uid"])]


def _selected(cluster: Cluster, namespace: str, labels: dict[str, str]) -> list[Target] | Problem:
    found = [vm for vm in cluster.list(VIRTUAL_MACHINE, namespace, labels) if not _is_going(vm)]
    if not found:
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        return Problem(
            "NothingSelected",
            f"spec.target.selector: no VirtualMachine of this namespace has the labels {wanted}; label one",
        )
    return [
        Target("VirtualMachine", vm["metadata"]["name"], vm["metadata"]["uid"], machine=vm["metadata"]["name"])
        for vm in found
    ]


def _is_going(vm: Object) -> bool:
    return "deletionTimestamp" in vm["metadata"]
