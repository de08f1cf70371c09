"""Races: exports, prunes and deletions that overtake each other before the moments that matter."""

from __future__ import annotations

import random
from datetime import timedelta
from importlib import import_module
from typing import NamedTuple

import pytest

from longboat.repository.roots import LeasedPacks
from tests.fakes.interleaved import Process
from tests.unit.mover.disks import PATH

from .histories import DOES, History, Step, begun

PRUNE = import_module("longboat.repository.prune")  # The module: the package has a function of that name.

# How packs come about that nothing refers to although a writer may yet: an attempt was killed so long ago that its
# lease is dead, but not gone; or the backup that a writer builds on is deleted for good while it works.
KILLED = [Step("export", 0, 0), Step("approach", 0, 0), Step("kill", 0, 0), Step("sleep", 0, 4), Step("sleep", 0, 1)]
LONG_AGO = [Step("export", 0, 0), Step("finish", 0, 0), Step("sleep", 0, 5), Step("write", 0, 2)]
# Who takes part in a race, and before what each may stand still while others go on.
END, COMMIT, UPLOAD = "the end", DOES[0], f"put {PATH}/packs/"
STOPS = {
    "export": [COMMIT, COMMIT, UPLOAD, f"put {PATH}/leases/", f"list {PATH}/condemned/", END],
    "share": [COMMIT, COMMIT, f"put {PATH}/leases/", f"list {PATH}/condemned/", END],
    "prune": [f"list {PATH}/disks/", f"list {PATH}/condemned/", *DOES[1:], END, END],
    "another prune": [f"list {PATH}/condemned/", DOES[2], DOES[2], DOES[3], END],
    "delete": [f"delete {PATH}/disks/", END],
}
WHO = [*["export"] * 3, *["prune"] * 3, "another prune", "delete", "share"]
BEFORE = [KILLED, LONG_AGO]
PACES = [timedelta(0), timedelta(0), timedelta(minutes=2), timedelta(minutes=5)]


class Course(NamedTuple):
    """A race: what happened before it, how long an upload takes, and who goes on until what, in this order."""

    before: list[Step]
    pace: timedelta
    stretches: list[tuple[str, str]]


def random_course(chance: random.Random, least: int, most: int) -> Course:
    """Return a race with a number of stretches between the two."""
    who = [chance.choice(WHO) for _ in range(chance.randint(least, most))]
    return Course(chance.choice(BEFORE), chance.choice(PACES), [(each, chance.choice(STOPS[each])) for each in who])


class Race:
    """An export, one who shares what was stored, two prunes and a deletion that overtake each other.

    The export takes `pace` for each upload.
    """

    def __init__(self, history: History, pace: timedelta) -> None:
        self._history, self._pace = history, pace
        self._actors: dict[str, Process] = {}
        self.first_stretch = ("", "")

    def go_on(self, who: str, until: str) -> None:
        """Let one of them go on until it is about to do something, or to its end."""
        if who not in self._actors:
            self.first_stretch = self.first_stretch if self._actors else (who, until)
            begun = len(self._history.processes)
            getattr(self._history, who.rsplit(" ", 1)[-1])(0, 4)
            if len(self._history.processes) == begun:
                return  # There is nothing to delete.
            self._actors[who] = self._history.processes[-1]
        process = self._actors[who]
        while not (what := process.next_operation()).startswith(until) and process.step():
            if who == "export" and what.startswith("put"):
                self._history.store.advance(self._pace)

    def end(self, leased: bool) -> None:
        """Bring all to their ends; who began to upload before anybody else began has its backup made, by its lease."""
        for who in list(self._actors):
            self.go_on(who, END)
        if leased and self.first_stretch in {("export", UPLOAD), ("export", COMMIT)}:
            assert self._actors["export"].result is not None, self._actors["export"].error


def run_race(course: Course, leased: bool = True) -> None:
    """Let a race happen after a history, and everything come to its end; prunes may see no leases."""
    with begun(course.before) as history, pytest.MonkeyPatch.context() as patch:
        if not leased:
            patch.setattr(PRUNE, "read_leases", lambda *_: LeasedPacks())
        history.disks[0] += range(11, 31)
        race = Race(history, course.pace)
        for who, until in course.stretches:
            race.go_on(who, until)
            history.check()
        race.end(leased)
        history.end()
