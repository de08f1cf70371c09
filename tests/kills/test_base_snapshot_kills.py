"""The operator is killed between any two writes of a backup that keeps its snapshot as a base for the next one."""

from __future__ import annotations

from pathlib import Path

from longboat.plan.hand_over import copy_name
from tests.unit.reconcile.backup_world import Grenade
from tests.unit.reconcile.test_base_snapshots import make_world, run, sweep


def test_killed_at_any_write_it_keeps_exactly_the_newest(tmp_path: Path) -> None:
    world, bomb = make_world(tmp_path / "count"), Grenade()
    run(world, "first")
    run(world, "second", bomb)
    assert bomb.effects > 20, "the test sees too few writes to be worth anything"
    for nth in range(1, bomb.effects + 2):
        world = make_world(tmp_path / str(nth))
        run(world, "first")
        run(world, "second", Grenade(nth))
        assert sweep(world) == [copy_name(world.backup("second"), "data")], nth
        assert world.storage.most_deleters == 1, nth
