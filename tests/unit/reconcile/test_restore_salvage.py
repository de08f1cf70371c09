"""Restores of what is left of a damaged backup: nobody takes such a disk for whole."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.disk_world import World
from tests.unit.reconcile.restore_world import assert_restored, message, run, shop, status, wish

LOST: dict[str, Any] = {"lostBytes": 12288, "lostRanges": [[4096, 8192], [1 << 30, 4096]], "hurt": ["nightly", "older"]}


def salvaged(world: World, name: str = "r") -> list[dict[str, Any]]:
    return [each for each in status(world, name)["conditions"] if each["type"] == "Salvaged"]


def test_only_who_asks_for_it_gets_a_disk_with_holes() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    assert [each.get("salvage", False) for each in world.storage.run_job.told] == [False]
    other = shop()
    other.add_restore("r", wish() | {"salvage": True})
    run(other)
    assert [each["salvage"] for each in other.storage.run_job.told] == [True]


def test_what_is_lost_is_told_and_stays_told() -> None:
    world = shop()
    world.storage.run_job.more = LOST
    world.add_restore("r", wish() | {"salvage": True})
    run(world)
    assert_restored(world)
    [condition] = salvaged(world)
    assert (condition["status"], condition["reason"]) == ("True", "DataLost")
    for said in ("12288 bytes", "8192 at 4096", f"4096 at {1 << 30}", "nightly, older"):
        assert said in message(world, "Salvaged")
    assert status(world)["lostBytes"] == 12288
    assert "12288 bytes of it are lost" in message(world)
    assert "DataLost" in [reason for reason, _ in world.cluster.events]


def test_a_backup_that_was_whole_after_all_is_not_called_otherwise() -> None:
    world = shop()
    world.add_restore("r", wish() | {"salvage": True})
    run(world)
    assert salvaged(world) == []
    assert status(world)["lostBytes"] == 0


def test_a_report_that_is_lost_is_asked_for_again() -> None:
    world = shop()
    mover, silent = world.storage.run_job, [True]
    mover.more = LOST

    def run_job(job: Any, content: str | None) -> tuple[bool, str, str | None]:
        ended_well, report, written = mover(job, content)
        return ended_well, "" if silent and silent.pop() else report, written

    world.storage.run_job = run_job
    world.add_restore("r", wish() | {"salvage": True})
    run(world)
    world.clock.advance(minutes=1)
    run(world)
    assert len(mover.jobs) == 2
    assert [each["reason"] for each in salvaged(world)] == ["DataLost"]


@pytest.mark.parametrize("before", [True, False])
def test_a_disk_with_holes_says_so_also_when_its_operator_was_killed_meanwhile(before: bool) -> None:
    for nth in range(1, 40):
        world = shop()
        world.storage.run_job.more = LOST
        world.add_restore("r", wish() | {"salvage": True})
        with suppress(Killed):
            run(world, bomb=KillAt(nth, before=before))
        run(world)
        assert [each["reason"] for each in salvaged(world)] == ["DataLost"], nth
