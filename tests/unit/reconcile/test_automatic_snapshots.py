"""Automatic snapshots, over days, in a small cluster."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.kube.kinds import (
    DISK_SNAPSHOT,
    NAMESPACE,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
    VIRTUAL_MACHINE,
    VOLUME_SNAPSHOT_CLASS,
)
from longboat.kube.port import RefusedError
from longboat.plan.automatic import CLAIM_UID
from longboat.plan.names import OPT_OUT
from longboat.reconcile import disk_snapshot
from longboat.reconcile.automatic_snapshots import WRITES_PER_TICK, Creation, Expiry, Memory, scan, tick
from tests.fakes.cluster import FakeCluster
from tests.unit.reconcile.disk_world import SHOP, SYSTEM, World

OUT = {OPT_OUT: "disabled"}


@pytest.fixture
def world() -> World:
    world = World()
    for name in ("a", "b"):
        world.storage.add_claim(SHOP, f"db-{name}", name)
    world.storage.add_claim(SHOP, "unused", "no disk of anything")
    world.add_vm("db", {"a": "db-a", "b": "db-b"})
    return world


def live(world: World, memory: Memory, **period: float) -> None:
    """Let time pass; ticks and the snapshots' own reconciles happen as they would."""
    world.clock.advance(**period)
    for _ in range(3):
        world.clock.advance(minutes=2)
        tick(world.context(), memory)
        for name in names(world):
            for _ in range(3):
                disk_snapshot.reconcile(world.context(), SHOP, name)
                world.storage.settle()


def snapshots(world: World) -> list[Any]:
    return list(world.cluster.list(DISK_SNAPSHOT))


def names(world: World) -> set[str]:
    return {each["metadata"]["name"] for each in snapshots(world)}


def disks(world: World) -> list[str]:
    return sorted(each["spec"]["disk"]["name"] for each in snapshots(world))


def test_every_disk_gets_one_and_a_claim_that_is_no_disk_none(world: World) -> None:
    live(world, Memory())
    assert disks(world) == ["a", "b"]
    assert {each["spec"]["origin"] for each in snapshots(world)} == {"Automatic"}
    assert {each["status"]["phase"] for each in snapshots(world)} == {"Ready"}


def test_a_version_that_names_them_otherwise_takes_no_second_one(world: World) -> None:
    live(world, Memory())
    for each in snapshots(world):
        meta = each["metadata"]
        world.cluster.delete(DISK_SNAPSHOT, meta["name"], SHOP)
        older = {"name": meta["name"][:-5], "namespace": SHOP, "labels": meta["labels"]}
        made = world.cluster.create({**each, "metadata": older})
        world.cluster.update_status(made | {"status": each["status"]})
    before = names(world)
    assert len(before) == 2
    assert [action for action in scan(world.context()) if isinstance(action, Creation)] == []
    live(world, Memory(), days=1)
    assert len(names(world)) == 2 and not before & names(world)


def test_the_next_days_replaces_the_last_one(world: World) -> None:
    memory = Memory()
    live(world, memory)
    first = names(world)
    live(world, memory, days=1)
    assert disks(world) == ["a", "b"]
    assert not first & names(world)


def test_the_old_one_stays_while_the_next_one_fails(world: World) -> None:
    memory = Memory()
    live(world, memory)
    first = names(world)
    world.storage.snapshot_error = "pool is full"
    for _ in range(5):
        live(world, memory, hours=10)
    assert first <= names(world)
    assert len(names(world) - first) <= 2
    world.storage.snapshot_error = None
    live(world, memory, days=1)
    live(world, memory, days=1)
    assert len(names(world)) == 2
    assert not first & names(world)


def test_an_ad_hoc_snapshot_is_nobody_elses_business(world: World) -> None:
    world.add_snapshot("mine", {"virtualMachine": "db", "name": "a"})
    memory = Memory()
    for _ in range(4):
        live(world, memory, days=1)
    assert "mine" in names(world)
    assert disks(world) == ["a", "a", "b"]


@pytest.mark.parametrize(
    ("kind", "name"), [(PERSISTENT_VOLUME_CLAIM, "db-a"), (VIRTUAL_MACHINE, "db"), (NAMESPACE, SHOP)]
)
def test_opting_out_works_at_every_level(world: World, kind: Any, name: str) -> None:
    world.label(kind, name, OUT)
    live(world, Memory())
    assert disks(world) == (["b"] if kind == PERSISTENT_VOLUME_CLAIM else [])


def test_the_last_one_of_an_opted_out_disk_goes_a_day_late(world: World) -> None:
    memory = Memory()
    live(world, memory)
    world.label(PERSISTENT_VOLUME_CLAIM, "db-a", OUT)
    live(world, memory, days=1)
    assert disks(world) == ["a", "b"]
    live(world, memory, days=1)
    assert disks(world) == ["b"]


def test_the_setting_turns_all_of_them_off(world: World) -> None:
    world.set(automatic_snapshots=False)
    live(world, Memory())
    assert not snapshots(world)


