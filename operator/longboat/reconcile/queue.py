"""The queue between what happens in the cluster and the reconcilers: each object at most once at a time.

Adding a key that waits already only makes it earlier; one that is being worked on comes again afterwards. What fails is
tried again later and later. The objects of one namespace never occupy all workers. Nothing here is a truth: after a
restart the tick fills the queue again.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from longboat.kube.port import ConflictError, KubeError

log = logging.getLogger(__name__)

FIRST_RETRY = 1.0
LAST_RETRY = 300.0
CONFLICT_RETRY = 0.2


class Key(NamedTuple):
    """What is to be worked on: a kind, or the name of a task, and an object."""

    kind: str
    namespace: str
    name: str


Work = Callable[[Key], timedelta | None]
"""Works on a key and returns when to come back to it; None: when something changes."""

URGENT, NORMAL, LOW = 0, 1, 2


@dataclass
class _Entry:
    due: float
    priority: int


class WorkQueue:
    """A queue with worker threads; every method may be called from any thread."""

    def __init__(self, work: Work, workers: int = 4, clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock, self._workers = work, clock, workers
        # A quarter of the workers, one at least, is there for the other namespaces whatever one of them asks for.
        self._share = workers - max(1, workers // 4) if workers > 1 else 1
        self._changed = threading.Condition()
        self._entries: dict[Key, _Entry] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._ready: dict[str, list[tuple[int, int, Key]]] = {}
        self._numbers = itertools.count()
        self._running: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def add(self, key: Key, delay: float = 0.0, priority: int = NORMAL) -> None:
        """Have a key worked on after a delay in seconds, or earlier if it is in the queue for earlier."""
        with self._changed:
            due = self._clock() + delay
            entry = self._entries.get(key)
            if entry is not None and entry.due <= due and entry.priority <= priority:
                return
            if entry is not None:
                due, priority = min(due, entry.due), min(priority, entry.priority)
            self._entries[key] = _Entry(due, priority)
            heapq.heappush(self._later, (due, next(self._numbers), key))
            self._changed.notify()

    def start(self) -> None:
        """Start the worker threads."""
        for number in range(self._workers):
            thread = threading.Thread(target=self._run, name=f"reconcile-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout: float = 10.0) -> None:
        """Let the workers end after what they are doing, and wait for them for some seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __len__(self) -> int:
        """Return how many keys wait or are worked on."""
        with self._changed:
            return len(self._entries.keys() | self._running.keys())

    def hung(self, patience: float) -> list[Key]:
        """Return what has been worked on for longer than this many seconds."""
        with self._changed:
            begun = self._clock() - patience
            return [key for key, since in self._running.items() if since < begun]

    def is_stuck(self, patience: float) -> bool:
        """Return whether all the workers that a namespace may have are at the same things for longer than this."""
        hung = Counter(key.namespace for key in self.hung(patience))
        return hung.total() >= self._workers or any(count >= self._share for count in hung.values())

    def run_one(self) -> bool:
        """Work on the next key that is due, in this thread; return whether there was one."""
        with self._changed:
            key = self._take()
        if key is None:
            return False
        self._process(key)
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (key := self._take()) is None:
                    self._changed.wait(self._until_next())
                if self._stopped:
                    return
            assert key is not None
            self._process(key)

    def _take(self) -> Key | None:
        """Return the most urgent key that is due and not being worked on, and mark it as running."""
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, number, key = heapq.heappop(self._later)
            # An entry that was moved forward has left an older one behind.
            if (entry := self._entries.get(key)) is not None and entry.due == due and key not in self._running:
                heapq.heappush(self._ready.setdefault(key.namespace, []), (entry.priority, number, key))
        while (first := self._next_ready()) is not None:
            # It may have been taken by another place in the heap, and be meant for later by now.
            if (entry := self._entries.get(first)) is not None and entry.due <= now and first not in self._running:
                del self._entries[first]
                self._running[first] = now
                self._hand_on_watch()
                return first
        return None

    def _next_ready(self) -> Key | None:
        """Return the first key that is ready, but for those of namespaces that have their share of the workers."""
        busy = Counter(key.namespace for key in self._running)
        # A guest that is frozen waits for nobody.
        heads = [heap[0] for name, heap in self._ready.items() if busy[name] < self._share or heap[0][0] == URGENT]
        if not heads:
            return None
        namespace = min(heads)[2].namespace
        _, _, key = heapq.heappop(self._ready[namespace])
        if not self._ready[namespace]:
            del self._ready[namespace]
        return key

    def _hand_on_watch(self) -> None:
        """Wake one of the idle before this worker goes off: it takes what is ready too, or waits for what comes next.

        They sleep until what was next when they lay down, or for good; who goes off may be away for long.
        """
        if self._ready or self._later:
            self._changed.notify()

    def _until_next(self) -> float | None:
        return max(0.0, self._later[0][0] - self._clock()) if self._later else None

    def _process(self, key: Key) -> None:
        try:
            again = self._work(key)
        except Exception as error:
            delay: float | None = self._failed(key, error)
        else:
            self._failures.pop(key, None)
            delay = None if again is None else max(0.0, again.total_seconds())
        self._finished(key)
        if delay is not None:
            self.add(key, delay)

    def _finished(self, key: Key) -> None:
        with self._changed:
            del self._running[key]
            if (entry := self._entries.get(key)) is not None:
                # It was asked for while it ran; its place in the heap may have been passed over.
                heapq.heappush(self._later, (entry.due, next(self._numbers), key))
                self._changed.notify()

    def _failed(self, key: Key, error: Exception) -> float:
        """Return the delay until the next attempt; only the first failure of a row is told in full."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        if isinstance(error, ConflictError) and count <= 3:
            # Somebody else was quicker: what they wrote is looked at at once.
            return CONFLICT_RETRY * count
        delay = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(count - 1, 20))
        expected = isinstance(error, KubeError)
        log.log(
            logging.WARNING if count == 1 else logging.DEBUG,
            "%s %s/%s: %s: %s; next attempt in %.0f s",
            *key,
            type(error).__name__,
            error,
            delay,
            exc_info=None if expected or count > 1 else error,
        )
        return delay
