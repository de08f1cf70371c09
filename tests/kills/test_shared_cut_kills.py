"""Two runs share a cut while the operator is killed between any two of its writes, or the run that leads is deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longboat.kube.kinds import DISK_BACKUP
from longboat.reconcile import disk_backup
from longboat.repository import find_backup, read_disk_manifest
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import DISKS, SHOP, Grenade
from tests.unit.reconcile.slot_world import Slot


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of runs need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _world(folder: Path) -> Slot:
    folder.mkdir(parents=True, exist_ok=True)
    world = Slot(folder=folder)
    world.add_both()
    return world


def _effects(folder: Path) -> int:
    world, bomb = _world(folder), Grenade()
    world.drive("d", "w", bomb=bomb)
    return bomb.effects


def _assert_whole(world: Slot, where: str, *names: str) -> None:
    repository = world.repository()
    for name in names:
        assert world.status(name).phase == "Completed", f"{where}: {name}: {world.status(name)}"
        manifest = find_backup(repository, name)
        assert manifest is not None, where
        for each in manifest.disks:
            stored = read_disk_manifest(repository, each.manifest)
            assert (stored.object_id, stored.manifest.backup_name) == (each.object_id, name), where
            assert stored.manifest.created == _cut_time(world, name, each.disk), where
    assert world.leftovers() == [], where
    assert not world.machines.frozen, where


def _cut_time(world: Slot, name: str, disk: str) -> object:
    return next(each.cut_time for each in world.status(name).disks or () if each.name == disk)


def test_killed_at_any_write_both_end_the_same(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    assert count > 50, "the test sees too few writes to be worth anything"
    for nth in range(1, count + 2):
        world, where = _world(tmp_path / str(nth)), f"killed after write {nth - 1} of {count}"
        world.drive("d", "w", bomb=Grenade(nth))
        _assert_whole(world, where, "w", "d")
        assert sorted(world.exports) == sorted(DISKS.values()), f"{where}: {world.exports}"
        assert world.status("d").cut == world.status("w").cut, where
        assert world.status("d").consistency == "Application", where


def test_whenever_the_leading_run_is_deleted_the_other_one_gets_its_disk(tmp_path: Path) -> None:
    count, alone = _effects(tmp_path / "count"), 0
    for nth in range(1, count + 2, 2):
        world, where = _world(tmp_path / str(nth)), f"deleted after write {nth - 1} of {count}"
        _drive_until_killed(world, Grenade(nth))
        for _ in range(12):
            if disk_backup.abandon(world.context(), world.backup("w")):
                break
            world.storage.settle()
            world.clock.advance(seconds=2)
        world.cluster.delete(DISK_BACKUP, "w", SHOP)
        world.drive("d")
        _assert_whole(world, where, "d")
        shared = world.status("d").shared_cut
        alone += shared is None or shared.given_up is not None
    assert 0 < alone < count // 2, "it is always shared, or never"


def test_a_run_that_follows_and_is_abandoned_leaves_nothing_behind_and_disturbs_nobody(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    for nth in range(1, count + 2, 3):
        world, where = _world(tmp_path / str(nth)), f"abandoned after write {nth - 1} of {count}"
        _drive_until_killed(world, Grenade(nth))
        assert disk_backup.abandon(world.context(), world.backup("d")), where
        world.cluster.delete(DISK_BACKUP, "d", SHOP)
        world.drive("w")
        _assert_whole(world, where, "w")
        assert sorted(world.exports) == sorted(DISKS.values()), where


def _drive_until_killed(world: Slot, bomb: Grenade) -> None:
    try:
        for _ in range(60):
            delays = [world.reconcile(name, bomb) for name in ("d", "w")]
            waits = [each for each in delays if each is not None]
            if not waits:
                return
            world.clock.advance(seconds=min(waits).total_seconds())
    except Killed:
        return
