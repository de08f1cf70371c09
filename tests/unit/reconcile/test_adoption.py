"""Backups taken over from the store: what is there is said, and what is not is never said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP
from longboat.reconcile import retention
from longboat.repository import find_backup, read_tombstones
from tests.unit.reconcile.backup_world import DISKS, SHOP, BackupWorld, disk


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    world.drive()
    return world


def apply_again(world: BackupWorld, days: float = 1, **spec: Any) -> None:
    """Lose the DiskBackup, and apply it again a while later."""
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    world.clock.advance(days=days)
    world.add_backup(**spec)
    world.drive()


def manifest_files(world: BackupWorld) -> dict[str, Path]:
    """Return where the disks' manifests are, by the disk's name."""
    root = next((world.folder / "store").rglob("disks")).parent
    return {name: root / disk(world, name).manifest for name in DISKS}


def test_a_backup_whose_data_is_gone_is_not_adopted_as_good(world: BackupWorld) -> None:
    for path in manifest_files(world).values():
        path.unlink()
    apply_again(world)
    status = world.backup().status
    assert status.phase == "Failed" and world.condition("Stalled").reason == "DataMissing"
    assert {each.phase for each in status.disks or ()} == {"Failed"}


def test_the_disks_that_are_there_are_adopted_without_those_that_are_not(world: BackupWorld) -> None:
    files = manifest_files(world)
    files["data"].unlink()
    files["logs"].write_bytes(b"not a manifest")
    apply_again(world)
    assert world.backup().status.phase == "PartiallyFailed" and "'data'" in world.condition().message
    assert {name: disk(world, name).phase for name in DISKS} == {
        "root": "Completed",
        "data": "Failed",
        "logs": "Failed",
    }
    assert disk(world, "data").reason == "DataMissing"


@pytest.mark.parametrize("same_object", [True, False])
def test_the_backup_of_a_cloned_cluster_is_not_taken_for_ones_own(
    world: BackupWorld, tmp_path: Path, same_object: bool
) -> None:
    other = BackupWorld(folder=tmp_path)
    other.add_policy("daily")
    if not same_object:
        other.add_policy("takes the number of the first one's DiskBackup")
    other.add_backup()
    other.drive()
    assert (other.get(DISK_BACKUP, "run")["metadata"]["uid"] == made_by(world)) == same_object
    assert other.backup().status.phase == "Failed" and other.condition().reason == "NameTaken"
    assert not other.exports and not other.backup().status.manifest


def test_the_backup_of_a_later_moment_is_not_adopted(world: BackupWorld) -> None:
    apply_again(world, days=-1)
    assert world.backup().status.phase == "Failed" and world.condition().reason == "NameTaken"


def made_by(world: BackupWorld) -> str:
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None
    return str(manifest.metadata["diskBackup"]["uid"])  # type: ignore[index,call-overload]


# The rule that the manifest carries was the last one to hold


def expire(world: BackupWorld) -> None:
    """Look at what expires as often as it takes to bury a backup that nothing keeps."""
    for _ in range(2):
        retention.reconcile(world.context(), SHOP, "daily")


def edit(world: BackupWorld, kind: Any, name: str, field: str, value: Any) -> None:
    world.cluster.patch(kind, name, [{"op": "add", "path": field, "value": value}], SHOP)
    expire(world)


def test_a_backup_that_was_to_be_kept_longer_does_not_expire_because_it_was_adopted(world: BackupWorld) -> None:
    edit(world, BACKUP_POLICY, "daily", "/spec/retention", {"keepFor": "365d"})
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    apply_again(world, days=60)
    expire(world)
    world.clock.advance(days=8)
    expire(world)
    status, manifest = world.backup().status, find_backup(world.repository(), "run")
    assert status.retention and status.retention.keep_for == "365d" and read_tombstones(world.repository()) == []
    assert manifest is not None and manifest.expiry["retention"]["keepFor"] == "365d"  # type: ignore[index,call-overload]


@pytest.mark.parametrize(("field", "value"), [("hold", True), ("expiresAt", "2028-01-01T00:00:00Z")])
def test_a_hold_that_only_the_manifest_knows_of_keeps_an_adopted_backup_until_it_is_let_go(
    world: BackupWorld, field: str, value: Any
) -> None:
    edit(world, BACKUP_POLICY, "daily", "/spec/retention", {"keepFor": "30d", "keepNewest": False})
    edit(world, DISK_BACKUP, "run", f"/spec/{field}", value)
    apply_again(world, days=60)
    assert f"{field}: {str(value).replace('True', 'true')}" in world.condition().message
    expire(world)
    assert (world.backup().status.kept_because or "").startswith("RecordedRule")
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None and manifest.expiry[field] == value  # type: ignore[index,call-overload]
    edit(world, DISK_BACKUP, "run", "/metadata/annotations", {"longboat.dev/confirm-deletion": "true"})
    assert [each.backup_name for each in read_tombstones(world.repository())] == ["run"]


def test_a_hold_that_spec_asks_for_again_needs_no_answer(world: BackupWorld) -> None:
    edit(world, DISK_BACKUP, "run", "/spec/hold", True)
    apply_again(world, hold=True)
    assert world.backup().status.unconfirmed_rule is None and "manifest says" not in world.condition().message
