"""What runs on the node and with which settings: services, configuration files, certificates."""

from __future__ import annotations

import base64
import datetime
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from tests.cluster import cgroups, controlplane
from tests.cluster.controlplane import ControlPlanePki
from tests.cluster.csi import DRIVER_NAME
from tests.cluster.host import search_path
from tests.cluster.init import BRIDGE, NODE_ADDRESS, POD_RANGE, RUN, Service
from tests.cluster.network import Link
from tests.cluster.paths import CHECKOUT, cache_dir
from tests.cluster.pki import write_kubeconfig

NODE_NAME = "node1"
API_PORT = 6443
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CSI_SOCKET = f"/var/lib/kubelet/plugins/{DRIVER_NAME}/csi.sock"
CSI_REGISTRATION_SOCKET = f"/var/lib/kubelet/plugins_registry/{DRIVER_NAME}-reg.sock"
SNAPSHOT_METADATA_PORT = 50051
SNAPSHOT_METADATA_AUDIENCE = "snapshot-metadata.longboat.test"
_ETCD_URL = "http://127.0.0.1:2379"
_ETCD_PEER_URL = "http://127.0.0.1:2380"
# Their default of 5 requests a second makes snapshots wait for ten seconds and more when a few others fail or are
# tried again, which a cluster with as many disks would not be run with.
_SIDECAR_PACE = ("--kube-api-qps=50", "--kube-api-burst=100")


@dataclass(frozen=True)
class Programs:
    """Folders of programs that run on the node."""

    kubernetes: Path
    snapshot_metadata: Path


def write_files(state: Path, identity: str, link: Link, programs: Programs, pause_image: str) -> None:
    """Write everything that the node's process 1 and its services read; `state` must be empty but for logs."""
    for folder in ("logs", "marks", "csi", "cni", "containerd"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    pki = controlplane.make_pki(state / "pki", (NODE_ADDRESS, link.node), datetime.datetime.now(datetime.UTC))
    pki.authority.issue("snapshot-metadata", "snapshot-metadata", hosts=(NODE_ADDRESS, link.node))
    _write_kubeconfigs(state, link, pki)
    (state / "containerd.toml").write_text(_containerd_config(state, pause_image))
    (state / "cni" / "10-bridge.conflist").write_text(json.dumps(_cni_config(), indent=2))
    (state / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_config(state, identity)))
    # The host's name servers cannot be reached from the node, and nothing in the cluster needs any.
    (state / "resolv.conf").write_text("")
    spec = {
        "state": str(state),
        "cache": str(cache_dir()),
        "hostname": NODE_NAME,
        "service_address": controlplane.SERVICE_ADDRESS,
        "apiserver_port": API_PORT,
        "services": [asdict(service) for service in services(state, programs, pki)],
    }
    (state / "node.json").write_text(json.dumps(spec, indent=2))


def _write_kubeconfigs(state: Path, link: Link, pki: ControlPlanePki) -> None:
    """One for the host, and two for inside the node: the administrator's and the kubelet's."""
    inside = f"https://{NODE_ADDRESS}:{API_PORT}"
    node = pki.authority.issue(
        "node", f"system:node:{NODE_NAME}", "system:nodes", hosts=(NODE_NAME, NODE_ADDRESS, "127.0.0.1")
    )
    write_kubeconfig(state / "kubeconfig", f"https://{link.node}:{API_PORT}", pki.ca, pki.admin, "longboat")
    write_kubeconfig(state / "admin.kubeconfig", inside, pki.ca, pki.admin, "longboat")
    write_kubeconfig(state / "node.kubeconfig", inside, pki.ca, node, "longboat")


def services(state: Path, folders: Programs, pki: ControlPlanePki) -> list[Service]:
    """All programs of the node; each waits for the paths that show that what it needs is there."""
    programs = folders.kubernetes
    api = str(state / "marks" / "api")
    crds = str(state / "marks" / "crds")
    admin = f"--kubeconfig={state / 'admin.kubeconfig'}"
    csi_address = f"--csi-address={CSI_SOCKET}"
    manager, scheduler = str(programs / "kube-controller-manager"), str(programs / "kube-scheduler")
    snapshotter = str(programs / "csi-snapshotter")
    return [
        _service("etcd", controlplane.etcd_command(RUN / "etcd", _ETCD_URL, _ETCD_PEER_URL)),
        _service("kube-apiserver", _apiserver_command(programs, pki)),
        _service("containerd", ["containerd", f"--config={state / 'containerd.toml'}"]),
        _service("csi-driver", _csi_command(state), python=True),
        _service("kube-controller-manager", [manager, admin, *_controller_manager_flags(pki)], api),
        _service("kube-scheduler", [scheduler, admin, "--leader-elect=false"], api),
        _service("kubelet", _kubelet_command(state, programs), api, CONTAINERD_SOCKET),
        _service("csi-provisioner", _provisioner_command(programs, admin), api, CSI_SOCKET),
        _service("csi-snapshotter", [snapshotter, admin, csi_address, *_SIDECAR_PACE], api, crds, CSI_SOCKET),
        _service("csi-snapshot-metadata", _metadata_command(state, folders, admin), api, crds, CSI_SOCKET),
        _service("snapshot-controller", _snapshot_controller_command(programs, admin), api, crds),
    ]


