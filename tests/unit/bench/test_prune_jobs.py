"""A prune that is measured does what the Jobs do in two days: nothing that is needed goes, all that is not goes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from longboat.mover.jobs import PruneJob
from longboat.mover.results import PruneResult
from longboat.repository import MIN_GRACE, StoreSettings
from tests.bench.prune_jobs import STEP, AheadStore, prune_ahead, remove_backups
from tests.bench.tools import Command, Longboat, chained, run
from tests.unit.mover.disks import PATH
from tests.unit.repository.prune_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three backups, as old as the store's clock says it is now."""
    world = World(tmp_path / "world")
    for name in ("one", "two", "three"):
        world.back_up(name)
    return world


def _job(world: World) -> PruneJob:
    settings = StoreSettings(type="folder", path="/nowhere")
    key = base64.b64encode(world.key).decode()
    return PruneJob(store=settings, repository_path=PATH, master_key=key, token="t", known_tokens=("t",))


def _run(world: World, steps: int, names: Sequence[str] = ()) -> tuple[PruneResult, AheadStore]:
    def now() -> datetime:
        return world.store.now + steps * STEP

    store = AheadStore(world.store, steps * STEP)
    if names:
        remove_backups(_job(world), store, names, now)
    return prune_ahead(_job(world), store, now), store


def test_backups_that_are_measured_to_go_are_gone_after_two_prunes_and_the_newest_is_not(world: World) -> None:
    packs = world.names("packs/")
    condemning, _ = _run(world, 1, ["one", "two"])
    assert condemning.condemned.objects
    assert not set(condemning.removed) & {"DataPack", "MapPack"}
    assert world.names("packs/") == packs
    deleting, store = _run(world, 2)
    gone = deleting.removed["DataPack"].objects + deleting.removed["MapPack"].objects
    assert (gone, deleting.condemned.objects) == (condemning.condemned.objects, 0)
    assert world.names("packs/") < packs
    assert store.read_bytes
    del world.contents["one"], world.contents["two"]
    world.check()


def test_a_figure_of_a_prune_that_puts_off_its_work_is_none(world: World) -> None:
    world.remove("two")
    with pytest.raises(AssertionError, match="later"):
        _run(world, 0)
    _run(world, 1)
    with pytest.raises(AssertionError, match="waiting"):
        _run(world, 1)


def test_a_prune_that_asks_for_leave_is_no_figure_either(world: World) -> None:
    with pytest.raises(AssertionError, match="allow"):
        _run(world, 1, list(world.contents))


def test_backups_that_stay_in_the_trash_are_none_either(world: World) -> None:
    with pytest.raises(AssertionError, match="two"):
        remove_backups(_job(world), world.store, ["two", "two"], lambda: world.store.now)


def test_the_clock_is_ahead_by_more_than_any_grace() -> None:
    assert STEP.total_seconds() > PruneJob.model_fields["grace_seconds"].default >= MIN_GRACE.total_seconds()


def test_what_reads_the_disk_in_another_way_is_not_pruned_a_second_time(tmp_path: Path) -> None:
    settings = StoreSettings(type="folder", path=str(tmp_path / "store"))
    mover = Longboat("longboat-2-cores", tmp_path / "disk.img", tmp_path, tmp_path, settings, tmp_path / "store")
    assert mover.with_cores(2).prune() is None


def test_the_second_of_two_programs_runs_only_after_the_first_one_has_worked(tmp_path: Path) -> None:
    def command(*arguments: str) -> Command:
        return Command(arguments, {"NAME": "its own"}, tmp_path)

    run(chained(command("touch", "a file"), command("sh", "-c", 'echo "$NAME" > other')))
    assert (tmp_path / "a file").exists()
    assert (tmp_path / "other").read_text() == "its own\n"
    with pytest.raises(Exception, match="exit status 1"):
        run(chained(command("false"), command("touch", "third")))
    assert not (tmp_path / "third").exists()
