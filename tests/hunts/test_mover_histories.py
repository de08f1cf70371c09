"""Random histories of exports, crashes, rot, verifications, prunes and restores: nothing but what rots is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest

from .mover_histories import Step, random_steps, run
from .seeds import PARTS, hunt, seeds_of


def a_history(seed: int) -> tuple[list[Step], Callable[[Sequence[Step]], None]]:
    """Return a history of the movers, and what runs it."""
    return random_steps(Random(seed)), partial(run, seed)


@pytest.mark.timeout(1800)
def test_no_history_of_the_movers_loses_what_did_not_rot() -> None:
    hunt(range(300), a_history)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_further_history_of_the_movers_does(part: int) -> None:
    hunt(seeds_of(part), a_history)
