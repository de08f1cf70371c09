"""Pytest fixtures of the local cluster; a conftest.py takes them with `pytest_plugins = ["tests.cluster.fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import lifecycle
from tests.cluster.apiserver import ApiServer, running_apiserver
from tests.cluster.cluster import TEST, Cluster


@pytest.fixture(scope="session")
def apiserver() -> Iterator[ApiServer]:
    """A lone API server (no controllers, no node), shared by a run: tests use names of their own."""
    with running_apiserver() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of the run, without KubeVirt at first; one that ran before, of the same parts, is left running.

    The processes of a run share it: the first one starts it, and the last one takes it down.
    """
    found = Cluster(TEST)
    with lifecycle.used(found):
        yield found


@pytest.fixture(scope="session")
def kubevirt_cluster(cluster: Cluster) -> Cluster:
    """The same cluster with KubeVirt in it."""
    lifecycle.up(cluster, kubevirt=True, renew=True)
    return cluster
