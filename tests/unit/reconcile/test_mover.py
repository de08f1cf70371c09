"""What is seen of a mover: every end of a Job and its pod is told apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from longboat.plan.mover import Mover, MoverSettings
from longboat.reconcile.mover import observe, start, stop
from tests.fakes.cluster import FakeCluster

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = MoverSettings("system", "longboat:1")
LABELS = {"longboat.dev/owner-uid": "u", "longboat.dev/attempt": "1"}
MOVER = Mover("export", "m", "s", LABELS, {"masterKey": "k", "store": {}}, "claim", "Block")


def cluster_with(
    condition: str | None = None,
    message: str | None = None,
    status: dict[str, Any] | None = None,
    uid: str | None = None,
) -> FakeCluster:
    cluster = FakeCluster(namespaces=["system"])
    job = start(cluster, MOVER, SETTINGS, NOW)
    assert job is not None
    if condition:
        job["status"] = {"conditions": [{"type": condition, "status": "True"}]}
        cluster.update_status(job)
    if message is not None or status:
        ended = {"containerStatuses": [{"state": {"terminated": {"exitCode": 3, "message": message}}}]}
        labels = {
            "batch.kubernetes.io/job-name": "m",
            "batch.kubernetes.io/controller-uid": uid or job["metadata"]["uid"],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "system", "labels": labels}}
        cluster.create(pod | {"status": status or ended})
    return cluster


def test_no_job_is_absent_and_a_new_one_is_pending() -> None:
    assert observe(FakeCluster(namespaces=["system"]), "system", "m").phase == "Absent"
    assert observe(cluster_with(), "system", "m").phase == "Pending"


def test_a_result_is_read_from_the_termination_message() -> None:
    state = observe(cluster_with("Complete", json.dumps({"ok": True, "manifest": "x"})), "system", "m")
    assert state.phase == "Succeeded" and state.result == {"ok": True, "manifest": "x"}


def test_a_success_whose_result_is_lost_is_run_again() -> None:
    for message in (None, "", "not json", "[]", '{"ok": false}'):
        state = observe(cluster_with("Complete", message), "system", "m")
        assert state.phase == "Failed" and state.failure and state.failure.retryable, message


def test_a_movers_own_reason_is_kept() -> None:
    told = {"ok": False, "reason": "NoDiskImage", "message": "no disk.img", "retryable": False}
    state = observe(cluster_with("Failed", json.dumps(told)), "system", "m")
    assert state.failure and (state.failure.reason, state.failure.retryable) == ("NoDiskImage", False)


def test_a_pod_that_was_killed_or_lost_may_be_tried_again() -> None:
    evicted = observe(cluster_with("Failed", status={"phase": "Failed", "reason": "Evicted"}), "system", "m")
    assert evicted.failure and evicted.failure.retryable and "Evicted" in evicted.failure.message
    lost = observe(cluster_with("Failed"), "system", "m")
    assert lost.failure and lost.failure.reason == "PodLost" and lost.failure.retryable


def test_the_pods_of_an_earlier_job_of_the_name_say_nothing() -> None:
    message = json.dumps({"ok": True, "manifest": "old"})
    assert observe(cluster_with("Complete", message, uid="earlier"), "system", "m").phase == "Failed"


def test_progress_is_the_last_whole_line_of_the_log() -> None:
    cluster = cluster_with(status={"phase": "Running"})
    assert observe(cluster, "system", "m").progress is None
    cluster.pod_logs["system", "p"] = '{"progress": {"bytesDone": 1, "bytesTotal": 9}}\nnoise\n{"progress": 5}\n{"pro'
    state = observe(cluster, "system", "m")
    assert state.phase == "Running" and state.progress and (state.progress.done, state.progress.total) == (1, 9)


def test_what_a_pod_waits_for_is_told() -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    state = observe(cluster_with(status={"phase": "Pending", "containerStatuses": [waiting]}), "system", "m")
    assert state.phase == "Pending" and "ImagePullBackOff" in state.message
    refused = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    state = observe(cluster_with(status={"phase": "Pending", "conditions": [refused]}), "system", "m")
    assert "0/3 nodes" in state.message


def test_starting_twice_makes_one_job_and_a_name_of_another_owner_is_not_taken() -> None:
    cluster = cluster_with()
    again = start(cluster, MOVER, SETTINGS, NOW)
    assert again is not None
    other = Mover("export", "m", "s2", {**LABELS, "longboat.dev/owner-uid": "v"}, MOVER.job, "claim", "Block")
    assert start(cluster, other, SETTINGS, NOW) is None
    stop(cluster, again)
    assert observe(cluster, "system", "m").phase == "Absent"
