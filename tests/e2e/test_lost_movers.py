"""The Jobs and the pods of movers, taken away while they work: every flow goes on where the world is."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.workloads import Namespace, Object, claim, of_backup
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def job_of(namespace: Namespace) -> Object | None:
    """The mover's Job; its name is that of the disk, so that another attempt differs by its UID only."""
    label = f"longboat.dev/owner-namespace={namespace.name}"
    found = namespace.cluster.kubectl("-n", OPERATOR_NAMESPACE, "get", "jobs", "-l", label, "-o", "json")
    return next(iter(json.loads(found)["items"]), None)


def another_job(namespace: Namespace, than: Object) -> Callable[[], Object | None]:
    def look() -> Object | None:
        found = job_of(namespace)
        return found if found and found["metadata"]["uid"] != than["metadata"]["uid"] else None

    return look


def lose_job_then_pod(namespace: Namespace) -> None:
    """Delete the mover's Job when it is there, and kill the pod of the one that is made in its place."""
    job = namespace.until("a mover's Job", lambda: job_of(namespace), 90)
    named = ["-n", OPERATOR_NAMESPACE, "delete", "--grace-period=0", "--force", "--wait=false"]
    namespace.cluster.kubectl(*named, "job", job["metadata"]["name"])
    again = namespace.until("another Job", another_job(namespace, job), 120)
    namespace.cluster.kubectl(*named, "pod", "-l", f"job-name={again['metadata']['name']}")


def test_export_and_restore_go_on_after_the_job_is_deleted_and_after_its_pod_is_killed(namespace: Namespace) -> None:
    namespace.apply(claim("disk", "256Mi"))
    before = namespace.write("disk", seed=13, mebibytes=96)
    namespace.policy("daily", "disk")
    namespace.apply(namespace.ours("DiskBackup", "killed", {"policyRef": {"name": "daily"}}))
    lose_job_then_pod(namespace)
    backup = namespace.ended("diskbackup", "killed", 300)
    assert backup["status"]["phase"] == "Completed", backup["status"]
    namespace.assert_nothing_left()
    restore = {"source": of_backup(backup), "claim": {"name": "restored"}}
    namespace.apply(namespace.ours("Restore", "restored", restore))
    lose_job_then_pod(namespace)
    restored = namespace.ended("restore", "restored", 300)
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert restored["status"]["attempts"] > 1, restored["status"]
    assert namespace.checksum("restored") == before
    namespace.assert_nothing_left()
