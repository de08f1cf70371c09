"""Hunts by numbered seeds: as many as there is time for, no two alike, and the smallest case of what they find."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
# The number of the first seed; runs from other ones meet other worlds.
FIRST = int(os.environ.get("LONGBOAT_HUNT_FROM", "0"))
PARTS, OF_PART = 20, 1000


def seeds_of(part: int) -> range:
    """Return the seeds of one part of a hunt."""
    return range(FIRST + OF_PART * part, FIRST + OF_PART * (part + 1))


def hunt(seeds: Iterable[int], made: Callable[[int], tuple[Sequence[T], Callable[[Sequence[T]], None]]]) -> None:
    """Make and run the steps of each seed; AssertionError tells seed and smallest case of the first that fails."""
    for seed in seeds:
        steps, run = made(seed)
        error = _failure(run, steps)
        if error is not None:
            least = smallest(steps, lambda some, run=run: _failure(run, some) is not None)  # type: ignore[misc]
            raise AssertionError(f"seed {seed}: {error!r}; smallest case: {list(least)!r}") from error


def smallest(steps: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Return what is left when no further step, and no run of them, can be left out so that it still fails."""
    size = len(steps)
    while size:
        at = 0
        while at < len(steps):
            fewer = [*steps[:at], *steps[at + size :]]
            if fails(fewer):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


def _failure(run: Callable[[Sequence[T]], None], steps: Sequence[T]) -> Exception | None:
    try:
        run(steps)
    except Exception as error:
        return error
    return None
