"""Random histories and races of exports, prunes and sweeps: what is not removed can be restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from .histories import DOES, LOOKS, WHAT, Step, random_steps, run
from .races import BEFORE, COMMIT, END, KILLED, PACES, STOPS, UPLOAD, WHO, Course, random_course, run_race
from .seeds import PARTS, hunt, seeds_of

STEPS = st.builds(Step, st.sampled_from(WHAT), st.integers(0, 5), st.integers(0, 20))
STRETCHES = st.lists(
    st.sampled_from(WHO).flatmap(lambda who: st.tuples(st.just(who), st.sampled_from(STOPS[who]))),
    min_size=3,
    max_size=9,
)
COURSES = st.builds(Course, st.sampled_from(BEFORE), st.sampled_from(PACES), STRETCHES)


@pytest.mark.parametrize("operations", range(0, 40, 3))
def test_writer_on_a_machine_that_was_paused_loses_no_backup(operations: int) -> None:
    others = [Step("pause", 0, 5), Step("prune", 0, 4), Step("finish", 1, 0)]
    run([Step("export", 0, 0), Step("go_on", 0, operations), *others, *others])


@pytest.mark.parametrize("operations", range(30))
def test_one_who_shares_an_export_and_slept_while_that_was_pruned_loses_no_backup(operations: int) -> None:
    made = [Step("export", 0, 0), Step("finish", 0, 0), Step("sleep", 0, 5)]
    others = [Step("pause", 0, 5), Step("prune", 0, 4), Step("finish", 1, 0)]
    gone = [Step("delete", 0, 0), Step("finish", 1, 0), *others, *others]
    run([*made, Step("share", 0, 0), Step("go_on", 0, operations), *gone])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=15, max_size=60))
def test_no_history_loses_a_backup(steps: list[Step]) -> None:
    run(steps)


# Both prunes have read the leases before the export's, and its manifest comes after both have looked at manifests.
OVERTAKEN = [("prune", DOES[1]), ("another prune", LOOKS[1]), ("export", COMMIT), ("prune", END)]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(COURSES)
@example(Course(KILLED, timedelta(0), [*OVERTAKEN, ("another prune", END)]))
def test_no_race_for_packs_without_references_loses_a_backup(course: Course) -> None:
    run_race(course)


# Packs are condemned while an export uploads that refers to them, and are due when it is about to write its manifest.
CONDEMNED_MEANWHILE = [("export", UPLOAD), ("prune", END), ("export", COMMIT), ("another prune", DOES[2])]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(COURSES)
@example(Course(KILLED, timedelta(minutes=5), [*CONDEMNED_MEANWHILE, ("export", END)]))
def test_no_backup_is_lost_to_a_prune_that_sees_no_leases(course: Course) -> None:
    # Leases are there so that exports get their work done; that they lose nothing must not depend on them.
    run_race(course, leased=False)


def a_race(seed: int) -> tuple[list[tuple[str, str]], Callable[[Sequence[tuple[str, str]]], None]]:
    """Return the stretches of a race, and what runs them with leases and without."""
    course = random_course(Random(seed), 3, 9)

    def run_both(stretches: Sequence[tuple[str, str]]) -> None:
        for leased in (True, False):
            run_race(course._replace(stretches=list(stretches)), leased)

    return course.stretches, run_both


def a_history(seed: int) -> tuple[list[Step], Callable[[Sequence[Step]], None]]:
    """Return a history, and what runs it."""
    return random_steps(Random(seed), 20, 150), run


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_none_of_many_races_loses_a_backup(part: int) -> None:
    hunt(seeds_of(part), a_race)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_long_history_loses_a_backup(part: int) -> None:
    hunt(seeds_of(part), a_history)


def test_hunt_tells_the_seed_and_the_smallest_case_of_a_failure() -> None:
    def fail(steps: Sequence[int]) -> None:
        assert not {17, 60} <= set(steps)

    with pytest.raises(AssertionError, match=r"seed 61: .*smallest case: \[17, 60\]"):
        hunt(range(100), lambda seed: (range(seed), fail))
