"""Attaches a restored disk to a virtual machine: what is there, what is missing, what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from longboat.api import Restore
from longboat.plan.disks import claim_of, vm_disks, vm_not_found
from longboat.plan.names import digest
from longboat.plan.problem import Problem

Object = dict[str, Any]
Operation = dict[str, Any]

DECLARATIVE_HOTPLUG = "DeclarativeHotplugVolumes"
CONFIRM_LOSSES = "longboat.dev/confirm-losses"
"""Annotation of a Restore: so many bytes of its disk are lost, and it is to be attached nevertheless."""
WITH_LOSSES = "RestoredWithLosses"
"""Why a disk is not attached, and how a restore ends that had nothing to attach, or was told to."""
_SPEC = "/spec/template/spec"


@dataclass(frozen=True)
class Step:
    """The next step. HotPlug: addvolume. Edit: patch the machine's spec. Wait: for KubeVirt. Done: ``device`` is set
    while the machine runs."""

    verb: Literal["HotPlug", "Edit", "Wait", "Done"]
    device: str | None = None


def next_step(restore: Restore, vm: Object | None, vmi: Object | None) -> Step | Problem:
    """Return the next step of attaching, from the machine and its running instance as they are (None: not there)."""
    attach = restore.spec.attach
    assert attach is not None
    if vm is None or "deletionTimestamp" in vm["metadata"]:
        return vm_not_found("spec.attach.virtualMachine", attach.virtual_machine)
    if problem := name_problem(restore, vm, vmi):
        return problem
    in_spec = _holds(_volumes(vm), restore)
    if vmi is None or _phase(vmi) in ("Succeeded", "Failed"):
        return Step("Done") if in_spec else Step("Edit")
    if _phase(vmi) != "Running":
        # An instance that is starting has its volumes fixed already, and takes no others yet.
        return Step("Wait")
    return _running(restore, vm, vmi, in_spec)


def name_problem(restore: Restore, vm: Object, vmi: Object | None) -> Problem | None:
    """Return DiskNameTaken if the machine has another volume of the name, or the claim under another name."""
    attach, claim = restore.spec.attach, restore.spec.claim.name
    assert attach is not None
    for volume in [*_volumes(vm), *((vmi or {}).get("spec") or {}).get("volumes", ())]:
        same_name, same_claim = volume["name"] == attach.disk_name, claim_of(volume) == claim
        if same_name and not same_claim:
            return _taken(f"has a volume {attach.disk_name!r} already", attach.virtual_machine)
        if same_claim and not same_name:
            return _taken(f"uses the claim {claim!r} as {volume['name']!r} already", attach.virtual_machine)
    return None


def losses_held(restore: Restore) -> Problem | None:
    """Return RestoredWithLosses if the disk lacks bytes of the backup, and nobody has said that it is to be attached.

    Who reads zeros in the place of data may take them for it, and write what follows from it elsewhere.
    """
    attach, lost = restore.spec.attach, restore.status.lost_bytes
    if attach is None or not lost or restore.metadata.annotations.get(CONFIRM_LOSSES) == str(lost):
        return None
    return Problem(
        WITH_LOSSES,
        f"spec.attach: {lost} bytes of the disk are lost, as the condition Salvaged says, and it is not attached to "
        f"VirtualMachine {attach.virtual_machine!r} before somebody says that it is to be. It is in "
        f"PersistentVolumeClaim {restore.spec.claim.name!r}: check it from a machine of its own, then annotate this "
        f'Restore with {CONFIRM_LOSSES}: "{lost}", or delete it: the disk stays',
    )


def hot_plug_request(restore: Restore) -> Object:
    """Return the body of `addvolume`."""
    attach = restore.spec.attach
    assert attach is not None
    source = {"persistentVolumeClaim": {"claimName": restore.spec.claim.name}}
    return {"name": attach.disk_name, "disk": _disk(restore), "volumeSource": source}


def spec_patch(restore: Restore, vm: Object, *, hot: bool = False) -> list[Operation]:
    """Return the patch that adds the disk to the machine's spec; it fails if the machine has changed meanwhile.

    ``hot``: the machine runs, and KubeVirt plugs in what is marked as hot-pluggable.
    """
    attach = restore.spec.attach
    assert attach is not None
    claim = {"claimName": restore.spec.claim.name} | ({"hotpluggable": True} if hot else {})
    volume = {"name": attach.disk_name, "persistentVolumeClaim": claim}
    disk = _disk(restore) | {"name": attach.disk_name}
    devices = ((_template(vm).get("domain") or {}).get("devices")) or {}
    return [
        # Of the machine as it was read: there is no test for a list that was not there, and adding one replaces it.
        {"op": "test", "path": "/metadata/resourceVersion", "value": vm["metadata"]["resourceVersion"]},
        _appended(f"{_SPEC}/volumes", _template(vm).get("volumes"), volume),
        _appended(f"{_SPEC}/domain/devices/disks", devices.get("disks"), disk),
    ]


def serial_of(restore: Restore) -> str:
    """Return the disk's serial number: always the same for a Restore, and never that of the original."""
    return digest("serial", restore.uid, length=20)


