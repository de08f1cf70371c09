"""The persistent TPM and EFI state of a virtual machine: files in a claim of KubeVirt's, which is no volume of it.

KubeVirt finds the claim by its label; the ones it made in early versions have a name that says whose they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from longboat.plan.disks import VmDisk, running_spec, template_spec, vm_disks
from longboat.plan.problem import Problem

Object = dict[str, Any]

STATE = "tpm-efi.state"
"""The state's name among the disks of a backup. No volume of a virtual machine has it, as theirs have no dots."""
STATE_LABEL = "persistent-state-for"
"""KubeVirt's label on the claim; the value is the virtual machine's name. It begins the names of these claims, too."""
LEFT_OUT = ("cbt",)
"""Folders of the volume that are no state: KubeVirt's notes of changed blocks hold for the running disks alone."""
_TOLD = 5
NO_STATE_YET = "NoStateYet"


def state_disk(vm: Object, vmi: Object | None, claims: Iterable[Object]) -> VmDisk | None:
    """Return the state of a virtual machine as a disk of its own, None if it keeps none.

    ``claims`` are those that ``may_hold_state``. ``vmi`` is the machine's instance, if there is one.
    """
    running = running_spec(vmi)
    keeps = _keeps_state(template_spec(vm)) or _keeps_state(running)
    # A preference may ask for it: only the instance tells, and while there is none, the claim does.
    if not keeps and (running or not (vm.get("spec") or {}).get("preference")):
        return None
    mounted, there = _mounted(vmi, template_spec(vm).get("volumes") or ()), _taken(claims)
    if mounted is None and len(there) > 1:
        return VmDisk(STATE, None, _ambiguous(there, bool(running)))
    claim = mounted or next(iter(there), None)
    if claim is None:
        return _without_claim(running) if keeps else None
    if claim in {disk.claim for disk in vm_disks(vm, vmi)}:
        message = f"its claim {claim!r} is a disk of the machine, too; give one of the two another claim"
        return VmDisk(STATE, None, Problem("StateClaimShared", _sentence(message), final=True))
    return VmDisk(STATE, claim, content="Archive")


def may_hold_state(claim: Object, machine: str) -> bool:
    """Return whether a claim is one that KubeVirt would take for the state of a virtual machine."""
    label = (claim["metadata"].get("labels") or {}).get(STATE_LABEL)
    return label == machine or (label is None and claim["metadata"]["name"] == legacy_name(machine))


def legacy_name(machine: str) -> str:
    """Return the name of the claim that early versions of KubeVirt made for a machine's state, without a label."""
    return f"{STATE_LABEL}-{machine}"


def state_user(vmis: Iterable[Object], claim: str) -> str | None:
    """Return the virtual machine that runs with its state in a claim, None if none does."""
    return next((str(vmi["metadata"]["name"]) for vmi in vmis if _mounted(vmi) == claim), None)


def is_state_claim(claim: Object) -> bool:
    """Return whether a claim that was named directly holds a machine's state, as its label says."""
    return STATE_LABEL in (claim["metadata"].get("labels") or {})


def state_problem(claim: Object) -> Problem | None:
    """Return why the files of a claim can't be read as a machine's state, None if they can."""
    if claim["spec"].get("volumeMode", "Filesystem") == "Filesystem":
        return None
    name = claim["metadata"]["name"]
    message = f"PersistentVolumeClaim {name!r} has spec.volumeMode Block, expected Filesystem, as KubeVirt makes it"
    return Problem("StateNotFiles", _sentence(message), final=True)


def _keeps_state(spec: Mapping[str, Any]) -> bool:
    domain = spec.get("domain") or {}
    tpm = (domain.get("devices") or {}).get("tpm") or {}
    efi = ((domain.get("firmware") or {}).get("bootloader") or {}).get("efi") or {}
    return bool((tpm.get("persistent") and tpm.get("enabled", True)) or efi.get("persistent"))


def _mounted(vmi: Object | None, others: Iterable[Mapping[str, Any]] = ()) -> str | None:
    """Return the claim that the instance says it has mounted: after a migration it need not be the newest.

    ``others`` are volumes that have names of their own, beside those of the instance.
    """
    running = running_spec(vmi)
    if vmi is None or not running:
        return None
    volumes = {volume["name"] for volume in (*others, *(running.get("volumes") or ()))}
    for state in (vmi.get("status") or {}).get("volumeStatus") or ():
        name = (state.get("persistentVolumeClaimInfo") or {}).get("claimName")
        if name and str(state["name"]).startswith(STATE_LABEL) and state["name"] not in volumes:
            return str(name)
    return None


def _taken(claims: Iterable[Object]) -> list[str]:
    """Return the names of the claims of which KubeVirt takes one for the state, whichever it finds first."""
    there = [claim for claim in claims if "deletionTimestamp" not in claim["metadata"]]
    # The label wins over the name of old, as with KubeVirt.
    return sorted(str(each["metadata"]["name"]) for each in [each for each in there if is_state_claim(each)] or there)


def _ambiguous(claims: list[str], running: bool) -> Problem:
    names = ", ".join(repr(name) for name in claims[:_TOLD]) + (" and more" if len(claims) > _TOLD else "")
    message = (
        f"PersistentVolumeClaims {names} all have the label {STATE_LABEL} with the machine's name, and only a running"
        " machine tells which of them it uses; take the label off all but the one that holds its state"
    )
    # A running machine may tell with the next run.
    return Problem("StateClaimAmbiguous", _sentence(message), final=not running)


def _without_claim(running: Mapping[str, Any]) -> VmDisk:
    if running:
        message = f"there is no PersistentVolumeClaim with the label {STATE_LABEL}=<the machine's name>; run again"
        return VmDisk(STATE, None, Problem("StateClaimNotFound", _sentence(message)))
    message = "the machine has not been started since it was told to keep it, so that there is none"
    return VmDisk(STATE, None, Problem(NO_STATE_YET, _sentence(message), final=True))


def _sentence(why: str) -> str:
    return f"the TPM or EFI state is not in the backup: {why}"
