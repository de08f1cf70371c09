"""The TPM and EFI state of machines: files beside the disks that are backed up with them, and taken up again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import guests
from tests.cluster.kubevirt.guests import Disk, Guest
from tests.e2e.workloads import Namespace, Object, claim, job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STATE = "tpm-efi.state"
LABEL = "persistent-state-for"
# What lies below a folder: kind and size, and what a restore has to bring back of each file.
LIST = (
    "import hashlib,os\n"
    "for top, folders, files in os.walk('/disk'):\n"
    "    folders[:] = sorted(set(folders) - {'lost+found'})\n"
    "    for name in sorted(files):\n"
    "        path = os.path.join(top, name)\n"
    "        print(path, os.path.getsize(path), hashlib.sha256(open(path, 'rb').read()).hexdigest())\n"
)


def files_of(namespace: Namespace, name: str) -> str:
    return namespace.run(f"list-{time.monotonic_ns():x}", LIST, name, "Filesystem")


def disk_of(backup: Object, name: str) -> Object:
    return next(disk for disk in backup["status"]["disks"] if disk["name"] == name)


def test_small_files_of_another_user_are_backed_up_and_restored_without_privilege(namespace: Namespace) -> None:
    state = claim("state", "64Mi", mode="Filesystem")
    state["metadata"]["labels"] = {LABEL: "nobody"}
    namespace.apply(state)
    script = "import os; os.makedirs('/disk/swtpm/tpm2', 0o700); f = '/disk/swtpm/tpm2/tpm2-00.permall'\n"
    script += "open(f, 'wb').write(os.urandom(9000)); os.chmod(f, 0o600)"
    other = job("write", script, "state", "Filesystem")
    other["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsUser"] = 1234
    namespace.apply(other)
    namespace.kubectl("wait", "--for=condition=Complete", "--timeout=90s", "job/write")
    namespace.kubectl("delete", "job", "write", "--cascade=foreground")
    namespace.policy("daily", "state")
    backup = namespace.backup("daily")
    found = disk_of(backup, "state")
    assert (found["phase"], found["content"]) == ("Completed", "Archive"), found
    assert found["logicalBytes"] < 64 << 10, "the files are stored, not the volume"
    restored = namespace.restore("restored", {"diskBackup": {"name": backup["metadata"]["name"]}})
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert files_of(namespace, "restored") == files_of(namespace, "state")
    namespace.assert_nothing_left()


@pytest.fixture(scope="module")
def place(longboat: Cluster, kubevirt_cluster: Cluster) -> Iterator[Namespace]:
    """A namespace in which virtual machines may run."""
    found = Namespace(kubevirt_cluster, f"state-{time.time_ns():x}", standard="baseline")
    yield found
    kubevirt_cluster.kubectl("delete", "namespace", found.name, "--wait=false")


@pytest.fixture(scope="module")
def guest(place: Namespace) -> Iterator[Guest]:
    """A running machine with a persistent TPM."""
    found = Guest(place.cluster, place.name, "sealed")
    guests.make_root_disk(place.cluster, place.name, "sealed-root")
    manifest = found.manifest([Disk("root", "sealed-root")], memory="128Mi", labels={})
    manifest["spec"]["template"]["spec"]["domain"]["devices"]["tpm"] = {"persistent": True}
    place.apply(manifest)
    found.start()
    yield found
    found.delete()


def test_a_machine_gets_its_tpm_state_back(place: Namespace, guest: Guest) -> None:
    [its] = json.loads(place.kubectl("get", "pvc", "-l", f"{LABEL}=sealed", "-o", "json"))["items"]
    place.apply(
        place.ours(
            "BackupPolicy",
            "daily",
            {
                "target": {"virtualMachine": {"name": "sealed"}},
                "schedule": {"monthly": {"every": 12, "day": 1}},
                "retention": {"keepFor": "30d"},
            },
        )
    )
    running = place.backup("daily", 300)["status"]
    assert (running["phase"], running["consistency"], running["sameMoment"]) == ("Completed", "Application", True)
    state = next(disk for disk in running["disks"] if disk["name"] == STATE)
    assert (state["phase"], state["content"], state["claim"]["name"]) == (
        "Completed",
        "Archive",
        its["metadata"]["name"],
    )
    place.condition("backuppolicy", "daily", "Protected")()
    guest.stop()
    stopped = place.backup("daily", 300)
    source = {"diskBackup": {"name": stopped["metadata"]["name"], "disk": STATE}}
    refused = {"source": source, "claim": {"name": "no"}, "attach": {"virtualMachine": "sealed", "diskName": "state"}}
    place.apply(place.ours("Restore", "no", refused))
    place.condition("restore", "no", "Stalled")("NotADisk")
    restored = place.restore("state-restored", source)
    assert restored["status"]["phase"] == "Completed", restored["status"]
    files = files_of(place, "state-restored")
    assert "tpm2-00.permall" in files and files == files_of(place, its["metadata"]["name"])
    place.kubectl("label", "pvc", its["metadata"]["name"], f"{LABEL}-")
    place.kubectl("label", "pvc", "state-restored", f"{LABEL}=sealed")
    guest.start()
    mounted = guest.volume("state-restored") or guest.volume(f"{LABEL}-this-vm")
    assert mounted["persistentVolumeClaimInfo"]["claimName"] == "state-restored", guest.instance()["status"]
    assert place.get("pvc", its["metadata"]["name"]), "the old state is kept"
