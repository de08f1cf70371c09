"""The story that `make demo` tells, asserted."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.demo import place
from tests.demo.narrator import Narrator
from tests.demo.story import Story

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]


def test_destroyed_disk_of_a_running_machine_comes_back_from_backup_and_snapshot(
    longboat: Cluster, kubevirt_cluster: Cluster
) -> None:
    story = Story(place.local(kubevirt_cluster), Narrator())
    story.run()
    # A machine that runs on would take its part of the processors from other tests.
    kubevirt_cluster.kubectl("delete", "namespace", story.place.namespace, "--wait=false")
