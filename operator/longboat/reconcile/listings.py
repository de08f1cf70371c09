"""What stores answered a short time ago: a cluster's folders in them, and since when a repository is closed.

One answer serves the runs of all namespaces, and a store that does not answer is asked by one worker a minute.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from longboat.reconcile.repositories import StoreProblemError
from longboat.repository.closing import Closing
from longboat.repository.errors import StoreFailureError, UnreachableError

HOLDS = 300.0
"""Seconds that an answer is believed: far less than the lease of an export that begins meanwhile."""
SILENT = 60.0
"""Seconds that a store which did not answer is left alone: each further question would keep a worker as long."""
LONGEST = 2 * HOLDS
"""Seconds that an answer which is just being asked for anew may be old, for those who would wait for it."""
UNANSWERED = frozenset({UnreachableError.reason, StoreFailureError.reason})
"""Reasons of failures that take a worker's time; a refusal comes at once, and ends as soon as it is put right."""

T = TypeVar("T")
Failure = tuple[str, str, bool]


def aside(work: Callable[[], None]) -> None:
    """Do some work in a thread of its own, which keeps nobody waiting."""
    threading.Thread(target=work, name="store-listing", daemon=True).start()


class Answers(Generic[T]):
    """Remembers answers and failures; losing them costs requests. Asked by many threads, it asks once for each."""

    def __init__(self, monotonic: Callable[[], float], aside: Callable[[Callable[[], None]], None]) -> None:
        self._monotonic, self._aside = monotonic, aside
        self._known: dict[str, tuple[float, T]] = {}
        self._failed: dict[str, tuple[float, Failure]] = {}
        self._asking: dict[str, threading.Lock] = {}

    def get(self, place: str, ask: Callable[[], T]) -> T:
        """Return the answer for a place; raises StoreProblemError, whatever was known before.

        While another thread asks, its predecessor's answer or failure is returned; the first one is waited for.
        """
        lock = self._asking.setdefault(place, threading.Lock())
        if (fresh := self._fresh(place, HOLDS, SILENT)) is not None:
            return fresh[0]
        if not lock.acquire(blocking=False):
            if (stale := self._fresh(place, LONGEST, LONGEST)) is not None:
                return stale[0]
            lock.acquire()
        try:
            # It may have been answered while the lock was waited for.
            fresh = self._fresh(place, HOLDS, SILENT)
            return fresh[0] if fresh is not None else self._ask(place, ask)
        finally:
            lock.release()

    def known(self, place: str, ask: Callable[[], T]) -> T | None:
        """Return the last answer at once, None if there is none; what is too old is asked for by another thread."""
        found, failed = self._known.get(place), self._failed.get(place)
        if not (self._holds(found, HOLDS) or self._holds(failed, SILENT)) and not self._is_asked(place):
            self._aside(lambda: self._refresh(place, ask))
        return found[1] if found else None

    def forget(self) -> None:
        """Have the next ones ask again; who asks already notes its answer where nobody looks any more."""
        self._known = {}

    def _ask(self, place: str, ask: Callable[[], T]) -> T:
        # It is as old as the question: what was made meanwhile may be missing in it.
        begun, known = self._monotonic(), self._known
        try:
            answer = ask()
        except StoreProblemError as error:
            self._failed[place] = self._monotonic(), (error.reason, error.message, error.retryable)
            raise
        known[place] = begun, answer
        self._failed.pop(place, None)
        return answer

    def _refresh(self, place: str, ask: Callable[[], T]) -> None:
        # What is wrong with the store is told by those who need it.
        with contextlib.suppress(StoreProblemError):
            self.get(place, ask)

    def _fresh(self, place: str, holds: float, silent: float) -> tuple[T] | None:
        """Return an answer that is no older than that, None without one; raises a failure to answer likewise."""
        failed, found = self._failed.get(place), self._known.get(place)
        if failed is not None and failed[1][0] in UNANSWERED and self._holds(failed, silent):
            reason, message, retryable = failed[1]
            raise StoreProblemError(reason, message, retryable=retryable)
        return (found[1],) if found is not None and self._holds(found, holds) else None

    def _holds(self, noted: tuple[float, object] | None, seconds: float) -> bool:
        return noted is not None and 0 <= self._monotonic() - noted[0] < seconds

    def _is_asked(self, place: str) -> bool:
        return self._asking.setdefault(place, threading.Lock()).locked()


class Listings:
    """The folders of clusters in stores, and since when their repositories are closed."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        aside: Callable[[Callable[[], None]], None] = aside,
    ) -> None:
        self._folders = Answers[frozenset[str]](monotonic, aside)
        self._closings = Answers[Closing | None](monotonic, aside)
        self._closed = Answers[bool](monotonic, aside)

    def folders(self, place: str, ask: Callable[[], Iterable[str]]) -> frozenset[str]:
        """Return the folders in a place; see Answers.get."""
        return self._folders.get(place, lambda: frozenset(ask()))

    def known_folders(self, place: str, ask: Callable[[], Iterable[str]]) -> frozenset[str]:
        """Return the folders that are known to be in a place; see Answers.known."""
        return self._folders.known(place, lambda: frozenset(ask())) or frozenset()

    def closing(self, place: str, ask: Callable[[], Closing | None]) -> Closing | None:
        """Return since when a repository is closed, None if it is not; see Answers.get."""
        return self._closings.get(place, ask)

    def known_closing(self, place: str, ask: Callable[[], Closing | None]) -> Closing | None:
        """Return since when a repository is known to be closed; see Answers.known."""
        return self._closings.known(place, ask)

    def closed(self, place: str, ask: Callable[[], bool]) -> bool:
        """Return whether anything says that a repository is closed; see Answers.get."""
        return self._closed.get(place, ask)

    def forget(self) -> None:
        """Have the next ones ask again: there is a new folder somewhere. A silent store is left alone nevertheless."""
        self._folders.forget()
        self._closings.forget()
        self._closed.forget()