def _service(name: str, argv: list[str], *after: str, python: bool = False) -> Service:
    environment = {"PATH": search_path()}
    if python:
        environment |= {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", "LONGBOAT_CACHE": str(cache_dir())}
    return Service(name=name, argv=argv, env=environment, after=list(after))


def _apiserver_command(programs: Path, pki: ControlPlanePki) -> list[str]:
    return [
        *controlplane.apiserver_command(programs, pki, _ETCD_URL, "0.0.0.0", API_PORT),
        f"--advertise-address={NODE_ADDRESS}",
        f"--kubelet-client-certificate={pki.admin.certificate}",
        f"--kubelet-client-key={pki.admin.key}",
        f"--kubelet-certificate-authority={pki.ca.certificate}",
        # The node's name is in no name server.
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _controller_manager_flags(pki: ControlPlanePki) -> list[str]:
    return [
        "--leader-elect=false",
        "--allocate-node-cidrs=false",
        f"--service-account-private-key-file={pki.service_account_key}",
        f"--root-ca-file={pki.ca.certificate}",
        f"--cluster-signing-cert-file={pki.ca.certificate}",
        f"--cluster-signing-key-file={pki.ca.key}",
    ]


def _kubelet_command(state: Path, programs: Path) -> list[str]:
    return [
        str(programs / "kubelet"),
        f"--config={state / 'kubelet.yaml'}",
        f"--kubeconfig={state / 'node.kubeconfig'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
        # KubeVirt's virt-handler expects the kubelet at its usual place.
        "--root-dir=/var/lib/kubelet",
    ]


def _csi_command(state: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.cluster.csi",
        f"--socket={CSI_SOCKET}",
        f"--registration-socket={CSI_REGISTRATION_SOCKET}",
        f"--node-id={NODE_NAME}",
        f"--state={state / 'csi'}",
        f"--pool={state / 'pool.img'}",
    ]


def _provisioner_command(programs: Path, admin: str) -> list[str]:
    return [
        str(programs / "csi-provisioner"),
        admin,
        f"--csi-address={CSI_SOCKET}",
        "--feature-gates=Topology=false",
        "--extra-create-metadata=true",
        "--default-fstype=ext4",
        *_SIDECAR_PACE,
    ]


def _snapshot_controller_command(programs: Path, admin: str) -> list[str]:
    return [str(programs / "snapshot-controller"), admin, "--leader-election=false", *_SIDECAR_PACE]


def _metadata_command(state: Path, folders: Programs, admin: str) -> list[str]:
    return [
        str(folders.snapshot_metadata / "csi-snapshot-metadata"),
        admin,
        f"--csi-address={CSI_SOCKET}",
        f"--port={SNAPSHOT_METADATA_PORT}",
        f"--tls-cert={state / 'pki' / 'snapshot-metadata.crt'}",
        f"--tls-key={state / 'pki' / 'snapshot-metadata.key'}",
        "--http-endpoint=127.0.0.1:8088",
    ]


def snapshot_metadata_service(state: Path) -> dict[str, object]:
    """The object that tells backup programs where the driver's changed blocks are to be had, and by which token."""
    authority = (state / "pki" / "ca.crt").read_bytes()
    spec = {
        "address": f"{NODE_ADDRESS}:{SNAPSHOT_METADATA_PORT}",
        "audience": SNAPSHOT_METADATA_AUDIENCE,
        "caCert": base64.b64encode(authority).decode(),
    }
    kind = {"apiVersion": "cbt.storage.k8s.io/v1beta1", "kind": "SnapshotMetadataService"}
    return {**kind, "metadata": {"name": DRIVER_NAME}, "spec": spec}


def _kubelet_config(state: Path, identity: str) -> dict[str, object]:
    pki = state / "pki"
    thresholds = ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "node.crt"),
        "tlsPrivateKeyFile": str(pki / "node.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.name(identity)}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "resolvConf": str(state / "resolv.conf"),
        "maxPods": 250,
        # A test machine with a full disk shall run on, and no image can be pulled again once it was collected.
        "evictionHard": dict.fromkeys(thresholds, "0%"),
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
        # Changes of the node show at once: no other node shares this API server.
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def _cni_config() -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(RUN / "cni-addresses"),
            "ranges": [[{"subnet": POD_RANGE, "gateway": NODE_ADDRESS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _containerd_config(state: Path, pause_image: str) -> str:
    """Version 2 of containerd's configuration, which Debian's 1.6 and newer ones understand."""
    return f"""version = 2
root = "{state}/containerd"
state = "/run/containerd"
# The node has few rights to protect itself with, and its processes are all equal.
oom_score = 0

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  # Without CAP_SYS_RESOURCE, as in many containers and test machines, no process may become less likely to be killed.
  restrict_oom_score_adj = true
  # Lets a container that is not root open the block devices of its pod.
  device_ownership_from_security_context = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{state}/cni"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def start_command(state: Path) -> list[str]:
    """The command that makes the node's namespaces and runs its process 1, detached from whoever starts it."""
    namespaces = ["--pid", "--mount", "--net", "--uts", "--fork", "--kill-child", "--mount-proc"]
    return ["setsid", "--fork", "unshare", *namespaces, sys.executable, "-m", "tests.cluster.init", marker(state)]


def marker(state: Path) -> str:
    """The argument by which the node's process 1 is known."""
    return str(state / "node.json")


def start_environment() -> dict[str, str]:
    return dict(os.environ) | {"PATH": search_path(), "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
