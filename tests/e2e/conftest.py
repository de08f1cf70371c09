"""The operator, installed by its chart on the run's cluster, with a store."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests import installation
from tests.cluster.cluster import Cluster
from tests.e2e.workloads import Namespace


@pytest.fixture(scope="module")
def longboat(cluster: Cluster) -> Cluster:
    """The cluster of the run with the operator in it, as a pod with the chart's rights, and a default store.

    Looked at for each module: one before it may have had other settings, or none.
    """
    installation.ensure(cluster)
    installation.ensure_store(cluster)
    return cluster


@pytest.fixture
def namespace(longboat: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own."""
    found = Namespace(longboat, f"test-{time.time_ns():x}")
    yield found
    longboat.kubectl("delete", "namespace", found.name, "--wait=false")
