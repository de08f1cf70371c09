"""What the storage does wrong is said on the object that suffers from it, which ends well or cleanly; others go on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.e2e.workloads import Namespace, Object, claim
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE

pytestmark = pytest.mark.cluster
FULL = "the pool has no space left"
# A DiskBackup, a policy and a claim of each name; all backups run at the same time, so that the waits do, too.
DISKS = ("good", "failing", "slow", "stuck")


@pytest.fixture(scope="module")
def place(impatient: Cluster) -> Iterator[Namespace]:
    """A namespace in which a backup of each disk has begun, each disk but one with a fault of its own."""
    found = Namespace(impatient, f"faults-{time.time_ns():x}")
    its = {disk: {"claim": f"{found.name}/{disk}"} for disk in DISKS}
    faults = impatient.faults
    faults.inject("failing", operation="CreateSnapshot", code="RESOURCE_EXHAUSTED", message=FULL, match=its["failing"])
    faults.inject("slow", operation="CreateSnapshot", delay=20, times=1, match=its["slow"])
    faults.inject("stuck", operation="CreateSnapshot", ready=False, match=its["stuck"])
    found.apply(*[claim(disk) for disk in DISKS])
    for disk in DISKS:
        found.policy(disk, disk)
    found.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc", "--all")
    for disk in ("failing", "stuck"):
        found.apply(found.ours("DiskSnapshot", disk, {"disk": {"persistentVolumeClaim": disk}}))
    found.apply(*[found.ours("DiskBackup", disk, {"policyRef": {"name": disk}}) for disk in DISKS])
    yield found
    for name in (*its, "full"):
        faults.remove(name)
    impatient.kubectl("delete", "namespace", found.name, "--wait=false")


def disk_of(place: Namespace, backup: str) -> Object:
    """The only disk of a DiskBackup, empty while it is not known."""
    status = (place.get("diskbackup", backup) or {}).get("status") or {}
    disks: list[Object] = status.get("disks") or [{}]
    return disks[0]


def test_snapshot_that_can_not_be_made_quotes_the_storage_and_completes_when_it_can(place: Namespace) -> None:
    said = place.condition("disksnapshot", "failing", "Stalled")("SnapshotFailed")
    assert FULL in said["message"]
    place.until("the backup quotes the storage", lambda: FULL in disk_of(place, "failing").get("message", ""))
    place.cluster.faults.remove("failing")
    assert place.ended("disksnapshot", "failing")["status"]["phase"] == "Ready"
    backup = place.ended("diskbackup", "failing")
    assert backup["status"]["phase"] == "Completed", backup["status"]


def test_slow_snapshot_is_waited_for(place: Namespace) -> None:
    backup = place.ended("diskbackup", "slow")
    assert place.cluster.faults.used("slow") == 1
    assert backup["status"]["phase"] == "Completed", backup["status"]


def test_faults_of_some_disks_are_no_trouble_for_another(place: Namespace) -> None:
    backup = place.ended("diskbackup", "good")
    assert backup["status"]["phase"] == "Completed", backup["status"]


def test_restore_without_space_quotes_the_storage_and_completes_when_there_is_some(place: Namespace) -> None:
    place.ended("diskbackup", "good")
    staging = {"claim": f"{OPERATOR_NAMESPACE}/full-*"}
    place.cluster.faults.inject(
        "full", operation="CreateVolume", code="RESOURCE_EXHAUSTED", message=FULL, match=staging
    )
    source = {"diskBackup": {"name": "good"}}
    for name in ("full-first", "full-second"):
        place.apply(place.ours("Restore", name, {"source": source, "claim": {"name": name}}))
    assert place.restore("other", source)["status"]["phase"] == "Completed"
    for name in ("full-first", "full-second"):
        said = place.condition("restore", name, "Stalled", 120)("VolumeNotProvisioned")
        assert FULL in said["message"]
    place.kubectl("delete", "restore", "full-second")
    place.cluster.faults.remove("full")
    restored = place.ended("restore", "full-first")
    assert restored["status"]["phase"] == "Completed", restored["status"]


def test_snapshot_that_is_never_ready_fails_its_backup_cleanly_and_the_next_run_works(place: Namespace) -> None:
    failed = place.ended("diskbackup", "stuck")
    disk = failed["status"]["disks"][0]
    assert (failed["status"]["phase"], disk["reason"]) == ("Failed", "SnapshotNotReady"), failed["status"]
    assert "not readyToUse within 1 min" in disk["message"]
    place.condition("disksnapshot", "stuck", "Stalled")("SnapshotNotReady")
    owned = f"longboat.dev/owner-uid={failed['metadata']['uid']}"
    place.until("its snapshot is gone", lambda: not place.kubectl("get", "volumesnapshots", "-l", owned, "-o", "name"))
    place.cluster.faults.remove("stuck")
    again = place.backup("stuck")
    assert again["status"]["phase"] == "Completed", again["status"]


def test_nothing_is_left_in_the_operators_namespace_of_what_failed_or_was_deleted(place: Namespace) -> None:
    place.assert_nothing_left()
