"""Writes when each test ran, and in which process, to build/test-times.tsv: a pytest plugin, for runs of many tests.

From the seconds since the start of the run one reads what waits for what, and which files should begin earlier.
"""

from __future__ import annotations

import time

import pytest

from tests.cluster.paths import CHECKOUT

FILE = CHECKOUT / "build" / "test-times.tsv"
_HEAD = ("began", "ended", "process", "step", "outcome", "test")


class Timeline:
    """Writes down what the processes of a run report, when they do."""

    def __init__(self) -> None:
        self._start = time.time()
        FILE.parent.mkdir(exist_ok=True)
        self._write("w", *_HEAD)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a step of a test: setup, call or teardown."""
        seconds = [f"{moment - self._start:.1f}" for moment in (report.start, report.stop)]
        self._write("a", *seconds, getattr(report, "worker_id", "main"), report.when, report.outcome, report.nodeid)

    def _write(self, mode: str, *columns: str) -> None:
        with FILE.open(mode) as table:
            table.write("\t".join(columns) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Of a run by several processes, only the one that hands out the tests takes notes."""
    if getattr(config.option, "dist", "") == "loadfile" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Timeline())
