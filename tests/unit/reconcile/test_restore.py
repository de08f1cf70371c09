"""Restores that go well, and what they leave alone."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from longboat.kube.kinds import (
    DISK_BACKUP,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
)
from tests.unit.reconcile.disk_world import SHOP, SYSTEM, find_condition
from tests.unit.reconcile.restore_world import (
    GIB,
    OLD,
    add_backup,
    assert_restored,
    disk,
    disks_of,
    run,
    shop,
    snapshot,
    status,
    wish,
)


def test_a_backup_comes_back_as_a_disk_of_a_running_machine() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]
    assert disks_of(world)[1][1] == status(world)["serial"]
    assert len(status(world)["serial"]) == 20
    assert status(world)["attachedAs"].startswith("sd")
    assert status(world)["progress"] == "100%"
    assert find_condition(world.get(RESTORE, "r"), "Attached").status == "True"


def test_a_backup_comes_back_as_a_disk_of_a_stopped_machine() -> None:
    world = shop(running=False)
    world.add_restore("r", wish())
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]
    assert world.machines.calls == []
    assert "attachedAs" not in status(world)


def test_a_backup_comes_back_without_any_machine() -> None:
    world = shop()
    world.add_restore("r", wish(attach=False))
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data"]


@pytest.mark.parametrize("running", [True, False])
def test_a_class_that_waits_for_its_first_consumer_is_filled_where_the_machine_is(running: bool) -> None:
    world = shop(running=running)
    world.add_restore("r", wish(storageClassName="late"))
    run(world)
    assert_restored(world)
    mover: Any = world.storage.run_job
    affinity = mover.jobs[0]["spec"]["template"]["spec"].get("affinity")
    assert ("node-1" in str(affinity)) == running


def test_a_class_that_keeps_its_volumes_gets_its_policy_back() -> None:
    world = shop()
    world.add_restore("r", wish(storageClassName="keeping"))
    run(world)
    assert_restored(world, "Retain")


def test_a_larger_size_is_given_and_the_same_is_the_default() -> None:
    world = shop()
    world.add_restore("r", wish(size="3Gi"))
    world.add_restore("same", wish() | {"claim": {"name": "same"}, "attach": None})
    run(world)
    run(world, name="same")
    assert status(world)["sizeBytes"] == 3 * GIB
    assert world.storage.claim(SHOP, "same")["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_a_file_system_volume_has_room_for_the_image_and_its_file_system() -> None:
    world = shop()
    add_backup(world, "files", [disk("data", volumeMode="Filesystem")])
    world.add_restore("r", wish(backup="files"))
    run(world)
    assert_restored(world)
    assert status(world)["sizeBytes"] > GIB * 1.05
    assert world.storage.claim(SHOP, "db-restored")["spec"]["volumeMode"] == "Filesystem"


def test_the_restored_claim_belongs_to_nobody_and_carries_no_labels() -> None:
    world = shop()
    world.label(PERSISTENT_VOLUME_CLAIM, "db-data", {"app": "db"})
    world.add_restore("r", wish())
    run(world)
    meta = world.storage.claim(SHOP, "db-restored")["metadata"]
    assert not meta.get("ownerReferences")
    assert not meta.get("labels")
    assert meta["annotations"]["longboat.dev/restored-from"] == "nightly/data"
    world.cluster.delete(RESTORE, "r", SHOP)
    world.storage.settle()
    assert world.storage.content(SHOP, "db-restored") == OLD


def test_a_twin_beside_its_original_is_warned_of() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "DuplicateIdentity") == "DuplicateIdentity"
    world = shop()
    world.add_vm("other", {})
    world.add_restore("r", wish() | {"attach": {"virtualMachine": "other", "diskName": "restored"}})
    run(world)
    assert world.reason(RESTORE, "r", "Attached") == "Attached"
    assert world.reason(RESTORE, "r", "DuplicateIdentity") == ""


@pytest.mark.parametrize(("running", "late"), list(itertools.product([True, False], [True, False])))
def test_a_snapshot_comes_back_as_a_disk(running: bool, late: bool) -> None:
    world = shop(running=running)
    snapshot(world)
    world.add_restore("r", wish(snapshot="before", storageClassName="late" if late else "fast"))
    run(world)
    assert status(world)["phase"] == "Completed"
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]
    if running or not late:
        assert world.storage.content(SHOP, "db-restored") == "the new data"
    if late and not running:
        # The machine is the first consumer: the volume is made when it starts.
        world.start("db")
        world.storage.settle()
        assert world.storage.content(SHOP, "db-restored") == "the new data"
    assert not list(world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM))


def test_a_source_that_is_still_being_made_is_waited_for() -> None:
    world = shop()
    add_backup(world, "running", [disk("data", "Exporting")], phase="Exporting")
    world.add_restore("r", wish(backup="running"))
    run(world)
    assert world.reason(RESTORE, "r") == "SourceNotReady"
    assert world.reason(RESTORE, "r", "Stalled") == ""
    found = world.get(RESTORE, "r")
    assert found["status"]["phase"] == "Pending"
    backup = world.get(DISK_BACKUP, "running")
    backup["status"] |= {"phase": "Completed", "disks": [disk("data")]}
    world.cluster.update_status(backup)
    run(world)
    assert_restored(world)


def test_a_machine_that_holds_the_disk_already_as_its_manifest_says_is_left_as_it_is() -> None:
    world = shop(running=False)
    volume = {"name": "restored", "persistentVolumeClaim": {"claimName": "db-restored"}}
    added = [{"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume}]
    world.cluster.patch(VIRTUAL_MACHINE, "db", added, SHOP)
    world.add_restore("r", wish())
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data"]


def test_a_machine_that_is_stopped_meanwhile_gets_its_disk_in_the_spec() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world, rounds=2)
    world.cluster.delete(VIRTUAL_MACHINE_INSTANCE, "db", SHOP)
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]
