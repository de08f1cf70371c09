"""A local cluster as tests and tools see it: where its parts lie, and ways into it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster import binaries, node, processes
from tests.cluster.csi.faults import Faults
from tests.cluster.host import search_path
from tests.cluster.paths import CHECKOUT, cache_dir, checkout_id, content_key
from tests.cluster.progress import ClusterError
from tests.cluster.s3 import RemoteStore, S3Settings

DEMO = "demo"
# Another name runs the tests on a cluster that is up already, e.g. LONGBOAT_TEST_CLUSTER=demo.
TEST = os.environ.get("LONGBOAT_TEST_CLUSTER", "test")


@dataclass(frozen=True)
class Cluster:
    """The cluster `name` of this checkout, whether it runs or not; see tests.cluster.lifecycle for up and stop."""

    name: str = DEMO

    @property
    def identity(self) -> str:
        """Eight hex digits that no other cluster of the machine has: other names and other checkouts differ."""
        return content_key(self.name.encode(), checkout_id().encode())[:8]

    @property
    def state(self) -> Path:
        """Everything that ends with the cluster; exists only from start to stop."""
        return cache_dir() / "clusters" / f"{self.name}-{self.identity}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's, for use on the host."""
        return CHECKOUT / "build" / ("kubeconfig" if self.name == DEMO else f"kubeconfig-{self.name}")

    @property
    def remote(self) -> RemoteStore:
        """The object store of the remote cluster; it outlives this one."""
        return RemoteStore(cache_dir() / "remotes" / f"{self.name}-{self.identity}")

    @property
    def faults(self) -> Faults:
        """Faults of the CSI driver, e.g. `faults.inject("full", operation="CreateSnapshot", code=…)`."""
        return Faults(self.state / "csi")

    def node_address(self) -> str:
        """The node's address as the host reaches it; ports that are open to pods are open there, too."""
        url = str(json.loads((self.state / "ready.json").read_text())["url"])
        return str(urlsplit(url).hostname)

    def s3_settings(self) -> S3Settings:
        return self.remote.settings()

    def node_pid(self) -> int:
        """The host's number of the node's process 1; raises ClusterError if the cluster does not run."""
        for pid in processes.find(node.marker(self.state)):
            if Path(processes.command_line(pid)[0]).name.startswith("python"):
                return pid
        raise ClusterError(f"cluster {self.name} is not running: start it with `python -m tests.cluster up`")

    def enter_command(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` inside the node, as root and with kubectl set up."""
        target = ["nsenter", "--target", str(self.node_pid()), "--mount", "--pid", "--net", "--uts"]
        path = f"{binaries.KUBERNETES.directory()}:{search_path()}"
        return [*target, "env", f"KUBECONFIG={self.state / 'admin.kubeconfig'}", f"PATH={path}", *command]

    def run_in_node(self, command: Sequence[str], check: bool = True) -> str:
        """Run a command inside the node and return its output; raises ClusterError with its errors if it fails."""
        done = subprocess.run(
            self.enter_command(command), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd="/"
        )
        if check and done.returncode:
            raise ClusterError(f"`{' '.join(command)}` failed in the node: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl on the host as administrator and return its output; raises ClusterError if it fails."""
        command = [str(binaries.program("kubectl")), f"--kubeconfig={self.state / 'kubeconfig'}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into the node's containerd, under the names that the archive gives."""
        containerd = ["ctr", f"--address={node.CONTAINERD_SOCKET}", "--namespace=k8s.io"]
        self.run_in_node([*containerd, "images", "import", str(archive)])

    def service_pids(self) -> dict[str, int]:
        """The running services of the node, numbered as inside it."""
        return {name: int(pid) for name, pid in json.loads((self.state / "services.json").read_text()).items()}

    def kill_service(self, name: str) -> None:
        """Kill one service, e.g. `kubelet`; the node starts it again after a second."""
        pids = self.service_pids()
        if name not in pids:
            raise ClusterError(f"no running service {name!r}; there are {sorted(pids)}")
        self.run_in_node(["kill", "-KILL", str(pids[name])])

    def logs(self) -> list[Path]:
        """The log files of the node's services."""
        return sorted((self.state / "logs").glob("*.log"))

    def is_known(self) -> bool:
        """Whether anything of the cluster is there: a state directory or a process."""
        return self.state.exists() or bool(processes.find(node.marker(self.state)))


def kubectl_environment(cluster: Cluster) -> dict[str, str]:
    """An environment in which kubectl and Kubernetes clients of the host find the cluster."""
    return dict(os.environ) | {"KUBECONFIG": str(cluster.kubeconfig)}
