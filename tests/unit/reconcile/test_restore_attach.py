"""How a restored disk meets its virtual machine."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.kube.kinds import (
    KUBEVIRT,
    RESTORE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
)
from longboat.kube.port import ConflictError, RefusedError
from tests.unit.reconcile.disk_world import SHOP, SYSTEM
from tests.unit.reconcile.restore_world import (
    OLD,
    assert_restored,
    disks_of,
    leftovers,
    run,
    shop,
    status,
    wish,
)


def test_a_machine_deleted_meanwhile_leaves_the_disk_where_it_is() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world, rounds=1)
    world.cluster.delete(VIRTUAL_MACHINE, "db", SHOP)
    run(world)
    assert world.reason(RESTORE, "r", "Attached") == "VirtualMachineNotFound"
    assert world.storage.content(SHOP, "db-restored") == OLD
    assert status(world)["phase"] == "Attaching"
    assert leftovers(world) == []


def test_hot_plug_that_is_refused_is_named_until_the_machine_stops() -> None:
    world = shop()
    world.machines.fail["addvolume"] = RefusedError("hotplug volumes feature gate is not enabled")
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "AttachRefused"
    assert [name for name, _ in disks_of(world)] == ["data"]
    world.cluster.delete(VIRTUAL_MACHINE_INSTANCE, "db", SHOP)
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]


def test_with_declarative_hot_plug_alone_the_machine_is_edited() -> None:
    world = shop()
    gates = {"configuration": {"developerConfiguration": {"featureGates": ["DeclarativeHotplugVolumes"]}}}
    kubevirt = {"apiVersion": KUBEVIRT.api_version, "kind": "KubeVirt", "metadata": {"name": "k", "namespace": SYSTEM}}
    world.cluster.create(kubevirt | {"spec": gates})
    world.machines.fail["addvolume"] = RefusedError("bad request")
    world.add_restore("r", wish())
    run(world)
    spec = world.get(VIRTUAL_MACHINE, "db")["spec"]["template"]["spec"]
    assert spec["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "db-restored", "hotpluggable": True}
    assert world.reason(RESTORE, "r", "Attached") == "Attaching"
    plugged = [
        {"op": "add", "path": "/spec/volumes", "value": spec["volumes"]},
        {"op": "add", "path": "/spec/domain", "value": spec["domain"]},
    ]
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", plugged, SHOP)
    run(world)
    assert_restored(world)


def test_a_call_that_took_effect_although_it_failed_is_not_repeated() -> None:
    world = shop()
    real = world.machines.on_add_volume

    def late(name: str, namespace: str, volume: dict[str, Any]) -> None:
        real(name, namespace, volume)
        raise ConflictError("the server was too slow to answer")

    world.machines.on_add_volume = late
    world.add_restore("r", wish())
    run(world)
    assert_restored(world)
    assert len(world.machines.calls) == 1


def test_a_machine_that_is_starting_is_waited_for() -> None:
    world = shop()
    starting = [{"op": "replace", "path": "/status/phase", "value": "Scheduling"}]
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", starting, SHOP)
    world.add_restore("r", wish())
    run(world)
    assert world.machines.calls == []
    running = [{"op": "replace", "path": "/status/phase", "value": "Running"}]
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", running, SHOP)
    run(world)
    assert_restored(world)


def test_an_accepted_hot_plug_that_is_not_in_the_spec_yet_is_not_asked_for_twice() -> None:
    world = shop()
    request = {"volumeRequests": [{"addVolumeOptions": {"name": "restored"}}]}
    world.cluster.patch(VIRTUAL_MACHINE, "db", [{"op": "add", "path": "/status", "value": request}], SHOP)
    world.add_restore("r", wish())
    run(world)
    assert world.machines.calls == []
    assert world.reason(RESTORE, "r", "Attached") == "Attaching"


def test_a_disk_name_taken_meanwhile_is_not_taken_twice() -> None:
    world = shop(running=False)
    world.add_restore("r", wish())
    run(world, rounds=1)
    volume = {"name": "restored", "persistentVolumeClaim": {"claimName": "another"}}
    added = [{"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume}]
    world.cluster.patch(VIRTUAL_MACHINE, "db", added, SHOP)
    run(world)
    assert world.reason(RESTORE, "r", "Attached") == "DiskNameTaken"
    assert status(world)["phase"] == "Failed"
    assert len(world.get(VIRTUAL_MACHINE, "db")["spec"]["template"]["spec"]["volumes"]) == 2
    # The disk itself is restored, and stays.
    assert world.storage.content(SHOP, "db-restored") == OLD
    assert leftovers(world) == []


@pytest.mark.parametrize("running", [False, True])
def test_two_machines_never_get_one_disk(running: bool) -> None:
    world = shop(running=running)
    world.add_restore("r", wish())
    run(world, rounds=1)
    world.add_vm("other", {"mine": "db-restored"}, running=False)
    run(world)
    assert world.machines.calls == []
    assert [name for name, _ in disks_of(world)] == ["data"]
    assert world.reason(RESTORE, "r", "Attached") == "ClaimInUse"
    [stalled] = [each for each in status(world)["conditions"] if each["type"] == "Stalled"]
    assert "VirtualMachine 'other'" in stalled["message"]
    world.cluster.delete(VIRTUAL_MACHINE, "other", SHOP)
    run(world)
    assert_restored(world)


@pytest.mark.parametrize("lists", ["none", "some"])
def test_disks_that_a_user_adds_meanwhile_are_not_replaced(lists: str) -> None:
    world = shop(running=False)
    if lists == "none":
        bare = [
            {"op": "remove", "path": "/spec/template/spec/volumes"},
            {"op": "remove", "path": "/spec/template/spec/domain/devices/disks"},
        ]
        world.cluster.patch(VIRTUAL_MACHINE, "db", bare, SHOP)
    world.add_restore("r", wish())
    theirs = [{"name": "users", "persistentVolumeClaim": {"claimName": "users"}}]
    plain, left = world.cluster.patch, [theirs]

    def overtaken(kind: Any, name: str, operations: Any, namespace: str = "") -> Any:
        """The user is quicker, once."""
        if kind == VIRTUAL_MACHINE and left:
            edit = [
                {"op": "add", "path": "/spec/template/spec/volumes", "value": left.pop()},
                {"op": "add", "path": "/spec/template/spec/domain/devices/disks", "value": [{"name": "users"}]},
            ]
            plain(kind, name, edit, namespace)
        return plain(kind, name, operations, namespace)

    world.cluster.patch = overtaken  # type: ignore[method-assign]
    run(world)
    assert left == []
    assert [name for name, _ in disks_of(world)] == ["users", "restored"]
    devices = world.get(VIRTUAL_MACHINE, "db")["spec"]["template"]["spec"]["domain"]["devices"]
    assert [each["name"] for each in devices["disks"]] == ["users", "restored"]
