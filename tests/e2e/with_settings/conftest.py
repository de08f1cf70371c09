"""The operator with settings under which what takes hours or a day happens within minutes."""

from __future__ import annotations

import pytest

from tests import installation
from tests.cluster.cluster import Cluster


@pytest.fixture(scope="module")
def impatient(cluster: Cluster) -> Cluster:
    """Snapshots have to be ready within a minute, automatic ones are due every minute, and all is audited."""
    values = {"snapshotReadyWithin": "1m", "automaticSnapshots.every": "1m", "changedBlocks.auditPercent": "100"}
    installation.ensure(cluster, values)
    installation.ensure_store(cluster)
    return cluster
