"""KubeVirt on the local cluster: what the operator relies on holds for real machines over the tests' CSI driver."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import guests
from tests.cluster.kubevirt.guests import Disk, Guest
from tests.cluster.progress import wait_until

pytestmark = pytest.mark.cluster

BLOCK_DISKS = ("root", "data", "more")
MEBIBYTE = 1 << 20
FORMAT = """
for serial in data more file; do
  device=$(disk $serial)
  mkfs.ext4 -q $device
  mkdir -p /mnt/$serial
  mount $device /mnt/$serial
  echo "this is $serial" > /mnt/$serial/name
done
sync
"""
# Writes to both data disks and the root several times a second, until its file is gone.
WRITER = """
touch /tmp/write
setsid sh -c 'while [ -e /tmp/write ]; do
  for place in /mnt/data /mnt/more /root; do date +%s.%N >> $place/ticks; done; sync; usleep 200000
done' > /dev/null 2>&1 < /dev/null &
"""


@pytest.fixture(scope="module")
def namespace(kubevirt_cluster: Cluster) -> Iterator[str]:
    """A namespace that machines may run in: KubeVirt's pods do not pass the restricted standard."""
    name = f"kubevirt-{time.time_ns():x}"
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    kubevirt_cluster.kubectl("create", "--filename=-", stdin=json.dumps(manifest))
    yield name
    kubevirt_cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def guest(kubevirt_cluster: Cluster, namespace: str) -> Iterator[Guest]:
    """A running machine of three block disks and one in a file; all but the root hold an ext4 under /mnt."""
    guests.make_root_disk(kubevirt_cluster, namespace, "root")
    for name in ("data", "more"):
        guests.make_disk(kubevirt_cluster, namespace, name, "64Mi")
    guests.make_file_disk(kubevirt_cluster, namespace, "file", "128Mi", 64 * MEBIBYTE)
    found = Guest(kubevirt_cluster, namespace, "machine")
    found.create([Disk("root", "root"), Disk("data", "data"), Disk("more", "more", bus="scsi"), Disk("file", "file")])
    found.start()
    found.run(FORMAT)
    yield found
    found.delete()


@pytest.fixture
def busy_guest(guest: Guest) -> Iterator[Guest]:
    """The machine while a program in it writes; thawed at the end, whatever the test did."""
    guest.run(WRITER)
    try:
        yield guest
    finally:
        guest.thaw()
        guest.run("rm /tmp/write; sleep 1")


def digests(guest: Guest) -> dict[str, str]:
    """SHA-256 of each block disk."""
    return {name: guest.device_digest(name) for name in BLOCK_DISKS}


def changing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_guest_finds_every_disk_by_its_serial(guest: Guest) -> None:
    seen = guest.disks()
    assert set(seen) == {*BLOCK_DISKS, "file"}
    assert seen["more"].startswith("/dev/sd"), "the disk on the SCSI bus"
    assert {seen[name][:7] for name in ("root", "data", "file")} == {"/dev/vd"}


def test_nothing_is_written_to_any_disk_between_freeze_and_thaw(busy_guest: Guest) -> None:
    running = digests(busy_guest)
    assert changing(running, digests(busy_guest)) == set(BLOCK_DISKS), "the writer reaches every disk"
    busy_guest.freeze()
    assert busy_guest.is_frozen()
    frozen = digests(busy_guest)
    time.sleep(2)
    assert changing(frozen, digests(busy_guest)) == set()
    busy_guest.thaw()
    assert not busy_guest.is_frozen()
    wait_until(lambda: changing(frozen, digests(busy_guest)) == set(BLOCK_DISKS), 15, "the writer to go on", 0.5)


def test_a_freeze_ends_by_itself_when_nobody_thaws(busy_guest: Guest) -> None:
    busy_guest.freeze(unfreeze_after="3s")
    assert busy_guest.is_frozen()
    wait_until(lambda: not busy_guest.is_frozen(), 15, "KubeVirt to thaw the guest", 0.5)


def test_a_snapshot_of_the_freeze_comes_back_as_a_hot_plugged_disk(busy_guest: Guest, namespace: str) -> None:
    cluster = busy_guest.cluster
    busy_guest.freeze()
    frozen = busy_guest.device_digest("data")
    take_snapshot(busy_guest, "frozen", of="data")
    busy_guest.thaw()
    source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "frozen"}
    cluster.kubectl(
        "create",
        f"--namespace={namespace}",
        "--filename=-",
        stdin=json.dumps(guests.claim("again", "64Mi", source=source)),
    )
    busy_guest.attach(Disk("again", "again", bus="scsi"))
    assert busy_guest.volume("again")["phase"] == "Ready"
    assert busy_guest.device_digest("again") == frozen
    assert "needs_recovery" not in busy_guest.run("dumpe2fs -h $(disk again) 2>/dev/null | grep features")
    mounted = "mkdir -p /mnt/again; mount $(disk again) /mnt/again; cat /mnt/again/name; umount /mnt/again"
    assert busy_guest.run(mounted) == "this is data\n"
    busy_guest.detach("again")


def take_snapshot(guest: Guest, name: str, of: str) -> None:
    """Snapshot a PVC and wait until it can be used."""
    spec = {"volumeSnapshotClassName": "reflink", "source": {"persistentVolumeClaimName": of}}
    kind = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot"}
    guest.kubectl("create", "--filename=-", stdin=json.dumps({**kind, "metadata": {"name": name}, "spec": spec}))
    guest.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=60s", f"volumesnapshot/{name}")


def test_a_disk_in_a_file_holds_what_the_guest_wrote(guest: Guest) -> None:
    guest.run("echo marker-of-the-guest > /mnt/file/marker; sync")
    image = "/var/run/kubevirt-private/vmi-disks/file/disk.img"
    assert guest.in_launcher(["grep", "--count", "--text", "marker-of-the-guest", image]).strip() == "1"


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
def test_a_disk_in_a_file_can_be_hot_plugged(guest: Guest, namespace: str, bus: str) -> None:
    name = f"hot-{bus}"
    guests.make_file_disk(guest.cluster, namespace, name, "128Mi", 32 * MEBIBYTE)
    guest.attach(Disk(name, name, bus=bus))
    lines = guest.run("disks").splitlines()
    assert [line.split()[1] for line in lines if line.endswith(name)] == [str(32 * MEBIBYTE)]
    guest.detach(name)


def test_a_restart_keeps_what_is_on_the_disks(guest: Guest) -> None:
    guest.run("echo kept > /mnt/more/kept; echo kept > /mnt/file/kept; sync")
    guest.restart()
    read = "for s in more file; do mkdir -p /mnt/$s; mount $(disk $s) /mnt/$s; cat /mnt/$s/kept; done"
    assert guest.run(read) == "kept\nkept\n"
