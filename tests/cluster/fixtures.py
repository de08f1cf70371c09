"""Pytest fixtures of the local cluster; a conftest.py takes them with `pytest_plugins = ["tests.cluster.fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.apiserver import ApiServer, running_apiserver


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """A lone API server (no controllers, no node), shared by a run: tests use names of their own."""
    with running_apiserver() as server:
        yield server
