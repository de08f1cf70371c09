"""DiskSnapshots taken by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from longboat.kube.kinds import (
    DISK_SNAPSHOT,
    PERSISTENT_VOLUME_CLAIM,
    VIRTUAL_MACHINE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CLASS,
)
from longboat.reconcile.disk_snapshot import LATER, reconcile
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.disk_world import SHOP, World

DATA = {"virtualMachine": "db", "name": "data"}


@pytest.fixture
def world() -> World:
    world = World()
    world.storage.add_claim(SHOP, "db-data", "precious", size="2Gi")
    world.label(PERSISTENT_VOLUME_CLAIM, "db-data", {"app": "db"})
    world.add_vm("db", {"data": "db-data"})
    return world


def run(world: World, name: str = "before", rounds: int = 4) -> None:
    for _ in range(rounds):
        reconcile(world.context(), SHOP, name)
        world.storage.settle()


def test_a_disk_of_a_machine_is_snapshotted(world: World) -> None:
    world.add_snapshot("before", DATA)
    run(world)
    status = world.get(DISK_SNAPSHOT, "before")["status"]
    assert status["phase"] == "Ready"
    assert status["target"] == "db/data"
    assert status["takenAt"] == "2025-11-22T03:30:00Z"
    assert status["sizeBytes"] == 2 << 30
    assert world.storage.data[status["snapshotHandle"]] == "precious"
    assert reconcile(world.context(), SHOP, "before") is None


def test_a_snapshot_whose_machine_is_missing_is_looked_at_ever_less_often(world: World) -> None:
    world.add_snapshot("before", {"virtualMachine": "ghost", "name": "data"})
    assert reconcile(world.context(), SHOP, "before") == LATER
    world.clock.advance(minutes=8)
    assert reconcile(world.context(), SHOP, "before") == timedelta(minutes=4)


def test_a_snapshot_that_is_never_ready_is_not_waited_for_for_ever(world: World) -> None:
    world.add_snapshot("before", DATA)
    reconcile(world.context(), SHOP, "before")
    world.clock.advance(hours=11)
    assert reconcile(world.context(), SHOP, "before") is not None
    world.clock.advance(hours=1)
    reconcile(world.context(), SHOP, "before")
    assert world.get(DISK_SNAPSHOT, "before")["status"]["phase"] == "Failed"
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == "SnapshotNotReady"


def test_what_tables_show_of_a_snapshot_is_short(world: World) -> None:
    world.add_snapshot("before", DATA, expiresAfter="1h")
    run(world)
    path = {"op": "add", "path": "/status/creationTime", "value": "2025-11-22T03:30:00.962290Z"}
    name = world.get(DISK_SNAPSHOT, "before")["status"]["volumeSnapshot"]
    world.cluster.patch(VOLUME_SNAPSHOT, name, [path], SHOP)
    run(world, rounds=1)
    status = world.get(DISK_SNAPSHOT, "before")["status"]
    assert (status["takenAt"], status["expiresAt"]) == ("2025-11-22T03:30:00Z", "2025-11-22T04:30:00Z")
    assert status["size"] == "2Gi"


def test_a_claim_of_its_own_is_snapshotted(world: World) -> None:
    world.add_snapshot("before", {"persistentVolumeClaim": "db-data"})
    run(world)
    assert world.get(DISK_SNAPSHOT, "before")["status"]["target"] == "db-data"
    assert world.reason(DISK_SNAPSHOT, "before") == "SnapshotReady"


def test_the_volume_snapshot_has_the_same_life_and_no_copied_labels(world: World) -> None:
    world.add_snapshot("before", DATA)
    run(world)
    (found,) = world.cluster.list(VOLUME_SNAPSHOT)
    assert "app" not in found["metadata"]["labels"]
    world.cluster.delete(DISK_SNAPSHOT, "before", SHOP)
    world.storage.settle()
    assert not list(world.cluster.list(VOLUME_SNAPSHOT))
    assert "precious" in world.storage.data.values()


def test_a_machine_that_is_unknown_is_named_and_may_come_later(world: World) -> None:
    world.add_snapshot("before", {"virtualMachine": "late", "name": "data"})
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == "VirtualMachineNotFound"
    assert world.get(DISK_SNAPSHOT, "before")["status"]["phase"] == "Pending"
    world.storage.add_claim(SHOP, "late-data", "x")
    world.add_vm("late", {"data": "late-data"})
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before") == "SnapshotReady"
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == ""


def test_a_snapshot_is_not_taken_long_after_the_moment_that_was_meant(world: World) -> None:
    world.add_snapshot("before", {"virtualMachine": "late", "name": "data"})
    run(world)
    world.clock.advance(minutes=11)
    run(world)
    world.storage.add_claim(SHOP, "late-data", "x")
    world.add_vm("late", {"data": "late-data"})
    run(world)
    assert world.get(DISK_SNAPSHOT, "before")["status"]["phase"] == "Failed"
    assert not list(world.cluster.list(VOLUME_SNAPSHOT))


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        ({"virtualMachine": "db", "name": "dota"}, "DiskNotFound"),
        ({"virtualMachine": "db", "name": "ghost"}, "ClaimNotFound"),
        ({"persistentVolumeClaim": "nothing"}, "ClaimNotFound"),
    ],
)
def test_a_wrong_name_lands_as_a_condition(world: World, disk: dict[str, str], reason: str) -> None:
    ghost = {"name": "ghost", "persistentVolumeClaim": {"claimName": "gone"}}
    operation = {"op": "add", "path": "/spec/template/spec/volumes/-", "value": ghost}
    world.cluster.patch(VIRTUAL_MACHINE, "db", [operation], SHOP)
    world.add_snapshot("before", disk)
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == reason
    assert [each for each, _ in world.cluster.events] == [reason]


def test_storage_that_cannot_snapshot_is_said_and_nothing_made(world: World) -> None:
    world.cluster.delete(VOLUME_SNAPSHOT_CLASS, "snapshots")
    world.add_snapshot("before", DATA)
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before") == "NoSnapshotClass"
    assert not list(world.cluster.list(VOLUME_SNAPSHOT))


def test_the_drivers_error_is_named_and_recovered_from(world: World) -> None:
    world.storage.snapshot_error = "pool is full"
    world.add_snapshot("before", DATA)
    run(world)
    condition = world.get(DISK_SNAPSHOT, "before")["status"]["conditions"][0]
    assert (condition["reason"], "pool is full" in condition["message"]) == ("SnapshotFailed", True)
    world.clock.advance(minutes=40)
    run(world)
    assert world.get(DISK_SNAPSHOT, "before")["status"]["phase"] == "Failed"
    world.storage.snapshot_error = None
    world.storage.settle()
    run(world)
    assert world.get(DISK_SNAPSHOT, "before")["status"]["phase"] == "Ready"


def test_a_foreign_volume_snapshot_of_our_name_is_never_taken_for_ours(world: World) -> None:
    world.add_snapshot("before", DATA)
    run(world)
    (mine,) = world.cluster.list(VOLUME_SNAPSHOT)
    world.cluster.delete(VOLUME_SNAPSHOT, mine["metadata"]["name"], SHOP)
    mine["metadata"] = {"name": mine["metadata"]["name"], "namespace": SHOP}
    world.cluster.create(mine)
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == "NameTaken"


def test_a_lost_volume_snapshot_is_told_and_not_taken_again(world: World) -> None:
    world.add_snapshot("before", DATA)
    run(world)
    (mine,) = world.cluster.list(VOLUME_SNAPSHOT)
    world.cluster.delete(VOLUME_SNAPSHOT, mine["metadata"]["name"], SHOP)
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == "SnapshotLost"
    assert not list(world.cluster.list(VOLUME_SNAPSHOT))


def test_an_expired_snapshot_goes_and_not_a_moment_earlier(world: World) -> None:
    world.add_snapshot("before", DATA, expiresAfter="7d")
    run(world)
    wait = reconcile(world.context(), SHOP, "before")
    assert wait is not None
    assert wait.days == 7
    world.clock.advance(days=7, seconds=-1)
    run(world)
    assert world.get(DISK_SNAPSHOT, "before")
    world.clock.advance(seconds=1)
    run(world)
    assert world.cluster.get(DISK_SNAPSHOT, "before", SHOP) is None


def test_a_content_that_points_elsewhere_is_not_ready(world: World) -> None:
    world.add_snapshot("before", DATA)
    reconcile(world.context(), SHOP, "before")
    (mine,) = world.cluster.list(VOLUME_SNAPSHOT)
    foreign = {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotContent",
        "metadata": {"name": "foreign"},
        "spec": {"volumeSnapshotRef": {"name": "other", "namespace": "other", "uid": "other"}},
        "status": {"snapshotHandle": "theirs"},
    }
    world.cluster.create(foreign)
    mine["status"] = {"readyToUse": True, "boundVolumeSnapshotContentName": "foreign", "restoreSize": "1Gi"}
    world.cluster.update_status(mine)
    reconcile(world.context(), SHOP, "before")
    assert world.get(DISK_SNAPSHOT, "before")["status"]["phase"] == "Pending"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_the_operator_killed_between_two_writes_goes_on(nth: int, before: bool) -> None:
    world = World()
    world.storage.add_claim(SHOP, "db-data", "precious")
    world.add_vm("db", {"data": "db-data"})
    world.add_snapshot("before", DATA)
    bomb = KillAt(nth, before=before)
    with pytest.raises(Killed):
        for _ in range(6):
            reconcile(world.context(bomb), SHOP, "before")
            world.storage.settle()
    run(world)
    assert world.reason(DISK_SNAPSHOT, "before") == "SnapshotReady"
    assert len(list(world.cluster.list(VOLUME_SNAPSHOT))) == 1
    assert datetime.fromisoformat(world.get(DISK_SNAPSHOT, "before")["status"]["takenAt"]).tzinfo == UTC
