"""Which folders a cluster has in each store, as listed a short time ago: one serves the runs of all namespaces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

HOLDS = 300.0
"""Seconds that a listing is believed: far less than the lease of an export that begins meanwhile."""


class Listings:
    """Remembers listings; losing them costs a request. Asked by many threads: the last answer is the one that stays."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    def folders(self, place: str, ask: Callable[[], Iterable[str]]) -> frozenset[str]:
        """Return the folders in a place; what asking raises is raised, whatever was known before."""
        begun = self._monotonic()
        when, found = self._known.get(place, (None, frozenset[str]()))
        if when is not None and 0 <= begun - when < HOLDS:
            return found
        found = frozenset(ask())
        # It is as old as the question: what was made meanwhile may be missing in it.
        self._known[place] = begun, found
        return found

    def forget(self) -> None:
        """Have the next ones ask again: there is a new folder somewhere."""
        self._known = {}
