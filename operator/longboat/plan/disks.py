"""Which disks a virtual machine has, and which one a reference means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longboat.api.common import DiskContent, DiskRef
from longboat.plan.problem import Problem

Object = dict[str, Any]

_UNSUPPORTED = {
    "hostDisk": (
        "HostDisk",
        "it is a file of its node, not a PersistentVolumeClaim; move it into one to have it backed up",
    ),
    "ephemeral": ("Ephemeral", "what is written to it is thrown away when the virtual machine stops"),
}
_SHARED = ("SharedFilesystem", "it is shared with the guest as a file system (virtiofs), not as a disk")


@dataclass(frozen=True)
class VmDisk:
    """One disk: its name, its PersistentVolumeClaim, and why it can't be captured if it can't.

    ``name`` is the volume's name in the virtual machine, or the claim's own name for a claim that was named directly.
    ``unsupported`` is set exactly when ``claim`` is None. ``content``: a disk, or the files of a machine's state.
    """

    name: str
    claim: str | None
    unsupported: Problem | None = None
    content: DiskContent = "Disk"


def vm_disks(vm: Object, vmi: Object | None) -> list[VmDisk]:
    """Return the disks of a virtual machine, in the order of its spec; those of the running instance only come last.

    A claim is one disk however many volumes name it: renamed while the machine runs, it has its running name.
    ``vmi`` is its VirtualMachineInstance if there is one: while it runs, its volumes are the ones in use, and a disk
    that was hot-plugged until the next stop is named nowhere else.
    """
    disks = _named_disks(vm, vmi)
    running = {volume["name"] for volume in running_spec(vmi).get("volumes") or ()}
    name_of: dict[str | None, str] = {}
    for disk in sorted(disks, key=lambda each: each.name not in running):
        name_of.setdefault(disk.claim, disk.name)
    return [disk for disk in disks if disk.claim is None or disk.name == name_of[disk.claim]]


def claim_of(volume: Mapping[str, Any]) -> str | None:
    """Return the PersistentVolumeClaim behind a volume of a virtual machine, or None if it is no disk with one."""
    if source := volume.get("dataVolume"):
        # A DataVolume's claim has its name.
        return str(source["name"])
    if source := volume.get("persistentVolumeClaim"):
        return str(source["claimName"])
    return None


def claims_in_use(vms: Iterable[Object], vmis: Iterable[Object]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (namespace, claim) → (virtual machine, disk) for the disks of these machines; the first user wins."""
    running = {_key(vmi): _slim(vmi) for vmi in vmis}
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for vm in vms:
        namespace, name = _key(vm)
        for disk in vm_disks(vm, running.get((namespace, name))):
            if disk.claim:
                found.setdefault((namespace, disk.claim), (name, disk.name))
    return found


def other_user(vmis: Iterable[Object], claims: Iterable[str], machine: str | None) -> str | None:
    """Return another virtual machine than this one whose running instance uses one of the claims, or None."""
    wanted = frozenset(claims)
    users = (vmi["metadata"]["name"] for vmi in vmis if wanted & _claims(running_spec(vmi).get("volumes") or ()))
    return next((str(name) for name in sorted(users) if name != machine), None)


def resolve_disk(ref: DiskRef, vm: Object | None, vmi: Object | None, *, field: str = "spec.disk") -> VmDisk | Problem:
    """Return the disk that a reference means, or VirtualMachineNotFound, DiskNotFound or the reason it is unsupported.

    ``vm`` is the virtual machine that the reference names, if it names one and it exists; ``field`` is where the
    reference stands, for the message. Whether the claim exists is for ``claim_problem``.
    """
    if ref.persistent_volume_claim:
        return VmDisk(ref.persistent_volume_claim, ref.persistent_volume_claim)
    if vm is None:
        return vm_not_found(f"{field}.virtualMachine", ref.virtual_machine or "")
    # Either name of a disk that has two is a way to mean it.
    disks = _named_disks(vm, vmi)
    found = next((disk for disk in disks if disk.name == ref.name), None)
    if found is None:
        return _disk_not_found(f"{field}.name", ref, disks)
    return found.unsupported or found


