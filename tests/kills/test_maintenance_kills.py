"""An operator that is killed while it prunes and verifies: one Job a run, and what the store says by then counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longboat.kube.port import Object
from longboat.mover import PruneJob
from longboat.repository import advance_epoch, read_epoch
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import Grenade
from tests.unit.reconcile.maintenance_world import PRUNE, world, world_in
from tests.unit.reconcile.upkeep_world import NOBODY, SELDOM, UpkeepWorld

__all__ = ["world"]


def _effects(folder: Path) -> int:
    world, bomb = world_in(folder), Grenade()
    world.pass_a_day(bomb)
    return bomb.effects


def test_killed_at_any_write_each_run_has_one_job_and_the_end_is_the_same(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    assert count >= 12, "the test sees too few writes to be worth anything"
    for nth in range(1, count + 2):
        world = world_in(tmp_path / str(nth))
        names, unknown = list[str](), list[str]()
        world.cluster.hooks.append(_watcher(world, names, unknown))
        world.pass_a_day(Grenade(nth))
        where = f"killed after write {nth - 1} of {count}"
        assert sorted(work for work, _ in world.runs) == ["prune", "verify"], where
        assert len(names) == 2 and unknown == [], where
        assert world.jobs() == [] and world.backup().status.verified == "Yes", where
        record = world.record()
        assert record.prune.attempt is None and record.verify.attempt is None, where
        epoch = read_epoch(world.repository())
        assert epoch is not None and [epoch.token] == record.tokens, where


def _kill_at_the_job(world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, after: bool = False) -> None:
    """Look with an operator that is killed right before, or after, it makes a Job."""
    create = world.cluster.create

    def kill(obj: Object) -> Object:
        if obj["kind"] == "Job" and after:
            create(obj)
        if obj["kind"] == "Job":
            raise Killed
        return create(obj)

    with monkeypatch.context() as patch:
        patch.setattr(world.cluster, "create", kill)
        world.look()
    attempt = world.record().prune.attempt
    assert attempt is not None and attempt.job is None and bool(world.jobs()) == after


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("forbidden", [{"dryRun": True}, NOBODY])
def test_a_prune_that_could_not_begin_yet_heeds_what_the_store_says_now(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, forbidden: dict[str, Any], after: bool
) -> None:
    """Who sees something wrong and sets dryRun or suspend must not meet a real prune when the operator comes back."""
    world.ask(verify=NOBODY)
    world.look()
    world.clock.advance(days=1)
    _kill_at_the_job(world, monkeypatch, after)
    tokens = world.record().tokens
    world.ask(verify=NOBODY, prune=forbidden)
    world.pass_a_day()
    assert all(isinstance(told, PruneJob) and told.dry_run for _, told in world.runs)
    assert bool(world.runs) == ("dryRun" in forbidden)
    assert world.record().prune.attempt is None and world.jobs() == []
    assert world.record().tokens == tokens, "nobody knows whether it has written its token"


@pytest.mark.parametrize("after", [False, True])
def test_a_prune_that_somebody_asked_for_goes_on_after_the_operator_was_killed(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
    world.until_idle()
    world.clock.advance(seconds=1)
    world.annotate(PRUNE, world.clock().strftime("%Y-%m-%dT%H:%M:%SZ"))
    _kill_at_the_job(world, monkeypatch, after)
    world.until_idle()
    assert [told.token for _, told in world.runs if isinstance(told, PruneJob)] == ["token-1"]


def test_a_dry_run_that_is_resumed_stays_one_and_needs_no_charge(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noted down says what the run is, not what the store would have the next one be."""
    advance_epoch(world.repository(), (), "a clone of this cluster")
    world.ask(verify=NOBODY, prune={"dryRun": True})
    world.look()
    world.clock.advance(days=1)
    _kill_at_the_job(world, monkeypatch)
    world.ask(verify=NOBODY)
    world.until_idle()
    assert [told.dry_run for _, told in world.runs if isinstance(told, PruneJob)] == [True]
    assert world.record().prune.failed is None


def _watcher(world: UpkeepWorld, names: list[str], unknown: list[str]) -> Any:
    """Note the Jobs that are made, and those whose token nobody has noted down before."""

    def watch(verb: str, obj: Object) -> None:
        if verb == "create" and obj["kind"] == "Job":
            names.append(obj["metadata"]["name"])
            if world.work(obj) == "prune" and not world.record().tokens:
                unknown.append(obj["metadata"]["name"])

    return watch