def test_the_operators_own_namespace_is_left_out(world: World) -> None:
    world.storage.add_claim(SYSTEM, "inner", "x")
    world.add_vm("inner", {"d": "inner"}, namespace=SYSTEM)
    live(world, Memory())
    assert disks(world) == ["a", "b"]


def test_storage_without_snapshots_is_skipped_in_silence(world: World) -> None:
    world.cluster.delete(VOLUME_SNAPSHOT_CLASS, "snapshots")
    writes = world.cluster.writes
    for _ in range(5):
        live(world, Memory(), hours=5)
    assert world.cluster.writes == writes
    assert world.cluster.events == []


def test_a_claim_made_anew_under_an_old_name_is_a_disk_of_its_own(world: World) -> None:
    memory = Memory()
    live(world, memory)
    world.cluster.delete(PERSISTENT_VOLUME_CLAIM, "db-a", SHOP)
    world.storage.settle()
    if world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-a", SHOP):
        # The machine runs on; its claim goes when it stops.
        world.cluster.objects.pop((PERSISTENT_VOLUME_CLAIM, SHOP, "db-a"))
    world.storage.add_claim(SHOP, "db-a", "anew")
    live(world, memory)
    assert disks(world) == ["a", "a", "b"]
    # The old disk's last one is kept for the trash period.
    live(world, memory, days=6)
    assert disks(world) == ["a", "a", "b"]
    live(world, memory, days=1)
    assert disks(world) == ["a", "b"]


def test_one_refused_disk_does_not_keep_the_others_from_theirs(world: World) -> None:
    class Quota(FakeCluster):
        def create(self, obj: dict[str, Any]) -> dict[str, Any]:
            if obj["kind"] == "DiskSnapshot" and obj["spec"]["disk"]["name"] == "a":
                raise RefusedError("exceeded quota")
            return super().create(obj)

    world.cluster.__class__ = Quota
    live(world, Memory())
    assert disks(world) == ["b"]


def test_a_removal_is_looked_at_again() -> None:
    # Both days' snapshots are there when the scan is made; then the newer one goes.
    world = World()
    world.storage.add_claim(SHOP, "db-a", "a")
    world.add_vm("db", {"a": "db-a"})
    memory = Memory()
    live(world, memory)
    (first,) = names(world)
    world.clock.advance(days=1)
    tick(world.context(), memory)
    (second,) = names(world) - {first}
    for _ in range(3):
        disk_snapshot.reconcile(world.context(), SHOP, second)
        world.storage.settle()
    memory.queue.extend(scan(world.context()))
    assert len(memory.queue) == 1
    world.cluster.delete(DISK_SNAPSHOT, second, SHOP)
    tick(world.context(), memory)
    assert names(world) == {first}


def test_a_tick_without_work_costs_nothing_and_a_stampede_is_spread() -> None:
    world = World()
    count = WRITES_PER_TICK * 2 + 5
    for number in range(count):
        world.storage.add_claim(SHOP, f"c-{number}", "x")
    world.add_vm("big", {f"d{number}": f"c-{number}" for number in range(count)})
    memory, seen = Memory(), []
    for _ in range(4):
        tick(world.context(), memory)
        seen.append(len(snapshots(world)))
    assert seen == [20, 40, 45, 45]
    world.cluster.list = None  # type: ignore[assignment, method-assign]  # Nothing may be listed before the next scan.
    tick(world.context(), memory)


def test_the_snapshots_of_another_namespace_are_not_counted_for_a_disk_whatever_their_labels_say(world: World) -> None:
    claim = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-a", SHOP)
    assert claim is not None
    world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "den"}})
    meta = {"name": "forged", "namespace": "den", "labels": {CLAIM_UID: claim["metadata"]["uid"]}}
    spec = {"disk": {"persistentVolumeClaim": "x"}, "origin": "Automatic"}
    world.cluster.create(
        {"apiVersion": DISK_SNAPSHOT.api_version, "kind": "DiskSnapshot", "metadata": meta, "spec": spec}
    )
    assert len([each for each in scan(world.context()) if isinstance(each, Creation)]) == 2


def test_expired_snapshots_that_somebody_needs_take_no_places_and_expiry_comes_last(world: World) -> None:
    for name in ("held", "free"):
        world.add_snapshot(name, {"virtualMachine": "db", "name": "a"}, expiresAfter="1h")
        for _ in range(4):
            disk_snapshot.reconcile(world.context(), SHOP, name)
            world.storage.settle()
    source = {"diskSnapshot": {"name": "held"}}
    restore = {"metadata": {"name": "r", "namespace": SHOP}, "spec": {"source": source, "claim": {"name": "new"}}}
    world.cluster.create({"apiVersion": RESTORE.api_version, "kind": RESTORE.name} | restore)
    world.clock.advance(hours=2)
    actions = scan(world.context())
    assert [each for each in actions if isinstance(each, Expiry)] == [Expiry(SHOP, "free")] == actions[-1:]
    assert len(actions) == 3
