"""A lone API server on loopback: etcd and kube-apiserver as plain processes, for tests of CRDs and clients."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import binaries, controlplane, host
from tests.cluster.pki import write_kubeconfig
from tests.cluster.progress import ClusterError, wait_until

READY_SECONDS = 60
_PREFIX = "longboat-apiserver-"


@dataclass(frozen=True)
class ApiServer:
    """A running API server without controllers: objects are validated and kept, and nothing acts on them."""

    url: str
    kubeconfig: Path
    directory: Path

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return what it prints; raises CalledProcessError with its stderr."""
        command = [str(binaries.program("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, text=True, capture_output=True, check=True).stdout


@contextmanager
def running_apiserver() -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver on free loopback ports; both end with this process, however it ends."""
    host.ensure_packages(("etcd-server", "util-linux"))
    programs = binaries.ensure(binaries.KUBERNETES)
    _forget_dead()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_memory_directory()))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        yield _start(directory, programs, stack)


def _start(directory: Path, programs: Path, stack: ExitStack) -> ApiServer:
    pki = controlplane.make_pki(directory / "pki", ("127.0.0.1",), datetime.datetime.now(datetime.UTC))
    client_port, peer_port, api_port = _free_ports(3)
    etcd_url, peer_url = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    url = f"https://127.0.0.1:{api_port}"
    etcd = controlplane.etcd_command(directory / "etcd", etcd_url, peer_url)
    server = controlplane.apiserver_command(programs, pki, etcd_url, "127.0.0.1", api_port)
    # Without the controller manager no namespace has a service account, and pods would be refused for want of one.
    server.append("--disable-admission-plugins=ServiceAccount")
    processes = [_spawn(command, directory / f"{Path(command[0]).name}.log", stack) for command in (etcd, server)]
    context = controlplane.client_context(pki.ca.directory)
    wait_until(lambda: _ready_or_dead(processes, url, context, directory), READY_SECONDS, "API server")
    kubeconfig = directory / "kubeconfig"
    write_kubeconfig(kubeconfig, url, pki.ca, pki.admin, "longboat-apiserver")
    return ApiServer(url=url, kubeconfig=kubeconfig, directory=directory)


def _ready_or_dead(processes: list[subprocess.Popen[bytes]], url: str, context: object, directory: Path) -> bool:
    dead = [process for process in processes if process.poll() is not None]
    if dead:
        logs = "\n".join(log.read_text()[-2000:] for log in directory.glob("*.log"))
        raise ClusterError(f"{dead[0].args!r} ended while the API server started:\n{logs}")
    return controlplane.is_ready(url, context)  # type: ignore[arg-type]


def _spawn(command: list[str], log: Path, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when this one ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def _memory_directory() -> Path:
    """Where files are kept in memory, if the system has such a place."""
    shared_memory = Path("/dev/shm")
    return shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())


def _forget_dead() -> None:
    """Remove what killed test runs left: the directory's name tells its process."""
    for directory in _memory_directory().glob(f"{_PREFIX}*"):
        owner = directory.name.removeprefix(_PREFIX).split("-")[0]
        if not Path(f"/proc/{owner}").exists():
            shutil.rmtree(directory, ignore_errors=True)
