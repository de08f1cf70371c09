"""An old repository ends when nothing is left in it, and nothing goes with it that somebody may still need."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    Generations,
    Repository,
    advance_epoch,
    find_generations,
    is_finished,
    open_newest,
    open_repository,
    prune,
    retire,
    rotate_master_key,
)
from longboat.repository.epoch import Epoch
from longboat.repository.errors import EpochConflictError
from longboat.repository.layout import HEADER_NAME
from longboat.repository.object_store import ScopedStore
from longboat.repository.retire import CLOSED_FOR, clear_remains
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import PATH, STORE_KEY
from tests.unit.repository.prune_world import World

CLUSTER, UID = PATH.split("/")
DAY = timedelta(days=1)


def rotate(world: World, current: int = 1) -> tuple[Repository, datetime]:
    newest = rotate_master_key(find_generations(world.store, CLUSTER, UID), STORE_KEY, current)
    closing = find_generations(world.store, CLUSTER, UID).closing(1, newest)
    assert closing is not None
    return newest, closing.closed


def epoch_of(world: World) -> Epoch:
    return advance_epoch(world.repository, {"t"}, "t")


def numbers(world: World) -> tuple[int, ...]:
    return find_generations(world.store, CLUSTER, UID).numbers


def pruned(world: World, closed: datetime, may_retire: bool = True, dry_run: bool = False) -> bool:
    """Prune the old repository as maintenance does; tell whether it has ended."""
    epoch = None if dry_run else epoch_of(world)
    more = {"epoch": epoch, "dry_run": dry_run, "closed": closed, "may_retire": may_retire, "allow_most": True}
    return prune(world.repository, now=world.store.now, **more).retired  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a world with one backup, which is older than its new master key."""
    world = World(tmp_path)
    world.back_up("old")
    world.store.advance(DAY)
    return world


def test_it_ends_when_its_last_backup_has_expired_and_its_packs_are_pruned(world: World) -> None:
    newest, closed = rotate(world)
    world.store.advance(10 * DAY)
    assert not pruned(world, closed)
    world.remove("old")
    ended = []
    while not ended or not ended[-1]:
        ended.append(pruned(world, closed))
        assert len(ended) < 5
        world.store.advance(2 * DAY)
    # Condemned by one prune, deleted by the next one.
    assert ended == [False, True]
    assert world.names() == set() and numbers(world) == (2,)
    assert open_newest(find_generations(world.store, CLUSTER, UID), STORE_KEY).id == newest.id


def test_a_dry_run_says_so_and_removes_nothing(world: World) -> None:
    _, closed = rotate(world)
    world.remove("old")
    for _ in range(2):
        pruned(world, closed, may_retire=False)
        world.store.advance(9 * DAY)
    names = world.names()
    assert pruned(world, closed, dry_run=True)
    assert world.names() == names and HEADER_NAME in names
    assert not pruned(world, closed, may_retire=False)
    assert pruned(world, closed)


def empty(world: World) -> datetime:
    """Rotate the key of a namespace without backups, and wait."""
    world.store = MemoryStore()
    fresh = World(world.folder, world.store)
    world.repository = fresh.repository
    _, closed = rotate(world)
    world.store.advance(CLOSED_FOR)
    return closed


@pytest.mark.parametrize(
    "name", ["backups/x", "disks/x", "packs/aa/x", "maps/aa/x", "tombstones/x", "removing/x", "leases/x/000000"]
)
def test_anything_that_is_left_keeps_it(world: World, name: str) -> None:
    closed = empty(world)
    assert is_finished(world.repository, closed, world.store.now)
    world.repository.store.put_new(name, b"")
    names = world.names()
    assert not retire(world.repository, closed, world.store.now, epoch_of(world))
    assert world.names() == names | {"epoch"}


def test_it_stays_for_a_while_after_it_was_closed(world: World) -> None:
    closed = empty(world)
    world.store.now -= timedelta(seconds=1)
    assert not retire(world.repository, closed, world.store.now, epoch_of(world))


