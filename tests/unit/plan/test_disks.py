"""Which disks a virtual machine has."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.api.common import DiskRef
from longboat.plan.disks import VmDisk, claim_problem, claims_in_use, other_user, resolve_disk, vm_disks
from longboat.plan.problem import Problem


def machine(*volumes: dict[str, Any], filesystems: tuple[str, ...] = ()) -> dict[str, Any]:
    devices = {"filesystems": [{"name": name} for name in filesystems]}
    spec = {"volumes": list(volumes), "domain": {"devices": devices}}
    return {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"template": {"spec": spec}}}


def instance(*volumes: dict[str, Any], phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"volumes": list(volumes)},
        "status": {"phase": phase},
    }


def on_claim(name: str, claim: str) -> dict[str, Any]:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def names(disks: list[VmDisk]) -> list[tuple[str, str | None]]:
    return [(disk.name, disk.claim) for disk in disks]


def test_data_volumes_and_claims_are_disks() -> None:
    vm = machine({"name": "root", "dataVolume": {"name": "db-root"}}, on_claim("data", "db-data"))
    assert names(vm_disks(vm, None)) == [("root", "db-root"), ("data", "db-data")]


@pytest.mark.parametrize(
    "source",
    ["containerDisk", "emptyDisk", "cloudInitNoCloud", "cloudInitConfigDrive", "configMap", "secret", "sysprep",
     "downwardAPI", "downwardMetrics", "serviceAccount", "memoryDump"],
)  # fmt: skip
def test_a_volume_without_a_disk_of_its_own_is_not_reported_as_failed_disk(source: str) -> None:
    assert vm_disks(machine({"name": "x", source: {"claimName": "dump"}}), None) == []


@pytest.mark.parametrize(("source", "reason"), [("hostDisk", "HostDisk"), ("ephemeral", "Ephemeral")])
def test_an_unprotected_disk_is_never_passed_over_in_silence(source: str, reason: str) -> None:
    (disk,) = vm_disks(machine({"name": "x", source: {"persistentVolumeClaim": {"claimName": "c"}}}), None)
    assert disk.claim is None
    assert disk.unsupported is not None
    assert disk.unsupported.reason == reason


def test_a_shared_file_system_is_not_taken_for_a_disk() -> None:
    (disk,) = vm_disks(machine(on_claim("share", "files"), filesystems=("share",)), None)
    assert disk.claim is None


def test_a_disk_hot_plugged_until_the_next_stop_is_not_forgotten() -> None:
    vm = machine(on_claim("root", "db-root"))
    vmi = instance(on_claim("root", "db-root"), on_claim("extra", "db-extra"))
    assert names(vm_disks(vm, vmi)) == [("root", "db-root"), ("extra", "db-extra")]


def test_a_disk_plugged_into_an_instance_that_ended_is_not_the_machines() -> None:
    vm = machine(on_claim("root", "db-root"))
    assert names(vm_disks(vm, instance(on_claim("extra", "db-extra"), phase="Succeeded"))) == [("root", "db-root")]


def test_the_running_volume_wins_over_the_one_of_the_next_start() -> None:
    vm, vmi = machine(on_claim("data", "new")), instance(on_claim("data", "old"))
    assert names(vm_disks(vm, vmi)) == [("data", "old")]


def test_a_claim_under_two_names_is_one_disk_with_the_running_name() -> None:
    vm, vmi = machine(on_claim("renamed", "db-data")), instance(on_claim("data", "db-data"))
    assert names(vm_disks(vm, vmi)) == [("data", "db-data")]
    assert names(vm_disks(machine(on_claim("a", "c"), on_claim("b", "c")), None)) == [("a", "c")]
    for name in ("renamed", "data"):
        assert resolve_disk(DiskRef(virtual_machine="db", name=name), vm, vmi) == VmDisk(name, "db-data")


def test_another_user_of_a_claim_counts_only_while_it_runs() -> None:
    vmi, ended = instance(on_claim("data", "shared")), instance(on_claim("data", "shared"), phase="Succeeded")
    assert other_user([vmi], ["shared"], "web") == "db"
    assert other_user([vmi], ["shared"], "db") is None
    assert other_user([vmi], ["own"], "web") is None
    assert other_user([ended], ["shared"], "web") is None


def test_a_reference_names_its_disk() -> None:
    vm = machine(on_claim("data", "db-data"))
    assert resolve_disk(DiskRef(virtual_machine="db", name="data"), vm, None) == VmDisk("data", "db-data")
    assert resolve_disk(DiskRef(persistent_volume_claim="pvc"), None, None) == VmDisk("pvc", "pvc")


@pytest.mark.parametrize(
    ("ref", "vm", "reason", "words"),
    [
        (DiskRef(virtual_machine="gone", name="data"), None, "VirtualMachineNotFound", "'gone'"),
        (DiskRef(virtual_machine="db", name="dota"), machine(on_claim("data", "c")), "DiskNotFound", "data"),
        (DiskRef(virtual_machine="db", name="h"), machine({"name": "h", "hostDisk": {}}), "HostDisk", "'h'"),
    ],
)
def test_a_wrong_reference_says_what_is_wrong(ref: DiskRef, vm: dict[str, Any], reason: str, words: str) -> None:
    found = resolve_disk(ref, vm, None)
    assert isinstance(found, Problem)
    assert found.reason == reason
    assert words in found.message


def test_a_claim_that_is_missing_or_unbound_is_no_source() -> None:
    missing, pending = claim_problem(None, "c"), claim_problem({"status": {"phase": "Pending"}}, "c")
    assert (missing and missing.reason, pending and pending.reason) == ("ClaimNotFound", "ClaimNotBound")
    assert claim_problem({"status": {"phase": "Bound"}}, "c") is None


def test_the_user_of_a_claim_is_found() -> None:
    vms, vmis = [machine(on_claim("root", "r"))], [instance(on_claim("extra", "e"))]
    assert claims_in_use(vms, vmis) == {("shop", "r"): ("db", "root"), ("shop", "e"): ("db", "extra")}
