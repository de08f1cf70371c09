"""When to look again at what waits for somebody else."""

from __future__ import annotations

from datetime import timedelta

LONGEST = timedelta(minutes=5)


def look_again(waited: timedelta, first: timedelta, longest: timedelta = LONGEST) -> timedelta:
    """Return when to look again at what has waited for so long: ever later, as what it lacks may never come."""
    return min(max(waited / 2, first), longest)
