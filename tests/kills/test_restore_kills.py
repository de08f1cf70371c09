"""The operator is killed between any two writes of a restore, and goes on: the end is always the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.disk_world import SHOP, World
from tests.unit.reconcile.restore_world import assert_restored, disks_of, run, shop, snapshot, status, wish


def effects(make: Any) -> int:
    """How many effects the operator has in an undisturbed run."""
    world, bomb = make(), KillAt()
    run(world, bomb=bomb)
    assert status(world)["phase"] == "Completed"
    return bomb.effects


def from_backup(*, running: bool = True, **claim: Any) -> World:
    world = shop(running=running)
    world.add_restore("r", wish(**claim))
    return world


def from_snapshot() -> World:
    world = shop()
    snapshot(world)
    world.add_restore("r", wish(snapshot="before"))
    return world


WAYS = {
    "running": from_backup,
    "stopped": lambda: from_backup(running=False),
    "late": lambda: from_backup(storageClassName="late"),
    "keeping": lambda: from_backup(storageClassName="keeping"),
    "snapshot": from_snapshot,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settled", [True, False], ids=["settled", "at-once"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_the_operator_killed_at_any_write_comes_to_the_same_end(way: str, before: bool, settled: bool) -> None:
    for nth in range(1, effects(WAYS[way]) + 1):
        world = WAYS[way]()
        with pytest.raises(Killed):
            run(world, bomb=KillAt(nth, before=before))
        if settled:
            # The cluster goes on while the operator is away.
            world.storage.settle()
        run(world)
        if way == "snapshot":
            assert world.storage.content(SHOP, "db-restored") == "the new data", nth
            assert status(world)["phase"] == "Completed"
        else:
            assert_restored(world, "Retain" if way == "keeping" else "Delete")
        names = [name for name, _ in disks_of(world)]
        assert names == ["data", "restored"], nth
        assert len(world.machines.volumes) <= 1


def test_the_operator_killed_at_two_writes_comes_to_the_same_end() -> None:
    total = effects(from_backup)
    for first, second in itertools.product(range(1, total + 1, 2), range(1, total + 1, 2)):
        world = from_backup()
        for nth in (first, second):
            try:
                run(world, bomb=KillAt(nth, before=False))
            except Killed:
                world.storage.settle()
        run(world)
        assert_restored(world)
