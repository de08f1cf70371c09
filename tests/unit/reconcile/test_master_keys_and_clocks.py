"""New master keys whatever the clocks say: one that is behind makes no further ones, a new stamp no old one new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.kube.kinds import BACKUP_STORE
from longboat.plan.problem import Problem
from longboat.reconcile import maintenance_records
from longboat.reconcile.backup_store_access import open_at
from longboat.reconcile.repositories import RepositoryAccess
from tests.unit.reconcile.backup_world import SHOP
from tests.unit.reconcile.maintenance_world import world_in
from tests.unit.reconcile.test_declared_master_keys import ask, generations, said
from tests.unit.reconcile.upkeep_world import STORE, UpkeepWorld

DONE = ("True", "MasterKeysRenewed", 1, 0)


@pytest.fixture
def world(tmp_path: Path) -> UpkeepWorld:
    """A backup under the first key, in a store whose clock, which nobody knows, is an hour behind."""
    world = world_in(tmp_path)
    world.pass_a_day()
    world.clock.moment = datetime.now(UTC) + timedelta(hours=1)
    assert world.store().status.clock_skew_seconds is None
    return world


def behind(world: UpkeepWorld, minutes: int = 30) -> None:
    """Ask for keys newer than a moment that has not come by the store's clock, and is over by the operator's."""
    ask(world, datetime.now(UTC) + timedelta(minutes=minutes))


def begin(world: UpkeepWorld) -> RepositoryAccess:
    """Look at a run that begins; return where it writes to."""
    found = open_at(world.context(), world.store(), SHOP)
    assert not isinstance(found, Problem)
    return found


def runs(world: UpkeepWorld) -> None:
    begin(world)


def upkeep(world: UpkeepWorld) -> None:
    world.until_idle()
    world.clock.advance(minutes=10)


def restarted(world: UpkeepWorld) -> None:
    world.memory = {}
    upkeep(world)


@pytest.mark.parametrize("looks", [[runs] * 4 + [upkeep], [upkeep] * 3 + [runs], [upkeep, restarted, runs]])
def test_a_clock_that_is_behind_and_not_known_makes_one_new_key(
    world: UpkeepWorld, looks: list[Callable[[UpkeepWorld], None]]
) -> None:
    behind(world)
    for look in looks:
        look(world)
        assert generations(world) == (1, 2)
    world.until_idle()
    assert said(world) == DONE


def test_a_later_moment_makes_one_more(world: UpkeepWorld) -> None:
    for minutes, expected in ((30, (1, 2)), (40, (1, 2, 3))):
        behind(world, minutes)
        for look in (upkeep, runs, upkeep):
            look(world)
        assert generations(world) == expected and said(world) == DONE


def test_a_run_that_was_killed_when_it_had_made_the_key_makes_no_further_one(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind(world)
    renew = world.repositories.renew

    def killed(*args: object, **more: object) -> object:
        renew(*args, **more)  # type: ignore[arg-type]
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(world.repositories, "renew", killed)
        with pytest.raises(RuntimeError):
            begin(world)
    runs(world)
    upkeep(world)
    assert generations(world) == (1, 2) and said(world) == DONE


def test_one_that_was_there_before_the_moment_is_not_taken_for_the_one_that_it_asks_for(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing may be minutes old: what is made in place of the first one was made by somebody else, long ago."""
    first = begin(world)
    world.repositories.rotate(world.uid())
    behind(world)
    open_ = world.repositories.open
    stale = [first]

    def listed_before(*args: object, **more: object) -> RepositoryAccess:
        return stale.pop() if stale else open_(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.repositories, "open", listed_before)
    assert begin(world).generation == 3 and generations(world) == (1, 2, 3)


def test_a_listing_that_stays_old_lets_nothing_be_written(world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begin(world)
    behind(world)
    monkeypatch.setattr(world.repositories, "open", lambda *args, **more: first)
    found = open_at(world.context(), world.store(), SHOP)
    assert isinstance(found, Problem) and found.reason == "GenerationConflict" and found.passing
    assert generations(world) == (1, 2)


def touch(world: UpkeepWorld, number: int = 1) -> None:
    """Write the same header again, as who has the bucket can do."""
    folder = world.uid() if number == 1 else f"{world.uid()}.{number}"
    path = world.folder / "store" / "cluster" / folder / "repository"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("look", [upkeep, runs])
def test_a_header_that_is_written_again_makes_no_leaked_key_new(
    tmp_path: Path, look: Callable[[UpkeepWorld], None]
) -> None:
    """The operator saw the repository before the moment, whatever its stamp says now."""
    world = world_in(tmp_path)
    world.clock.moment = datetime.now(UTC) - timedelta(minutes=1)
    world.until_idle()
    world.clock.moment = datetime.now(UTC) + timedelta(minutes=5)
    ask(world)
    touch(world)
    look(world)
    assert generations(world) == (1, 2)
    upkeep(world)
    assert said(world) == DONE and generations(world) == (1, 2)


def test_what_is_known_of_another_repository_says_nothing_of_the_one_that_is_there(tmp_path: Path) -> None:
    world = world_in(tmp_path)
    world.clock.moment = datetime.now(UTC) - timedelta(minutes=1)
    world.until_idle()
    ctx = world.context()
    other = "ab" * 16
    maintenance_records.update(ctx, world.record(), lambda found: found.model_copy(update={"repository_id": other}))
    world.clock.moment = datetime.now(UTC) + timedelta(minutes=5)
    ask(world)
    touch(world)
    runs(world)
    upkeep(world)
    assert generations(world) == (1,) and said(world) == DONE


def test_when_a_repository_was_made_is_asked_anew_where_the_store_leads_elsewhere(tmp_path: Path) -> None:
    """A leaked key lies there, and the one that was made in time in the other bucket."""
    world = world_in(tmp_path)
    world.ask(prune={"suspend": True}, verify={"suspend": True})
    world.clock.moment = datetime.now(UTC) + timedelta(minutes=5)
    ask(world, datetime.now(UTC) - timedelta(hours=1))
    world.until_idle()
    assert said(world) == DONE and generations(world) == (1,)
    shutil.rmtree(world.folder / "store" / "cluster")
    world.repositories.repository(world.uid())
    long_ago = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
    os.utime(world.folder / "store" / "cluster" / world.uid() / "repository", (long_ago, long_ago))
    world.cluster.patch(BACKUP_STORE, STORE, [{"op": "add", "path": "/spec/s3/prefix", "value": "elsewhere"}])
    world.until_idle()
    assert said(world) == DONE and generations(world) == (1, 2)