def vm_not_found(field: str, name: str) -> Problem:
    """Return the problem of a field that names a virtual machine which does not exist."""
    return Problem(
        "VirtualMachineNotFound",
        f"{field}: there is no VirtualMachine {name!r} in this namespace; create it or name another",
    )


def claim_problem(claim: Object | None, name: str, *, field: str = "spec.disk") -> Problem | None:
    """Return ClaimNotFound (None or empty) or ClaimNotBound if a PersistentVolumeClaim holds no data, else None."""
    if not claim:
        return Problem(
            "ClaimNotFound",
            f"{field}: there is no PersistentVolumeClaim {name!r} in this namespace; create it or name another disk",
        )
    phase = (claim.get("status") or {}).get("phase")
    if phase != "Bound":
        return Problem(
            "ClaimNotBound",
            f"{field}: PersistentVolumeClaim {name!r} is {phase or 'new'}, expected Bound; it holds no data yet",
        )
    return None


def _claims(volumes: Iterable[Mapping[str, Any]]) -> set[str]:
    return {claim for claim in map(claim_of, volumes) if claim}


def _slim(vmi: Object) -> Object:
    """Keep what ``vm_disks`` reads: thousands of whole instances would fill the memory."""
    spec = vmi.get("spec") or {}
    filesystems = ((spec.get("domain") or {}).get("devices") or {}).get("filesystems")
    kept = {"volumes": spec.get("volumes"), "domain": {"devices": {"filesystems": filesystems}}}
    return {"spec": kept, "status": {"phase": (vmi.get("status") or {}).get("phase")}}


def _named_disks(vm: Object, vmi: Object | None) -> list[VmDisk]:
    """Return every volume that is a disk, also when several name the same claim."""
    running = running_spec(vmi)
    volumes = {volume["name"]: volume for volume in _template_volumes(vm)}
    volumes |= {volume["name"]: volume for volume in running.get("volumes") or ()}
    shared = _shared_filesystems(template_spec(vm)) | _shared_filesystems(running)
    disks = (_disk(volume, shared) for volume in volumes.values())
    return [disk for disk in disks if disk is not None]


def template_spec(vm: Object) -> Mapping[str, Any]:
    """Return the spec of the instances that a virtual machine makes."""
    return ((vm.get("spec") or {}).get("template") or {}).get("spec") or {}


def _template_volumes(vm: Object) -> Sequence[Mapping[str, Any]]:
    return template_spec(vm).get("volumes") or ()


def running_spec(vmi: Object | None) -> Mapping[str, Any]:
    """Return the spec of an instance, an empty one if it has ended or there is none."""
    if vmi is None or (vmi.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    return vmi.get("spec") or {}


def _shared_filesystems(spec: Mapping[str, Any]) -> set[str]:
    devices = (spec.get("domain") or {}).get("devices") or {}
    return {each["name"] for each in devices.get("filesystems") or ()}


def _disk(volume: Mapping[str, Any], shared: set[str]) -> VmDisk | None:
    name = str(volume["name"])
    for source, (reason, why) in _UNSUPPORTED.items():
        if source in volume:
            return VmDisk(name, None, _unsupported(name, reason, why))
    claim = claim_of(volume)
    if claim and name in shared:
        return VmDisk(name, None, _unsupported(name, *_SHARED))
    return VmDisk(name, claim) if claim else None


def _unsupported(name: str, reason: str, why: str) -> Problem:
    return Problem(reason, f"disk {name!r} can't be captured: {why}", final=True)


def _disk_not_found(field: str, ref: DiskRef, disks: Sequence[VmDisk]) -> Problem:
    known = ", ".join(disk.name for disk in disks) or "none"
    return Problem(
        "DiskNotFound",
        f"{field}: VirtualMachine {ref.virtual_machine!r} has no disk {ref.name!r}; its disks are: {known}",
    )


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
