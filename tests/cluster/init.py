"""Process 1 of the node: sets up its mounts and network, then starts, restarts and reaps what runs there.

Run by `unshare` in new PID, mount, network and UTS namespaces. Killing it ends everything inside, and with the last
process go the namespaces, their mounts, bridge and iptables rules. Standard library only; it runs as root.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Files of the node that need not outlive it are in memory; its unix sockets get short paths there.
RUN = Path("/run/longboat")
BRIDGE = "cni0"
NODE_ADDRESS = "10.88.0.1"
POD_RANGE = "10.88.0.0/16"
RESTART_SECONDS = 1.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Service:
    """A program of the node, started once every path of `after` exists and again whenever it ends."""

    name: str
    argv: list[str]
    env: dict[str, str]
    after: list[str]


def main(spec_path: str) -> None:
    """Set the node up as its spec says, and never return."""
    spec = json.loads(Path(spec_path).read_text())
    state = Path(spec["state"])
    _raise_limits()
    _set_up_mounts(state, Path(spec["cache"]))
    _run("hostname", spec["hostname"])
    _set_up_network(spec["service_address"], spec["apiserver_port"])
    (state / "marks" / "init").touch()
    Supervisor(state, [Service(**each) for each in spec["services"]]).run()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def _raise_limits() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _set_up_mounts(state: Path, cache: Path) -> None:
    """Hide the host's /run, and give the node its own /var/lib and /var/log without touching the host's."""
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder in ("cache", "upper", "work", "etcd"):
        (RUN / folder).mkdir(parents=True)
    Path("/run/lock").mkdir()
    # The cache, with the node's state, may itself lie under one of the directories that are covered now.
    _run("mount", "--bind", str(cache), str(RUN / "cache"))
    for target in ("/var/lib", "/var/log"):
        _overlay(target)
    if not cache.is_mount():
        _run("mount", "--bind", str(RUN / "cache"), str(cache))
    for source, target in (("kubelet", "/var/lib/kubelet"), ("pod-logs", "/var/log/pods")):
        (state / source).mkdir(exist_ok=True)
        Path(target).mkdir(exist_ok=True)
        _run("mount", "--bind", str(state / source), target)
    # The kubelet and KubeVirt hand mounts on to containers, so all of the tree has to be shared.
    _run("mount", "--make-rshared", "/")


def _overlay(target: str) -> None:
    name = target.strip("/").replace("/", "-")
    upper, work = RUN / "upper" / name, RUN / "work" / name
    upper.mkdir()
    work.mkdir()
    _run("mount", "-t", "overlay", "-o", f"lowerdir={target},upperdir={upper},workdir={work}", "overlay", target)


def _set_up_network(service_address: str, apiserver_port: int) -> None:
    """A bridge for the pods; the API server's service address is rewritten, since there is no kube-proxy."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "addr", "add", f"{NODE_ADDRESS}/16", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    service = ["-d", f"{service_address}/32", "-p", "tcp", "--dport", "443"]
    destination = f"{NODE_ADDRESS}:{apiserver_port}"
    for chain in ("PREROUTING", "OUTPUT"):
        _run("iptables", "-w", "-t", "nat", "-A", chain, *service, "-j", "DNAT", "--to-destination", destination)


class Supervisor:
    """Keeps the services running and reaps every orphan of the PID namespace."""

    def __init__(self, state: Path, services: list[Service]) -> None:
        self._state = state
        self._due = {service.name: 0.0 for service in services}
        self._services = {service.name: service for service in services}
        self._running: dict[int, str] = {}
        self._wake, alarm = socket.socketpair()
        for end in (self._wake, alarm):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        self._alarm = alarm

    def run(self) -> None:
        """Start what is due, then sleep until a process ends or, while something waits to start, a moment."""
        while True:
            if self._start_due(time.monotonic()):
                self._publish()
            select.select([self._wake], [], [], _POLL_SECONDS if self._due else None)
            self._drain()
            self._reap()

    def _start_due(self, now: float) -> bool:
        names = [name for name, moment in self._due.items() if moment <= now and self._may_start(name)]
        for name in names:
            del self._due[name]
            self._running[self._spawn(self._services[name])] = name
        return bool(names)

    def _may_start(self, name: str) -> bool:
        return all(Path(path).exists() for path in self._services[name].after)

    def _spawn(self, service: Service) -> int:
        log = str(self._state / "logs" / f"{service.name}.log")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        environment = dict(os.environ) | service.env
        pid = os.posix_spawnp(
            service.argv[0], service.argv, environment, file_actions=actions, setpgroup=0, setsigdef=[signal.SIGCHLD]
        )
        print(f"started {service.name}: {pid}", flush=True)
        return pid

    def _drain(self) -> None:
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        """Collect every child that ended; a service is due again after a pause, lest a broken one spins."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._running.pop(pid, None)
            if name:
                print(f"{name} ended: {os.waitstatus_to_exitcode(status)}", flush=True)
                self._due[name] = time.monotonic() + RESTART_SECONDS

    def _publish(self) -> None:
        """Write which process (numbered as inside the node) is which service, for tests that kill one."""
        temporary = self._state / "services.json.new"
        temporary.write_text(json.dumps({name: pid for pid, name in self._running.items()}))
        temporary.rename(self._state / "services.json")


if __name__ == "__main__":
    main(sys.argv[1])
