"""Backups taken over from the store: what is there is said, and what is not is never said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from longboat.kube.kinds import DISK_BACKUP
from longboat.repository import find_backup
from tests.unit.reconcile.backup_world import DISKS, SHOP, BackupWorld, disk


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    world.drive()
    return world


def apply_again(world: BackupWorld) -> None:
    """Lose the DiskBackup, and apply it again a while later."""
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    world.clock.advance(minutes=1)
    world.add_backup()
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
    world.clock.advance(days=-1)
    apply_again(world)
    assert world.backup().status.phase == "Failed" and world.condition().reason == "NameTaken"


def made_by(world: BackupWorld) -> str:
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None
    return str(manifest.metadata["diskBackup"]["uid"])  # type: ignore[index,call-overload]
