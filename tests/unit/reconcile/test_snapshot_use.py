"""A snapshot that is being restored stays, and one that is lost is noticed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from longboat.api import DiskSnapshot
from longboat.kube.kinds import DISK_SNAPSHOT, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, RESTORE, VOLUME_SNAPSHOT
from longboat.plan.automatic import Removal, Taken
from longboat.plan.snapshots import volume_snapshot_name
from longboat.reconcile import disk_snapshot
from longboat.reconcile.automatic_snapshots import Memory, tick
from longboat.reconcile.restore import reconcile
from longboat.reconcile.routing import Owners
from tests.unit.reconcile.disk_world import SHOP, World
from tests.unit.reconcile.restore_world import OLD, run, shop, snapshot, status, wish

SPEC = {"virtualMachine": "db", "name": "data"}


def taken(world: World, name: str, phase: str = "Ready") -> Taken:
    each = world.get(DISK_SNAPSHOT, name)
    now = world.clock()
    return Taken(SHOP, name, each["metadata"]["uid"], "u", now, now, phase)  # type: ignore[arg-type]


def automatic(world: World, *names: str) -> None:
    for name in names:
        world.add_snapshot(name, SPEC, origin="Automatic")
        for _ in range(4):
            disk_snapshot.reconcile(world.context(), SHOP, name)
            world.storage.settle()


def remove(world: World, name: str, successor: str) -> bool:
    """Let a tick remove a snapshot for its successor; return whether it went."""
    memory = Memory(next_scan=world.clock() + timedelta(days=1))
    memory.queue.append(Removal(taken(world, name), taken(world, successor)))
    tick(world.context(), memory)
    return world.cluster.get(DISK_SNAPSHOT, name, SHOP) is None


def hide_class(world: World) -> None:
    """Let no volume be made for now."""
    world.storage._source_content = lambda claim: None  # type: ignore[method-assign]


def test_an_automatic_snapshot_stays_while_a_restore_needs_it() -> None:
    world = shop()
    automatic(world, "one", "two")
    world.add_restore("r", wish(snapshot="one"))
    assert not remove(world, "one", "two")
    run(world)
    assert status(world)["phase"] == "Completed" and remove(world, "one", "two")


def test_a_snapshot_stays_while_a_claim_waits_for_its_data() -> None:
    world = shop()
    automatic(world, "one", "two")
    world.add_restore("r", wish(snapshot="one", attach=False, storageClassName="late"))
    run(world)
    assert status(world)["phase"] == "Completed"
    assert not remove(world, "one", "two")


def test_an_expired_snapshot_stays_until_its_restore_is_done() -> None:
    world = shop()
    world.add_snapshot("brief", SPEC, expiresAfter="1h")
    for _ in range(4):
        disk_snapshot.reconcile(world.context(), SHOP, "brief")
        world.storage.settle()
    hide_class(world)
    world.add_restore("r", wish(snapshot="brief"))
    run(world, rounds=2)
    world.clock.advance(hours=2)
    # The last hour it was due, and it may be for long: who keeps it costs no more than a look now and then.
    assert disk_snapshot.reconcile(world.context(), SHOP, "brief") == timedelta(minutes=5)
    del world.storage._source_content
    run(world)
    assert world.storage.content(SHOP, "db-restored") is not None
    disk_snapshot.reconcile(world.context(), SHOP, "brief")
    assert world.cluster.get(DISK_SNAPSHOT, "brief", SHOP) is None


@pytest.mark.parametrize("storage_class", ["fast", "late"])
def test_a_snapshot_deleted_before_the_volume_is_made_is_not_called_completed(storage_class: str) -> None:
    world = shop()
    snapshot(world)
    hide_class(world)
    world.add_restore("r", wish(snapshot="before", storageClassName=storage_class))

    def lose(verb: str, obj: object) -> None:
        if world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP):
            world.cluster.hooks.remove(lose)
            name = world.get(DISK_SNAPSHOT, "before")["status"]["volumeSnapshot"]
            world.cluster.delete(VOLUME_SNAPSHOT, name, SHOP)

    world.cluster.hooks.append(lose)
    run(world)
    assert status(world)["phase"] == "Failed"
    assert world.reason(RESTORE, "r", "Stalled") == "SnapshotLost"


def test_a_volume_that_was_there_before_is_not_taken_for_the_snapshots_data() -> None:
    world = shop()
    snapshot(world)
    world.storage.add_claim(SHOP, "original", OLD)
    world.clock.advance(days=1)
    volume = world.storage.free(SHOP, "original", policy="Delete")
    world.add_restore("r", wish(snapshot="before"))
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "VolumeNotNew"
    assert world.get(PERSISTENT_VOLUME, volume, "")["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


def test_an_old_snapshot_does_not_go_for_one_whose_data_is_lost() -> None:
    world = shop()
    automatic(world, "one", "two")
    lost = volume_snapshot_name(DiskSnapshot.model_validate(world.get(DISK_SNAPSHOT, "two")))
    world.cluster.delete(VOLUME_SNAPSHOT, lost, SHOP)
    assert not remove(world, "one", "two")


def test_the_loss_of_a_ready_snapshots_data_wakes_its_owner() -> None:
    world = shop()
    snapshot(world)
    owners = Owners()
    owners.note(world.get(DISK_SNAPSHOT, "before"))
    (volume_snapshot,) = world.cluster.list(VOLUME_SNAPSHOT, SHOP)
    assert owners.owner_of(volume_snapshot, "MODIFIED") is None
    leaving = volume_snapshot | {"metadata": volume_snapshot["metadata"] | {"deletionTimestamp": "now"}}
    assert owners.owner_of(leaving, "MODIFIED")
    key = owners.owner_of(volume_snapshot, "DELETED")
    assert key is not None and key.name == "before"
    world.cluster.delete(VOLUME_SNAPSHOT, volume_snapshot["metadata"]["name"], SHOP)
    disk_snapshot.reconcile(world.context(), key.namespace, key.name)
    assert world.reason(DISK_SNAPSHOT, "before", "Stalled") == "SnapshotLost"
    owners.note(world.get(DISK_SNAPSHOT, "before"))
    assert owners.owner_of(volume_snapshot, "DELETED") is None


def test_a_restore_that_waits_is_looked_at_again() -> None:
    world = shop()
    snapshot(world)
    hide_class(world)
    world.add_restore("r", wish(snapshot="before"))
    run(world, rounds=2)
    assert reconcile(world.context(), SHOP, "r") is not None