def test_upkeep_goes_with_it_and_foreign_objects_stay(world: World) -> None:
    closed, some = empty(world), "a" * 32
    for name in (f"condemned/{some}", f"damage/{some}", f"rewrite/{some}/{some}", "notes", "keys/readme", "damage/x"):
        world.repository.store.put_new(name, b"")
    assert retire(world.repository, closed, world.store.now, epoch_of(world))
    assert world.names() == {"notes", "keys/readme", "damage/x"}


def test_of_two_operators_none_ends_it_for_the_other(world: World) -> None:
    closed = empty(world)
    epoch = epoch_of(world)
    advance_epoch(world.repository, {"t"}, "another")
    world.repository.store.put_new(condemned := f"condemned/{'a' * 32}", b"")
    with pytest.raises(EpochConflictError):
        retire(world.repository, closed, world.store.now, epoch)
    assert {HEADER_NAME, condemned} <= world.names()


class Versions(MemoryStore):
    """Somebody has hidden what was in a folder; versions of it are left."""

    hidden = ""

    def has_versions(self, prefix: str) -> bool:
        return self.hidden.startswith(prefix) or next(self.list(prefix), None) is not None


def test_what_is_hidden_by_delete_markers_keeps_its_keys(world: World) -> None:
    world.store = Versions()
    world.repository = World(world.folder, world.store).repository
    _, closed = rotate(world)
    world.store.advance(CLOSED_FOR)
    world.store.hidden = f"{PATH}/packs/aa/{'a' * 32}"
    assert not retire(world.repository, closed, world.store.now, epoch_of(world))
    world.store.hidden = ""
    assert retire(world.repository, closed, world.store.now, epoch_of(world))


def test_only_the_oldest_one_that_the_newest_key_has_closed_ends(world: World) -> None:
    rotate(world)
    newest, _ = rotate(world, 2)
    found = find_generations(world.store, CLUSTER, UID)
    assert [found.may_retire(n, newest) for n in (1, 2, 3)] == [True, False, False]
    for name in [name for name in world.store.objects if "/closed/" in name]:
        del world.store.objects[name]
    assert not found.may_retire(1, newest)


@pytest.mark.parametrize("fault", ["killed-before", "killed-after"])
def test_killed_anywhere_it_is_there_or_gone_and_what_is_left_is_cleared(world: World, fault: str) -> None:
    closed = empty(world)
    epoch = epoch_of(world)
    counter = FaultyStore(world.store.copy())
    retire(Repository(ScopedStore(counter, PATH), world.repository.keys), closed, world.store.now, epoch)
    for at in range(counter.operations):
        store = world.store.copy()
        scoped = Repository(ScopedStore(FaultyStore(store, fault, at), PATH), world.repository.keys)
        with pytest.raises(KilledError):
            retire(scoped, closed, world.store.now, epoch)
        found = find_generations(store, CLUSTER, UID)
        left = [name for name in store.objects if name.startswith(f"{PATH}/")]
        if 1 in found.numbers:
            assert open_repository(store, PATH, STORE_KEY).id == world.repository.id
            assert clear_remains(found) == []
            assert [name for name in store.objects if name.startswith(f"{PATH}/")] == left
        else:
            clear_remains(found)
            assert not [name for name in store.objects if name.startswith(f"{PATH}/")]
        assert found.newest == 2


def test_remains_are_cleared_only_where_nothing_else_is_left_below_the_newest_one() -> None:
    store = MemoryStore()
    store.put_new(f"{PATH}.2/{HEADER_NAME}", b"{}")
    key = f"keys/{'a' * 32}/{'b' * 32}"
    for name in (f"{PATH}/{key}", f"{PATH}/packs/aa/x", f"{PATH}.3/{key}"):
        store.put_new(name, b"")
    objects = dict(store.objects)
    assert clear_remains(Generations(store, CLUSTER, UID, (2,))) == []
    assert store.objects == objects
