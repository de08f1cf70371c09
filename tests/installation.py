"""Longboat on a local cluster, as a user installs it: the image built from the Containerfile, the chart by Helm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from longboat.repository import generate_recovery_pair, generate_store_key
from tests.cluster import binaries, images
from tests.cluster.cluster import Cluster
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import ClusterError, say

NAMESPACE = "longboat-system"
RELEASE = "longboat"
STORE = "offsite"
IMAGE_INPUTS = ("requirements/runtime.txt", "operator/longboat", "LICENSE")


def image() -> images.Image:
    """The operator's image of this checkout; unchanged sources cost nothing."""
    return images.build_image("longboat", CHECKOUT / "Containerfile", IMAGE_INPUTS)


def install(cluster: Cluster, values: Mapping[str, str] | None = None) -> None:
    """Install, or upgrade, the chart and wait until the operator is ready."""
    built = image()
    cluster.load_image(built.archive)
    repository, _, tag = built.reference.rpartition(":")
    settings = {"image.repository": repository, "image.tag": tag, "image.pullPolicy": "Never", "location": "lon-1"}
    ensure_namespace(cluster, NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
    say("installing the operator by its chart")
    helm(cluster, "upgrade", "--install", RELEASE, str(CHECKOUT / "charts" / "longboat"), "--wait", "--timeout=3m",
         *[f"--set={key}={value}" for key, value in (settings | dict(values or {})).items()])  # fmt: skip


def uninstall(cluster: Cluster) -> None:
    """Remove the release; CRDs and objects stay, as the chart promises."""
    helm(cluster, "uninstall", RELEASE, "--wait", "--timeout=3m", "--ignore-not-found")


def helm(cluster: Cluster, *arguments: str) -> str:
    """Run helm on the operator's namespace and return its output; raise ClusterError if it fails."""
    kubeconfig = cluster.state / "kubeconfig"
    command = [str(binaries.program("helm")), f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`helm {' '.join(arguments[:3])}` failed: {done.stderr.strip()}")
    return done.stdout


def ensure_namespace(cluster: Cluster, name: str, labels: Mapping[str, str] | None = None) -> None:
    """Have a namespace with these labels."""
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})


def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    """Apply objects as `kubectl apply` does."""
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*objects]}))


def secret(name: str, data: Mapping[str, str], namespace: str = NAMESPACE) -> dict[str, Any]:
    """A Secret."""
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": dict(data)}


def ensure_store(cluster: Cluster, name: str = STORE, **spec: Any) -> None:
    """Have a BackupStore on the remote cluster's object store, with a key and a recovery pair that are made once."""
    if cluster.kubectl("get", "backupstore", name, "--ignore-not-found"):
        return
    remote = cluster.s3_settings()
    apply(cluster, secret(f"{name}-key", {"key": generate_store_key()}))
    credentials = {"accessKeyID": remote.access_key_id, "secretAccessKey": remote.secret_access_key}
    authorities = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-ca", "namespace": NAMESPACE},
        "data": {"ca.crt": remote.ca_pem},
    }
    apply(cluster, secret(f"{name}-s3", credentials), authorities, store(cluster, name, **spec))
    cluster.kubectl("wait", "--for=condition=Ready", f"backupstore/{name}", "--timeout=60s")


def store(cluster: Cluster, name: str = STORE, **spec: Any) -> dict[str, Any]:
    """A BackupStore that names the Secrets `<name>-s3` and `<name>-key` and the ConfigMap `<name>-ca`."""
    remote = cluster.s3_settings()
    bucket = {
        "endpoint": remote.pod_endpoint,
        "region": remote.region,
        "bucket": remote.bucket,
        "caBundleRef": {"name": f"{name}-ca"},
    }
    return {
        "apiVersion": "longboat.dev/v1alpha1",
        "kind": "BackupStore",
        "metadata": {"name": name},
        "spec": {
            "default": True,
            "location": "lon-2",
            "s3": bucket,
            "credentialsSecretRef": {"name": f"{name}-s3"},
            "encryption": {
                "keySecretRef": {"name": f"{name}-key"},
                "recoveryRecipient": generate_recovery_pair().public,
            },
        }
        | spec,
    }
