"""The local cluster itself: what the other end-to-end tests stand on."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import cgroups, lifecycle, network, processes
from tests.cluster.cluster import Cluster
from tests.cluster.csi import cleanup, loop
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import wait_until
from tests.e2e.workloads import Namespace, claim, job

pytestmark = pytest.mark.cluster

MEBIBYTE = 1 << 20


def snapshot(name: str, of: str) -> dict[str, Any]:
    spec = {"volumeSnapshotClassName": "reflink", "source": {"persistentVolumeClaimName": of}}
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": spec,
    }


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    found = Namespace(cluster, f"cluster-{time.time_ns():x}")
    yield found
    cluster.kubectl("delete", "namespace", found.name, "--wait=false")


def test_a_nonroot_job_reads_a_volume_made_from_a_snapshot(namespace: Namespace) -> None:
    namespace.apply(claim("disk", "16Mi"))
    write = "import os; d = os.open('/dev/disk', os.O_WRONLY); os.write(d, {0!r} * 1048576); os.fsync(d)"
    namespace.run("write", write.format(b"a"), disk="disk")
    namespace.apply(snapshot("first", of="disk"))
    namespace.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "--timeout=60s", "volumesnapshot/first")
    namespace.run("overwrite", write.format(b"b"), disk="disk")
    namespace.apply(claim("copy", "16Mi", snapshot="first"))
    read = f"import hashlib; print(hashlib.sha256(open('/dev/disk', 'rb').read({MEBIBYTE})).hexdigest())"
    assert namespace.run("read", read, disk="copy") == hashlib.sha256(b"a" * MEBIBYTE).hexdigest()


def test_pods_reach_the_remote_store_with_a_certificate_they_can_check(namespace: Namespace) -> None:
    settings = namespace.cluster.s3_settings()
    script = (
        "import ssl, urllib.request as r\n"
        f"context = ssl.create_default_context(cadata={settings.ca_pem!r})\n"
        f"print(r.urlopen('{settings.pod_endpoint}/healthz', context=context).status)"
    )
    assert namespace.run("reach", script) == "200"


@pytest.fixture
def separate_cluster() -> Iterator[Cluster]:
    """A second cluster beside the one of the run, which also shows that the two are in no one's way."""
    found = Cluster("residue")
    lifecycle.clean(found)
    yield found
    lifecycle.clean(found)


def test_stopping_leaves_nothing_behind(separate_cluster: Cluster) -> None:
    lifecycle.up(separate_cluster, kubevirt=False)
    namespace = Namespace(separate_cluster, "residue")
    namespace.apply(claim("disk", "16Mi"), job("hold", "import time; time.sleep(600)", disk="disk"))
    wait_until(lambda: "1/1" in namespace.kubectl("get", "pods", "--no-headers"), 60, "a pod with a volume")
    devices = cleanup.devices_of(separate_cluster.state / "pool.img")
    assert len(devices) >= 2
    running = _processes_in(separate_cluster)
    lifecycle.stop(separate_cluster)
    _assert_nothing_left(separate_cluster, running)
    # Those over a device's own node say nothing: the kubelet of another cluster may have its volume there by now.
    backing = {(device.device, device.inode) for device in devices} - _nodes()
    assert not [each for each in loop.attached() if (each.device, each.inode) in backing]


def test_a_start_that_was_killed_can_be_cleared_away(separate_cluster: Cluster) -> None:
    command = [sys.executable, "-m", "tests.cluster", "up", "--no-kubevirt", "--name", separate_cluster.name]
    starter = subprocess.Popen(command, cwd=CHECKOUT)
    wait_until((separate_cluster.state / "marks" / "api").exists, 120, "the API server", interval=0.02)
    running = _processes_in(separate_cluster)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert not lifecycle.is_healthy(separate_cluster)
    lifecycle.stop(separate_cluster)
    _assert_nothing_left(separate_cluster, running)


def _nodes() -> set[tuple[int, int]]:
    """The device and inode of each block device's node, as all clusters of this machine have them in common."""
    found = (each.stat() for each in Path("/dev").iterdir() if each.is_block_device())
    return {(each.st_dev, each.st_ino) for each in found}


def _processes_in(cluster: Cluster) -> dict[int, str]:
    """The processes in the node's mount, network and PID namespaces and the ticks at which each began."""
    namespaces = _namespaces(cluster.node_pid())
    found = {int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()}
    return {pid: _start_of(pid) for pid in found if namespaces & _namespaces(pid)}


def _namespaces(pid: int) -> set[Path]:
    try:
        return {Path(f"/proc/{pid}/ns/{kind}").readlink() for kind in ("pid", "net", "mnt")}
    except OSError:
        return set()


def _start_of(pid: int) -> str:
    """Field 22 of its stat file; nothing if the process is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _assert_nothing_left(cluster: Cluster, running: dict[int, str]) -> None:
    """Nothing on the host bears the cluster's name, and none of its processes is left."""
    assert len(running) > 5
    assert not processes.find(str(cluster.state / "node.json"))
    assert not [pid for pid, start in running.items() if start and _start_of(pid) == start]
    assert not cluster.state.exists()
    assert cluster.state.name not in Path("/proc/mounts").read_text()
    links = [link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-j", "link"]))]
    assert not {network.interface(cluster.identity), "cni0"} & set(links)
    assert "10.88." not in subprocess.check_output(["iptables-save"], text=True)
    assert not list(cgroups.ROOT.glob(f"**/{cgroups.name(cluster.identity)}"))
