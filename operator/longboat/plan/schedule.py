"""When a policy runs. Slots are moments in UTC, functions of schedule, time zone and creation alone: whoever asks, and
whenever, gets the same ones.

Clock changes: a time that a clock leaves out runs at the moment of the jump; one that it shows twice runs once, at the
first. Where hours are counted (hourly, cron with ``*`` in the hour field) elapsed time counts, so that a change
neither doubles nor drops a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from longboat.api.backup_policy import Schedule
from longboat.plan import walls as wall_times
from longboat.plan.wall_clock import SECOND, ScheduleError, first_change, last_change, moment_of, time_zone, wall_of
from longboat.plan.walls import Cron, Walls

__all__ = [
    "ScheduleError",
    "interval_at",
    "late_at",
    "latest_due_slot",
    "next_slot",
    "previous_slot",
    "schedule_text",
    "slots_between",
    "validate",
]

_FOLD = timedelta(hours=25)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class _Slots:
    """The two searches that everything else is made of."""

    after: Callable[[datetime], datetime]
    """The first slot after a moment."""
    until: Callable[[datetime], datetime]
    """The last slot that is not after a moment; may lie before the anchor."""


def validate(schedule: Schedule, tz: str) -> None:
    """Raise ScheduleError (TimeZoneUnknown, CronInvalid) if the schedule cannot be evaluated."""
    _slots(schedule.model_dump_json(), tz, datetime(2026, 1, 1, tzinfo=UTC))


def next_slot(schedule: Schedule, tz: str, anchor: datetime, after: datetime) -> datetime:
    """Return the first slot after a moment and after the anchor (the policy's creation). Raises ScheduleError."""
    return _of(schedule, tz, anchor).after(max(after, anchor))


def previous_slot(schedule: Schedule, tz: str, anchor: datetime, until: datetime) -> datetime | None:
    """Return the last slot that is not after a moment, None if the anchor came later. Raises ScheduleError."""
    slot = _of(schedule, tz, anchor).until(until)
    return slot if slot > anchor else None


def slots_between(
    schedule: Schedule, tz: str, anchor: datetime, after: datetime, until: datetime
) -> Iterator[datetime]:
    """Yield the slots in (after, until], none at or before the anchor. Raises ScheduleError."""
    slots = _of(schedule, tz, anchor)
    slot = slots.after(max(after, anchor))
    while slot <= until:
        yield slot
        slot = slots.after(slot)


def latest_due_slot(
    schedule: Schedule,
    tz: str,
    anchor: datetime,
    *,
    now: datetime,
    last_slot: datetime | None,
    starting_deadline: timedelta,
    resumed_at: datetime | None,
) -> datetime | None:
    """Return the slot that should run now, or None. Missed slots are not made up for: at most the latest one runs late.

    ``last_slot`` is the last slot dealt with; ``resumed_at`` when the policy was last resumed or its schedule changed:
    neither what is before them nor what was missed by more than the deadline runs. Raises ScheduleError.
    """
    slot = previous_slot(schedule, tz, anchor, now)
    if slot is None or now - slot > starting_deadline:
        return None
    floors = [moment for moment in (last_slot, resumed_at) if moment is not None]
    return slot if all(slot > floor for floor in floors) else None


def interval_at(schedule: Schedule, tz: str, anchor: datetime, slot: datetime) -> timedelta:
    """Return the time from a slot to the one after it. Raises ScheduleError."""
    return next_slot(schedule, tz, anchor, slot) - slot


def late_at(schedule: Schedule, tz: str, anchor: datetime, last_success: datetime) -> datetime:
    """Return when a target whose newest good backup is from this moment counts as late: 1.5 intervals later.

    Said so that it holds for uneven schedules too: the next slot after the backup has passed by half of the interval
    that follows that slot. Raises ScheduleError.
    """
    # A slot's backup is captured seconds after the slot, so that the slot itself is never the one that follows.
    slot = next_slot(schedule, tz, anchor, last_success)
    return slot + interval_at(schedule, tz, anchor, slot) / 2


def schedule_text(schedule: Schedule, tz: str) -> str:
    """Return the schedule in words, such as "every 2 days at 03:30 Europe/London"."""
    return f"{_words(schedule)} {tz}"


def _words(schedule: Schedule) -> str:
    if (hourly := schedule.hourly) is not None:
        return f"{_every(hourly.every, 'hour')} at :{hourly.minute:02}"
    if (daily := schedule.daily) is not None:
        return f"{_every(daily.every, 'day')} at {daily.at}"
    if (weekly := schedule.weekly) is not None:
        return f"{_every(weekly.every, 'week')} on {weekly.day} at {weekly.at}"
    if (monthly := schedule.monthly) is not None:
        return f"{_every(monthly.every, 'month')} on day {monthly.day} at {monthly.at}"
    return f"cron {' '.join((schedule.cron or '').split())}"


def _every(count: int, unit: str) -> str:
    return f"every {unit}" if count == 1 else f"every {count} {unit}s"


def _of(schedule: Schedule, tz: str, anchor: datetime) -> _Slots:
    return _slots(schedule.model_dump_json(), tz, anchor)


@lru_cache(maxsize=1024)
def _slots(schedule_json: str, tz: str, anchor: datetime) -> _Slots:
    schedule = Schedule.model_validate_json(schedule_json)
    zone = time_zone(tz)
    first = wall_of(zone, anchor)
    if schedule.hourly is not None:
        midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
        start = moment_of(zone, midnight) + timedelta(minutes=schedule.hourly.minute)
        return _elapsed(start, timedelta(hours=schedule.hourly.every))
    if schedule.daily is not None:
        return _shown(zone, wall_times.daily(schedule.daily, first.date()))
    if schedule.weekly is not None:
        return _shown(zone, wall_times.weekly(schedule.weekly, first.date()))
    if schedule.monthly is not None:
        return _shown(zone, wall_times.monthly(schedule.monthly, first.date()))
    times = wall_times.cron(schedule.cron or "")
    return _counted(zone, times) if times.every_hour else _shown(zone, times)


def _elapsed(start: datetime, step: timedelta) -> _Slots:
    """Slots at a fixed distance of elapsed time."""
    return _Slots(
        after=lambda moment: start + ((moment - start) // step + 1) * step,
        until=lambda moment: start + ((moment - start) // step) * step,
    )


def _shown(zone: ZoneInfo, walls: Walls) -> _Slots:
    """Slots at which a clock shows one of the times for the first time, or jumps over it."""

    def after(moment: datetime) -> datetime:
        # Earlier times never give later moments, so the search may begin with what the clock shows now.
        wall = walls.at_or_after(wall_of(zone, moment))
        while (slot := moment_of(zone, wall)) <= moment:
            wall = walls.at_or_after(wall + SECOND)
        return slot

    def until(moment: datetime) -> datetime:
        shown = wall_of(zone, moment)
        # While a clock shows an hour again, later times of that hour have already been shown.
        wall = walls.at_or_before(shown + (_FOLD if shown.fold else timedelta(0)))
        while (slot := moment_of(zone, wall)) > moment:
            wall = walls.at_or_before(wall - SECOND)
        return slot

    return _Slots(after, until)


def _counted(zone: ZoneInfo, times: Cron) -> _Slots:
    """All moments at which a clock shows one of the times, also those that it shows again."""

    def after(moment: datetime) -> datetime:
        return _from(moment.replace(microsecond=0) + SECOND)

    def _from(moment: datetime) -> datetime:
        """The first slot at or after a whole second: searched between one change of the clocks and the next."""
        offset = _offset(zone, moment)
        slot = (times.at_or_after(_plain(moment) + offset) - offset).replace(tzinfo=UTC)
        change = first_change(zone, moment, slot)
        return slot if change is None else _from(change)

    def until(moment: datetime) -> datetime:
        moment = moment.replace(microsecond=0)
        offset = _offset(zone, moment)
        slot = (times.at_or_before(_plain(moment) + offset) - offset).replace(tzinfo=UTC)
        change = last_change(zone, slot, moment)
        return slot if change is None else until(change - SECOND)

    return _Slots(after, until)


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def _plain(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
