"""Installing KubeVirt into a running cluster, and waiting until it can run machines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import images, parts, programs
from tests.cluster.node import CONTAINERD_SOCKET
from tests.cluster.progress import ClusterError, say

_CR = parts.HERE / "kubevirt.yaml"
_DEPLOY_SECONDS = 300


def install(cluster: Cluster, cache: Path) -> None:
    """Load the images, apply operator and KubeVirt, and return when it is deployed; harmless when repeated.

    Raises ClusterError with KubeVirt's conditions and pods if it is not deployed in time.
    """
    _load_images(cluster, cache)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": parts.NAMESPACE}}
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(namespace))
    manifest = f"--filename={programs.manifest(cache)}"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", manifest)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/kubevirts.kubevirt.io")
    cluster.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={_CR}")
    say("kubevirt: waiting for the operator to deploy it")
    _wait_deployed(cluster)
    say(f"kubevirt: {parts.VERSION} is deployed")


def _load_images(cluster: Cluster, cache: Path) -> None:
    """Import the images unless they are there: a cluster may have been started without KubeVirt."""
    listing = ["ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", "images", "ls", "--quiet"]
    present = set(cluster.run_in_node(listing).split())
    if not present.issuperset(images.names()):
        cluster.load_image(images.archive(cache))


def _wait_deployed(cluster: Cluster) -> None:
    deadline = time.monotonic() + _DEPLOY_SECONDS
    while not _is_deployed(_state(cluster)):
        if time.monotonic() > deadline:
            pods = cluster.kubectl("get", "pods", f"--namespace={parts.NAMESPACE}")
            conditions = _state(cluster).get("conditions")
            raise ClusterError(f"KubeVirt was not deployed within {_DEPLOY_SECONDS} s: {conditions}\n{pods}")
        time.sleep(0.5)


def _state(cluster: Cluster) -> dict[str, Any]:
    found = cluster.kubectl("get", "kubevirt", "kubevirt", f"--namespace={parts.NAMESPACE}", "--output=json")
    return dict(json.loads(found).get("status", {}))


def _is_deployed(status: dict[str, Any]) -> bool:
    """Deployed, and available: the phase alone comes before virt-handler is ready."""
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    return status.get("phase") == "Deployed" and conditions.get("Available") == "True"
