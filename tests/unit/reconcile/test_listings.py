"""What is remembered of stores: a silent one keeps one worker a minute, and what is looked at often asks nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from longboat.reconcile.listings import HOLDS, SILENT, Listings
from longboat.reconcile.repositories import StoreProblemError


class Store:
    """A store that answers with its folders, or fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.folders = ["a"]
        self.problem: StoreProblemError | None = None

    def __call__(self) -> list[str]:
        self.asked += 1
        if self.problem:
            raise self.problem
        return self.folders


class Place:
    """Listings with a clock of their own, and what they left to other threads."""

    def __init__(self) -> None:
        self.time = 0.0
        self.aside: list[Callable[[], None]] = []
        self.store = Store()
        self.listings = Listings(lambda: self.time, self.aside.append)

    def ask(self) -> frozenset[str]:
        return self.listings.folders("here", self.store)

    def known(self) -> frozenset[str]:
        return self.listings.known_folders("here", self.store)

    def fails(self) -> StoreProblemError:
        with pytest.raises(StoreProblemError) as caught:
            self.ask()
        return caught.value


SILENCE = StoreProblemError("StoreUnreachable", "no answer")


def test_a_store_that_does_not_answer_is_asked_once_a_minute() -> None:
    place = Place()
    place.store.problem = SILENCE
    assert {place.fails().message for _ in range(10)} == {"no answer"} and place.store.asked == 1
    # A new folder somewhere is no reason to wait for it again.
    place.listings.forget()
    found = place.fails()
    assert (found.reason, found.retryable, place.store.asked) == ("StoreUnreachable", True, 1)
    place.time += SILENT
    place.store.problem = None
    assert place.ask() == {"a"} and place.store.asked == 2


def test_a_refusal_that_is_put_right_is_not_remembered() -> None:
    place = Place()
    place.store.problem = StoreProblemError("AccessDenied", "no", retryable=False)
    place.fails()
    place.store.problem = None
    assert place.ask() == {"a"}


def test_a_failure_is_raised_whatever_was_known_before() -> None:
    place = Place()
    place.ask()
    place.time += HOLDS
    place.store.problem = SILENCE
    place.fails()
    place.fails()
    assert place.store.asked == 2


def test_one_asks_while_the_others_go_on_with_the_answer_before() -> None:
    place, asking, go = Place(), threading.Event(), threading.Event()
    place.ask()
    place.time += HOLDS

    def slow() -> list[str]:
        asking.set()
        go.wait(10)
        return ["b"]

    one = threading.Thread(target=lambda: place.listings.folders("here", slow))
    one.start()
    asking.wait(10)
    assert place.ask() == {"a"} and place.store.asked == 1
    place.listings.forget()
    go.set()
    one.join(10)
    # What was asked for before there was something new is not what is known now.
    assert place.ask() == {"a"} and place.store.asked == 2


def test_workers_that_begin_together_wait_for_one_answer() -> None:
    place, go = Place(), threading.Event()
    asked: list[int] = []

    def slow() -> list[str]:
        asked.append(1)
        go.wait(10)
        return ["a"]

    answers: list[frozenset[str]] = []
    workers = [threading.Thread(target=lambda: answers.append(place.listings.folders("here", slow))) for _ in range(4)]
    for each in workers:
        each.start()
    go.set()
    for each in workers:
        each.join(10)
    assert len(asked) == 1 and answers == [{"a"}] * 4


def test_who_looks_often_asks_no_store_and_learns_of_it_later() -> None:
    place = Place()
    assert place.known() == frozenset() and place.store.asked == 0
    for each in place.aside:
        each()
    place.aside.clear()
    assert place.known() == {"a"} and not place.aside
    place.time += HOLDS
    place.store.problem = SILENCE
    assert place.known() == {"a"} and len(place.aside) == 1
    place.aside.pop()()
    assert [place.known() for _ in range(10)] == [{"a"}] * 10
    assert not place.aside and place.store.asked == 2
