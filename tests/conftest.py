"""Fixtures for all tests."""

import os

from hypothesis import settings

pytest_plugins = ["tests.cluster.fixtures", "tests.evidence", "tests.turns", "tests.timeline"]

# A slow machine is no failure, so no deadlines. What must land is judged by the same examples each time; whoever works
# on the code, and `make test-long`, gets new ones with each run.
settings.register_profile("work", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "work")
