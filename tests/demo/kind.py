"""`make demo CLUSTER=kind`: a kind cluster with the operator's image in it, and what is left to do by hand."""

from __future__ import annotations

import shutil
import subprocess

from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import ClusterError, say

NAME = "longboat"
IMAGE = "longboat:demo"
# KubeVirt, a CSI driver with snapshots and an object store come from elsewhere, each with releases of its own.
LEFT = f"""
The kind cluster {NAME} runs, with the image {IMAGE} loaded. The story has not been told yet. What is left:
  1. the CRDs and the snapshot-controller of https://github.com/kubernetes-csi/external-snapshotter
  2. a CSI driver with snapshots of Block volumes, its default StorageClass and a VolumeSnapshotClass
  3. KubeVirt, with the feature gates HotplugVolumes and Snapshot, and useEmulation: true without /dev/kvm
  4. the operator: helm install longboat charts/longboat -n longboat-system --create-namespace \\
       --set image.repository=longboat --set image.tag=demo
  5. a default BackupStore on an S3 service that the cluster can reach: README.md, Install
  6. the guest's image: make guest-image, docker build as it says, and
     kind load docker-image --name {NAME} longboat-guest:1
  7. make demo CLUSTER=current ARGS="--guest-image longboat-guest:1"
"""


def prepare() -> None:
    """Make the cluster unless it is there, build the image and load it. Raises ClusterError if something is missing."""
    _need("docker", "info")
    _need("kind", "version")
    if NAME not in _run("kind", "get", "clusters").split():
        say("creating the kind cluster")
        _run("kind", "create", "cluster", f"--name={NAME}", f"--config={CHECKOUT / 'kind-config.yaml'}")
    say("building the operator's image")
    _run("docker", "build", f"--tag={IMAGE}", f"--file={CHECKOUT / 'Containerfile'}", str(CHECKOUT))
    _run("kind", "load", "docker-image", f"--name={NAME}", IMAGE)


def _need(program: str, question: str) -> None:
    found = shutil.which(program)
    if not found or subprocess.run([found, question], capture_output=True, check=False).returncode:
        raise ClusterError(f"CLUSTER=kind needs a running Docker, and kind, and `{program} {question}` does not work: "
                           "install them, or run `make demo`, which needs neither")  # fmt: skip


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
