"""Where KubeVirt keeps the TPM and EFI state of a machine, and that none is passed over in silence."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.plan.backup_target import Wanted, disks_of
from longboat.plan.disks import VmDisk
from longboat.plan.problem import Problem
from longboat.plan.state import STATE, STATE_LABEL, may_hold_state, state_disk, state_problem

TPM: dict[str, Any] = {"devices": {"tpm": {"persistent": True}}}
EFI: dict[str, Any] = {"firmware": {"bootloader": {"efi": {"persistent": True}}}}
LABELLED = VmDisk(STATE, "persistent-state-for-db-x", content="Archive")


def machine(domain: dict[str, Any] | None = None, *volumes: dict[str, Any], **spec: Any) -> dict[str, Any]:
    template = {"spec": {"domain": domain or {}, "volumes": list(volumes)}}
    return {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"template": template} | spec}


def instance(domain: dict[str, Any] | None = None, mounted: str = "", phase: str = "Running") -> dict[str, Any]:
    status: dict[str, Any] = {"phase": phase}
    if mounted:
        status["volumeStatus"] = [{"name": mounted, "persistentVolumeClaimInfo": {"claimName": mounted}}]
    return {"metadata": {"name": "db"}, "spec": {"domain": domain or {}}, "status": status}


def claim(name: str, created: str = "2026-01-01T00:00:00Z", label: str | None = "db", **meta: Any) -> dict[str, Any]:
    labels = {} if label is None else {STATE_LABEL: label}
    return {"metadata": {"name": name, "creationTimestamp": created, "labels": labels} | meta, "spec": {}}


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    ("domain", "kept"),
    [
        (TPM, True),
        (EFI, True),
        ({"devices": {"tpm": {"persistent": True, "enabled": False}}}, False),
        ({"devices": {"tpm": {}}, "firmware": {"bootloader": {"efi": {}}}}, False),
        ({}, False),
    ],
)
def test_the_state_is_a_disk_of_a_machine_that_keeps_it(domain: dict[str, Any], kept: bool, running: bool) -> None:
    vm, vmi = (machine(), instance(domain)) if running else (machine(domain), None)
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "db-data"}}
    vm["spec"]["template"]["spec"]["volumes"].append(volume)
    found = disks_of(Wanted("db"), vm, vmi, [claim("persistent-state-for-db-x")])
    assert found == [VmDisk("data", "db-data"), *([LABELLED] if kept else [])]


def test_the_state_of_a_machine_without_any_other_disk_is_backed_up() -> None:
    assert disks_of(Wanted("db"), machine(EFI), None, [claim("persistent-state-for-db-x")]) == [LABELLED]
    nothing = disks_of(Wanted("db"), machine(), None)
    assert isinstance(nothing, Problem) and nothing.reason == "NoDisks"


def test_what_the_running_machine_has_mounted_is_its_state() -> None:
    claims = [claim("persistent-state-for-db-new", "2026-02-01T00:00:00Z"), claim("persistent-state-for-db-old")]
    found = state_disk(machine(TPM), instance(TPM, mounted="persistent-state-for-db-old"), claims)
    assert found is not None and found.claim == "persistent-state-for-db-old"


def test_a_disk_whose_name_looks_like_the_state_is_not_taken_for_it() -> None:
    name = "persistent-state-for-db-old"
    vm = machine(TPM, {"name": name, "persistentVolumeClaim": {"claimName": "db-data"}})
    found = state_disk(vm, instance(TPM, mounted=name), [claim("real")])
    assert found is not None and found.claim == "real"


def test_a_claim_on_its_way_out_is_not_the_state_and_the_label_wins_over_the_old_name() -> None:
    claims = [
        claim("persistent-state-for-db-b", "2026-02-01T00:00:00Z"),
        claim("persistent-state-for-db-c", "2026-03-01T00:00:00Z", deletionTimestamp="2026-03-02T00:00:00Z"),
        claim("persistent-state-for-db", "2026-04-01T00:00:00Z", label=None),
    ]
    found = state_disk(machine(TPM), None, claims)
    assert found is not None and found.claim == "persistent-state-for-db-b"
    found = state_disk(machine(TPM), None, claims[2:])
    assert found is not None and found.claim == "persistent-state-for-db"


@pytest.mark.parametrize(("vmi", "final"), [(None, True), (instance(TPM), False)])
def test_of_two_claims_with_the_label_none_is_called_the_state(vmi: dict[str, Any] | None, final: bool) -> None:
    claims = [claim("persistent-state-for-db-x"), claim("restored", "2026-02-01T00:00:00Z")]
    found = state_disk(machine(TPM), vmi, claims)
    assert found is not None and found.claim is None and found.unsupported is not None
    assert (found.unsupported.reason, found.unsupported.final) == ("StateClaimAmbiguous", final)
    assert "'persistent-state-for-db-x', 'restored'" in found.unsupported.message
    told = state_disk(machine(TPM), instance(TPM, mounted="persistent-state-for-db-x"), claims)
    assert told is not None and told.claim == "persistent-state-for-db-x"


def test_claims_of_other_machines_are_not_the_state() -> None:
    assert may_hold_state(claim("anything"), "db")
    assert may_hold_state(claim("persistent-state-for-db", label=None), "db")
    assert not may_hold_state(claim("persistent-state-for-db", label="web"), "db")
    assert not may_hold_state(claim("persistent-state-for-db-x", label=None), "db")


@pytest.mark.parametrize(
    ("vmi", "reason", "final"),
    [(None, "NoStateYet", True), (instance(TPM, phase="Failed"), "NoStateYet", True),
     (instance(TPM), "StateClaimNotFound", False)],
)  # fmt: skip
def test_a_state_without_a_claim_is_told_of(vmi: dict[str, Any] | None, reason: str, final: bool) -> None:
    found = state_disk(machine(TPM), vmi, [])
    assert found is not None and found.claim is None and found.unsupported is not None
    assert (found.unsupported.reason, found.unsupported.final) == (reason, final)


def test_a_state_that_only_a_preference_asks_for_is_found_while_the_machine_is_stopped() -> None:
    vm = machine(preference={"name": "windows.2k22"})
    assert state_disk(vm, None, [claim("persistent-state-for-db-x")]) == LABELLED
    assert state_disk(vm, None, []) is None
    # A running instance has what its preference says, and this one keeps nothing: the claim is for changed blocks.
    assert state_disk(vm, instance(), [claim("persistent-state-for-db-x")]) is None
    assert state_disk(machine(), None, [claim("persistent-state-for-db-x")]) is None


def test_a_claim_that_is_a_disk_as_well_is_exported_once_as_a_disk() -> None:
    vm = machine(TPM, {"name": "data", "persistentVolumeClaim": {"claimName": "both"}})
    found = disks_of(Wanted("db"), vm, None, [claim("both")])
    assert not isinstance(found, Problem)
    assert [(disk.name, disk.claim) for disk in found] == [("data", "both"), (STATE, None)]
    assert found[1].unsupported is not None and found[1].unsupported.reason == "StateClaimShared"


def test_a_state_of_blocks_is_refused_before_anything_is_read() -> None:
    block = claim("s") | {"spec": {"volumeMode": "Block"}}
    problem = state_problem(block)
    assert problem is not None and (problem.reason, problem.final) == ("StateNotFiles", True)
    assert state_problem(claim("s")) is None
