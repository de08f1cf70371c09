"""The chart's rights are enough: the operator works under its own service account, and nothing is forbidden to it.

A real API server without controllers, with the CRDs of snapshots and stand-ins for KubeVirt's: far enough for the
operator to read everything, to make an automatic snapshot, and to begin a backup and a restore.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.generated_chart import render
from tests.cluster import binaries
from tests.cluster.apiserver import ApiServer, running_apiserver

TOP = Path(__file__).parents[2]
SYSTEM = "longboat-system"
PLACE = "shop"
DRIVER = "csi.example.com"
Object = dict[str, Any]


def _crd(group: str, kind: str, scope: str = "Namespaced", version: str = "v1") -> Object:
    """A kind of somebody else's that takes anything."""
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    served = {"name": version, "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": scope, "names": names, "versions": [served]},
    }


STAND_INS = [
    _crd("kubevirt.io", "VirtualMachine"),
    _crd("kubevirt.io", "VirtualMachineInstance"),
    _crd("kubevirt.io", "KubeVirt"),
    _crd("cdi.kubevirt.io", "StorageProfile", "Cluster", "v1beta1"),
]
MACHINE = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "db", "namespace": PLACE},
    "spec": {"template": {"spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "db-data"}}]}}},
}
STORAGE = [
    {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": DRIVER},
    {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotClass",
        "metadata": {"name": "fast"},
        "driver": DRIVER,
        "deletionPolicy": "Delete",
    },
    {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "pv-db-data"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "fast",
            "csi": {"driver": DRIVER, "volumeHandle": "db-data"},
        },
    },
    {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "db-data", "namespace": PLACE},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "fast",
            "volumeName": "pv-db-data",
        },
    },
]


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """An API server of this module's own: its stand-ins for KubeVirt would be in the way of others."""
    with running_apiserver() as found:
        namespaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in (SYSTEM, PLACE)]
        snapshots = binaries.ensure(binaries.KUBERNETES) / "snapshot-crds"
        _apply(found, [*namespaces, *STAND_INS])
        for path in (TOP / "manifests/crds.yaml", *snapshots.glob("snapshot.storage.k8s.io_*.yaml")):
            found.kubectl("apply", "--server-side", "-f", str(path))
        for name in ("rbac.yaml", "admission-policies.yaml"):
            found.kubectl("apply", "--server-side", "-f", str(TOP / "manifests" / name))
        found.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        _apply(found, [*STORAGE, MACHINE])
        found.kubectl(
            *("patch", "pvc", "db-data", "-n", PLACE, "--subresource=status", "--type=merge"),
            *("-p", '{"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}'),
        )
        yield found


def _apply(server: ApiServer, objects: list[Object]) -> None:
    server.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))


def _kubeconfig(server: ApiServer, account: str, folder: Path) -> Path:
    """A kubeconfig of a service account of the chart."""
    token = server.kubectl("create", "token", account, "-n", SYSTEM).strip()
    config = yaml.safe_load(server.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = folder / f"{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def _environment(kubeconfig: Path) -> dict[str, str]:
    return {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "LONGBOAT_NAMESPACE": SYSTEM,
        "LONGBOAT_IMAGE": "longboat:test",
        "LONGBOAT_RESYNC_SECONDS": "1",
        "LONGBOAT_FULL_RESYNC": "1m",
        "PYTHONPATH": str(TOP / "operator"),
    }


@contextlib.contextmanager
def _operator(kubeconfig: Path, log: Path) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "longboat", "operator", "--liveness", f"http://127.0.0.1:{port}/healthz"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=_environment(kubeconfig), stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait(30)


def _list(server: ApiServer, what: str, namespace: str = PLACE) -> list[Object]:
    found: list[Object] = json.loads(server.kubectl("get", what, "-n", namespace, "-o", "json"))["items"]
    return found


def _eventually(look: Callable[[], list[Object]], log: Path, seconds: float = 30) -> list[Object]:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.5)
    return found


SPECS: dict[str, Object] = {
    "BackupPolicy": {
        "target": {"virtualMachine": {"name": "db"}},
        "schedule": {"daily": {}},
        "retention": {"keepFor": "1d"},
    },
    "BackupStore": {
        "default": True,
        "s3": {"endpoint": "https://objects.invalid", "bucket": "backups"},
        "credentialsSecretRef": {"name": "s3"},
        "encryption": {"keySecretRef": {"name": "key"}},
    },
    "DiskBackup": {"policyRef": {"name": "one"}},
    "DiskSnapshot": {"disk": {"virtualMachine": "db", "name": "data"}},
    "Restore": {
        "source": {"diskSnapshot": {"name": "one"}},
        "claim": {"name": "db-data-restored"},
        "attach": {"virtualMachine": "db", "diskName": "restored"},
    },
}


def test_the_operator_works_under_the_rights_of_its_chart(server: ApiServer, tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    with _operator(_kubeconfig(server, "longboat", tmp_path), log):
        for kind, spec in SPECS.items():
            place = {} if kind == "BackupStore" else {"namespace": PLACE}
            meta = {"name": "one", **place}
            _apply(server, [{"apiVersion": "longboat.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}])
        automatic = _eventually(lambda: [s for s in _list(server, "disksnapshots") if _is_automatic(s)], log)
        assert automatic[0]["metadata"]["namespace"] == PLACE
        _eventually(lambda: _list(server, "volumesnapshots"), log)
        for kind in ("backuppolicies", "diskbackups", "disksnapshots", "restores", "backupstores"):
            _eventually(lambda kind=kind: [e for e in _list(server, kind) if e.get("status")], log)
        time.sleep(5)
    text = log.read_text().lower()
    assert "forbidden" not in text, _lines_with("forbidden", log)
    assert "traceback" not in text, text[-4000:]
    everything = json.dumps([_list(server, kind) for kind in ("diskbackups", "disksnapshots", "restores", "events")])
    assert "forbidden" not in everything.lower()


def _is_automatic(snapshot: Object) -> bool:
    return bool(snapshot["spec"].get("origin") == "Automatic")


def _lines_with(word: str, log: Path) -> str:
    return "\n".join(line for line in log.read_text().splitlines() if word in line.lower())


def test_the_cleanup_before_an_uninstallation_has_the_rights_it_needs(server: ApiServer, tmp_path: Path) -> None:
    hooks = [
        each for each in render(TOP / "charts/longboat") if "helm.sh/hook" in each["metadata"].get("annotations", {})
    ]
    (job,) = [each for each in hooks if each["kind"] == "Job"]
    _apply(server, [each for each in hooks if each is not job])
    server.kubectl("apply", "--server-side", "-f", str(TOP / "manifests/operator.yaml"))
    meta = {"name": "waiting", "namespace": PLACE, "finalizers": ["longboat.dev/keep-data"]}
    backup = {
        "apiVersion": "longboat.dev/v1alpha1",
        "kind": "DiskBackup",
        "metadata": meta,
        "spec": SPECS["DiskBackup"],
    }
    _apply(server, [backup])
    server.kubectl("delete", "diskbackup", "waiting", "-n", PLACE, "--wait=false")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command = [sys.executable, "-m", "longboat", *container["args"]]
    environment = _environment(_kubeconfig(server, job["spec"]["template"]["spec"]["serviceAccountName"], tmp_path))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "nothing was deleted" in done.stdout
    assert "waiting" not in {each["metadata"]["name"] for each in _list(server, "diskbackups")}
    (deployment,) = _list(server, "deployments", SYSTEM)
    assert deployment["spec"]["replicas"] == 0
