"""The cut and its snapshots when the guest, the storage or the operator fails."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import (
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.kube.port import ConflictError, RefusedError, UnavailableError
from longboat.repository import find_backup
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import SHOP, SYSTEM, BackupWorld, Grenade, disk, look, until


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


# The cut


def test_without_an_agent_nothing_is_claimed(world: BackupWorld) -> None:
    world.set_agent(False)
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert (status.phase, status.consistency, status.same_moment) == ("Completed", "Crash", False)
    assert "agent" in (status.consistency_reason or "") and world.machines.calls == []


def test_a_stopped_machine_is_one_moment_but_not_application_consistent(world: BackupWorld) -> None:
    world.cluster.delete(VIRTUAL_MACHINE_INSTANCE, "db", SHOP)
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert (status.consistency, status.same_moment) == ("Crash", True)


def test_a_machine_started_before_a_slow_snapshot_is_cut_is_not_one_moment(world: BackupWorld) -> None:
    world.cluster.delete(VIRTUAL_MACHINE_INSTANCE, "db", SHOP)
    world.storage.never_cut.add("db-logs")
    world.add_backup()
    world.reconcile()
    world.start("db")
    world.storage.never_cut.clear()
    world.drive()
    status = world.backup().status
    assert (status.phase, status.consistency, status.same_moment) == ("Completed", "Crash", False)


def test_a_disk_that_another_running_machine_uses_is_not_frozen_by_freezing_one(world: BackupWorld) -> None:
    world.add_vm("web", {"shared": "db-data"})
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert (status.phase, status.consistency, status.same_moment) == ("Completed", "Crash", False)
    assert "'web'" in (status.consistency_reason or "") and not world.machines.frozen


def test_a_claim_under_two_names_does_not_spoil_the_backup(world: BackupWorld) -> None:
    path = "/spec/template/spec/volumes/1/name"
    world.cluster.patch(VIRTUAL_MACHINE, "db", [{"op": "replace", "path": path, "value": "renamed"}], SHOP)
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "Completed"
    assert {each.name for each in world.backup().status.disks or ()} == {"root", "data", "logs"}


@pytest.mark.parametrize("error", [RefusedError("migrating"), UnavailableError("10 s"), ConflictError("not running")])
def test_a_freeze_that_fails_is_thawed_all_the_same(world: BackupWorld, error: Exception) -> None:
    world.machines.fail["freeze"] = error
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert [verb for verb, *_ in world.machines.calls] == ["freeze", "unfreeze"]
    assert status.consistency == "Crash" and str(error) in (status.consistency_reason or "")


def test_a_thaw_that_fails_is_tried_until_it_succeeds_and_nothing_is_claimed(world: BackupWorld) -> None:
    world.machines.fail["unfreeze"] = UnavailableError("VSS")
    world.add_backup()
    world.reconcile()
    assert world.machines.frozen
    world.machines.fail.clear()
    world.drive()
    assert not world.machines.frozen
    assert world.backup().status.consistency == "Crash"
    assert ("ThawFailed", "VirtualMachine 'db': VSS") in world.cluster.events


def test_a_guest_is_thawed_when_the_api_server_fails_while_it_is_frozen(world: BackupWorld) -> None:
    world.add_backup()
    create = world.cluster.create

    def failing(obj: Any) -> Any:
        if obj["kind"] == "VolumeSnapshot":
            raise UnavailableError("503")
        return create(obj)

    world.cluster.create = failing  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        world.reconcile()
    assert not world.machines.frozen and world.machines.calls[0][0] == "freeze"
    world.cluster.create = create  # type: ignore[method-assign]
    world.drive()
    assert world.backup().status.phase == "Completed" and world.leftovers() == []
    assert world.backup().status.cut is not None and world.backup().status.cut.attempt == 2


def test_a_slow_snapshot_does_not_keep_the_guest_frozen(world: BackupWorld) -> None:
    world.storage.never_cut.add("db-logs")
    world.add_backup()
    begun = world.clock()
    world.reconcile()
    assert not world.machines.frozen and world.clock() - begun <= timedelta(seconds=25)
    world.storage.never_cut.clear()
    world.drive()
    status = world.backup().status
    assert (status.phase, status.consistency, status.same_moment) == ("Completed", "Crash", False)


def test_another_backups_open_cut_of_the_machine_is_waited_for(world: BackupWorld) -> None:
    world.add_backup()
    with pytest.raises(Killed):
        # Killed after the freeze: the first backup's cut is open, its guest frozen.
        world.reconcile(bomb=_grenade_at(world, "freeze"))
    assert world.machines.frozen
    world.add_backup("other")
    look(world, name="other", times=2)
    assert world.machines.frozen, "the other backup thawed a guest that was not its own to thaw"
    assert world.backup("other").status.cut is None
    world.drive("run", "other")
    assert {world.backup(name).status.consistency for name in ("run", "other")} == {"Application"}


def test_a_vanished_backups_cut_holds_nobody_up_for_ever(world: BackupWorld) -> None:
    world.add_backup()
    with pytest.raises(Killed):
        world.reconcile(bomb=_grenade_at(world, "freeze"))
    world.add_backup("other")
    world.drive("other", rounds=200)
    assert world.backup("other").status.phase == "Completed"


def test_an_operator_that_is_killed_in_every_cut_does_without_the_freeze_in_the_end(world: BackupWorld) -> None:
    world.add_backup()
    for _ in range(3):
        with pytest.raises(Killed):
            world.reconcile(bomb=_grenade_at(world, "freeze"))
        world.clock.advance(seconds=5)
    world.drive()
    status = world.backup().status
    assert status.cut is not None and (status.cut.attempt, status.cut.freeze) == (4, "GivenUp")
    assert (status.phase, status.consistency) == ("Completed", "Crash") and world.leftovers() == []


def _grenade_at(world: BackupWorld, verb: str) -> Grenade:
    """Return a grenade that goes off right after a call of this verb."""

    class AfterVerb(Grenade):
        def wrap(self, port: Any) -> Any:
            if not hasattr(port, "freeze"):
                return port
            call = getattr(port, verb)

            class Port:
                def __getattr__(self, name: str) -> Any:
                    return getattr(port, name)

            wrapped = Port()

            def called(*args: Any) -> None:
                call(*args)
                wrapped.unfreeze = dead  # type: ignore[attr-defined]
                raise Killed(verb)

            def dead(*args: Any) -> None:
                raise Killed("dead")

            setattr(wrapped, verb, called)
            return wrapped

    return AfterVerb()


# Snapshots


def test_a_failing_snapshot_fails_its_disk_alone_and_names_the_snapshot(world: BackupWorld) -> None:
    world.storage.cut_errors["db-logs"] = "pool is full"
    world.add_backup()
    world.drive(rounds=400)
    failed = disk(world, "logs")
    assert (failed.phase, failed.reason) == ("Failed", "SnapshotNotCut")
    assert failed.volume_snapshot in failed.message and "pool is full" in failed.message
    assert world.backup().status.phase == "PartiallyFailed" and world.leftovers() == []
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None and {each.disk for each in manifest.disks} == {"root", "data"}


def test_a_snapshot_that_is_never_ready_ends_in_a_bounded_time(world: BackupWorld) -> None:
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    look(world, times=5)
    world.clock.advance(hours=12)
    world.drive()
    assert disk(world, "logs").reason == "SnapshotNotReady" and world.leftovers() == []


def test_a_snapshot_deleted_by_a_tenant_before_the_hand_over_is_no_backup(world: BackupWorld) -> None:
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    until(world, lambda status: status.disks and disk(world, "data").phase == "Exporting")
    world.cluster.delete(VOLUME_SNAPSHOT, disk(world, "logs").volume_snapshot, SHOP)
    world.drive()
    assert disk(world, "logs").reason == "SnapshotLost" and world.backup().status.phase == "PartiallyFailed"


def test_a_content_that_goes_during_the_hand_over_is_noticed(world: BackupWorld) -> None:
    world.storage.static_ready = False
    world.add_backup()
    until(world, lambda status: all(each.hand_over for each in status.disks or [disk]) if status.disks else False)
    look(world, times=2)
    world.cluster.delete(VOLUME_SNAPSHOT_CONTENT, disk(world, "logs").hand_over.original_content)
    world.storage.static_ready = True
    for each in world.cluster.list(VOLUME_SNAPSHOT, SYSTEM):
        path = {"op": "add", "path": "/status/readyToUse", "value": True}
        world.cluster.patch(VOLUME_SNAPSHOT, each["metadata"]["name"], [path], SYSTEM)
    world.drive()
    assert disk(world, "logs").reason == "SnapshotLost" and disk(world, "data").phase == "Completed"


def test_the_copy_carries_what_the_csi_driver_needs(world: BackupWorld) -> None:
    world.storage.annotations = {"snapshot.storage.kubernetes.io/deletion-secret-name": "s", "other": "x"}
    world.storage.static_ready = False
    world.add_backup()
    look(world, times=4)
    copies = [c for c in world.cluster.list(VOLUME_SNAPSHOT_CONTENT) if c["metadata"].get("labels")]
    copies = [c for c in copies if "longboat.dev/copy-of" in c["metadata"]["annotations"]]
    assert len(copies) == 3
    for copy in copies:
        assert copy["metadata"]["annotations"]["snapshot.storage.kubernetes.io/deletion-secret-name"] == "s"
        assert "other" not in copy["metadata"]["annotations"]
        assert (copy["spec"]["sourceVolumeMode"], copy["spec"]["volumeSnapshotClassName"]) == ("Block", "snapshots")


def test_a_class_that_retains_snapshots_leaves_none_in_the_storage(world: BackupWorld) -> None:
    world.storage.class_policy = "Retain"
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    look(world, times=3)
    world.clock.advance(hours=12)
    world.drive()
    assert world.leftovers() == []
