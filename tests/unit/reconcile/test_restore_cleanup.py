"""What is taken back of restores that failed or were deleted on the way."""

from __future__ import annotations

import pytest

from longboat.api import Restore
from longboat.kube.kinds import (
    CUSTOM_RESOURCE_DEFINITION,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
)
from longboat.reconcile import routing
from longboat.reconcile.dispatch import work
from longboat.reconcile.objects import load, wire
from longboat.reconcile.restore import reconcile
from longboat.reconcile.restore_cleanup import abandon, left_empty, sweep, take_back
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.disk_world import SHOP, World
from tests.unit.reconcile.restore_world import (
    OLD,
    assert_restored,
    failing,
    fill_only,
    leftovers,
    message,
    run,
    shop,
    status,
    untouched,
    wish,
)


def test_the_operator_killed_while_it_takes_back_goes_on_taking_back() -> None:
    for nth in range(1, 40):
        world = shop()
        failing(world, ("Damaged", False))
        world.add_restore("r", wish())
        try:
            run(world, bomb=KillAt(nth, before=False))
        except Killed:
            run(world)
        else:
            break
        assert status(world)["phase"] == "Failed"
        untouched(world)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_users_claim_deleted_on_the_way_ends_the_restore_and_leaves_nothing(rounds: int) -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world, rounds=rounds)
    if status(world)["phase"] == "Completed":
        return
    world.cluster.delete(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    world.storage.settle()
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimDeleted"
    world.storage.settle()
    untouched(world)
    assert set(world.storage.data.values()) == {"the new data"}


def deleted_after(nth: int) -> tuple[World, Restore | None]:
    """A restore whose operator was killed after its nth write; then the Restore was deleted."""
    world = shop()
    world.add_restore("r", wish(storageClassName="keeping"))
    try:
        run(world, bomb=KillAt(nth, before=False))
    except Killed:
        world.storage.settle()
    restore = load(world.cluster, RESTORE, Restore, SHOP, "r")
    world.cluster.delete(RESTORE, "r", SHOP)
    return world, restore


@pytest.mark.parametrize("nth", range(1, 20))
def test_a_restore_deleted_on_the_way_leaves_nothing_and_loses_nothing(nth: int) -> None:
    world, restore = deleted_after(nth)
    assert restore is not None
    # As the event wakes it; nothing has to wait for the sweep.
    gone = wire(restore) | {"kind": "Restore"}
    for key, _ in routing.wakes(gone, "DELETED"):
        work(world.context())(key)
    for _ in range(3):
        world.storage.settle()
    assert leftovers(world) == []
    claim = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    full = claim is not None and "volumeName" in claim["spec"]
    assert not full or world.storage.content(SHOP, "db-restored") == OLD
    assert set(world.storage.data.values()) == {"the new data"} | ({OLD} if full else set())


@pytest.mark.parametrize("nth", range(1, 20))
def test_what_a_deleted_restore_left_while_the_operator_was_away_is_swept(nth: int) -> None:
    world, _ = deleted_after(nth)
    sweep(world.context())
    for _ in range(3):
        world.storage.settle()
    assert leftovers(world) == []
    claim = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    full = claim is not None and "volumeName" in claim["spec"]
    assert not full or world.storage.content(SHOP, "db-restored") == OLD
    assert set(world.storage.data.values()) == {"the new data"} | ({OLD} if full else set())


def test_the_claim_that_is_left_empty_is_told_of_and_left_to_its_owner() -> None:
    world = shop()
    failing(world, ("Damaged", False))
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "Damaged"
    assert "PersistentVolumeClaim 'db-restored' stays, empty: delete it" in message(world)
    assert leftovers(world) == []
    world.add_restore("again", wish())
    run(world, name="again")
    assert world.reason(RESTORE, "again", "Stalled") == "ClaimExists"
    assert "left empty" in message(world, name="again")


def test_a_claim_that_is_full_is_not_called_empty() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    restore = load(world.cluster, RESTORE, Restore, SHOP, "r")
    assert restore is not None
    assert left_empty(world.context(), restore) == ""


def test_the_deletion_of_a_restore_takes_back_nothing_while_it_is_still_there() -> None:
    world = shop()
    world.add_restore("r", wish())
    world.storage.run_job = None
    run(world, rounds=2)
    before, restore = leftovers(world), load(world.cluster, RESTORE, Restore, SHOP, "r")
    assert before and restore is not None
    abandon(world.context(), SHOP, restore.uid)
    assert leftovers(world) == before


def test_without_the_kind_nobody_is_taken_for_gone() -> None:
    world, _ = deleted_after(8)
    world.cluster.delete(CUSTOM_RESOURCE_DEFINITION, "restores.longboat.dev")
    before = leftovers(world)
    assert before
    sweep(world.context())
    assert leftovers(world) == before


def test_the_sweep_leaves_a_restore_that_is_under_way_alone() -> None:
    world = shop()
    world.add_restore("r", wish())
    world.storage.run_job, mover = None, world.storage.run_job
    run(world, rounds=2)
    before = leftovers(world)
    assert before
    sweep(world.context())
    assert leftovers(world) == before
    world.storage.run_job = mover
    run(world)
    assert_restored(world)


def test_taking_back_a_finished_restore_changes_nothing() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    restore = load(world.cluster, RESTORE, Restore, SHOP, "r")
    assert restore is not None
    take_back(world.context(), SHOP, restore.uid)
    assert_restored(world)


@pytest.mark.parametrize("away", [True, False], ids=["operator-away", "operator-there"])
def test_a_restore_deleted_when_its_volume_has_just_moved_leaves_the_claim_with_its_data(away: bool) -> None:
    world = shop()
    world.add_restore("r", wish())
    for _ in range(6):
        fill_only(world)
        world.storage.settle()
    # One reconcile marks the volume, moves it and waits; nothing in the cluster has answered yet.
    reconcile(world.context(), SHOP, "r")
    restore = load(world.cluster, RESTORE, Restore, SHOP, "r")
    assert restore is not None
    assert "volumeName" not in world.storage.claim(SHOP, "db-restored")["spec"]
    world.cluster.delete(RESTORE, "r", SHOP)
    if away:
        sweep(world.context())
    else:
        abandon(world.context(), SHOP, restore.uid)
    for _ in range(3):
        world.storage.settle()
    assert world.storage.content(SHOP, "db-restored") == OLD
    assert leftovers(world) == []


def test_what_failed_is_taken_back_at_once_and_not_by_the_next_look() -> None:
    world = shop()
    failing(world, ("Damaged", False))
    world.add_restore("r", wish())
    while reconcile(world.context(), SHOP, "r") is not None:
        world.storage.settle()
    world.storage.settle()
    untouched(world)
