"""A node whose clock has jumped: named by the failures that each test prevents."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from longboat.kube.kinds import (
    BACKUP_POLICY,
    BACKUP_STORE,
    DISK_SNAPSHOT,
    PERSISTENT_VOLUME_CLAIM,
    VIRTUAL_MACHINE,
)
from longboat.kube.port import UnavailableError
from longboat.plan.conditions import find
from longboat.reconcile import automatic_snapshots, clock, disk_snapshot, retention
from longboat.reconcile.context import Context
from tests.fakes.cluster import FakeCluster
from tests.unit.reconcile import disk_world
from tests.unit.reconcile.deletion_world import add_backup, buried, expire, settle, world
from tests.unit.reconcile.policy_world import SHOP, World

__all__ = ["world"]
MONTH = timedelta(days=30)
DATA = {"virtualMachine": "db", "name": "data"}


def jumped(ctx: Context, by: timedelta = MONTH) -> Context:
    """Return what an operator has whose own clock alone is off."""
    return replace(ctx, now=lambda: ctx.now() + by)


def history(world: World) -> list[str]:
    for number in range(4):
        add_backup(world, f"b{number}")
        world.clock.by(hours=6)
    return [each.name for each in world.backups()]


def left(world: World) -> list[str]:
    """Return what is there once the deletions have been seen to."""
    world.clock.by(seconds=5)
    settle(world)
    return [each.name for each in world.backups()]


def held(world: World) -> tuple[str, str] | None:
    condition = find(world.policy().status.conditions, "ExpiryHeld")
    return (condition.reason, condition.message) if condition else None


def test_a_clock_that_jumped_ahead_expires_no_backup(world: World) -> None:
    names = history(world)
    again = retention.reconcile(jumped(world.context()), SHOP, "daily")
    assert left(world) == names
    assert buried(world) == []
    assert again is not None
    assert again <= timedelta(minutes=10)
    told = held(world)
    assert told is not None
    assert told[0] == "ClockSkew"
    assert "ahead of the API server's" in told[1]


def test_it_is_no_longer_told_once_the_clock_is_right(world: World) -> None:
    names = history(world)
    retention.reconcile(jumped(world.context()), SHOP, "daily")
    expire(world)
    assert held(world) is None
    assert left(world) == names


def test_a_clock_that_is_a_little_off_holds_nothing_up(world: World) -> None:
    history(world)
    world.clock.by(days=8)
    retention.reconcile(jumped(world.context(), timedelta(minutes=4)), SHOP, "daily")
    assert left(world) == ["b3"]


def test_a_policys_backups_get_no_shorter_grace_by_a_clock_that_is_behind(world: World) -> None:
    history(world)
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    retention.reconcile(jumped(world.context(), -MONTH), SHOP, "daily")
    assert {each.status.policy_gone_at for each in world.backups()} == {None}


def test_a_store_that_disagrees_about_the_time_keeps_its_backups(world: World) -> None:
    history(world)
    world.clock.by(days=8)
    store = world.cluster.get(BACKUP_STORE, "offsite")
    assert store is not None
    world.cluster.update_status(store | {"status": {"conditions": [clock_condition(world)]}})
    expire(world)
    assert len(left(world)) == 4
    told = held(world)
    assert told is not None
    assert told[0] == "ClockSkew"
    assert "offsite" in told[1]


def clock_condition(world: World) -> dict[str, str]:
    stamp = world.clock.time.isoformat().replace("+00:00", "Z")
    return {
        "type": "Available",
        "status": "False",
        "reason": "ClockSkew",
        "message": "its clock is 864000 s behind this cluster's; set both by NTP",
        "lastTransitionTime": stamp,
    }


def test_an_api_server_that_says_no_time_lets_nothing_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: FakeCluster) -> None:
        raise UnavailableError("no answer")

    names = history(world)
    world.clock.by(days=8)
    monkeypatch.setattr(FakeCluster, "server_time", silent)
    with pytest.raises(UnavailableError):
        expire(world)
    assert left(world) == names


def test_a_pass_over_much_asks_for_the_time_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    plain = FakeCluster.server_time
    monkeypatch.setattr(FakeCluster, "server_time", lambda self: asked.append(1) or plain(self))
    ctx = world.context()
    for _ in range(5):
        assert clock.problem(ctx) is None
    assert len(asked) == 1
    world.clock.by(minutes=2)
    clock.problem(ctx)
    assert len(asked) == 2


def test_the_jump_is_seen_at_once_by_an_operator_that_has_compared_before(world: World) -> None:
    ctx = world.context()
    assert clock.problem(ctx) is None
    found = clock.problem(jumped(ctx))
    assert found is not None
    assert found.reason == "ClockSkew"


def test_administrators_are_told_once(world: World) -> None:
    ctx = jumped(world.context())
    for _ in range(5):
        clock.problem(ctx)
        world.clock.by(minutes=2)
    assert world.reasons().count("ClockSkew") == 1


@pytest.fixture
def machine() -> disk_world.World:
    machine = disk_world.World()
    machine.storage.add_claim(SHOP, "db-data", "precious")
    machine.add_vm("db", {"data": "db-data"})
    return machine


def test_a_clock_that_jumped_ahead_deletes_no_snapshot_that_expires(machine: disk_world.World) -> None:
    machine.add_snapshot("before", DATA, expiresAfter="7d")
    for _ in range(3):
        disk_snapshot.reconcile(machine.context(), SHOP, "before")
        machine.storage.settle()
    assert disk_snapshot.reconcile(jumped(machine.context()), SHOP, "before") is not None
    assert machine.cluster.get(DISK_SNAPSHOT, "before", SHOP) is not None


def test_a_clock_that_jumped_ahead_removes_no_automatic_snapshot(machine: disk_world.World) -> None:
    ctx, memory = machine.context(), automatic_snapshots.Memory()
    automatic_snapshots.tick(ctx, memory)
    [taken] = [each["metadata"]["name"] for each in machine.cluster.list(DISK_SNAPSHOT)]
    for _ in range(3):
        disk_snapshot.reconcile(ctx, SHOP, taken)
        machine.storage.settle()
    machine.cluster.delete(VIRTUAL_MACHINE, "db", SHOP)
    machine.cluster.delete(PERSISTENT_VOLUME_CLAIM, "db-data", SHOP)
    automatic_snapshots.tick(jumped(ctx), automatic_snapshots.Memory())
    assert machine.cluster.get(DISK_SNAPSHOT, taken, SHOP) is not None
    machine.clock.advance(days=30)
    automatic_snapshots.tick(machine.context(), automatic_snapshots.Memory())
    assert machine.cluster.get(DISK_SNAPSHOT, taken, SHOP) is None
