"""When policies run: named by the failures that each test prevents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longboat.api.backup_policy import Schedule
from longboat.plan.schedule import (
    ScheduleError,
    interval_at,
    late_at,
    latest_due_slot,
    next_slot,
    previous_slot,
    schedule_text,
    slots_between,
    validate,
)

HOUR = timedelta(hours=1)
ANCHOR = datetime(2026, 1, 7, 10, 17, 3, tzinfo=UTC)
ZONES = ["UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata"]
ZONES += ["Africa/Casablanca", "Pacific/Apia", "Asia/Beirut", "Pacific/Chatham", "America/Sao_Paulo"]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def schedule(**fields: Any) -> Schedule:
    return Schedule.model_validate(fields)


def first(count: int, what: Schedule, zone: str = "UTC", anchor: datetime = ANCHOR) -> list[str]:
    found = islice(slots_between(what, zone, anchor, anchor, anchor + timedelta(days=4000)), count)
    return [slot.isoformat()[:16] for slot in found]


def due(what: Schedule, now: datetime, zone: str = "UTC", **more: Any) -> datetime | None:
    known = {"last_slot": None, "starting_deadline": HOUR, "resumed_at": None} | more
    return latest_due_slot(what, zone, ANCHOR, now=now, **known)


def test_every_n_is_counted_from_the_creation() -> None:
    assert first(3, schedule(daily={"every": 2, "at": "03:30"})) == [
        "2026-01-09T03:30",
        "2026-01-11T03:30",
        "2026-01-13T03:30",
    ]
    assert first(2, schedule(weekly={"every": 2, "day": "Sunday", "at": "02:00"})) == [
        "2026-01-11T02:00",
        "2026-01-25T02:00",
    ]
    assert first(2, schedule(weekly={"every": 2, "day": "Monday"}))[0] == "2026-01-19T00:00"
    assert first(3, schedule(hourly={"every": 6, "minute": 15})) == [
        "2026-01-07T12:15",
        "2026-01-07T18:15",
        "2026-01-08T00:15",
    ]
    assert first(2, schedule(monthly={"every": 3, "day": 5})) == ["2026-04-05T00:00", "2026-07-05T00:00"]


def test_day_31_is_the_last_day_of_shorter_months() -> None:
    assert first(3, schedule(monthly={"day": 31, "at": "23:00"})) == [
        "2026-01-31T23:00",
        "2026-02-28T23:00",
        "2026-03-31T23:00",
    ]


def test_the_creation_day_is_that_of_the_policys_zone() -> None:
    # 10:17 UTC on the 7th is the evening of the 7th in Auckland: 00:00 of the 8th there is 11:00 UTC of the 7th.
    assert first(1, schedule(daily={}), "Pacific/Auckland") == ["2026-01-07T11:00"]


def test_a_time_that_the_clock_leaves_out_runs_at_the_jump() -> None:
    spring = at("2026-03-28T12:00")
    assert next_slot(schedule(daily={"at": "01:30"}), "Europe/London", ANCHOR, spring) == at("2026-03-29T01:00")
    assert next_slot(schedule(cron="30 1 * * *"), "Europe/London", ANCHOR, spring) == at("2026-03-29T01:00")


def test_a_time_that_the_clock_shows_twice_runs_once() -> None:
    night = (at("2026-10-24T12:00"), at("2026-10-25T12:00"))
    for what in (schedule(daily={"at": "01:30"}), schedule(cron="30 1 * * *")):
        assert list(slots_between(what, "Europe/London", ANCHOR, *night)) == [at("2026-10-25T00:30")]


def test_counted_hours_neither_double_nor_drop_at_clock_changes() -> None:
    for night in ("2026-10-24T20:00", "2026-03-28T20:00"):
        window = (at(night), at(night) + 12 * HOUR)
        for what in (schedule(hourly={"minute": 20}), schedule(cron="20 * * * *")):
            slots = list(slots_between(what, "Europe/London", ANCHOR, *window))
            assert [b - a for a, b in pairwise(slots)] == [HOUR] * 11


@pytest.mark.parametrize("night", ["2026-10-24T12:00", "2026-03-28T12:00"])
def test_counted_hours_of_a_cron_stay_at_their_local_times(night: str) -> None:
    window = (at(night), at(night) + 36 * HOUR)
    slots = list(slots_between(schedule(cron="0 */6 * * *"), "Europe/London", ANCHOR, *window))
    assert [slot.astimezone(ZoneInfo("Europe/London")).hour for slot in slots] == [18, 0, 6, 12, 18, 0]
    found = [previous_slot(schedule(cron="0 */6 * * *"), "Europe/London", ANCHOR, slot + 3 * HOUR) for slot in slots]
    assert found == slots


def test_in_the_repeated_hour_the_slot_before_is_one_of_the_first_pass() -> None:
    second_pass = at("2026-10-25T01:10")
    what = schedule(daily={"at": "01:45"})
    assert previous_slot(what, "Europe/London", ANCHOR, second_pass) == at("2026-10-25T00:45")


def test_a_minutely_schedule_goes_on_through_the_repeated_hour() -> None:
    window = (at("2026-10-24T23:30"), at("2026-10-25T02:30"))
    assert len(list(slots_between(schedule(cron="* * * * *"), "Europe/London", ANCHOR, *window))) == 180


def test_creation_does_not_fire_at_once() -> None:
    everyday = schedule(daily={"at": "10:00"})
    assert due(everyday, ANCHOR) is None
    assert due(everyday, at("2026-01-08T09:59")) is None
    assert due(everyday, at("2026-01-08T10:00")) == at("2026-01-08T10:00")


def test_missed_slots_are_not_replayed_and_one_runs_late() -> None:
    hourly = schedule(hourly={})
    now = at("2026-01-09T12:20")
    slot = due(hourly, now, last_slot=at("2026-01-08T03:00"))
    assert slot == at("2026-01-09T12:00")
    assert due(hourly, now, last_slot=slot) is None


def test_a_slot_missed_by_more_than_the_deadline_is_skipped() -> None:
    everyday = schedule(daily={"at": "03:30"})
    assert due(everyday, at("2026-01-09T04:30")) == at("2026-01-09T03:30")
    assert due(everyday, at("2026-01-09T04:31")) is None


def test_resuming_does_not_fire_for_the_past() -> None:
    everyday = schedule(daily={"at": "03:30"})
    assert due(everyday, at("2026-01-09T04:00"), resumed_at=at("2026-01-09T03:45")) is None


def test_an_unknown_time_zone_is_named_with_the_likely_one() -> None:
    with pytest.raises(ScheduleError, match=r"spec\.timeZone.*Europe/London") as caught:
        validate(schedule(daily={}), "Europe/Londn")
    assert caught.value.reason == "TimeZoneUnknown"


@pytest.mark.parametrize("zone", ["Europe", "../etc/passwd", "/etc/localtime", "posixrules", "localtime"])
def test_a_path_is_no_time_zone(zone: str) -> None:
    with pytest.raises(ScheduleError):
        validate(schedule(daily={}), zone)


@pytest.mark.parametrize("text", ["99 * * * *", "0 0 31 2 *", "R * * * *", "H 3 * * *", "a b c d e", "0 0 * * 9-1/0"])
def test_a_cron_text_without_reliable_times_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"spec\.schedule\.cron") as caught:
        validate(schedule(cron=text), "UTC")
    assert caught.value.reason == "CronInvalid"


def test_late_is_one_and_a_half_intervals_after_the_last_good_backup() -> None:
    assert late_at(schedule(daily={}), "UTC", ANCHOR, at("2026-01-09T00:00")) == at("2026-01-10T12:00")
    # From Friday's backup, nothing is owed before Monday.
    weekdays = schedule(cron="0 3 * * 1-5")
    assert late_at(weekdays, "UTC", ANCHOR, at("2026-01-09T03:01")) == at("2026-01-12T15:00")


def test_words() -> None:
    assert schedule_text(schedule(daily={"every": 2, "at": "03:30"}), "UTC") == "every 2 days at 03:30 UTC"
    assert schedule_text(schedule(weekly={}), "UTC") == "every week on Sunday at 00:00 UTC"
    assert schedule_text(schedule(hourly={}), "UTC") == "every hour at :00 UTC"
    assert schedule_text(schedule(monthly={"every": 2}), "UTC") == "every 2 months on day 1 at 00:00 UTC"
    assert schedule_text(schedule(cron="*/5  * * * *"), "UTC") == "cron */5 * * * * UTC"


hours, minutes = st.integers(0, 23), st.integers(0, 59)
times = st.builds(lambda h, m: f"{h:02}:{m:02}", hours, minutes)
crons = st.one_of(
    st.builds("{} {} * * *".format, minutes, hours),
    st.builds("*/{} * * * *".format, st.sampled_from([1, 5, 7, 30])),
    st.builds("{} */{} * * *".format, minutes, st.sampled_from([1, 2, 5])),
    st.builds("{} 1-3 * * {}".format, minutes, st.integers(0, 6)),
    st.builds("{} {} {} * *".format, minutes, hours, st.integers(1, 31)),
)
schedules = st.one_of(
    st.builds(lambda n, m: schedule(hourly={"every": n, "minute": m}), st.integers(1, 168), minutes),
    st.builds(lambda n, t: schedule(daily={"every": n, "at": t}), st.integers(1, 40), times),
    st.builds(lambda n, t: schedule(weekly={"every": n, "day": "Sunday", "at": t}), st.integers(1, 6), times),
    st.builds(
        lambda n, d, t: schedule(monthly={"every": n, "day": d, "at": t}), st.integers(1, 12), st.integers(1, 31), times
    ),
    st.builds(lambda text: schedule(cron=text), crons),
)
# Near the clock changes of 2026 in most zones, and anywhere.
moments = st.one_of(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
    st.builds(
        lambda day, seconds: day + timedelta(seconds=seconds),
        st.sampled_from(
            [datetime(2026, m, d) for m, d in ((3, 8), (3, 29), (4, 5), (9, 6), (10, 4), (10, 25), (11, 1))]
        ),
        st.integers(-100_000, 100_000),
    ),
).map(lambda moment: moment.replace(tzinfo=UTC))
zones = st.sampled_from(ZONES)


@settings(max_examples=120, deadline=None)
@given(schedules, zones, moments)
def test_slots_ascend_without_doubles(what: Schedule, zone: str, moment: datetime) -> None:
    slots = list(islice(slots_between(what, zone, ANCHOR, moment, moment + timedelta(days=900)), 20))
    assert all(a < b for a, b in pairwise([moment, *slots]))


@settings(max_examples=120, deadline=None)
@given(schedules, zones, moments, st.lists(st.integers(0, 90_000), max_size=5))
def test_slots_are_the_same_whenever_they_are_asked_for(
    what: Schedule, zone: str, moment: datetime, steps: list[int]
) -> None:
    end = moment + timedelta(seconds=90_000)
    cuts = [moment, *sorted(moment + timedelta(seconds=step) for step in steps), end]
    whole = list(slots_between(what, zone, ANCHOR, moment, end))
    pieces = [slot for low, high in pairwise(cuts) for slot in slots_between(what, zone, ANCHOR, low, high)]
    assert pieces == whole


@settings(max_examples=120, deadline=None)
@given(schedules, zones, moments)
def test_searching_forwards_and_backwards_find_the_same(what: Schedule, zone: str, moment: datetime) -> None:
    slot = next_slot(what, zone, ANCHOR, moment)
    assert previous_slot(what, zone, ANCHOR, slot) == slot
    before = previous_slot(what, zone, ANCHOR, slot - timedelta(microseconds=1))
    assert before is None or before <= max(moment, ANCHOR)
    if before is not None:
        assert next_slot(what, zone, ANCHOR, before) == slot


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), times, zones, moments)
def test_no_gap_is_larger_than_asked_for(every: int, time: str, zone: str, moment: datetime) -> None:
    what = schedule(daily={"every": every, "at": time})
    slot = next_slot(what, zone, ANCHOR, moment)
    # A clock change of one hour, or a zone's jump over the date line in the past, is all that may come on top.
    assert abs(interval_at(what, zone, ANCHOR, slot) - timedelta(days=every)) <= HOUR


@settings(max_examples=100, deadline=None)
@given(times, zones, moments)
def test_slots_lie_at_the_local_time_that_was_asked_for(time: str, zone: str, moment: datetime) -> None:
    slot = next_slot(schedule(daily={"at": time}), zone, ANCHOR, moment)
    local = slot.astimezone(ZoneInfo(zone))
    wanted = local.replace(hour=int(time[:2]), minute=int(time[3:]), fold=0)
    # It is that time, or the moment of the jump over it.
    assert local == wanted or (slot - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).utcoffset() != local.utcoffset()


@settings(max_examples=100, deadline=None)
@given(schedules, zones, moments, st.lists(st.integers(1, 100_000), min_size=1, max_size=20))
def test_a_slot_never_runs_twice_however_often_it_is_looked_at(
    what: Schedule, zone: str, moment: datetime, steps: list[int]
) -> None:
    now, last, ran = moment, None, []
    for step in steps:
        now += timedelta(seconds=step)
        slot = latest_due_slot(
            what, zone, ANCHOR, now=now, last_slot=last, starting_deadline=24 * HOUR, resumed_at=moment
        )
        if slot is not None:
            ran.append(slot)
            last = slot
    assert ran == sorted(set(ran))
    assert all(slot > moment for slot in ran)