def original_beside(restore: Restore, vm: Object, vmi: Object | None) -> bool:
    """Return whether the machine also has the disk that the data was captured from."""
    source = restore.status.source_claim
    return any(disk.claim == source for disk in vm_disks(vm, vmi) if source and disk.claim)


def declarative_hot_plug(kubevirts: list[Object]) -> bool:
    """Return whether KubeVirt plugs in what a running machine's spec names (from the KubeVirt objects)."""
    return any(DECLARATIVE_HOTPLUG in _gates(each) for each in kubevirts)


def _requested(vm: Object, disk: str) -> bool:
    """Return whether KubeVirt has accepted the call, but has not written the disk into the spec yet."""
    requests = (vm.get("status") or {}).get("volumeRequests") or ()
    return any((each.get("addVolumeOptions") or {}).get("name") == disk for each in requests)


def _running(restore: Restore, vm: Object, vmi: Object, in_spec: bool) -> Step:
    attach = restore.spec.attach
    assert attach is not None
    if _requested(vm, attach.disk_name):
        return Step("Wait")
    if not in_spec and not _holds((vmi.get("spec") or {}).get("volumes") or (), restore):
        return Step("HotPlug")
    states = (vmi.get("status") or {}).get("volumeStatus") or ()
    state: Object = next((each for each in states if each["name"] == attach.disk_name), {})
    if state.get("phase") == "Ready" and state.get("target"):
        return Step("Done", state["target"])
    return Step("Wait")


def _taken(what: str, vm: str) -> Problem:
    return Problem(
        "DiskNameTaken",
        f"spec.attach.diskName: VirtualMachine {vm!r} {what}; create a Restore with another name",
        final=True,
    )


def _holds(volumes: Any, restore: Restore) -> bool:
    attach, claim = restore.spec.attach, restore.spec.claim.name
    return attach is not None and any(each["name"] == attach.disk_name and claim_of(each) == claim for each in volumes)


def _disk(restore: Restore) -> Object:
    attach = restore.spec.attach
    assert attach is not None
    return {"disk": {"bus": attach.bus}, "serial": serial_of(restore)}


def _appended(path: str, items: list[Object] | None, item: Object) -> Operation:
    return {"op": "add", "path": path if items is None else f"{path}/-", "value": [item] if items is None else item}


def _template(vm: Object) -> Object:
    return (((vm.get("spec") or {}).get("template") or {}).get("spec")) or {}


def _volumes(vm: Object) -> list[Object]:
    return _template(vm).get("volumes") or []


def _phase(vmi: Object) -> str | None:
    return (vmi.get("status") or {}).get("phase")


def _gates(kubevirt: Object) -> list[str]:
    configuration = (kubevirt.get("spec") or {}).get("configuration") or {}
    return (configuration.get("developerConfiguration") or {}).get("featureGates") or []
