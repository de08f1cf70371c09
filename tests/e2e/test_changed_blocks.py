"""The client of the SnapshotMetadata service against the real sidecar: its messages, TLS, tokens and rights."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longboat.mover import snapshot_metadata
from longboat.mover.changes import (
    BaseSnapshotMissingError,
    ChangeTrackingUnavailableError,
    SnapshotMetadata,
)
from longboat.mover.snapshot_metadata import ChangeTrackingRefusedError, SnapshotMetadataSource
from tests.cluster.cluster import Cluster
from tests.cluster.node import SNAPSHOT_METADATA_PORT
from tests.e2e.test_cluster import snapshot
from tests.e2e.workloads import Namespace, claim

pytestmark = pytest.mark.cluster

SIZE = 64 << 20
BLOCK = 4096
WRITE = (
    "import os; f=os.open('/dev/disk',os.O_RDWR); "
    "[os.pwrite(f,b'{letter}'*{length},at) for at in {offsets}]; os.fsync(f)"
)
READS_SNAPSHOTS = {"apiGroups": ["snapshot.storage.k8s.io"], "resources": ["volumesnapshots"], "verbs": ["get"]}
SCATTERED = [(number * 3 * BLOCK, BLOCK) for number in range(200)]


@dataclass
class Disk:
    """A claim with two snapshots, of which scattered blocks differ, and the service as its object tells it."""

    cluster: Cluster
    namespace: Namespace
    service: dict[str, Any]
    base_handle: str
    folder: Path

    def match(self) -> dict[str, str]:
        """What faults of this disk alone are meant for: others back up beside it."""
        return {"claim": f"{self.namespace.name}/disk"}

    def token(self, account: str, audience: str) -> Path:
        path = self.folder / f"token-{account}"
        path.write_text(self.namespace.kubectl("create", "token", account, f"--audience={audience}"))
        return path

    def source(self, account: str = "mover", audience: str = "", name: str = "target") -> SnapshotMetadataSource:
        settings = SnapshotMetadata(
            # The host does not reach the address that the object tells pods; the certificate is valid for both.
            address=f"{self.cluster.node_address()}:{SNAPSHOT_METADATA_PORT}",
            ca_pem=base64.b64decode(self.service["caCert"]).decode(),
            token_path=str(self.token(account, audience or self.service["audience"])),
            namespace=self.namespace.name,
            snapshot_name=name,
        )
        return SnapshotMetadataSource(settings, SIZE, sleep=lambda _: None)


@pytest.fixture(scope="module")
def disk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    namespace = Namespace(cluster, f"changed-blocks-{time.time_ns():x}")
    _allow(namespace)
    namespace.apply(claim("disk"))
    namespace.run("before", WRITE.format(letter="a", length=1 << 20, offsets=[8 << 20]), "disk")
    _snapshot(namespace, "base")
    offsets = [offset for offset, _ in SCATTERED]
    namespace.run("after", WRITE.format(letter="b", length=BLOCK, offsets=offsets), "disk")
    _snapshot(namespace, "target")
    kind = "snapshotmetadataservices.cbt.storage.k8s.io"
    service = json.loads(cluster.kubectl("get", kind, "reflink.csi.longboat.dev", "-o", "json"))["spec"]
    yield Disk(cluster, namespace, service, _handle(namespace, "base"), tmp_path_factory.mktemp("tokens"))
    for name in ("broken", "slow-delta"):
        cluster.faults.remove(name)
    cluster.kubectl("delete", "namespace", namespace.name, "--wait=false")


def _allow(namespace: Namespace) -> None:
    """Two accounts: one may read VolumeSnapshots, the other may nothing."""
    for name in ("mover", "nobody"):
        namespace.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "mover"}, "rules": [READS_SNAPSHOTS]}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "mover"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "mover"},
        "subjects": [{"kind": "ServiceAccount", "name": "mover", "namespace": namespace.name}],
    }
    namespace.apply(role, binding)


def _snapshot(namespace: Namespace, name: str) -> None:
    namespace.apply(snapshot(name, of="disk"))
    ready = "--for=jsonpath={.status.readyToUse}=true"
    namespace.kubectl("wait", ready, "--timeout=60s", f"volumesnapshot/{name}")


def _handle(namespace: Namespace, name: str) -> str:
    status = (namespace.get("volumesnapshot", name) or {})["status"]
    content = namespace.get("volumesnapshotcontent", status["boundVolumeSnapshotContentName"])
    return str((content or {})["status"]["snapshotHandle"])


def test_backups_of_a_tracked_disk_read_what_changed_and_restore_each_state(namespace: Namespace) -> None:
    namespace.apply(claim("disk", "128Mi"))
    namespace.policy("daily", "disk")
    states = []
    for seed in (1, 2, 3):
        namespace.write("disk", seed=seed, mebibytes=16 if seed == 1 else 1, offset=seed * 30 << 20)
        states.append((namespace.checksum("disk"), namespace.backup("daily")))
    disks = [backup["status"]["disks"][0] for _, backup in states]
    assert [each["mode"] for each in disks] == ["Full", "Incremental", "Incremental"], disks
    # A share is read to check the tracker; without tracking it would be all of the 128 MiB.
    assert [each["readBytes"] < limit << 20 for each, limit in zip(disks, (32, 16, 16), strict=True)] == [True] * 3, (
        disks
    )
    for number, (checksum, backup) in enumerate(states):
        source = {"diskBackup": {"name": backup["metadata"]["name"]}}
        namespace.restore(f"state-{number}", source)
        assert namespace.checksum(f"state-{number}") == checksum
    assert len(_kept(namespace)) == 1


def test_a_tracker_that_fails_costs_a_full_read_and_the_backup_says_so(namespace: Namespace) -> None:
    namespace.apply(claim("disk", "64Mi"))
    namespace.write("disk", seed=4)
    namespace.policy("daily", "disk")
    namespace.backup("daily")
    namespace.write("disk", seed=5)
    before = namespace.checksum("disk")
    faults = namespace.cluster.faults
    match = {"claim": f"{namespace.name}/disk"}
    off = {"code": "FAILED_PRECONDITION", "message": "tracking is off", "match": match}
    faults.inject("off", operation="GetMetadataDelta", **off)
    try:
        backup = namespace.backup("daily")
    finally:
        faults.remove("off")
    result = backup["status"]["disks"][0]
    assert (result["phase"], result["mode"], result["readBytes"]) == ("Completed", "Full", SIZE), result
    assert result["fullReason"] == "ChangeTrackingUnavailable" and "tracking is off" in result["message"]
    namespace.restore("restored", {"diskBackup": {"name": backup["metadata"]["name"]}})
    assert namespace.checksum("restored") == before


def _kept(namespace: Namespace) -> list[str]:
    labels = f"longboat.dev/owner-kind=Disk,longboat.dev/owner-namespace={namespace.name}"
    return namespace.cluster.kubectl("get", "volumesnapshots", "-A", "-l", labels, "-o", "name").split()


def test_the_sidecar_tells_what_is_allocated_and_what_has_changed(disk: Disk) -> None:
    assert list(disk.source().delta(disk.base_handle)) == SCATTERED
    assert list(disk.source().allocated()) == [*SCATTERED, (8 << 20, 1 << 20)]
    assert list(disk.source(name="base").allocated()) == [(8 << 20, 1 << 20)]


def test_a_stream_that_the_driver_breaks_is_taken_up_again_through_the_sidecar(disk: Disk) -> None:
    faults = disk.cluster.faults
    broken = {"phase": "midway", "code": "UNAVAILABLE", "ranges": 70, "times": 2, "match": disk.match()}
    faults.inject("broken", operation="GetMetadataDelta", **broken)
    assert list(disk.source().delta(disk.base_handle)) == SCATTERED
    assert faults.used("broken") == 2


def test_a_token_for_another_audience_is_refused(disk: Disk) -> None:
    with pytest.raises(ChangeTrackingRefusedError, match="UNAUTHENTICATED"):
        list(disk.source(audience="somebody-else").delta(disk.base_handle))


def test_an_account_that_may_not_read_snapshots_is_refused(disk: Disk) -> None:
    with pytest.raises(ChangeTrackingRefusedError, match="PERMISSION_DENIED"):
        list(disk.source(account="nobody").delta(disk.base_handle))


def test_a_snapshot_that_is_not_there_is_unavailable(disk: Disk) -> None:
    with pytest.raises(ChangeTrackingUnavailableError, match="attempt 5"):
        list(disk.source(name="missing").allocated())


def test_a_service_that_is_killed_midway_is_asked_again(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small messages, and a driver that stops after half of them: what comes later can't have arrived already.
    monkeypatch.setattr(snapshot_metadata, "RANGES_PER_MESSAGE", 1)
    slow = {"phase": "midway", "delay": 5, "ranges": 100, "times": 1, "match": disk.match()}
    disk.cluster.faults.inject("slow-delta", operation="GetMetadataDelta", **slow)
    source = disk.source()
    source.sleep = time.sleep
    ranges = source.delta(disk.base_handle)
    first = next(ranges)
    disk.cluster.kill_service("csi-snapshot-metadata")
    assert [first, *ranges] == SCATTERED


def test_a_base_that_was_deleted_is_missing(disk: Disk) -> None:
    _snapshot(disk.namespace, "short-lived")
    handle = _handle(disk.namespace, "short-lived")
    disk.namespace.kubectl("delete", "volumesnapshot", "short-lived")
    disk.namespace.until("the snapshot is gone", lambda: handle not in _handles(disk.cluster))
    with pytest.raises(BaseSnapshotMissingError, match="NOT_FOUND"):
        list(disk.source().delta(handle))


def _handles(cluster: Cluster) -> list[str]:
    contents = json.loads(cluster.kubectl("get", "volumesnapshotcontents", "-o", "json"))["items"]
    return [(each.get("status") or {}).get("snapshotHandle", "") for each in contents]
