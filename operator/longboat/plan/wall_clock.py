"""Wall clocks: from local times to moments and back, over the changes that a time zone makes.

Wall-clock times are naive datetimes ("walls"); moments are aware ones in UTC.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

SECOND = timedelta(seconds=1)
# No zone has changed its offset twice within a week since 1970.
_STRIDE = timedelta(days=7)


class ScheduleError(ValueError):
    """A schedule cannot be evaluated; ``reason`` is a constant for conditions, the message names field and remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone of this name; raise ScheduleError (TimeZoneUnknown) if there is none."""
    try:
        if name in _known_zones():
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    close = difflib.get_close_matches(name, sorted(_known_zones()), n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ScheduleError(
        "TimeZoneUnknown",
        f"spec.timeZone: {name!r} is no IANA time zone: name one such as UTC or Europe/London.{hint}",
    )


@lru_cache(maxsize=1)
def _known_zones() -> frozenset[str]:
    # What a host calls "localtime" means something else on every node.
    return frozenset(available_timezones() - {"localtime"})


def wall_of(zone: ZoneInfo, moment: datetime) -> datetime:
    """Return what a clock in the zone shows; ``fold`` is 1 when it shows that time for the second time."""
    return moment.astimezone(zone).replace(tzinfo=None)


def moment_of(zone: ZoneInfo, wall: datetime) -> datetime:
    """Return the first moment at which a clock shows the time; the moment of the jump for one that it leaves out."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if wall_of(zone, first) == wall.replace(fold=0):
        return first
    # In a gap the later reading of the time (fold 1) lies before the jump, the earlier one after it.
    before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _bisect(zone, before, first)


def first_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """Return the first moment in (after, until] from which another UTC offset holds."""
    low = after
    while low < until:
        high = min(low + _STRIDE, until)
        if _offset(zone, high) != _offset(zone, low):
            return _bisect(zone, low, high)
        low = high
    return None


def last_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """Return the last moment in (after, until] from which another UTC offset holds."""
    high = until
    while high > after:
        low = max(high - _STRIDE, after)
        if _offset(zone, high) != _offset(zone, low):
            return _bisect(zone, low, high)
        high = low
    return None


def _offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _bisect(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """Return the moment in (low, high] at which the offset of ``low`` ends, to the second."""
    old = _offset(zone, low)
    while high - low > SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        middle = middle if middle > low else low + SECOND
        if _offset(zone, middle) == old:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)
