"""What the operator creates for movers is accepted by a real API server, under restricted pod security."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest

from longboat.api import DiskBackup
from longboat.api.disk_backup import Cut, DiskResult
from longboat.kube.client import ApiServer, connect
from longboat.kube.kinds import DISK_BACKUP, JOB, PERSISTENT_VOLUME_CLAIM, SECRET
from longboat.plan.hand_over import export_claim
from longboat.plan.mover import Mover, MoverSettings
from longboat.reconcile.context import Settings
from longboat.reconcile.mover import equip, mover_settings, start, stop
from longboat.reconcile.objects import load, save_status
from tests.contract.test_cluster_port import _prepare

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
JOB_FILE = {"masterKey": "k", "store": {"bucket": "b", "accessKeyId": "i", "secretAccessKey": "s"}}


@pytest.fixture
def server(apiserver: Any) -> ApiServer:
    server = ApiServer(connect(str(apiserver.kubeconfig)))
    _prepare(server)
    return server


def namespace(server: ApiServer) -> str:
    name = f"movers-{os.urandom(4).hex()}"
    server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    server._json("POST", f"/api/v1/namespaces/{name}/serviceaccounts", body=account)
    return name


@pytest.mark.parametrize("mode", ["Block", "Filesystem"])
@pytest.mark.parametrize("role", ["export", "restore"])
def test_a_mover_is_admitted_as_restricted(server: ApiServer, role: Any, mode: Any) -> None:
    system = namespace(server)
    settings: MoverSettings = mover_settings(Settings(namespace=system, image="longboat:test"))
    labels = {"app.kubernetes.io/managed-by": "longboat", "longboat.dev/owner-uid": "u", "longboat.dev/attempt": "1"}
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n"]}]}]
    mover = Mover(role, "m", "s", labels, JOB_FILE, "claim", mode, {"nodeSelectorTerms": terms})
    now = datetime.now(UTC)
    job = start(server, mover, settings, now)
    assert job is not None and start(server, mover, settings, now) is not None
    # A mover waits for its Secret until its volume is proven to be a new one.
    assert server.get(SECRET, "s", system) is None
    equip(server, mover, job)
    equip(server, mover, job)
    secret = server.get(SECRET, "s", system)
    assert secret is not None and secret["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    # No controller makes the pod here: what it would make is created by hand, to be looked at by admission.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": system}}
    server.create(pod | {"spec": job["spec"]["template"]["spec"]})
    stop(server, job)
    assert server.get(JOB, "m", system) is None


def test_the_claim_of_an_export_is_accepted(server: ApiServer) -> None:
    system = namespace(server)
    its = {"name": "data", "claim": {"name": "db-data", "uid": "u"}, "volumeMode": "Block", "storageClassName": "fast"}
    record = {"snapshotHandle": "h", "originalContent": "c", "driver": "d", "restoreSize": 5 << 20}
    disk = DiskResult.model_validate(its | {"claimBytes": 1000, "handOver": record})
    meta = {"name": "run", "namespace": "shop", "uid": "u"}
    backup = DiskBackup.model_validate({"kind": "DiskBackup", "metadata": meta, "spec": {"policyRef": {"name": "p"}}})
    server.create(export_claim(backup, disk, system))
    [claim] = server.list(PERSISTENT_VOLUME_CLAIM, system)
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Mi"
    assert claim["spec"]["dataSource"]["kind"] == "VolumeSnapshot"


def test_every_field_of_the_record_of_a_run_is_kept_by_the_api_server(server: ApiServer) -> None:
    system = namespace(server)
    head = {"apiVersion": "longboat.dev/v1alpha1", "kind": "DiskBackup"}
    server.create(head | {"metadata": {"name": "run", "namespace": system}, "spec": {"policyRef": {"name": "p"}}})
    backup = load(server, DISK_BACKUP, DiskBackup, system, "run")
    assert backup is not None
    now = backup.metadata.creation_timestamp
    freezes = ("Requested", "Frozen", "Refused", "NotRunning", "Paused", "NoAgent", "GivenUp", "NoMachine")
    for freeze in freezes:
        cut = Cut(freeze=freeze, started_at=now, frozen_at=now, cut_at=now, thawed_at=now, ended_at=now)
        disk = DiskResult(
            name="a", job="u", started_at=now, retry_at=now, snapshot_class="s", claim_bytes=1, driver="d"
        )
        changes = {"cut": cut, "disks": [disk], "cut_attempts": 2, "virtual_machine": "db", "cleaned_up": True}
        status = backup.status.model_copy(update=changes)
        backup = save_status(server, backup, status)
        assert json.loads(backup.status.model_dump_json()) == json.loads(status.model_dump_json())
