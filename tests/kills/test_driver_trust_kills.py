"""The operator is killed between any two writes of a backup whose mover catches the CSI driver."""

from __future__ import annotations

from pathlib import Path

from tests.unit.reconcile.backup_world import Grenade
from tests.unit.reconcile.test_driver_trust import DISTRUSTED, LIE, Believing, make_world


def test_operator_that_is_killed_at_any_write_does_not_forget_that_a_driver_was_caught(tmp_path: Path) -> None:
    def story(world: Believing, bomb: Grenade) -> list[str | None]:
        world.run("found", LIE, bomb=bomb)
        return world.run("next")

    bomb = Grenade()
    story(make_world(tmp_path / "count"), bomb)
    for nth in range(1, bomb.effects + 2):
        assert set(story(make_world(tmp_path / str(nth)), Grenade(nth))) == {DISTRUSTED}, nth
