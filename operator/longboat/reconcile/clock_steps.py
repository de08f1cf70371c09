"""Notices that a clock was put ahead or back while the operator runs, by the seconds that have passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from longboat.repository import MAX_SKEW


def passed() -> float:
    """Return seconds that no setting of the clock changes; those of a machine that sleeps count where that is known."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class ClockSteps:
    """Remembers what clocks said last; losing it costs the comparison with what they say next."""

    def __init__(self, passed: Callable[[], float] = passed) -> None:
        self._passed = passed
        self._last: dict[str, tuple[datetime, float]] = {}
        self._since: dict[str, datetime] = {}

    def look(self, clock: str, says: datetime) -> bool:
        """Take note of what a clock says; return whether it is found only now that it was put to another time."""
        passed = self._passed()
        last, then = self._last.get(clock, (says, passed))
        if abs((says - last) - timedelta(seconds=passed - then)) > MAX_SKEW:
            # What it said before stays what it is compared with: it may be put right again.
            known, self._since[clock] = clock in self._since, self._since.get(clock, says)
            return not known
        self._last[clock] = says, passed
        self._since.pop(clock, None)
        return False

    def since(self, clock: str) -> datetime | None:
        """Return since when, as it says itself, a clock goes by another time than before; None if it does not."""
        return self._since.get(clock)

    def settle(self) -> None:
        """Believe all clocks as they are now."""
        self._last, self._since = {}, {}
