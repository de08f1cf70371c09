"""The operator is killed between any two of its writes, and goes on: the end is always the same.

Killed before the nth effect means after the one before it: once is enough, as nothing has an effect after a kill.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import DISK_BACKUP, VOLUME_SNAPSHOT
from longboat.plan.cut import OPEN_LIMIT
from longboat.plan.mover import ATTEMPT
from longboat.reconcile import disk_backup
from longboat.reconcile.dispatch import work
from longboat.reconcile.queue import WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.tick import Tick
from longboat.repository import find_backup, list_disk_manifests
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import DISKS, SHOP, BackupWorld, Grenade


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
    assert not world.storage.deleted_under_a_claim, where
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


def test_the_snapshots_of_an_interrupted_cut_are_thrown_away(tmp_path: Path) -> None:
    again = 0
    for nth in range(1, 12):
        world = _world(tmp_path / str(nth))
        with pytest.raises(Killed):
            world.reconcile(bomb=Grenade(nth))
        world.reconcile()
        cut = world.backup().status.cut
        assert cut is not None
        attempts = [each["metadata"]["labels"][ATTEMPT] for each in world.cluster.list(VOLUME_SNAPSHOT, SHOP)]
        assert set(attempts) <= {str(cut.attempt)}, f"killed after write {nth - 1}: {attempts}"
        again += cut.attempt == 2
    assert again > 3


def test_what_a_finished_run_left_is_swept_when_nothing_else_looks_at_it(tmp_path: Path) -> None:
    world = _world(tmp_path)
    while world.backup().status.phase != "Completed":
        world.clock.advance(seconds=5)
        try:
            world.reconcile(bomb=_EndsWith("Completed"))
        except Killed:
            break
    assert world.leftovers() != [] and not world.backup().status.cleaned_up
    for _ in range(12):
        ctx = world.context()
        queue = WorkQueue(work(ctx))
        Tick(ctx, queue, Owners(), cleaning=(disk_backup.sweep,)).once()
        while queue.run_one():
            world.storage.settle()
    assert world.leftovers() == [] and world.backup().status.cleaned_up


class _EndsWith(Grenade):
    """Kills the operator right after it wrote that a run has ended."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase = phase

    def wrap(self, port: Any) -> Any:
        wrapped = super().wrap(port)
        if not hasattr(port, "update_status"):
            return wrapped

        class Port:
            def __getattr__(self, name: str) -> Any:
                return getattr(wrapped, name)

            def update_status(_, obj: Any) -> Any:  # noqa: N805
                wrapped.update_status(obj)
                if obj["status"].get("phase") == self.phase:
                    self.nth = self.effects
                    raise Killed(self.phase)
                return wrapped.get(DISK_BACKUP, obj["metadata"]["name"], obj["metadata"]["namespace"])

        return Port()


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
