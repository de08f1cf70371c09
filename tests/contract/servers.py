"""What the servers of the contract share: a port, a certificate for loopback, and waiting until they answer."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

from tests.cluster.pki import Authority, Certificate
from tests.cluster.progress import wait_until

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.create_server((LOOPBACK, 0)) as free:
        return int(free.getsockname()[1])


def tls_for(directory: Path) -> tuple[Certificate, Path]:
    """Make a certificate for loopback in a directory; return it and the file of its authority."""
    authority = Authority(directory / "tls", "longboat-contract", datetime.datetime.now(datetime.UTC))
    certificate = authority.issue("server", "store", hosts=(LOOPBACK, "localhost"))
    return certificate, directory / "tls" / "ca.crt"


def wait_for(port: int, what: str) -> None:
    """Wait until somebody listens at a port of loopback; raises ClusterError."""
    wait_until(lambda: _answers(port), 30, what)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
