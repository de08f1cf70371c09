"""The operator is killed between any two writes of a backup that finds its CSI driver wrong: nothing is forgotten."""

from __future__ import annotations

from pathlib import Path

from longboat.mover.reading import ChangeTrackingMismatchError
from tests.unit.reconcile.backup_world import BackupWorld, Grenade, disk
from tests.unit.reconcile.test_change_tracking_mismatch import FOUND, LIE, attempts, make_world, marked, run


def test_killed_at_any_write_it_has_marked_the_same(tmp_path: Path) -> None:
    def story(world: BackupWorld, bomb: Grenade) -> None:
        run(world, "first", {"mode": "Full", "fullReason": "NoParent", "sinceFullRead": 1})
        run(world, "found", FOUND, bomb=bomb)

    world, bomb = make_world(tmp_path / "count"), Grenade()
    story(world, bomb)
    assert bomb.effects > 15, "the test sees too few writes to be worth anything"
    for nth in range(1, bomb.effects + 2):
        world = make_world(tmp_path / str(nth))
        story(world, Grenade(nth))
        assert marked(world) == {"first": "found"}, nth
        assert world.condition("ChangeTrackingMismatch", "found"), nth


def test_operator_that_is_killed_at_any_write_does_not_forget_what_a_mover_found(tmp_path: Path) -> None:
    def story(world: BackupWorld, bomb: Grenade) -> list[str | None]:
        run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
        return attempts(world, "found", ChangeTrackingMismatchError(LIE), bomb=bomb)

    bomb = Grenade()
    story(make_world(tmp_path / "count"), bomb)
    for nth in range(1, bomb.effects + 2):
        world = make_world(tmp_path / str(nth))
        assert story(world, Grenade(nth))[-1] == "ChangeTrackingMismatch", nth
        assert marked(world) == {"first": "found"}, nth
        assert LIE in disk(world, "data", "found").mismatch, nth
