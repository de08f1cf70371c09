"""New master keys that a store asks for: every namespace gets one, once, whoever is killed when, and it is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.kube.kinds import BACKUP_STORE
from longboat.plan.conditions import find
from longboat.plan.maintenance import record_of
from longboat.reconcile import maintenance_records, master_keys
from longboat.reconcile.maintenance_records import all_records
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import find_backup
from longboat.repository.closing import read_closing
from longboat.repository.generations import find_generations
from longboat.repository.object_store import ScopedStore
from tests.fakes.cluster import KillAt
from tests.unit.reconcile.backup_world import SHOP, SYSTEM, look
from tests.unit.reconcile.maintenance_world import GONE, world_in
from tests.unit.reconcile.upkeep_world import STORE, UpkeepWorld


@pytest.fixture
def world(tmp_path: Path) -> UpkeepWorld:
    """A backup under the first key. The folder stamps by the real clock, to which the world's is put."""
    world = world_in(tmp_path)
    world.pass_a_day()
    world.clock.moment = datetime.now(UTC) + timedelta(minutes=5)
    return world


def ask(world: UpkeepWorld, after: datetime | None = None) -> None:
    """Ask for keys that are newer than those there are; the clocks have passed the moment, but for a second or two."""
    moment = after or datetime.now(UTC) + timedelta(milliseconds=10)
    operation = {"op": "add", "path": "/spec/encryption/newMasterKeysAfter", "value": moment.isoformat()}
    world.cluster.patch(BACKUP_STORE, STORE, [operation])
    while after is None and datetime.now(UTC) <= moment:
        pass


def generations(world: UpkeepWorld, uid: str = "") -> tuple[int, ...]:
    return find_generations(world.repositories.place(), "cluster", uid or world.uid()).numbers


def said(world: UpkeepWorld) -> tuple[str, str, int | None, int | None]:
    status = world.store().status
    condition, keys = find(status.conditions, "MasterKeysRenewed"), status.master_keys
    assert condition is not None and keys is not None
    return condition.status, condition.reason, keys.renewed, keys.pending


def test_nothing_is_asked_or_said_without_the_field(world: UpkeepWorld) -> None:
    world.until_idle()
    assert generations(world) == (1,) and world.store().status.master_keys is None
    assert find(world.store().status.conditions, "MasterKeysRenewed") is None
    assert all(each.made is None for each in all_records(world.cluster, SYSTEM))


def test_every_namespace_gets_a_new_key_once_and_it_is_told(world: UpkeepWorld) -> None:
    ask(world)
    for _ in range(3):
        world.until_idle()
        world.clock.advance(minutes=10)
    assert generations(world) == (1, 2)
    assert said(world) == ("True", "MasterKeysRenewed", 1, 0)
    told = [message for reason, message in world.cluster.events if reason == "MasterKeysMade"]
    assert told == ["1 namespace got new master keys: first backups there are full ones"]


def test_the_old_repository_is_closed_by_the_new_one(world: UpkeepWorld) -> None:
    ask(world)
    world.until_idle()
    newest = world.repositories.repository(world.uid(), 2)
    old = world.repositories.repository(world.uid(), 1)
    place = ScopedStore(world.repositories.place(), f"cluster/{world.uid()}")
    assert read_closing(place, old.id, newest) is not None


def test_a_rotation_that_was_killed_before_it_closed_the_old_one_is_completed(world: UpkeepWorld) -> None:
    world.repositories.rotate(world.uid())
    for each in (world.folder / "store").rglob("closed/*"):
        each.unlink()
    # It was made after the moment: there is nothing to rotate, but something to close.
    ask(world, datetime.now(UTC) - timedelta(hours=1))
    world.until_idle()
    assert generations(world) == (1, 2) and len(list((world.folder / "store").rglob("closed/*"))) == 1


def test_a_moment_that_has_not_come_renews_nothing(world: UpkeepWorld) -> None:
    ask(world, world.clock() + timedelta(hours=1))
    world.until_idle()
    world.add_backup("new")
    world.drive("new")
    assert generations(world) == (1,) and said(world) == ("False", "NotYet", None, None)


