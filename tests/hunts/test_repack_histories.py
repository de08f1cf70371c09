"""Random histories with prunes that move what is alive into new packs, of every disk and whenever they can.

The model is that of the other histories. Here nothing stands in the way of moving: no disk is too young for it, no pack
too full, no page too dear, so that revisions of manifests come about while exports, other prunes and deletions go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from longboat.repository import RepackRules, find_backup, read_disk_manifest, repack, sweep_tombstones
from longboat.repository.backups import read_disk_at
from longboat.repository.condemned import read_condemned
from longboat.repository.layout import Kind, split_moved_name
from longboat.repository.listing import ListedDisk, list_disks
from longboat.repository.mark import references
from tests.unit.mover.disks import PATH

from . import histories
from .histories import GRACE, WHAT, History, Step, random_steps, run
from .races import COMMIT, END, LONG_AGO, PACES, STOPS, UPLOAD, Course, run_race
from .seeds import PARTS, hunt, seeds_of

STEPS = st.builds(Step, st.sampled_from(WHAT), st.integers(0, 5), st.integers(0, 20))
WRITE, SETTLE = f"put {PATH}/disks/", f"delete {PATH}/disks/"
ALWAYS = RepackRules(budget=1 << 20, gone_after=timedelta(0))
# Of disks that are backed up all the time, whatever else of them is in the trash.
LIVING = RepackRules(budget=1 << 20, living=1000)
RULES = [ALWAYS, LIVING]
NO_MORE = RepackRules(budget=0)
MOVING = {**STOPS, "prune": [*STOPS["prune"], WRITE, SETTLE, f"list {PATH}/removing/", f"put {PATH}/packs/"]}
MOVING["another prune"] = [*STOPS["another prune"], WRITE, SETTLE, f"list {PATH}/packs/"]
WHO = [*["export"] * 2, *["prune"] * 4, *["another prune"] * 3, "delete"]
# A disk with two backups; then their blocks are moved, and then what was there before goes.
TWO = [*LONG_AGO, Step("export", 0, 0), Step("finish", 0, 0), Step("sleep", 0, 5)]
WRITTEN = [*TWO, Step("prune", 0, 4), Step("finish", 0, 0)]
SETTLED = [*WRITTEN, Step("sleep", 0, 5), Step("prune", 0, 4), Step("finish", 0, 0)]
BEFORE = [TWO, WRITTEN, SETTLED]
STRETCHES = st.lists(
    st.sampled_from(WHO).flatmap(lambda who: st.tuples(st.just(who), st.sampled_from(MOVING[who]))),
    min_size=3,
    max_size=10,
)
COURSES = st.builds(Course, st.sampled_from(BEFORE), st.sampled_from(PACES), STRETCHES)


class Moving(History):
    """A history in which prunes move whatever they can."""

    moved = 0
    rules = ALWAYS

    def __init__(self) -> None:
        super().__init__()
        self.repack = self.rules
        self._killed = False

    def kill(self, which: int, much: int) -> None:
        """End a process before its next operation."""
        self._killed = self._killed or bool(self.processes)
        super().kill(which, much)

    def end(self) -> None:
        """See that everything comes to rest when nothing more is moved, and nothing is left of what was deleted."""
        disks = list_disks(self.repository).values()
        Moving.moved += sum(split_moved_name(each.current.name) is not None for each in disks)
        self.repack = NO_MORE
        self.prune(0, 4)
        for process in list(self.processes):
            process.run()
        # Of who was killed between deleting and removing: what is in the trash is not settled, and both stay.
        sweep_tombstones(self.repository, self.store.now, timedelta(0))
        super().end()
        left = list_disks(self.repository).values()
        # Who slept, and wrote in the moment in which its packs are condemned, leaves what never takes a place.
        assert all(len(each.objects) == 1 or self._is_condemned(each) for each in left)
        # Who is killed after writing the manifest of a backup that was removed at that moment can't take it back.
        alone = [each for each in left if split_moved_name(each.current.name) and not self._named(each)]
        assert self._killed or not alone

    def _is_condemned(self, disk: ListedDisk) -> bool:
        condemned = {pack for each in read_condemned(self.repository) for pack in each.content.ids()}
        younger = (read_disk_at(self.repository, disk.name, info.name).manifest for info in disk.ordered[1:])
        marks = [references(self.repository, each, threads=1) for each in younger]
        return all(
            not condemned.isdisjoint({(Kind.DATA_PACK, pack) for pack in each.data})
            or not condemned.isdisjoint({(Kind.MAP_PACK, pack) for pack in each.pages})
            for each in marks
        )

    def _named(self, disk: ListedDisk) -> bool:
        name = read_disk_manifest(self.repository, disk.name).manifest.backup_name
        return find_backup(self.repository, name) is not None


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(repack, "MOST_ALIVE", 1000)
    monkeypatch.setattr(repack, "PAYS", -1000)
    monkeypatch.setattr(histories, "History", Moving)
    Moving.moved = 0
    yield


@contextmanager
def moving(rules: RepackRules) -> Iterator[None]:
    """Let prunes move by these rules."""
    Moving.rules, before = rules, Moving.rules
    try:
        yield
    finally:
        Moving.rules = before


@pytest.mark.parametrize("rules", RULES)
def test_histories_do_move_blocks(rules: RepackRules) -> None:
    with moving(rules):
        run(SETTLED)
    assert Moving.moved > 0


def test_what_was_written_late_takes_no_place() -> None:
    """A prune sleeps before it writes a manifest, until its packs are condemned and about to be deleted by another."""
    with histories.begun(TWO) as history:
        prunes = []
        for until in (WRITE, "the end", f"delete {PATH}/packs/"):
            history.prune(0, 4)
            prunes.append(history.processes[-1])
            while not prunes[-1].next_operation().startswith(until) and prunes[-1].step():
                pass
            history.repack = NO_MORE
            history.store.advance(3 * GRACE)
        assert not prunes[0].ended
        assert not prunes[2].ended
        prunes[0].run()
        history.store.advance(2 * GRACE)
        history.prune(0, 4)
        history.processes[-1].run()
        prunes[2].run()
        history.check()
        history.end()


# A prune that is about to delete what another one takes the place of sleeps until others have done so, and freed it.
SLEPT = [("prune", SETTLE), ("another prune", "the end"), ("prune", "the end")]
# The backup is deleted for good while a prune is about to write, or has written and not looked yet, or settles.
DELETED = [("prune", WRITE), ("delete", "the end"), ("prune", "the end"), ("another prune", "the end")]
DELETED_THEN = [("prune", f"list {PATH}/removing/"), ("delete", "the end"), ("prune", "the end")]
DELETED_MEANWHILE = [("delete", SETTLE), ("prune", "the end"), ("delete", "the end"), ("another prune", "the end")]
# An export reads the disk's manifests before a prune deletes the older ones, and others free what these had.
BUILT_ON = [("prune", SETTLE), ("export", UPLOAD), ("prune", "the end"), ("another prune", "the end"), ("export", END)]
BEGUN_AFTER_THE_LOOK = [
    *[("prune", f"list {PATH}/condemned/"), ("export", COMMIT), ("prune", "the end"), ("another prune", "the end")],
    ("export", END),
]
DELETED_LATE = [("prune", SETTLE), ("delete", "the end"), ("prune", "the end"), ("another prune", "the end")]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(RULES), st.sampled_from([[], *BEFORE]), st.lists(STEPS, min_size=10, max_size=50))
def test_no_history_loses_a_moved_block(rules: RepackRules, before: list[Step], steps: list[Step]) -> None:
    with moving(rules):
        run([*before, *steps])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(RULES), COURSES)
@example(ALWAYS, Course(WRITTEN, timedelta(0), SLEPT))
@example(ALWAYS, Course(TWO, timedelta(0), DELETED))
@example(ALWAYS, Course(TWO, timedelta(0), DELETED_THEN))
@example(ALWAYS, Course(TWO, timedelta(0), DELETED_MEANWHILE))
@example(ALWAYS, Course(WRITTEN, timedelta(0), DELETED_LATE))
@example(LIVING, Course(WRITTEN, timedelta(0), BUILT_ON))
@example(LIVING, Course(WRITTEN, timedelta(minutes=5), BEGUN_AFTER_THE_LOOK))
def test_no_race_loses_a_moved_block(rules: RepackRules, course: Course) -> None:
    with moving(rules):
        run_race(course)


@settings(max_examples=75, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(RULES), COURSES)
def test_no_moved_block_is_lost_to_a_prune_that_sees_no_leases(rules: RepackRules, course: Course) -> None:
    with moving(rules):
        run_race(course, leased=False)


def a_race(seed: int) -> tuple[list[tuple[str, str]], Callable[[Sequence[tuple[str, str]]], None]]:
    """Return the stretches of a race, and what runs them with leases and without."""
    chance = Random(seed)
    who = [chance.choice(WHO) for _ in range(chance.randint(3, 10))]
    course = Course(chance.choice(BEFORE), chance.choice(PACES), [(each, chance.choice(MOVING[each])) for each in who])

    def run_both(stretches: Sequence[tuple[str, str]]) -> None:
        for rules, leased in product(RULES, (True, False)):
            with moving(rules):
                run_race(course._replace(stretches=list(stretches)), leased)

    return course.stretches, run_both


def a_history(seed: int) -> tuple[list[Step], Callable[[Sequence[Step]], None]]:
    """Return a history, and what runs it."""
    chance = Random(seed)

    def run_both(steps: Sequence[Step]) -> None:
        for rules in RULES:
            with moving(rules):
                run(steps)

    return [*chance.choice([[], *BEFORE]), *random_steps(chance, 20, 120)], run_both


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_none_of_many_races_loses_a_moved_block(part: int) -> None:
    hunt(seeds_of(part), a_race)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_long_history_loses_a_moved_block(part: int) -> None:
    hunt(seeds_of(part), a_history)
