"""Restores of what is left of a damaged backup: nobody takes such a disk for whole."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from longboat.api import Restore
from longboat.kube.kinds import PERSISTENT_VOLUME, RESTORE
from longboat.kube.port import Object
from longboat.plan.conditions import find, holds
from longboat.reconcile import retention
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.disk_world import SHOP, World
from tests.unit.reconcile.restore_world import (
    assert_restored,
    disks_of,
    failing,
    leftovers,
    message,
    run,
    shop,
    status,
    wish,
)

LOST: dict[str, Any] = {"lostBytes": 12288, "lostRanges": [[4096, 8192], [1 << 30, 4096]], "hurt": ["nightly", "older"]}
SALVAGE = {"salvage": True}
WITH_LOSSES = "RestoredWithLosses"


def holed(*, attach: bool = True) -> World:
    """Return a world with a restore that has ended, or stopped, with losses."""
    world = shop()
    world.storage.run_job.more = LOST
    world.add_restore("r", wish(attach=attach) | SALVAGE)
    run(world)
    return world


def restored(world: World) -> Restore:
    return Restore.model_validate(world.get(RESTORE, "r"))


def ready(world: World) -> tuple[str, str]:
    found = find(restored(world).status.conditions, "Ready")
    return (found.status, found.reason) if found else ("", "")


def say(world: World, lost: str) -> None:
    """Annotate the Restore, and look again."""
    notes = {"longboat.dev/confirm-losses": lost}
    world.cluster.patch(RESTORE, "r", [{"op": "add", "path": "/metadata/annotations", "value": notes}], SHOP)
    run(world)


def notes_on(obj: Object) -> dict[str, str]:
    """Return the annotations of ours."""
    notes = obj["metadata"].get("annotations") or {}
    return {key: value for key, value in notes.items() if key.startswith("longboat.dev/")}


def salvaged(world: World, name: str = "r") -> list[dict[str, Any]]:
    return [each for each in status(world, name)["conditions"] if each["type"] == "Salvaged"]


def test_only_who_asks_for_it_gets_a_disk_with_holes() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    assert [each.get("salvage", False) for each in world.storage.run_job.told] == [False]
    other = shop()
    other.add_restore("r", wish() | SALVAGE)
    run(other)
    assert [each["salvage"] for each in other.storage.run_job.told] == [True]


def test_what_is_lost_is_told_and_stays_told() -> None:
    world = holed(attach=False)
    assert_restored(world)
    assert ready(world) == ("True", WITH_LOSSES)
    [condition] = salvaged(world)
    assert (condition["status"], condition["reason"]) == ("True", "DataLost")
    for said in ("12288 bytes", "8192 at 4096", f"4096 at {1 << 30}", "nightly, older"):
        assert said in message(world, "Salvaged")
    assert status(world)["lostBytes"] == 12288
    assert "12288 bytes of it are lost" in message(world)
    assert "DataLost" in [reason for reason, _ in world.cluster.events]


def test_no_machine_gets_a_disk_with_holes_before_somebody_says_so() -> None:
    world = holed()
    assert [name for name, _ in disks_of(world)] == ["data"]
    assert (ready(world), status(world)["phase"]) == (("False", WITH_LOSSES), "Attaching")
    conditions = restored(world).status.conditions
    assert holds(conditions, "Stalled") and not holds(conditions, "Attached")
    assert 'longboat.dev/confirm-losses: "12288"' in message(world)
    assert world.storage.content(SHOP, "db-restored") is not None and leftovers(world) == []
    say(world, "true")
    say(world, "4096")
    assert [name for name, _ in disks_of(world)] == ["data"], "an answer to another question"
    say(world, "12288")
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]
    assert ready(world) == ("True", WITH_LOSSES) and holds(restored(world).status.conditions, "Attached")
    assert "12288 bytes of it are lost" in message(world)


def test_a_backup_is_not_kept_for_a_disk_that_waits_to_be_attached() -> None:
    world = holed()
    assert retention._in_use(world.context(), SHOP) == set()
    world.add_restore("other", wish(name="other"))
    assert retention._in_use(world.context(), SHOP) == {"nightly"}


@pytest.mark.parametrize(("more", "lost"), [(LOST, "12288"), ({}, "0")])
def test_what_is_lost_is_known_of_the_disk_when_the_restore_is_gone(more: dict[str, Any], lost: str) -> None:
    world = shop()
    world.storage.run_job.more = more
    world.add_restore("r", wish(attach=False) | SALVAGE)
    run(world)
    volume = world.get(PERSISTENT_VOLUME, status(world)["volume"], "")
    assert notes_on(volume) == {"longboat.dev/lost-bytes": lost}
    assert notes_on(world.storage.claim(SHOP, "db-restored"))["longboat.dev/salvage"] == "true"
    said = [text for reason, text in world.cluster.events if reason == "DataLost" and "not on this disk" in text]
    assert len(said) == bool(more)


def test_a_disk_that_was_restored_whole_is_not_marked() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    assert notes_on(world.get(PERSISTENT_VOLUME, status(world)["volume"], "")) == {}
    assert "longboat.dev/salvage" not in notes_on(world.storage.claim(SHOP, "db-restored"))


def test_a_backup_that_was_whole_after_all_is_not_called_otherwise() -> None:
    world = shop()
    world.add_restore("r", wish() | SALVAGE)
    run(world)
    assert salvaged(world) == []
    assert status(world)["lostBytes"] == 0
    assert ready(world) == ("True", "Restored")
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]


def test_a_report_that_is_lost_is_asked_for_again() -> None:
    world = shop()
    mover, silent = world.storage.run_job, [True]
    mover.more = LOST

    def run_job(job: Any, content: str | None) -> tuple[bool, str, str | None]:
        ended_well, report, written = mover(job, content)
        return ended_well, "" if silent and silent.pop() else report, written

    world.storage.run_job = run_job
    world.add_restore("r", wish() | SALVAGE)
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
        world.add_restore("r", wish() | SALVAGE)
        with suppress(Killed):
            run(world, bomb=KillAt(nth, before=before))
        run(world)
        assert [each["reason"] for each in salvaged(world)] == ["DataLost"], nth
        assert ready(world) == ("False", WITH_LOSSES) and [name for name, _ in disks_of(world)] == ["data"], nth
        volume = world.get(PERSISTENT_VOLUME, status(world)["volume"], "")
        assert notes_on(volume) == {"longboat.dev/lost-bytes": "12288"}, nth


def test_a_restore_that_met_damage_names_the_place_and_the_backups_it_hurts() -> None:
    world = shop()
    failing(world, ("Damaged", False))
    world.storage.run_job.failures[0] |= {"lostFrom": 4096, "hurtText": "nightly, of-another-disk and 3 more"}
    world.add_restore("r", wish())
    run(world)
    said = message(world, "Stalled")
    assert "byte 4096 of the disk" in said and "hurts the backups nightly, of-another-disk and 3 more" in said
