"""The work queue: named by the failures that each test prevents."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise

import pytest

from longboat.kube.port import ConflictError, UnavailableError
from longboat.reconcile.queue import LOW, URGENT, Key, WorkQueue, _Entry

A, B, C = (Key("DiskBackup", "shop", name) for name in "abc")


class Steps:
    """Work that notes what it was asked to do, on a clock that the test moves."""

    def __init__(self) -> None:
        self.time = 0.0
        self.done: list[str] = []
        self.answer: Callable[[Key], timedelta | None] = lambda key: None
        self.queue = WorkQueue(self._work, clock=lambda: self.time)

    def _work(self, key: Key) -> timedelta | None:
        self.done.append(key.name)
        return self.answer(key)

    def run(self) -> str:
        """Work off what is due and return it."""
        self.done = []
        while len(self.done) < 50 and self.queue.run_one():
            pass
        return "".join(self.done)


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_a_key_that_is_added_often_is_worked_on_once(steps: Steps) -> None:
    for _ in range(3):
        steps.queue.add(A)
    assert steps.run() == "a"


def test_a_delayed_key_waits_and_is_moved_forward_but_never_back(steps: Steps) -> None:
    steps.queue.add(A, 10)
    steps.queue.add(A, 60)
    steps.queue.add(B, 60)
    steps.queue.add(B, 5)
    assert steps.run() == ""
    steps.time = 5
    assert steps.run() == "b"
    steps.time = 10
    assert steps.run() == "a"
    steps.time = 100
    assert steps.run() == ""


def test_frozen_guests_come_before_everything_else(steps: Steps) -> None:
    steps.queue.add(A, priority=LOW)
    steps.queue.add(B)
    steps.queue.add(C, priority=URGENT)
    steps.queue.add(A, priority=LOW)
    assert steps.run() == "cba"


def test_what_work_returns_is_when_it_is_done_again(steps: Steps) -> None:
    steps.answer = lambda key: timedelta(seconds=30)
    steps.queue.add(A)
    assert steps.run() == "a"
    steps.time = 29
    assert steps.run() == ""
    steps.time = 30
    assert steps.run() == "a"


def test_a_change_during_the_work_is_not_lost(steps: Steps) -> None:
    steps.answer = lambda key: steps.queue.add(A) if len(steps.done) == 1 else None
    steps.queue.add(A)
    assert steps.run() == "aa"


def test_a_failure_is_tried_again_later_and_later_and_told_of_once(
    steps: Steps, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(key: Key) -> None:
        raise ZeroDivisionError("oh")

    steps.answer = fail
    steps.queue.add(A)
    times = []
    for _ in range(4000):
        if steps.run():
            times.append(steps.time)
        steps.time += 1
    assert times[:6] == [0, 1, 3, 7, 15, 31]
    assert max(b - a for a, b in pairwise(times)) == 300
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "ZeroDivisionError: oh" in told[0].getMessage()
    assert told[0].exc_info


def test_a_success_forgets_the_failures(steps: Steps) -> None:
    def fail(key: Key) -> None:
        raise UnavailableError("away")

    steps.answer = fail
    steps.queue.add(A)
    for _ in range(10):
        steps.run()
        steps.time += 1
    steps.answer = lambda key: None
    steps.time += 300
    steps.run()
    steps.answer = fail
    steps.queue.add(A)
    assert steps.run() == "a"
    steps.time += 1
    assert steps.run() == "a"


def test_a_conflict_is_looked_at_again_at_once_and_quietly(steps: Steps, caplog: pytest.LogCaptureFixture) -> None:
    def fail(key: Key) -> None:
        raise ConflictError("changed")

    steps.answer = fail
    steps.queue.add(A)
    assert steps.run() == "a"
    steps.time = 0.25
    assert steps.run() == "a"
    assert not caplog.records


def test_no_object_is_worked_on_by_two_threads_at_once() -> None:
    busy: dict[Key, int] = {}
    worst: list[int] = []
    lock = threading.Lock()

    def work(key: Key) -> None:
        with lock:
            busy[key] = busy.get(key, 0) + 1
            worst.append(busy[key])
        time.sleep(0.002)
        with lock:
            busy[key] -= 1

    queue = WorkQueue(work, workers=6)
    queue.start()
    for _ in range(40):
        for key in (A, B, C):
            queue.add(key)
        time.sleep(0.001)
    deadline = time.monotonic() + 5
    while len(queue) and time.monotonic() < deadline:
        time.sleep(0.01)
    queue.stop()
    assert len(queue) == 0
    assert set(worst) == {1}
    assert len(worst) > 6


class Hanging:
    """Workers of which those that get a key named ``hang…`` come back only when they are let go."""

    def __init__(self, workers: int) -> None:
        self.let_go = threading.Event()
        self.done: set[str] = set()
        self._lock, self._each = threading.Lock(), threading.Event()
        self.queue = WorkQueue(self._work, workers=workers)

    def _work(self, key: Key) -> None:
        if key.name.startswith("hang"):
            self.let_go.wait(20)
            return
        with self._lock:
            self.done.add(key.name)
            self._each.set()

    def wait_for(self, names: set[str]) -> set[str]:
        """Return which of the names are done, at the latest after some seconds."""
        deadline = time.monotonic() + 3
        while not names <= self.done and time.monotonic() < deadline:
            self._each.wait(0.05)
            self._each.clear()
        return names & self.done


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging(workers=4)
    yield made
    made.let_go.set()
    made.queue.stop()


def key(name: str, namespace: str = "shop") -> Key:
    return Key("DiskBackup", namespace, name)


def test_a_worker_that_hangs_does_not_hold_up_what_became_due_with_its_key(hanging: Hanging) -> None:
    hanging.queue.start()
    time.sleep(0.05)
    # One call wakes one worker, and it goes off with the first of what is due; nothing else ever happens.
    with hanging.queue._changed:
        for name in ("hang", "b", "c"):
            hanging.queue._entries[key(name)] = _Entry(0.0, 1)
            heapq.heappush(hanging.queue._later, (0.0, next(hanging.queue._numbers), key(name)))
        hanging.queue._changed.notify()
    assert hanging.wait_for({"b", "c"}) == {"b", "c"}


def test_a_key_that_was_made_more_urgent_and_is_done_does_not_come_early(steps: Steps) -> None:
    steps.queue.add(A, priority=LOW)
    steps.queue.add(B, priority=URGENT)
    assert steps.queue.run_one(), "both are ready now, one of them is taken"
    steps.queue.add(A, priority=URGENT)
    steps.answer = lambda key: timedelta(seconds=30)
    assert steps.run() == "a"
    steps.time = 29
    assert steps.run() == ""


def test_a_failing_key_whose_object_is_gone_leaves_nothing_behind(steps: Steps) -> None:
    def fail(key: Key) -> None:
        raise UnavailableError("away")

    steps.answer = fail
    steps.queue.add(A)
    steps.run()
    # Gone: there is nothing to do about it, and nothing comes again.
    steps.answer = lambda key: None
    steps.time = 1000
    assert steps.run() == "a"
    assert (len(steps.queue), steps.queue._failures, steps.queue._later) == (0, {}, [])


def test_workers_that_all_hang_are_told_of(hanging: Hanging) -> None:
    hanging.queue.start()
    for number in range(3):
        hanging.queue.add(key("hang", f"shop-{number}"))
    time.sleep(0.1)
    assert len(hanging.queue.hung(0.0)) == 3
    assert not hanging.queue.is_stuck(0.0), "one worker is left"
    hanging.queue.add(key("hang", "shop-3"))
    time.sleep(0.1)
    assert hanging.queue.is_stuck(0.0)
    assert not hanging.queue.is_stuck(60.0)


def test_one_namespace_never_occupies_every_worker(hanging: Hanging) -> None:
    hanging.queue.start()
    for number in range(10):
        hanging.queue.add(key(f"hang-{number}"))
    hanging.queue.add(key("own"))
    for number in range(10):
        hanging.queue.add(key(f"other-{number}", "bank"))
    others = {f"other-{number}" for number in range(10)}
    assert hanging.wait_for(others) == others
    assert len(hanging.queue.hung(0.0)) == 3 and hanging.queue.is_stuck(0.0), "nothing of the namespace goes on"
    # A guest that is frozen does not wait for its namespace's share, and nothing is lost meanwhile.
    hanging.queue.add(key("frozen"), priority=URGENT)
    assert hanging.wait_for({"frozen"}) == {"frozen"}
    hanging.let_go.set()
    assert hanging.wait_for({"own"}) == {"own"}


def test_stopping_waits_for_what_is_under_way() -> None:
    finished = threading.Event()
    begun = threading.Event()

    def work(key: Key) -> None:
        begun.set()
        time.sleep(0.1)
        finished.set()

    queue = WorkQueue(work, workers=1)
    queue.add(A)
    queue.start()
    assert begun.wait(5)
    queue.stop()
    assert finished.is_set()
