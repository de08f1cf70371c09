"""Several processes run the tests, on one cluster: what may run beside what, and what comes first. A pytest plugin.

Tests of the standard installation stay in namespaces of their own and run beside one another. Those in tests/e2e/alone
take away what all others stand on: nothing uses the cluster beside them. Those in tests/e2e/with_settings run beside
one another, once nothing else uses the cluster, as the operator's settings are others then. Tests that need no cluster
wait for nobody. A process keeps its turn until it comes to a test of another one: a file's fixtures are as they were.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.cluster import paths
from tests.cluster.cluster import TEST, Cluster

ALONE, WITH_SETTINGS, STANDARD = "alone", "with_settings", "standard"
E2E = Path(__file__).parent / "e2e"
# What takes longest comes first, so that no process is left with it at the end; the first one installs KubeVirt.
FIRST = (
    "test_kubevirt",
    "test_changed_blocks",
    "test_claims",
    "test_story",
    "test_machines",
    "test_machine_state",
    "test_bad_input",
    "test_tenants",
    "test_upkeep",
    "test_lost_movers",
)
# What is done until all others are ready to leave the cluster to one.
MEANWHILE = ("contract", "csi", "hunts", "kills")
_TURN = pytest.StashKey[Generator[None, None, None]]()


def turn_of(item: pytest.Item) -> str:
    """Return whose turn a test needs; nothing if it does not use the cluster."""
    if item.get_closest_marker("cluster") is None:
        return ""
    return next((each for each in (ALONE, WITH_SETTINGS) if E2E / each in item.path.parents), STANDARD)


def place_in_line(item: pytest.Item) -> int:
    """Return a number by which tests are put in order; files stay whole.

    What needs no cluster keeps processes busy that would wait: some of it until the others have done with the cluster,
    and the rest while one uses it alone.
    """
    turn, name = turn_of(item), item.path.stem
    if turn == STANDARD:
        return FIRST.index(name) if name in FIRST else len(FIRST)
    if item.path.parent.name in MEANWHILE:
        return len(FIRST) + 1
    return len(FIRST) + 2 + (ALONE, "", WITH_SETTINGS).index(turn)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests; those of one place in line keep the order of their files."""
    items.sort(key=place_in_line)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist=loadfile a process gets a whole file, and all tests that run alone are one process's."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByTurn(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return str(Path(path).parent) if Path(path).parent.name == ALONE else path

    return ByTurn(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """Wait for the turn, outside of the test's time limit; give it back before a test that needs another, or none."""
    turn, stash = turn_of(item), item.config.stash
    if turn and _TURN not in stash:
        stash[_TURN] = _hold(turn)
        next(stash[_TURN])
    try:
        return (yield)
    finally:
        if _TURN in stash and (nextitem is None or turn_of(nextitem) != turn):
            stash[_TURN].close()
            del stash[_TURN]


def _hold(turn: str) -> Generator[None, None, None]:
    with taken(turn_file(), turn):
        yield


def turn_file() -> Path:
    """The file that is locked for a turn; its text says whose turn it is while several share it."""
    return paths.lock_file(f"turn-{Cluster(TEST).identity}")


@contextmanager
def taken(path: Path, turn: str) -> Iterator[None]:
    """Take a turn, beside others of the same one unless it is ALONE; a process that dies gives its own back."""
    with path.open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if turn == ALONE else fcntl.LOCK_SH)
        while turn != ALONE and _told(handle) != turn:
            fcntl.flock(handle, fcntl.LOCK_UN)
            _call(handle, turn)
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def _call(handle: TextIO, turn: str) -> None:
    """Say whose turn it is from now on, unless somebody has one: a moment later it may be the wanted one already.

    Who waited here for the lock would wait for others who have come to share the very turn that they wait for.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.2)
        return
    handle.truncate(0)
    handle.write(turn)
    handle.flush()
    fcntl.flock(handle, fcntl.LOCK_UN)


def _told(handle: TextIO) -> str:
    handle.seek(0)
    return handle.read()
