"""What was put back or copied, and so stamped too late, is believed once somebody says so: that object, no other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    Repository,
    find_backup_in_time,
    find_generations,
    late_manifests,
    late_objects,
    require_on_time,
    rotate_master_key,
)
from longboat.repository.accepted import look_at, mark_of, write_accepted
from longboat.repository.closing import Closing, is_late
from longboat.repository.errors import LateManifestError
from longboat.repository.layout import ACCEPTED, accepted_name
from longboat.repository.object_store import ObjectInfo
from longboat.repository.retire import CLOSED_FOR
from tests.unit.mover.disks import STORE_KEY
from tests.unit.repository.prune_world import World

from .test_closing import CLUSTER, MOMENT, UID, close
from .test_repack import Gone

DAY = timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.back_up("before")
    world.store.advance(DAY)
    return world


def put_back(world: World) -> None:
    """Put all manifests back from a copy, as when the bucket was migrated: the store stamps them anew."""
    for name in [name for name in world.store.objects if name.split("/")[2] in {"disks", "backups"}]:
        data = world.store.objects.pop(name)[0]
        world.store.put_new(name, data)


def closing(world: World, newest: Repository) -> Closing:
    found = find_generations(world.store, CLUSTER, UID).closing(1, newest)
    assert found is not None
    return found


def accept(world: World, newest: Repository) -> Closing:
    late = late_objects(world.repository, closing(world, newest).closed)
    write_accepted(world.repository.store, world.repository.id, late, newest)
    return closing(world, newest)


def test_manifests_that_were_put_back_are_believed_once_they_are_accepted(world: World) -> None:
    newest, closed = close(world)
    world.store.advance(DAY)
    put_back(world)
    for look in (
        lambda: world.prune(closed=closed),
        lambda: find_backup_in_time(world.repository, "before", closed),
    ):
        with pytest.raises(LateManifestError, match=r"prune --accept-late[^;]*;\s+delete"):
            look()
    now = accept(world, newest)
    assert now.closed == closed and len(now.accepted) == 2
    assert find_backup_in_time(world.repository, "before", closed, now.accepted) is not None
    assert world.prune(closed=closed, accepted=now.accepted).manifests == 1
    world.check()


def test_what_was_forged_after_an_acceptance_or_under_an_accepted_name_is_not_believed(world: World) -> None:
    newest, closed = close(world)
    world.store.advance(DAY)
    put_back(world)
    accepted = accept(world, newest).accepted
    world.store.advance(2 * MOMENT)
    put_back(world)  # The same bytes even: only the store's stamp tells, in whole seconds, some of them rounded.
    world.back_up("forged")
    assert len(late_manifests(world.repository, closed, accepted)) == 4
    for name in world.manifests.values():
        with pytest.raises(LateManifestError):
            require_on_time(world.repository, [name], closed, accepted)


def test_fractions_of_a_second_are_told_by_some_answers_only(world: World) -> None:
    info = world.repository.store.head(world.manifests["before"])
    assert len({mark_of(info), mark_of(type(info)(info.name, info.size, info.modified + MOMENT / 2, "x"))}) == 1
    assert mark_of(info) != mark_of(type(info)(info.name, info.size + 1, info.modified, ""))


@pytest.mark.parametrize(("listed", "answered"), [(0.7, 0), (0.7, 1), (0.2, 0), (0, 0.7), (1, 0), (1, 0.7)])
def test_a_stamp_that_is_rounded_in_one_answer_is_that_of_the_accepted_one(listed: float, answered: float) -> None:
    name, second = "disks/x", datetime(2026, 11, 1, tzinfo=UTC)
    info = ObjectInfo(name, 5, second + listed * MOMENT, "")
    accepted = frozenset({mark_of(info)})
    assert not is_late(replace(info, modified=second + answered * MOMENT), second - DAY, accepted)
    for other in (info.modified + 2 * MOMENT, info.modified - 2 * MOMENT):
        assert is_late(replace(info, modified=other), second - DAY, accepted)
    assert is_late(replace(info, size=6), second - DAY, accepted)


def test_only_the_newest_key_can_accept_and_only_for_this_repository(world: World) -> None:
    newest, closed = close(world)
    world.store.advance(DAY)
    put_back(world)
    late, old = late_objects(world.repository, closed), world.repository.store
    write_accepted(old, world.repository.id, late, world.repository)
    write_accepted(old, "0" * 32, late, newest)
    good = write_accepted(old, world.repository.id, late[:1], newest)
    old.put_new(accepted_name(b"x" * 16), old.get(good, 1 << 20))
    old.put_new(accepted_name(b"y" * 16), b"junk")
    assert closing(world, newest).accepted == {mark_of(late[0])}
    # The key in between may have leaked as well.
    third = rotate_master_key(find_generations(world.store, CLUSTER, UID), STORE_KEY, 2)
    assert closing(world, third).accepted == frozenset()


def test_what_is_accepted_is_looked_at_first(world: World) -> None:
    _, closed = close(world)
    world.store.advance(DAY)
    put_back(world)
    assert {look_at(world.repository, each).backup for each in late_objects(world.repository, closed)} == {"before"}


def test_what_a_prune_wrote_in_the_place_of_another_is_looked_at_too(tmp_path: Path) -> None:
    """In a copy of a bucket all of them are late."""
    gone = Gone(tmp_path)
    gone.prune()
    late = late_objects(gone.repository, gone.store.now - 365 * DAY)
    assert [look_at(gone.repository, each).backup for each in late] == ["second"] * 3


def test_a_repository_that_ends_leaves_no_list_behind(world: World) -> None:
    newest, closed = close(world)
    world.store.advance(DAY)
    put_back(world)
    accepted = accept(world, newest).accepted
    world.remove("before")
    world.store.advance(CLOSED_FOR)
    for _ in range(3):
        world.prune(closed=closed, accepted=accepted, allow_most=True)
        world.store.advance(2 * DAY)
    assert world.names(ACCEPTED)
    world.prune(closed=closed, accepted=accepted, allow_most=True, may_retire=True)
    assert not world.names()
