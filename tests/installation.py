"""Longboat on a local cluster, as a user installs it: the image built from the Containerfile, the chart by Helm."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from longboat.repository import generate_recovery_pair, generate_store_key
from tests.cluster import binaries, images
from tests.cluster.cluster import Cluster
from tests.cluster.paths import CHECKOUT, content_key, locked
from tests.cluster.progress import ClusterError, say

NAMESPACE = "longboat-system"
RELEASE = "longboat"
CHART = CHECKOUT / "charts" / "longboat"
STORE = "offsite"
IMAGE_INPUTS = ("requirements/runtime.txt", "operator/longboat", "LICENSE")


def image() -> images.Image:
    """The operator's image of this checkout; unchanged sources cost nothing."""
    return images.build_image("longboat", CHECKOUT / "Containerfile", IMAGE_INPUTS)


def install(cluster: Cluster, values: Mapping[str, str] | None = None) -> None:
    """Install, or upgrade, the chart and wait until the operator is ready."""
    cluster.load_image(image().archive)
    settings = _settings(values)
    ensure_namespace(cluster, NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
    say("installing the operator by its chart")
    options = ["--wait", "--timeout=3m", f"--description={_fingerprint(settings)}"]
    options += [f"--set={key}={value}" for key, value in settings.items()]
    helm(cluster, "upgrade", "--install", RELEASE, str(CHART), *options)


def ensure(cluster: Cluster, values: Mapping[str, str] | None = None) -> None:
    """Have this checkout's chart installed with these values and no others, beside other processes that want the same.

    What is installed already stays as it is.
    """
    with locked(f"installation-{cluster.identity}"):
        if _installed(cluster) != _fingerprint(_settings(values)):
            install(cluster, values)


def _settings(values: Mapping[str, str] | None) -> dict[str, str]:
    repository, _, tag = image().reference.rpartition(":")
    own = {"image.repository": repository, "image.tag": tag, "image.pullPolicy": "Never", "location": "lon-1"}
    return own | dict(values or {})


def _fingerprint(settings: Mapping[str, str]) -> str:
    """What is written on the release, so that it is known what it was made from."""
    files = [path.read_bytes() for path in sorted(CHART.rglob("*")) if path.is_file()]
    return f"of tests: {content_key(json.dumps(dict(settings)).encode(), *files)}"


def _installed(cluster: Cluster) -> str:
    """The fingerprint of the release, or nothing if there is none that works."""
    releases = json.loads(helm(cluster, "list", f"--filter=^{RELEASE}$", "--deployed", "-o", "json"))
    return str(json.loads(helm(cluster, "status", RELEASE, "-o", "json"))["info"]["description"]) if releases else ""


def uninstall(cluster: Cluster) -> None:
    """Remove the release; CRDs and objects stay, as the chart promises."""
    helm(cluster, "uninstall", RELEASE, "--wait", "--timeout=3m", "--ignore-not-found")


def restart(cluster: Cluster) -> None:
    """Replace the operator's pod, without grace, and wait until the new one is ready."""
    deployment = ("-n", NAMESPACE, "rollout", "status", "deployment/longboat", "--timeout=120s")
    pods = ("-n", NAMESPACE, "delete", "pods", "-l", "app.kubernetes.io/component=operator")
    cluster.kubectl(*pods, "--grace-period=0", "--force")
    cluster.kubectl(*deployment)


def install_by_kustomize(cluster: Cluster) -> None:
    """Install manifests/ through the overlay of the docs, with this checkout's image, and wait until it is ready."""
    built = image()
    cluster.load_image(built.archive)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kustomization.yaml").write_text(_overlay(built, Path(folder)))
        cluster.kubectl("apply", "--server-side", "-k", folder)
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/longboat", "--timeout=120s")


def _overlay(built: images.Image, folder: Path) -> str:
    """The overlay of docs/examples as a user would change it: the image, and where the manifests are."""
    repository, _, tag = built.reference.rpartition(":")
    overlay = yaml.safe_load((CHECKOUT / "docs" / "examples" / "overlay" / "kustomization.yaml").read_text())
    overlay["resources"] = [os.path.relpath(CHECKOUT / "manifests", folder.resolve())]
    overlay["images"][0] |= {"newName": repository, "newTag": tag}
    return str(yaml.safe_dump(overlay))


def uninstall_by_kustomize(cluster: Cluster) -> None:
    """Remove what manifests/ hold but for CRDs and namespace, with which objects and Secrets would go."""
    files = [f"--filename={CHECKOUT / 'manifests' / name}.yaml" for name in ("operator", "admission-policies", "rbac")]
    cluster.kubectl("delete", *files, "--wait=true", "--timeout=60s")


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
    with locked(f"installation-{cluster.identity}"):
        if not cluster.kubectl("get", "backupstore", name, "--ignore-not-found"):
            _make_store(cluster, name, spec)
    cluster.kubectl("wait", "--for=condition=Ready", f"backupstore/{name}", "--timeout=60s")


def _make_store(cluster: Cluster, name: str, spec: Mapping[str, Any]) -> None:
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
