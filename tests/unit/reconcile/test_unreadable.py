"""An object that the operator can't read holds up nobody else: it says what is wrong, and can still be deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from longboat.api import DiskBackup
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP
from longboat.kube.port import Object
from longboat.reconcile import backup_policy, deletion, disk_backup, retention
from longboat.reconcile.dispatch import work
from longboat.reconcile.objects import readable, salvage, slim
from longboat.reconcile.queue import Key
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, until

ODD = ["2026-11-24T10:00:00+99:99", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-99:00"]
ODD_FIELDS = [(field, moment) for field in ("expiresAt", "slot") for moment in ODD]


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


def spoil(world: BackupWorld, name: str = "run", field: str = "expiresAt", moment: str = ODD[0]) -> None:
    """Let an object hold what the schema lets through no more."""
    path = [{"op": "add", "path": f"/spec/{field}", "value": moment}]
    world.cluster.patch(DISK_BACKUP, name, path, SHOP)
    with pytest.raises(ValidationError):
        world.backup(name)


def do(world: BackupWorld, kind: str = "DiskBackup", name: str = "run") -> Any:
    """Work on a key as the operator does."""
    try:
        return work(world.context())(Key(kind, SHOP, name))
    finally:
        world.storage.settle()


def conditions(world: BackupWorld, name: str = "run") -> dict[str, Object]:
    return {each["type"]: each for each in world.get(DISK_BACKUP, name)["status"]["conditions"]}


@pytest.mark.parametrize(("field", "moment"), ODD_FIELDS)
def test_it_says_which_field_cannot_be_read(world: BackupWorld, field: str, moment: str) -> None:
    world.add_backup()
    spoil(world, field=field, moment=moment)
    assert do(world) is None
    stalled = conditions(world)["Stalled"]
    assert (stalled["status"], stalled["reason"]) == ("True", "Unreadable")
    assert f"spec.{field}" in stalled["message"] and moment in stalled["message"]
    assert conditions(world)["Ready"]["status"] == "False"
    before = world.get(DISK_BACKUP, "run")
    world.clock.advance(minutes=5)
    do(world)
    assert world.get(DISK_BACKUP, "run") == before and [each for each, _ in world.cluster.events] == ["Unreadable"]


@pytest.mark.parametrize("field", ["expiresAt", "slot"])
def test_it_freezes_neither_its_policy_nor_the_other_backups(world: BackupWorld, field: str) -> None:
    world.add_backup("odd")
    spoil(world, "odd", field)
    world.add_backup("good")
    world.drive("good")
    assert world.backup("good").status.phase == "Completed"
    assert [each.name for each in backup_policy.policy_runs(world.cluster, SHOP, "daily")] == ["good"]
    backup_policy.reconcile(world.context(), SHOP, "daily")
    assert world.get(BACKUP_POLICY, "daily")["status"]["protected"] == "Yes"
    retention.reconcile(world.context(), SHOP, "daily")
    assert world.backup("good").status.expires_at is not None


def test_a_deletion_beside_it_goes_on(world: BackupWorld) -> None:
    world.add_backup("odd")
    world.add_backup("good")
    for name in ("odd", "good"):
        deletion.guard(world.context(), world.backup(name))
    spoil(world, "odd")
    for name in ("odd", "good"):
        world.cluster.delete(DISK_BACKUP, name, SHOP)
    finish(world, "good")


def finish(world: BackupWorld, name: str) -> None:
    for _ in range(20):
        if world.cluster.get(DISK_BACKUP, name, SHOP) is None:
            return
        do(world, name=name)
        world.clock.advance(minutes=1)
    raise AssertionError(f"still there: {world.get(DISK_BACKUP, name)}")


@pytest.mark.parametrize("field", ["expiresAt", "slot"])
def test_it_can_be_deleted_and_what_was_made_for_it_goes(world: BackupWorld, field: str) -> None:
    world.add_backup()
    deletion.guard(world.context(), world.backup())
    until(world, lambda status: any(each.phase == "Exporting" for each in status.disks or ()))
    spoil(world, field=field)
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    finish(world, "run")
    assert world.leftovers() == []


def test_a_guest_that_it_left_frozen_is_thawed(world: BackupWorld) -> None:
    world.add_backup()
    disk_backup.reconcile(world.context(), SHOP, "run")
    obj = world.get(DISK_BACKUP, "run")
    obj["status"]["cut"] |= {"freeze": "Frozen"}
    for each in ("endedAt", "thawedAt"):
        obj["status"]["cut"].pop(each, None)
    world.cluster.update_status(obj)
    spoil(world)
    calls = len(world.machines.calls)
    do(world)
    assert [each[0] for each in world.machines.calls[calls:]] == ["unfreeze"]
    status = world.get(DISK_BACKUP, "run")["status"]
    assert status["cut"]["thawedAt"] and conditions(world)["Stalled"]["reason"] == "Unreadable"


def test_the_record_of_a_newer_version_is_told_of_and_not_written_over(world: BackupWorld) -> None:
    world.add_backup()
    until(world, lambda status: any(each.hand_over for each in status.disks or ()))
    obj = world.get(DISK_BACKUP, "run")
    obj["status"]["disks"][0]["phase"] = "Teleported"
    obj["status"]["marvel"] = {"of": "tomorrow"}
    world.cluster.update_status(obj)
    do(world)
    after = world.get(DISK_BACKUP, "run")["status"]
    assert after["disks"] == obj["status"]["disks"] and after["marvel"] == obj["status"]["marvel"]
    assert "status.disks.0.phase" in conditions(world)["Stalled"]["message"]


def test_of_an_unreadable_object_all_but_the_odd_fields_is_salvaged(world: BackupWorld) -> None:
    obj = world.add_backup(hold=True)
    obj["spec"] |= {"expiresAt": ODD[0], "slot": ODD[1]}
    found = salvage(DiskBackup, obj)
    assert found.resource is not None and found.resource.spec.hold and found.status_is_whole
    assert len(found.problems) == 2
    assert salvage(DiskBackup, obj | {"spec": {}}).resource is None
    assert list(readable(DiskBackup, [obj])) == []


def test_a_whole_object_is_not_called_unreadable(world: BackupWorld) -> None:
    obj = world.add_backup()
    assert salvage(DiskBackup, obj).problems == ()


def test_labels_of_others_are_not_kept_in_memory() -> None:
    labels = {"longboat.dev/origin": "AdHoc", **{f"x{number}": "y" * 60 for number in range(9)}}
    meta = {"name": "b", "namespace": "shop", "labels": labels, "annotations": dict(labels), "managedFields": [labels]}
    obj = {"metadata": meta, "spec": {"policyRef": {"name": "daily"}}}
    (backup,) = readable(DiskBackup, [obj])
    assert backup.metadata.labels == backup.metadata.annotations == {"longboat.dev/origin": "AdHoc"}
    assert "managedFields" not in slim(obj)["metadata"] and "x1" in labels
