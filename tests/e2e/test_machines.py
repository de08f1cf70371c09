"""Virtual machines beyond the story: a stopped machine, a class that waits for its consumer, automatic snapshots."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import guests
from tests.cluster.kubevirt.guests import Disk, Guest
from tests.cluster.paths import CHECKOUT
from tests.e2e.workloads import Namespace, Object

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def place(longboat: Cluster, kubevirt_cluster: Cluster) -> Iterator[Namespace]:
    """A namespace in which virtual machines may run: their pods do not fulfil the restricted standard."""
    found = Namespace(kubevirt_cluster, f"machines-{time.time_ns():x}", standard="baseline")
    yield found
    kubevirt_cluster.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture(scope="module")
def guest(place: Namespace) -> Iterator[Guest]:
    """A running machine with a disk `data` that holds a file."""
    found = Guest(place.cluster, place.name, "db")
    guests.make_root_disk(place.cluster, place.name, "db-root")
    guests.make_disk(place.cluster, place.name, "db-data", "128Mi")
    found.create([Disk("root", "db-root"), Disk("data", "db-data")])
    found.start()
    found.run(
        f"mkfs.ext4 -q -F {found.disks()['data']} && mkdir -p /mnt/data && mount {found.disks()['data']} /mnt/data"
    )
    found.run("head -c 5000000 /dev/urandom > /mnt/data/file && sync")
    yield found
    found.delete()


def checksum(guest: Guest, path: str) -> str:
    return guest.run(f"sha256sum {path}").split()[0]


def automatic(place: Namespace, disk: str) -> list[Object]:
    return [
        each
        for each in place.items("disksnapshots")
        if each["spec"].get("origin") == "Automatic"
        and (each.get("status") or {}).get("phase") == "Ready"
        and each["status"]["target"].endswith(disk)
    ]


def test_every_disk_gets_an_automatic_snapshot_without_being_asked_for(place: Namespace, guest: Guest) -> None:
    for disk in ("db/root", "db/data"):
        place.until(f"an automatic snapshot of {disk}", lambda disk=disk: automatic(place, disk), 180)


def test_restore_is_attached_to_a_stopped_machine_from_a_class_that_waits_for_its_consumer(
    place: Namespace, guest: Guest
) -> None:
    before = checksum(guest, "/mnt/data/file")
    place.apply(
        place.ours(
            "BackupPolicy",
            "db-daily",
            {"target": {"virtualMachine": {"name": "db"}}, "schedule": {"daily": {}}, "retention": {"keepFor": "7d"}},
        )
    )
    backup = place.backup("db-daily", 300)
    assert backup["status"]["phase"] == "Completed", backup["status"]
    assert (backup["status"]["consistency"], backup["status"]["sameMoment"]) == ("Application", True)
    assert not guest.is_frozen()
    guest.stop()
    place.apply(
        place.ours(
            "Restore",
            "data-restored",
            {
                "source": {"diskBackup": {"name": backup["metadata"]["name"], "disk": "data"}},
                "claim": {"name": "data-restored", "storageClassName": "reflink-wffc"},
                "attach": {"virtualMachine": "db", "diskName": "data-restored"},
            },
        )
    )
    restored = place.ended("restore", "data-restored", 300)
    assert restored["status"]["phase"] == "Completed", restored["status"]
    guest.start()
    serial = restored["status"]["serial"]
    guest.run(f"mkdir -p /mnt/new && mount -o ro {guest.disks()[serial]} /mnt/new")
    assert checksum(guest, "/mnt/new/file") == before


def test_slow_storage_keeps_no_guest_frozen_and_is_not_called_consistent(place: Namespace, guest: Guest) -> None:
    # Longer than an operator waits for a cut while it keeps a guest frozen; and of each attempt, as one that is
    # interrupted (the operator is killed in another test beside this one) is thrown away and made again.
    match = {"claim": f"{place.name}/db-data"}
    place.cluster.faults.inject("slow", operation="CreateSnapshot", delay=25, match=match)
    place.apply(place.ours("DiskBackup", "slow", {"policyRef": {"name": "db-daily"}}))

    def cut() -> Object | None:
        found = ((place.get("diskbackup", "slow") or {}).get("status") or {}).get("cut") or {}
        return found if found.get("endedAt") else None

    try:
        assert place.until("the cut is over", cut, 120)["freeze"] == "Frozen"
        assert not guest.is_frozen()
    finally:
        place.cluster.faults.remove("slow")
    status = place.ended("diskbackup", "slow", 300)["status"]
    assert place.cluster.faults.used("slow")
    assert (status["phase"], status["consistency"], status["sameMoment"]) == ("Completed", "Crash", False), status


def test_stopped_machine_is_backed_up_at_one_moment_and_never_called_application_consistent(
    place: Namespace, guest: Guest
) -> None:
    guest.stop()
    place.apply(place.ours("DiskBackup", "stopped", {"policyRef": {"name": "db-daily"}}))
    status = place.ended("diskbackup", "stopped", 300)["status"]
    assert (status["phase"], status["consistency"], status["sameMoment"]) == ("Completed", "Crash", True), status


def test_check_finds_nothing_to_complain_about_where_everything_works(place: Namespace) -> None:
    command = [sys.executable, "-m", "longboat", "check", "--trial", f"--kubeconfig={place.cluster.kubeconfig}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT / "operator")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stdout