def test_a_store_whose_clock_is_behind_renews_nothing_again_and_again(world: UpkeepWorld) -> None:
    """What is made there now is stamped before the moment, and would be renewed with every look."""
    ask(world, world.clock() - timedelta(minutes=1))
    world.told({"clockSkewSeconds": -300})
    for _ in range(3):
        world.until_idle()
        world.clock.advance(seconds=30)
    assert generations(world) == (1,)


def test_a_later_moment_renews_again_and_one_before_nothing(world: UpkeepWorld) -> None:
    for expected in ((1, 2), (1, 2, 3)):
        ask(world)
        world.until_idle()
        assert generations(world) == expected
    assert said(world) == ("True", "MasterKeysRenewed", 1, 0)


def test_a_namespace_that_is_gone_needs_no_new_key(world: UpkeepWorld) -> None:
    world.repositories.repository(GONE)
    ask(world)
    world.until_idle()
    assert generations(world, GONE) == (1,) and said(world)[2:] == (1, 0)


def test_a_backup_that_comes_before_the_upkeep_makes_the_key_itself(world: UpkeepWorld) -> None:
    ask(world)
    world.add_backup("new")
    world.drive("new")
    store = world.backup("new").status.store
    assert store is not None and store.repository.endswith(".2") and generations(world) == (1, 2)
    assert find_backup(world.repositories.repository(world.uid(), 2), "new") is not None
    # The upkeep finds it and makes no further one.
    world.until_idle()
    assert generations(world) == (1, 2) and said(world) == ("True", "MasterKeysRenewed", 1, 0)


def test_nothing_is_written_under_the_old_key_while_the_new_one_can_not_be_made(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise StoreProblemError("AccessDenied", "may not create", retryable=False)

    monkeypatch.setattr(world.repositories, "renew", denied)
    ask(world)
    world.add_backup("new")
    look(world, name="new")
    assert world.condition("Stalled", "new").reason == "AccessDenied" and not world.backup("new").status.store
    world.until_idle()
    assert said(world) == ("False", "RenewalFailed", 0, 1) and generations(world) == (1,)


def test_a_namespace_whose_repository_can_not_be_opened_holds_up_no_other_one(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its UID comes before that of the other namespace, so that it is looked at first.
    other = "00000000-0000-4000-8000-000000000000"
    world.repositories.repository(other)
    names, renew = {other: "broken", world.uid(): SHOP}, world.repositories.renew

    def refuse(store: object, uid: str, generation: int, **more: object) -> object:
        if uid == other:
            raise StoreProblemError("WrongKey", "another key", retryable=False)
        return renew(store, uid, generation, **more)

    monkeypatch.setattr(world.repositories, "renew", refuse)
    ctx = world.context()
    records = [record_of(other, STORE, names, world.clock()), world.record()]
    ask(world)
    known = {each.folder: maintenance_records.add(ctx, each) for each in records}
    found, renewal = master_keys.renew_all(ctx, world.store(), known, names)
    assert sorted(found) == [other, world.uid(), f"{world.uid()}.2"] and renewal is not None
    assert (renewal.renewed, renewal.pending) == (1, ("broken",)) and "another key" in renewal.problem


def test_an_operator_killed_at_any_moment_makes_one_new_key(tmp_path: Path) -> None:
    for nth in range(1, 12):
        world = world_in(tmp_path / str(nth))
        world.ask(prune={"suspend": True}, verify={"suspend": True})
        world.clock.moment = datetime.now(UTC) + timedelta(minutes=5)
        ask(world)
        bomb = KillAt(nth)
        world.until_idle(bomb)
        world.clock.advance(minutes=10)
        world.until_idle()
        assert generations(world) == (1, 2), nth
        assert said(world) == ("True", "MasterKeysRenewed", 1, 0), nth
        if not world.killed:
            return
    raise AssertionError("it never came to its end")
