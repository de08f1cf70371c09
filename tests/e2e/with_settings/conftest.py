"""The operator with settings under which what takes hours or a day happens within minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import installation
from tests.cluster.cluster import Cluster


@pytest.fixture(scope="package")
def impatient(longboat: Cluster) -> Iterator[Cluster]:
    """Snapshots have to be ready within a minute, and automatic ones are due every minute."""
    installation.install(longboat, {"snapshotReadyWithin": "1m", "automaticSnapshots.every": "1m"})
    yield longboat
    installation.install(longboat)
