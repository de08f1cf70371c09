"""What an observation means for each virtual machine and disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from longboat.cli.findings import Ability, Finding, Verdict
from longboat.cli.observation import Observation
from longboat.kube.port import Object
from longboat.plan.disks import VmDisk, vm_disks
from longboat.plan.problem import Problem
from longboat.plan.snapshot_class import choose_snapshot_class, driver_of
from longboat.plan.state import NO_STATE_YET, STATE_LABEL, is_state_claim, may_hold_state, state_disk, state_problem

_CAPTURE = (Ability.SNAPSHOTS, Ability.BACKUPS)
TRIAL_REMEDY = "find out with: longboat check --trial"


def disk_findings(seen: Observation) -> list[Finding]:
    """Return what can be said about machines and their disks: faults one by one, what is well as a count."""
    faults = [*_disk_faults(seen), *_agent_faults(seen)]
    return [*faults, *_well(seen, faults), *_mover_privileges(seen)]


def _disk_faults(seen: Observation) -> Iterator[Finding]:
    for machine, disk in _disks(seen):
        problem = disk.unsupported or _claim_problem(seen, machine["metadata"]["namespace"], disk)
        if problem:
            verdict = Verdict.WARNING
            yield Finding("disks", f"{_full_name(machine)}: {disk.name}", verdict, problem.message, "", _CAPTURE)


def _disks(seen: Observation) -> Iterator[tuple[Object, VmDisk]]:
    instances = {_full_name(each): each for each in seen.instances}
    for machine in seen.machines:
        for disk in vm_disks(machine, instances.get(_full_name(machine))):
            yield machine, disk
    if "persistentvolumeclaims" not in seen.unseen:
        yield from _states(seen, instances)


def _states(seen: Observation, instances: dict[str, Object]) -> Iterator[tuple[Object, VmDisk]]:
    """Yield the TPM and EFI state of each machine that keeps some and has been started."""
    claims = defaultdict[str, list[Object]](list)
    for claim in seen.claims:
        if is_state_claim(claim) or claim["metadata"]["name"].startswith(STATE_LABEL):
            claims[claim["metadata"]["namespace"]].append(claim)
    for machine in seen.machines:
        name, namespace = machine["metadata"]["name"], machine["metadata"]["namespace"]
        may = [claim for claim in claims[namespace] if may_hold_state(claim, name)]
        disk = state_disk(machine, instances.get(_full_name(machine)), may)
        if disk and not (disk.unsupported and disk.unsupported.reason == NO_STATE_YET):
            yield machine, disk


def _claim_problem(seen: Observation, namespace: str, disk: VmDisk) -> Problem | None:
    name = str(disk.claim)
    if seen.unseen & {"persistentvolumeclaims", "persistentvolumes", "volumesnapshotclasses"}:
        return None
    claim = _by_name(seen.claims, name, namespace)
    if claim is None:
        return Problem("ClaimNotFound", f"its PersistentVolumeClaim {name!r} does not exist")
    volume = _by_name(seen.volumes, claim["spec"].get("volumeName"))
    if volume is None:
        return Problem("ClaimNotBound", f"its PersistentVolumeClaim {name!r} is not bound yet")
    profile = _by_name(seen.profiles, claim["spec"].get("storageClassName"))
    if disk.content == "Archive" and (problem := state_problem(claim)):
        return problem
    found = choose_snapshot_class(driver_of(volume), seen.snapshot_classes, profile)
    return found if isinstance(found, Problem) else None


def _by_name(objects: tuple[Object, ...], name: str | None, namespace: str | None = None) -> Object | None:
    return next(
        (o for o in objects if o["metadata"]["name"] == name and o["metadata"].get("namespace") == namespace), None
    )


def _agent_faults(seen: Observation) -> Iterator[Finding]:
    remedy = "install and start qemu-guest-agent in the guest; until then its backups are as after a power cut"
    for instance in _running(seen):
        if not _agent_connected(instance):
            message = "runs without the guest agent, so its file systems can't be frozen for a backup"
            yield Finding("agents", _full_name(instance), Verdict.WARNING, message, remedy, (Ability.CONSISTENCY,))


def _running(seen: Observation) -> list[Object]:
    return [each for each in seen.instances if (each.get("status") or {}).get("phase") == "Running"]


def _agent_connected(instance: Object) -> bool:
    conditions: list[dict[str, Any]] = instance["status"].get("conditions") or []
    return any(each["type"] == "AgentConnected" and each["status"] == "True" for each in conditions)


def _well(seen: Observation, faults: list[Finding]) -> Iterator[Finding]:
    disks, running = sum(1 for _ in _disks(seen)), len(_running(seen))
    bad_disks = sum(each.area == "disks" for each in faults)
    bad_agents = sum(each.area == "agents" for each in faults)
    message = f"{disks - bad_disks} of {disks} disks of {len(seen.machines)} virtual machines can be captured"
    yield Finding("disks", "all", Verdict.OK, message)
    yield Finding("agents", "all", Verdict.OK, f"{running - bad_agents} of {running} running machines have the agent")


def _mover_privileges(seen: Observation) -> Iterator[Finding]:
    """Whether a pod that is not root may open a block device depends on the nodes; only a run can tell."""
    affects = (Ability.BACKUPS, Ability.RESTORES)
    disks = [disk for backup in seen.backups for disk in (backup.get("status") or {}).get("disks") or ()]
    if any(each.get("phase") == "Completed" and each.get("volumeMode") == "Block" for each in disks):
        message = "movers can read block devices: a backup of one has been completed"
        yield Finding("movers", "block devices", Verdict.OK, message, "", affects)
    elif any(each["spec"].get("volumeMode") == "Block" for each in seen.claims):
        message = "whether movers, which are not root, may read block devices depends on the nodes' runtime"
        yield Finding("movers", "block devices", Verdict.UNKNOWN, message, TRIAL_REMEDY, affects)


def _full_name(obj: Object) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"
