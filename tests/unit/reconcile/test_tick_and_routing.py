"""What wakes whom, and what the tick finds: named by the failures that each test prevents."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_POLICY, CONFIG_MAP, VOLUME_SNAPSHOT
from longboat.plan.names import FINALIZER, owner_labels
from longboat.reconcile import routing
from longboat.reconcile.context import Context
from longboat.reconcile.dispatch import work
from longboat.reconcile.queue import Key, WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.tick import Tick, later
from tests.unit.reconcile.policy_world import SHOP, SYSTEM, World

POLICY = {"policyRef": {"name": "daily"}}


class Queue(WorkQueue):
    """A queue that says what was added, in the order in which it would be worked on."""

    def __init__(self) -> None:
        self.seen: list[Key] = []
        super().__init__(self._note)

    def _note(self, key: Key) -> None:
        self.seen.append(key)

    def drained(self) -> list[Key]:
        self.seen = []
        while self.run_one():
            pass
        return self.seen

    def names(self) -> list[str]:
        return [f"{key.kind}/{key.name}" for key in self.drained()]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def queue() -> Queue:
    return Queue()


def tick(world: World, queue: Queue, **more: Any) -> Tick:
    return Tick(world.context(), queue, Owners(), **more)


def event(kind: str, phase: str | None, change: str | None, generation: int = 1, **meta: Any) -> list[str]:
    status = {"observedGeneration": 1, "cleanedUp": True} | ({"phase": phase} if phase else {})
    obj = {"kind": kind, "metadata": {"name": "x", "namespace": SHOP, "generation": generation, **meta}}
    woken = routing.wakes(obj | {"spec": POLICY, "status": status}, change)
    return [f"{key.kind}/{key.name}" for key, _ in woken]


def test_only_what_has_work_left_wakes_at_a_start() -> None:
    assert event("DiskBackup", "Exporting", None) == ["DiskBackup/x"]
    assert event("DiskBackup", None, None) == ["DiskBackup/x"]
    assert event("DiskBackup", "Completed", None) == []
    assert event("DiskBackup", "Completed", None, deletionTimestamp="t") == ["DiskBackup/x"]
    assert event("DiskSnapshot", "Ready", None) == []
    assert event("Restore", "Binding", None) == ["Restore/x"]
    assert event("BackupPolicy", None, None) == []


@pytest.mark.parametrize("change", ["MODIFIED", None])
def test_an_edited_retention_is_not_left_to_the_hourly_pass(change: str | None) -> None:
    assert event("BackupPolicy", None, change, generation=2) == ["BackupPolicy/x", "Retention/x"]
    assert event("BackupPolicy", None, change) == []


def test_an_edit_that_no_event_told_of_reaches_retention(world: World, queue: Queue) -> None:
    world.add_policy()
    world.run()
    ticking = tick(world, queue)
    ticking.once()
    assert "Retention/daily" not in queue.names()
    world.edit(retention={"keepFor": "7d"})
    ticking.once()
    assert queue.names() == ["BackupPolicy/daily", "Retention/daily"]


def test_names_of_objects_that_are_gone_are_not_kept_for_ever(world: World, queue: Queue) -> None:
    def fails(ctx: Context) -> None:
        raise ValueError("in trouble")

    ticking = tick(world, queue, steps=(fails,))
    ticking._guarded("DiskBackup shop/gone", lambda: fails(world.context()))
    for _ in range(4):
        world.clock.by(hours=1)
        ticking.once()
    assert list(ticking._troubled) == [fails.__module__]


def test_long_sweeps_are_work_for_the_queue(world: World, queue: Queue) -> None:
    tick(world, queue, cleaning=(later(queue, Key(routing.BASE_SNAPSHOTS, "", "")),)).once()
    assert "BaseSnapshots/" in queue.names()
    assert work(world.context())(Key(routing.BASE_SNAPSHOTS, "", "")) is None


def test_a_worker_that_does_not_come_back_is_told_of(
    world: World, queue: Queue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "hung", lambda patience: [Key("DiskBackup", SHOP, "stuck")] if patience == 300 else [])
    tick(world, queue).once()
    assert "DiskBackup shop/stuck has been worked on for long" in caplog.text


def test_a_finished_run_that_was_not_tidied_up_is_not_forgotten() -> None:
    obj = {"kind": "DiskBackup", "metadata": {"name": "x", "namespace": SHOP, "generation": 1}}
    assert routing.is_open(obj | {"status": {"phase": "Completed", "observedGeneration": 1}})


@pytest.mark.parametrize("change", ["MODIFIED", None])
def test_a_backup_whose_finalizer_an_uninstallation_took_gets_it_back(change: str | None) -> None:
    def woken(finalizers: list[str], **status: str) -> bool:
        meta = {"name": "x", "namespace": SHOP, "generation": 1, "finalizers": finalizers}
        done = {"phase": "Completed", "observedGeneration": 1, "cleanedUp": True} | status
        obj = {"kind": "DiskBackup", "metadata": meta, "spec": POLICY, "status": done}
        return Key("DiskBackup", SHOP, "x") in [key for key, _ in routing.wakes(obj, change)]

    assert woken(["of/others"], manifest="x")
    assert not woken([FINALIZER], manifest="x")
    assert not woken([]), "there is no data that it could keep"
    assert not woken([], manifest="x", tombstonedAt="t")


def test_the_end_of_a_backup_wakes_its_policy_and_retention() -> None:
    expected = ["BackupPolicy/daily", "Retention/daily"]
    assert event("DiskBackup", "Completed", "MODIFIED") == expected
    assert event("DiskBackup", "Exporting", "DELETED") == expected


def test_the_operators_own_status_writes_wake_nobody() -> None:
    assert event("BackupPolicy", None, "MODIFIED") == []
    assert event("BackupStore", None, "MODIFIED") == []
    assert event("Restore", "Completed", "MODIFIED") == []


def test_an_edited_spec_wakes_its_reconciler() -> None:
    for kind in ("Restore", "DiskSnapshot"):
        assert event(kind, "Failed", "MODIFIED", generation=2) == [f"{kind}/x"]
    assert event("BackupStore", "Failed", "MODIFIED", generation=2) == ["BackupStore/x", "Maintenance/x"]


def test_a_policy_that_comes_or_goes_wakes_retention() -> None:
    assert "Retention/x" in event("BackupPolicy", None, "DELETED")
    assert "Retention/x" in event("BackupPolicy", None, "ADDED")


def test_a_child_wakes_its_owner_by_uid_only_while_that_is_unfinished() -> None:
    owners = Owners()
    owner = {"kind": "DiskBackup", "metadata": {"name": "x", "namespace": SHOP, "uid": "u", "generation": 1}}
    child = {"metadata": {"labels": {"longboat.dev/owner-uid": "u"}}}
    owners.note(owner)
    assert owners.owner_of(child) == Key("DiskBackup", SHOP, "x")
    owners.note(owner | {"status": {"phase": "Completed", "observedGeneration": 1, "cleanedUp": True}})
    assert owners.owner_of(child) is None
    assert owners.owner_of({"metadata": {}}) is None


def test_a_tick_wakes_the_policies_that_are_due_and_no_others(world: World, queue: Queue) -> None:
    world.add_vm("db", "root")
    world.add_store()
    for name in ("daily", "other"):
        world.add_policy(name)
    ticks = tick(world, queue)
    ticks.once()
    assert [each for each in queue.names() if each.startswith("BackupPolicy")] == [
        "BackupPolicy/daily",
        "BackupPolicy/other",
    ]
    world.run("daily")
    world.run("other")
    world.clock.by(seconds=10)
    ticks.once()
    assert queue.names() == []
    world.clock.to("2026-01-08T03:30")
    world.run("other")
    ticks.once()
    assert "BackupPolicy/daily" in queue.names()


def test_a_watch_that_died_is_healed_by_the_full_pass(world: World, queue: Queue) -> None:
    ticks = tick(world, queue)
    ticks.once()
    queue.drained()
    world.add("DiskBackup", "b", POLICY)
    world.add("Restore", "r", {"source": {}, "claim": {}})
    world.add_policy(target={"virtualMachine": {"name": "none"}})
    world.run()
    world.clock.by(seconds=10)
    ticks.once()
    assert queue.names() == []
    world.clock.by(minutes=5)
    ticks.once()
    assert sorted(queue.names()) == ["BackupPolicy/daily", "DiskBackup/b", "Restore/r"]


def test_interrupted_cuts_come_first(world: World, queue: Queue) -> None:
    cut = {"attempt": 1, "startedAt": "2026-01-07T10:00:00Z", "freeze": "Frozen"}
    for name, status in {"a": {}, "b": cut, "c": cut | {"thawedAt": "2026-01-07T10:00:02Z"}}.items():
        world.add("DiskBackup", name, POLICY)
        world.set_status(name, phase="Snapshotting", **({"cut": status} if status else {}))
    ticks = tick(world, queue)
    ticks.once()
    assert ticks.thaw_first() == 1
    assert queue.names()[0] == "DiskBackup/b"


def test_retention_is_looked_at_hourly_where_something_may_expire(world: World, queue: Queue) -> None:
    world.add("DiskBackup", "new", POLICY)
    world.set_status("new", phase="Completed", observedGeneration=1, cleanedUp=True, expiresAt="2026-02-07T10:00:00Z")
    ticks = tick(world, queue)
    ticks.once()
    assert queue.names() == []
    world.add("DiskBackup", "old", {"policyRef": {"name": "weekly"}})
    world.set_status("old", phase="Completed", observedGeneration=1, cleanedUp=True, expiresAt="2026-01-07T12:00:00Z")
    world.clock.by(minutes=30)
    ticks.once()
    assert queue.names() == []
    world.clock.by(minutes=31)
    ticks.once()
    assert queue.names() == ["Retention/weekly"]


def test_every_trash_is_swept_hourly(world: World, queue: Queue) -> None:
    labels = {"app.kubernetes.io/managed-by": "longboat", "longboat.dev/owner-kind": "Trash"}
    meta = {"name": "longboat-trash-1", "namespace": SYSTEM, "labels": labels}
    data = {"store": "offsite", "namespace": SHOP, "namespaceUID": "u"}
    kind = {"apiVersion": CONFIG_MAP.api_version, "kind": CONFIG_MAP.name}
    world.cluster.create(kind | {"metadata": meta, "data": data})
    ticks = tick(world, queue)
    ticks.once()
    assert len(queue.names()) == 1
    world.clock.by(minutes=59)
    ticks.once()
    assert queue.names() == []
    world.clock.by(minutes=5)
    ticks.once()
    assert len(queue.names()) == 1


def test_one_step_that_fails_does_not_stop_the_others(
    world: World, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(ctx: Context) -> None:
        raise ZeroDivisionError("oh")

    called = []
    ticks = tick(world, queue, steps=(broken, called.append), cleaning=(broken,))
    for _ in range(3):
        ticks.once()
        world.clock.by(minutes=5)
    assert len(called) == 3
    assert (
        sum("ZeroDivisionError" in record.getMessage() and record.levelname == "WARNING" for record in caplog.records)
        == 1
    )


def test_the_age_of_the_tick_grows_when_it_hangs(world: World, queue: Queue) -> None:
    time = [0.0]
    ticks = tick(world, queue, monotonic=lambda: time[0])
    time[0] = 90.0
    assert ticks.age() == 90.0
    ticks.once()
    assert ticks.age() == 0.0


def test_due_is_told_without_parsing_the_whole_policy() -> None:
    policy = {"kind": BACKUP_POLICY.name, "metadata": {"generation": 3}, "spec": {}}
    world = World()
    status = {"observedGeneration": 3, "nextSlot": "2026-01-07T10:17:00Z"}
    assert routing.is_due(policy | {"status": status}, world.clock())
    assert not routing.is_due(policy | {"status": status}, world.clock() - timedelta(seconds=1))
    assert not routing.is_due(policy | {"status": {"observedGeneration": 3}}, world.clock())
    assert routing.is_due(policy, world.clock())


def ready_snapshot(world: World, name: str) -> dict[str, Any]:
    """Add a Ready DiskSnapshot and return its VolumeSnapshot, which is not there yet."""
    made = world.add("DiskSnapshot", name, {"disk": {"persistentVolumeClaim": "data"}, "origin": "User"})
    world.cluster.update_status(made | {"status": {"phase": "Ready", "observedGeneration": 1}})
    labels = owner_labels("DiskSnapshot", SHOP, made["metadata"]["uid"])
    head = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot"}
    return head | {
        "metadata": {"name": name, "namespace": SHOP, "labels": labels, "finalizers": ["csi/bound"]},
        "spec": {},
    }


def test_a_snapshot_lost_while_the_operator_was_away_is_noticed(world: World, queue: Queue) -> None:
    for name in ("there", "going"):
        world.cluster.create(ready_snapshot(world, name))
    ready_snapshot(world, "lost")
    world.cluster.delete(VOLUME_SNAPSHOT, "going", SHOP)
    tick(world, queue).once()
    assert sorted(queue.names()) == ["DiskSnapshot/going", "DiskSnapshot/lost"]


def test_a_tick_with_much_to_do_is_not_taken_for_one_that_hangs(world: World, queue: Queue) -> None:
    ages: list[float] = []
    time = [0.0]

    def long(ctx: Context) -> None:
        for _ in range(30):
            ctx.cluster.get(BACKUP_POLICY, "daily", SHOP)
            for _ in ctx.cluster.list(BACKUP_POLICY):
                time[0] += 9
            time[0] += 9
            ages.append(ticks.age())

    for name in "ab":
        world.add_policy(name)
    ticks = tick(world, queue, cleaning=(long,), monotonic=lambda: time[0])
    ticks.once()
    assert max(ages) <= 18 and time[0] > 600 and ticks.age() == 0


@pytest.mark.parametrize("slot", ["2026-11-22T03:30:00+99:00", "2026-11-22T03:30:00", 5])
def test_one_policy_that_cannot_be_read_holds_up_none_of_the_others(world: World, queue: Queue, slot: Any) -> None:
    for name in "abc":
        world.add_policy(name)
        policy = world.cluster.get(BACKUP_POLICY, name, SHOP)
        assert policy is not None
        policy["status"] = {"observedGeneration": 1, "nextSlot": slot if name == "b" else "2020-01-01T00:00:00Z"}
        world.cluster.update_status(policy)
    tick(world, queue)._policies()
    assert [name for name in queue.names() if name.startswith("BackupPolicy")] == [f"BackupPolicy/{x}" for x in "abc"]
    assert routing.may_expire({"status": {"phase": "Completed", "expiresAt": slot}}, world.clock())


def test_one_object_that_cannot_be_looked_at_holds_up_none_of_the_others(
    world: World, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        world.add_policy(name)
    inner = routing.is_due

    def is_due(policy: Any, now: Any) -> bool:
        if policy["metadata"]["name"] == "a":
            raise KeyError("spec")
        return inner(policy, now)

    monkeypatch.setattr(routing, "is_due", is_due)
    tick(world, queue)._policies()
    assert {name for name in queue.names() if name.startswith("BackupPolicy")} == {"BackupPolicy/b", "BackupPolicy/c"}
