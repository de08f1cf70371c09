"""What the servers of the contract share: a port, a certificate for loopback, and waiting until they answer."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster.pki import Authority, Certificate
from tests.cluster.progress import wait_until
from tests.cluster.s3 import answers

LOOPBACK = "127.0.0.1"


def tls_for(directory: Path) -> tuple[Certificate, Path]:
    """Make a certificate for loopback in a directory; return it and the file of its authority."""
    authority = Authority(directory / "tls", "longboat-contract", datetime.datetime.now(datetime.UTC))
    certificate = authority.issue("server", "store", hosts=(LOOPBACK, "localhost"))
    return certificate, directory / "tls" / "ca.crt"


@contextmanager
def serving(directory: Path, handler: type[BaseHTTPRequestHandler], **what: Any) -> Iterator[tuple[str, str]]:
    """Serve https on loopback by a handler with `what` as attributes; yield the endpoint and its CA's certificate."""
    certificate, ca_file = tls_for(directory)
    server = ThreadingHTTPServer((LOOPBACK, 0), type("Handler", (handler,), what))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://{LOOPBACK}:{server.server_address[1]}", ca_file.read_text()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def wait_for(port: int, what: str) -> None:
    """Wait until somebody listens at a port of loopback; raises ClusterError."""
    wait_until(lambda: answers(port), 30, what)
