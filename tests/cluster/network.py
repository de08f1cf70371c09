"""The node's link to the host: a pair of virtual interfaces and nothing else on the host's side.

The host's end disappears with the node's network namespace; the host gets no bridge and no iptables rule.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tests.cluster.init import POD_RANGE
from tests.cluster.progress import ClusterError

# Pods reach the host (the remote object store, above all) at this address, whatever the link's own addresses are.
REMOTE_ADDRESS = "10.99.0.1"
_LINKS = ipaddress.ip_network("10.89.0.0/16")
_NODE_END = "uplink"


@dataclass(frozen=True)
class Link:
    """One of 256 small networks between host and node; `number` is its third byte."""

    number: int

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((int(_LINKS.network_address) + 256 * self.number, 30))

    @property
    def host(self) -> str:
        return str(self.network[1])

    @property
    def node(self) -> str:
        return str(self.network[2])


def interface(identity: str) -> str:
    """The name of the host's end, at most 15 characters."""
    return f"lb-{identity}"


def choose_link(taken: Sequence[ipaddress.IPv4Network], preferred: int) -> Link:
    """The preferred link if nothing of the host overlaps it, else the next free one."""
    for step in range(256):
        link = Link((preferred + step) % 256)
        if not any(link.network.overlaps(network) for network in taken):
            return link
    raise ClusterError(f"no free network left in {_LINKS} for the link between host and node: stop other clusters")


def host_networks() -> list[ipaddress.IPv4Network]:
    """Networks of the host's addresses and of its routes; a default route, or one that holds all links, is no clash."""
    routes = json.loads(_output("ip", "-j", "-4", "route", "show", "table", "all"))
    found = [_network(route["dst"]) for route in routes if route["dst"] != "default"]
    return [network for network in found if network is not None and network.prefixlen >= _LINKS.prefixlen]


def _network(destination: str) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(destination, strict=False)
    except ValueError:
        return None


def connect(identity: str, link: Link, node_pid: int) -> None:
    """Make the link between the host and the node whose process 1 is `node_pid`, and the node's rules for it."""
    name = interface(identity)
    disconnect(identity)
    _run("ip", "link", "add", name, "type", "veth", "peer", "name", _NODE_END, "netns", str(node_pid))
    _run("ip", "addr", "add", f"{link.host}/30", "dev", name)
    _run("ip", "link", "set", name, "up")
    inside = ["nsenter", "--target", str(node_pid), "--net", "--mount"]
    _run(*inside, "ip", "addr", "add", f"{link.node}/30", "dev", _NODE_END)
    _run(*inside, "ip", "link", "set", _NODE_END, "up")
    _run(*inside, "ip", "route", "add", "default", "via", link.host)
    nat = [*inside, "iptables", "-w", "-t", "nat", "-A"]
    _run(*nat, "POSTROUTING", "-s", POD_RANGE, "-o", _NODE_END, "-j", "MASQUERADE")
    for chain in ("PREROUTING", "OUTPUT"):
        _run(*nat, chain, "-d", f"{REMOTE_ADDRESS}/32", "-j", "DNAT", "--to-destination", link.host)


def disconnect(identity: str) -> None:
    """Remove the host's end if it is there; the kernel removes the other."""
    name = interface(identity)
    if subprocess.run(["ip", "link", "show", name], capture_output=True, check=False).returncode == 0:
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def _output(*argv: str) -> str:
    return subprocess.check_output(argv, text=True)
