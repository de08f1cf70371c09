"""The wall-clock times of a schedule, without time zones: a sequence that can be searched from any time, both ways."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Protocol

from croniter import croniter
from croniter.croniter import CroniterError

from longboat.api.backup_policy import Daily, Monthly, Weekly
from longboat.plan.wall_clock import SECOND, ScheduleError

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Random and hashed fields would give another schedule after each restart.
_NOT_DETERMINISTIC = re.compile(r"(^|[\s,])[hr]([\s,/(]|$)", re.IGNORECASE)
# Leap days that fall on a given weekday come every 40 years at the latest.
_MAX_YEARS = 41


class Walls(Protocol):
    """An ascending sequence of wall-clock times (naive datetimes, whole minutes)."""

    def at_or_after(self, wall: datetime) -> datetime:
        """Return the first time that is not before this one."""

    def at_or_before(self, wall: datetime) -> datetime:
        """Return the last time that is not after this one."""


@dataclass(frozen=True)
class Counted:
    """Times that are numbered by a whole number: ``at`` gives the time of a number, ``number`` one close to a time."""

    at: Callable[[int], datetime]
    number: Callable[[datetime], int]

    def at_or_after(self, wall: datetime) -> datetime:
        """Return the first time that is not before this one."""
        n = self.number(wall) - 1
        while self.at(n) < wall:
            n += 1
        return self.at(n)

    def at_or_before(self, wall: datetime) -> datetime:
        """Return the last time that is not after this one."""
        n = self.number(wall) + 1
        while self.at(n) > wall:
            n -= 1
        return self.at(n)


@dataclass(frozen=True)
class Cron:
    """Times of a cron expression."""

    expression: str

    def at_or_after(self, wall: datetime) -> datetime:
        """Return the first time that is not before this one."""
        whole = wall.replace(microsecond=0)
        start = whole - SECOND if whole == wall else whole
        return _naive(self._iterator(start).get_next(datetime))

    def at_or_before(self, wall: datetime) -> datetime:
        """Return the last time that is not after this one."""
        return _naive(self._iterator(wall.replace(microsecond=0) + SECOND).get_prev(datetime))

    def _iterator(self, start: datetime) -> croniter:
        return croniter(self.expression, start, max_years_between_matches=_MAX_YEARS)

    @property
    def every_hour(self) -> bool:
        """Whether the expression counts hours instead of naming them (an hour field of ``*`` or ``*/n``)."""
        return self.expression.split()[1].startswith("*")


def daily(spec: Daily, first: date) -> Walls:
    """Return every N days at a time, counted from the first day."""
    return _days(first, spec.every, spec.at)


def weekly(spec: Weekly, first: date) -> Walls:
    """Return every N weeks on a day, counted from the week (Monday to Sunday) of the first day."""
    monday = first - timedelta(days=first.weekday())
    return _days(monday + timedelta(days=DAYS.index(spec.day)), 7 * spec.every, spec.at)


def monthly(spec: Monthly, first: date) -> Walls:
    """Return every N months on a day (in shorter months the last one), counted from the first day's month."""
    start = first.year * 12 + first.month - 1

    def at(n: int) -> datetime:
        year, month = divmod(start + n * spec.every, 12)
        day = min(spec.day, calendar.monthrange(year, month + 1)[1])
        return datetime.combine(date(year, month + 1, day), _time(spec.at))

    return Counted(at, lambda wall: (wall.year * 12 + wall.month - 1 - start) // spec.every)


def cron(expression: str) -> Cron:
    """Return the times of a cron expression; raise ScheduleError (CronInvalid) if it has none that can be relied on."""
    text = " ".join(expression.split())
    if len(text.split()) != 5:
        raise _invalid(text, "expected five fields: minute, hour, day of month, month, day of week")
    if _NOT_DETERMINISTIC.search(text):
        raise _invalid(text, "random (R) and hashed (H) fields would change with each restart; write the time out")
    walls = Cron(text)
    try:
        walls.at_or_after(datetime(2024, 1, 1))
    except (CroniterError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _invalid(text, f"{error}; write it like 30 3 * * 1-5 (at 03:30 from Monday to Friday)") from None
    return walls


def _invalid(text: str, why: str) -> ScheduleError:
    return ScheduleError("CronInvalid", f"spec.schedule.cron: {text!r} is no schedule: {why}")


def _days(first: date, stride: int, at: str) -> Walls:
    start = datetime.combine(first, _time(at))
    step = timedelta(days=stride)
    return Counted(lambda n: start + n * step, lambda wall: (wall - start) // step)


def _time(at: str) -> time:
    hour, minute = at.split(":")
    return time(int(hour), int(minute))


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None, second=0, microsecond=0)
