"""The operator is killed between any two of its writes, and goes on: the end is always the same.

Killed before the nth effect means after the one before it: once is enough, as nothing has an effect after a kill.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longboat.kube.kinds import DISK_BACKUP
from longboat.plan.cut import OPEN_LIMIT
from longboat.reconcile import disk_backup
from longboat.repository import find_backup, list_disk_manifests
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import DISKS, SHOP, BackupWorld, Grenade


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of runs need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _world(folder: Path) -> BackupWorld:
    folder.mkdir(parents=True, exist_ok=True)
    world = BackupWorld(folder=folder)
    world.add_policy("daily")
    world.add_backup()
    return world


def _effects(folder: Path) -> int:
    world, bomb = _world(folder), Grenade()
    world.drive(bomb=bomb)
    return bomb.effects


def _assert_good(world: BackupWorld, where: str) -> None:
    status = world.backup().status
    assert status.phase == "Completed", f"{where}: {status}"
    assert world.leftovers() == [], where
    assert not world.machines.frozen, where
    assert world.storage.most_deleters == 1, where
    assert sorted(world.exports) == sorted(DISKS.values()), f"{where}: a disk was exported twice: {world.exports}"
    assert status.consistency == "Application", f"{where}: {status.consistency_reason}"
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None and len(manifest.disks) == 3, where
    for disk in manifest.disks:
        assert len(list(list_disk_manifests(world.repository(), disk.disk_key))) == 1, where


def test_killed_at_any_write_it_ends_the_same(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    assert count > 40, "the test sees too few writes to be worth anything"
    for nth in range(1, count + 2):
        world = _world(tmp_path / str(nth))
        world.drive(bomb=Grenade(nth))
        _assert_good(world, f"killed after write {nth - 1} of {count}")


def test_a_guest_is_thawed_by_the_first_look_after_a_kill(tmp_path: Path) -> None:
    for nth in range(1, 16):
        world = _world(tmp_path / str(nth))
        try:
            for _ in range(3):
                world.reconcile(bomb=Grenade(nth))
        except Killed:
            pass
        seen = len(world.machines.calls)
        world.reconcile(bomb=None)
        calls = [verb for verb, *_ in world.machines.calls[seen:]]
        assert not world.machines.frozen, nth
        if world.machines.calls[:seen] and world.machines.calls[seen - 1][0] == "freeze":
            assert calls[0] == "unfreeze", f"write {nth}: {calls}"


def test_a_run_that_is_abandoned_at_any_moment_leaves_nothing_behind(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    for nth in range(1, count + 2):
        world = _world(tmp_path / str(nth))
        _drive_until_killed(world, Grenade(nth))
        for _ in range(12):
            if disk_backup.abandon(world.context(), world.backup()):
                break
            world.storage.settle()
            world.clock.advance(seconds=2)
        world.storage.settle()
        assert world.leftovers() == [], f"abandoned after write {nth}"
        assert not world.machines.frozen, nth
        assert world.storage.most_deleters <= 1, nth


def test_what_a_vanished_backup_left_is_swept(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    for nth in range(1, count + 2):
        world = _world(tmp_path / str(nth))
        _drive_until_killed(world, Grenade(nth))
        world.cluster.delete(DISK_BACKUP, "run", SHOP)
        for _ in range(12):
            world.storage.settle()
            disk_backup.sweep(world.context())
        world.storage.settle()
        assert world.leftovers() == [], f"vanished after write {nth}"
        assert world.storage.most_deleters <= 1, nth


def test_an_open_cut_holds_others_up_for_a_bounded_time_only(tmp_path: Path) -> None:
    assert OPEN_LIMIT.total_seconds() <= 600


def _drive_until_killed(world: BackupWorld, bomb: Grenade) -> None:
    for _ in range(60):
        try:
            delay = world.reconcile(bomb=bomb)
        except Killed:
            return
        if delay is None:
            return
        world.clock.advance(seconds=delay.total_seconds())
