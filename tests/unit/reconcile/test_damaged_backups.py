"""Expiry beside damage: a backup that is known to be damaged never stands in for the last whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from longboat.kube.kinds import DISK_BACKUP
from longboat.plan.conditions import with_condition
from longboat.reconcile import damaged_backups, retention
from longboat.reconcile.objects import save_status
from longboat.repository import read_tombstones, verify
from tests.unit.reconcile.backup_world import DISKS, SHOP, BackupWorld


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    """Return a world with three backups, of contents that have nothing in common."""
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily", retention={"keepFor": "7d"})
    for name in ("oldest", "old", "new"):
        for claim in DISKS.values():
            world.storage.data[world.storage.volume_handle(SHOP, claim)] = f"{name} {claim}"
        world.add_backup(name)
        before = packs(world)
        world.drive(name)
        world.clock.advance(days=1)
        if name == "new":
            lose(packs(world) - before)
    return world


def packs(world: BackupWorld) -> set[Path]:
    return {path for path in (world.folder / "store").rglob("packs/*/*") if path.is_file()}


def lose(lost: set[Path]) -> None:
    assert lost
    for path in lost:
        path.unlink()


def expire(world: BackupWorld) -> list[str]:
    """Look at what expires; return the backups that are left."""
    world.clock.advance(days=8)
    retention.reconcile(world.context(), SHOP, "daily")
    return sorted(each["metadata"]["name"] for each in world.cluster.list(DISK_BACKUP))


def find_damage(world: BackupWorld) -> None:
    verify(world.repository(), share=0, now=world.context().now())


def test_the_last_whole_backup_stays_while_the_newest_one_is_known_to_be_damaged(world: BackupWorld) -> None:
    find_damage(world)
    assert expire(world) == ["new", "old"]
    assert [each.backup_name for each in read_tombstones(world.repository())] == ["oldest"]
    assert world.backup("old").status.kept_because == "NewestGood"


def test_nothing_more_stays_where_no_damage_is_known(world: BackupWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(damaged_backups, "backups_hurt_by")
    assert expire(world) == ["new"]


def test_nothing_expires_while_a_document_of_damage_cannot_be_read(world: BackupWorld) -> None:
    find_damage(world)
    [document] = (path for path in (world.folder / "store").rglob("damage/*") if path.is_file())
    document.write_bytes(b"no document")
    assert expire(world) == ["new", "old", "oldest"]
    assert retention.reconcile(world.context(), SHOP, "daily") == retention.STORE_RETRY


@pytest.mark.parametrize("folder", ["disks", "backups"])
def test_the_last_whole_backup_stays_while_a_manifest_of_the_newest_one_cannot_be_read(
    tmp_path: Path, folder: str
) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily", retention={"keepFor": "7d"})
    for name in ("oldest", "old", "new"):
        world.add_backup(name)
        before = manifests(world, folder)
        world.drive(name)
        world.clock.advance(days=1)
    for path in manifests(world, folder) - before:
        content = bytearray(path.read_bytes())
        content[60] ^= 1
        path.unlink()
        path.write_bytes(content)
    find_damage(world)
    newest = world.backup("new")
    said = with_condition(
        newest.status.conditions, "Verified", "False", "Damaged", "", now=world.context().now(), generation=1
    )
    save_status(world.cluster, newest, newest.status.model_copy(update={"conditions": said}))
    assert expire(world) == ["new", "old"]
    assert [each.backup_name for each in read_tombstones(world.repository())] == ["oldest"]


def manifests(world: BackupWorld, folder: str) -> set[Path]:
    return {path for path in (world.folder / "store").rglob(f"{folder}/*/*") if path.is_file()}


def test_backups_that_may_hold_wrong_blocks_stand_in_for_none_that_was_read_whole(tmp_path: Path) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily", retention={"keepFor": "7d"})
    for name in ("older", "full", "suspect-1", "suspect-2"):
        world.add_backup(name)
        world.drive(name)
        world.clock.advance(days=1)
        if name.startswith("suspect"):
            run = world.backup(name)
            disks = [each.model_copy(update={"suspected_by": "finder"}) for each in run.status.disks or ()]
            save_status(world.cluster, run, run.status.model_copy(update={"disks": disks}))
    assert expire(world) == ["full", "suspect-2"]
