"""When runs of upkeep are due that nobody asks for: the slots of each repository, and the wait after a failure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from longboat.plan.names import digest

FIRST_RETRY = timedelta(minutes=5)
LAST_RETRY = timedelta(hours=6)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def retry_delay(count: int) -> timedelta:
    """Return how long to wait after so many failures in a row.

    >>> str(retry_delay(1)), str(retry_delay(3)), str(retry_delay(99))
    ('0:05:00', '0:20:00', '6:00:00')
    """
    return min(LAST_RETRY, FIRST_RETRY * (1 << min(count - 1, 10)))


def slot_after(moment: datetime, every: timedelta, work: str, folder: str) -> datetime:
    """Return the first slot of a repository after a moment: they are ``every`` apart, with an offset of its own."""
    period = int(every.total_seconds())
    offset = int(digest(work, folder, length=12), 16) % period
    passed = int((moment - _EPOCH).total_seconds()) - offset
    return _EPOCH + timedelta(seconds=offset + (passed // period + 1) * period)
