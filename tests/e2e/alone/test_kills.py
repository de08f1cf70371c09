"""The operator, killed between steps: every flow goes on where the world is. Others would be slowed down by it."""

from __future__ import annotations

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
