"""When automatic snapshots are made and removed."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from longboat.plan.automatic import Disk, Rules, Taken, due, removals, slot, snapshot_of

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
RULES = Rules(DAY, timedelta(days=7))
DISK = Disk("shop", "db-data", "u1", "db", "data")


def taken(age: timedelta, phase: Any = "Ready", name: str = "") -> Taken:
    moment = NOW - age
    return Taken("shop", name or f"s-{age}-{phase}", f"uid-{age}-{phase}", "u1", moment, moment, phase)


@given(st.uuids(), st.datetimes(datetime(2020, 1, 1), datetime(2060, 1, 1)), st.integers(60, 7 * 86400))
def test_the_current_slot_is_never_ahead_nor_more_than_a_period_ago(uid: Any, moment: datetime, seconds: int) -> None:
    now, every = moment.replace(tzinfo=UTC), timedelta(seconds=seconds)
    begun = slot(str(uid), now, every)
    assert now - every < begun <= now
    assert slot(str(uid), begun + every, every) == begun + every


def test_thousands_of_disks_do_not_come_due_at_once() -> None:
    hours = [0] * 24
    for number in range(10_000):
        hours[slot(f"uid-{number}", NOW, DAY).hour] += 1
    assert max(hours) < 2 * min(hours)


def test_a_new_disk_is_due_at_once_and_then_once_a_period() -> None:
    assert due(DISK, [], NOW, RULES)
    begun = slot("u1", NOW, DAY)
    assert not due(DISK, [taken(NOW - begun)], NOW, RULES)
    assert due(DISK, [taken(NOW - begun + timedelta(seconds=1))], NOW, RULES)


def test_no_second_one_while_one_is_being_made_or_for_disks_left_out() -> None:
    assert not due(DISK, [taken(2 * DAY, "Pending")], NOW, RULES)
    assert not due(replace(DISK, wanted=False), [], NOW, RULES)
    assert not due(replace(DISK, supported=False), [], NOW, RULES)


def test_the_old_one_stays_until_the_next_one_is_ready() -> None:
    old = taken(DAY)
    assert removals(DISK, True, [old, taken(timedelta(minutes=1), "Pending")], NOW, RULES) == []
    assert removals(DISK, True, [old, taken(timedelta(minutes=1), "Failed")], NOW, RULES) == []
    (gone,) = removals(DISK, True, [old, taken(timedelta(minutes=1))], NOW, RULES)
    assert gone.snapshot == old
    assert gone.successor is not None


def test_the_last_good_one_survives_any_run_of_failures() -> None:
    failures = [taken(timedelta(hours=hours), "Failed") for hours in range(30)]
    gone = [each.snapshot for each in removals(DISK, True, [taken(30 * DAY), *failures], NOW, RULES)]
    assert all(each.phase == "Failed" for each in gone)
    assert len(gone) == 29


def test_one_that_is_never_cut_makes_way_after_a_period() -> None:
    assert removals(DISK, True, [taken(DAY - timedelta(seconds=1), "Pending")], NOW, RULES) == []
    assert len(removals(DISK, True, [taken(DAY, "Pending")], NOW, RULES)) == 1


def test_the_last_one_of_an_opted_out_disk_stays_a_day_longer_than_it_would_have() -> None:
    out = replace(DISK, wanted=False)
    assert removals(out, True, [taken(2 * DAY - timedelta(seconds=1))], NOW, RULES) == []
    assert len(removals(out, True, [taken(2 * DAY)], NOW, RULES)) == 1
    # A detached disk is no different.
    assert len(removals(None, True, [taken(2 * DAY)], NOW, RULES)) == 1


def test_the_last_one_of_a_deleted_disk_stays_for_the_trash_period() -> None:
    assert removals(None, False, [taken(7 * DAY - timedelta(seconds=1))], NOW, RULES) == []
    assert len(removals(None, False, [taken(7 * DAY)], NOW, RULES)) == 1


def test_a_disk_whose_storage_lost_its_snapshot_class_keeps_what_it_has() -> None:
    assert removals(replace(DISK, supported=False), True, [taken(30 * DAY)], NOW, RULES) == []


def test_the_name_is_the_same_within_a_slot_and_another_in_the_next() -> None:
    begun = slot("u1", NOW, DAY)
    first = snapshot_of(DISK, begun, RULES)
    assert first == snapshot_of(DISK, begun + DAY - timedelta(seconds=1), RULES)
    assert first["metadata"]["name"] != snapshot_of(DISK, begun + DAY, RULES)["metadata"]["name"]
    assert len(first["metadata"]["name"]) <= 63
    assert re.search(r"-\d{8}t\d{4}-[0-9a-f]{10}$", first["metadata"]["name"]), "40 bits, as in the names of runs"
    other = snapshot_of(replace(DISK, claim_uid="u2"), begun, RULES)
    assert other["metadata"]["name"] != first["metadata"]["name"]
