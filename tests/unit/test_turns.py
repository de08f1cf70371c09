"""Whose turn it is on the cluster that several processes test on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster import paths
from tests.turns import ALONE, STANDARD, WITH_SETTINGS, taken


@contextmanager
def waiting(path: Path, turn: str) -> Iterator[threading.Event]:
    """Somebody else who wants a turn; the event says that they have it."""
    has_it, may_go = threading.Event(), threading.Event()

    def want() -> None:
        with taken(path, turn):
            has_it.set()
            may_go.wait(10)

    thread = threading.Thread(target=want)
    thread.start()
    try:
        yield has_it
    finally:
        may_go.set()
        thread.join(10)


@pytest.mark.parametrize("turn", [STANDARD, WITH_SETTINGS])
def test_tests_of_the_same_settings_wait_for_nobody(tmp_path: Path, turn: str) -> None:
    with taken(tmp_path / "turn", turn), waiting(tmp_path / "turn", turn) as other:
        assert other.wait(10)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(STANDARD, WITH_SETTINGS), (WITH_SETTINGS, STANDARD), (ALONE, STANDARD), (STANDARD, ALONE), (ALONE, ALONE)],
)
def test_the_installation_does_not_change_under_a_test(tmp_path: Path, mine: str, theirs: str) -> None:
    with ExitStack() as stack:
        turn = stack.enter_context(ExitStack())
        turn.enter_context(taken(tmp_path / "turn", mine))
        other = stack.enter_context(waiting(tmp_path / "turn", theirs))
        assert not other.wait(0.2)
        turn.close()
        assert other.wait(10)


def test_all_who_wait_for_a_turn_have_it_when_it_comes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        turn = stack.enter_context(ExitStack())
        turn.enter_context(taken(tmp_path / "turn", ALONE))
        others = [stack.enter_context(waiting(tmp_path / "turn", WITH_SETTINGS)) for _ in range(8)]
        turn.close()
        assert all(other.wait(10) for other in others)


def test_only_the_last_user_of_a_cluster_takes_it_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGBOAT_CACHE", str(tmp_path))
    with paths.locked_by_all("users") as first_is_last, paths.locked_by_all("users") as second_is_last:
        assert not first_is_last()
        assert second_is_last()
