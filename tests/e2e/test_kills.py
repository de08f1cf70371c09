"""The operator, and the Jobs of movers, killed between steps: every flow goes on where the world is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.progress import ClusterError
from tests.e2e.workloads import Namespace, Object, claim, of_backup
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def kill_operator(namespace: Namespace) -> None:
    pods = ["-n", OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/name=longboat"]
    namespace.cluster.kubectl("delete", "pod", *pods, "--grace-period=0", "--force", "--wait=false")


@contextmanager
def killed_at_every_step(namespace: Namespace, look: Callable[[], object], most: int = 12) -> Iterator[list[object]]:
    """Kill the operator each time that what ``look`` returns changes; yields the steps at which it was killed."""
    steps: list[object] = []
    stop = threading.Event()

    def hunt() -> None:
        while not stop.wait(0.1) and len(steps) < most:
            try:
                step = look()
                if step not in steps:
                    steps.append(step)
                    kill_operator(namespace)
            except ClusterError:
                continue

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield steps
    finally:
        stop.set()
        hunter.join()


def step_of(namespace: Namespace, kind: str) -> Callable[[], object]:
    def look() -> object:
        objects = namespace.items(kind)
        if not objects:
            return None
        status: Object = objects[0].get("status") or {}
        disks = tuple(each.get("phase") for each in status.get("disks") or ())
        return status.get("phase"), disks, bool((status.get("cut") or {}).get("cutAt")), status.get("claimUid")

    return look


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


def test_backup_ends_well_though_the_operator_is_killed_at_every_step(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=11, mebibytes=16)
    namespace.policy("daily", "disk")
    with killed_at_every_step(namespace, step_of(namespace, "diskbackups")) as steps:
        backup = namespace.backup("daily", seconds=400)
    assert len(steps) >= 4, steps
    assert backup["status"]["phase"] == "Completed", backup["status"]
    assert len(namespace.items("diskbackups")) == 1
    namespace.restore("restored", of_backup(backup))
    assert namespace.checksum("restored") == before
    namespace.assert_nothing_left()


def test_restore_ends_well_though_the_operator_is_killed_at_every_step(namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=12, mebibytes=16)
    namespace.policy("daily", "disk")
    backup = namespace.backup("daily")
    with killed_at_every_step(namespace, step_of(namespace, "restores")) as steps:
        restored = namespace.restore("restored", of_backup(backup), seconds=400)
    assert len(steps) >= 3, steps
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == before
    namespace.assert_nothing_left()


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
