"""The local cluster itself, where tests of it would be felt by others."""

from __future__ import annotations

import time

import pytest

from tests.cluster import lifecycle
from tests.cluster.cluster import Cluster
from tests.cluster.progress import wait_until

pytestmark = pytest.mark.cluster


def test_up_twice_leaves_the_running_cluster_as_it_is(cluster: Cluster) -> None:
    pid, began = cluster.node_pid(), time.monotonic()
    lifecycle.up(cluster, kubevirt=False)
    assert cluster.node_pid() == pid
    assert time.monotonic() - began < 5


def test_the_remote_store_keeps_data_and_keys_when_its_server_is_killed(cluster: Cluster) -> None:
    before = cluster.s3_settings()
    cluster.remote.stop()
    assert not cluster.remote.is_running()
    assert cluster.remote.start() == before


def test_a_killed_service_is_started_again(cluster: Cluster) -> None:
    before = cluster.service_pids()["snapshot-controller"]
    cluster.kill_service("snapshot-controller")
    wait_until(lambda: cluster.service_pids().get("snapshot-controller", before) != before, 10, "the restart")
