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
from longboat.reconcile.clock_steps import ClockSteps
from longboat.reconcile.context import Context
from tests.fakes.cluster import FakeCluster
from tests.unit.reconcile import disk_world
from tests.unit.reconcile.deletion_world import add_backup, buried, expire, settle, uid_of, world
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


def test_a_store_whose_clock_is_off_does_not_hold_up_what_lies_in_another(world: World) -> None:
    in_two_stores(world)
    again = expire(world)
    assert left(world) == ["b0", "b3"]
    told = held(world)
    assert told is not None and told[0] == "ClockSkew"
    assert "'offsite'" in told[1] and "other" not in told[1]
    assert again is not None and again <= timedelta(minutes=10)
    set_store(world)
    expire(world)
    assert left(world) == ["b3"] and held(world) is None


def test_a_store_that_tells_no_time_expires_nothing_while_another_disagrees(world: World) -> None:
    in_two_stores(world, s3=None, azure={"storageAccount": "longboat", "container": "backups"})
    expire(world)
    assert len(left(world)) == 4
    told = held(world)
    assert told is not None and "'other': it does not tell the time" in told[1]
    set_store(world, "other", clockSkewSeconds=3)
    expire(world)
    assert left(world) == ["b0", "b3"]


def test_since_when_a_policy_is_gone_is_not_noted_where_the_stores_clock_says_otherwise(world: World) -> None:
    in_two_stores(world)
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    expire(world)
    assert left(world) == ["b0", "b3"]
    assert {each.status.policy_gone_at for each in world.backups()} == {None}


def in_two_stores(world: World, **spec: object) -> None:
    """Have four backups whose time is up, two of them in a store whose clock is off and two in another one."""
    world.add_store("other", **spec)
    for name in history(world)[1:3]:
        world.set_status(name, store={"name": "other", "repository": f"cluster/{uid_of(world)}"})
    world.clock.by(days=8)
    set_store(world, "other")
    store_object = world.cluster.get(BACKUP_STORE, "offsite")
    assert store_object is not None
    world.cluster.update_status(store_object | {"status": {"conditions": [clock_condition(world)]}})


def clock_condition(world: World) -> dict[str, str]:
    stamp = world.clock.time.isoformat().replace("+00:00", "Z")
    return {
        "type": "Available",
        "status": "False",
        "reason": "ClockSkew",
        "message": "its clock is 864000 s behind this cluster's; set both by NTP",
        "lastTransitionTime": stamp,
    }


def set_store(world: World, name: str = "offsite", status: str = "True", **more: object) -> None:
    """Have the store's check end now."""
    store = world.cluster.get(BACKUP_STORE, name)
    assert store is not None
    stamp = world.clock.time.isoformat().replace("+00:00", "Z")
    available = clock_condition(world) | {"status": status, "reason": "Available" if status == "True" else "Other"}
    world.cluster.update_status(
        store | {"status": {"lastCheckTime": stamp, "writable": True, "conditions": [available], **more}}
    )


@pytest.mark.parametrize("by", [timedelta(days=365), timedelta(minutes=11), timedelta(minutes=-6)])
def test_a_check_of_the_store_that_is_too_old_tells_nothing_of_the_time(world: World, by: timedelta) -> None:
    names = history(world)
    world.clock.by(days=8)
    set_store(world)
    # The operator and the API server are on one node, and go wrong together.
    world.clock.by(seconds=by.total_seconds())
    expire(world)
    assert left(world) == names and buried(world) == []
    told = held(world)
    assert told is not None
    assert told[0] == "ClockSkew" and "last check" in told[1]
    set_store(world)
    expire(world)
    assert left(world) == ["b3"]


def test_a_check_of_the_store_within_two_periods_holds_nothing_up(world: World) -> None:
    history(world)
    world.clock.by(days=8)
    set_store(world)
    world.clock.by(minutes=9)
    expire(world)
    assert left(world) == ["b3"]


class Node:
    """The node of the operator and the API server, with seconds that pass whatever its clock is put to."""

    def __init__(self, world: World) -> None:
        self.world, self.passed = world, 0.0
        self.ctx = replace(world.context(), clock_steps=ClockSteps(lambda: self.passed))

    def wait(self, **time: float) -> None:
        self.passed += timedelta(**time).total_seconds()
        self.world.clock.by(**time)

    @property
    def is_held(self) -> bool:
        return clock.problem(self.ctx) is not None


@pytest.fixture
def node(world: World) -> Node:
    node = Node(world)
    set_store(world)
    assert not node.is_held
    return node


def test_clocks_of_one_node_that_jump_together_expire_nothing(node: Node) -> None:
    node.world.clock.by(days=365)
    assert node.is_held
    node.wait(days=2)
    assert node.is_held and node.world.reasons().count("ClockSkew") == 1


def test_time_that_passes_is_no_jump(node: Node) -> None:
    for _ in range(3):
        node.wait(days=30)
        assert not node.is_held


@pytest.mark.parametrize(
    ("spec", "status", "more", "agrees"),
    [
        ({}, "True", {}, True),
        ({}, "False", {}, False),
        ({"s3": None, "azure": {"storageAccount": "longboat", "container": "backups"}}, "True", {}, False),
        (
            {"s3": None, "azure": {"storageAccount": "longboat", "container": "backups"}},
            "True",
            {"clockSkewSeconds": 3},
            True,
        ),
    ],
)
def test_after_a_jump_a_store_that_tells_the_time_is_believed(
    node: Node, spec: dict[str, object], status: str, more: dict[str, object], agrees: bool
) -> None:
    node.world.cluster.delete(BACKUP_STORE, "offsite")
    node.world.add_store("other", **spec)
    set_store(node.world, "other", status, **more)
    node.world.clock.by(days=365)
    # What was checked before says nothing.
    assert node.is_held
    node.wait(minutes=1)
    set_store(node.world, "other", status, **more)
    assert node.is_held is not agrees
    node.wait(minutes=10)
    assert node.is_held is not agrees


def test_a_jump_that_is_taken_back_holds_nothing_up(node: Node) -> None:
    node.world.clock.by(days=365)
    assert node.is_held
    node.world.clock.by(days=-365)
    node.wait(minutes=2)
    assert not node.is_held


def test_a_clock_that_is_put_right_by_the_api_servers_is_believed(world: World) -> None:
    node, off = Node(world), MONTH
    ctx = replace(node.ctx, now=lambda: world.clock() - off)
    assert clock.problem(ctx) is not None
    off = timedelta()
    node.wait(minutes=2)
    assert clock.problem(ctx) is None and not node.is_held


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
