"""Serves the metrics over HTTP, on a port of their own."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from longboat.handlers.metrics_page import Page
from longboat.reconcile.figures import Figures

log = logging.getLogger(__name__)

PATH = "/metrics"
CLIENT_PATIENCE = 10.0
"""Seconds that a client may take to ask and to read: it holds nothing but a thread meanwhile."""
_TEXT = ("Content-Type", "text/plain; charset=utf-8")

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Application:
    """The WSGI application: one scrape at a time, and none before there is something whole to tell."""

    def __init__(self, figures: Figures) -> None:
        self._figures, self._page, self._lock = figures, Page(figures), threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a scrape."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("404 Not Found", [_TEXT])
            return [f"GET {PATH} is all there is here\n".encode()]
        if not self._figures.is_known:
            # Half of the policies would look as if the others had been deleted.
            start_response("503 Service Unavailable", [_TEXT, ("Retry-After", "5")])
            return [b"the operator has not seen all policies yet\n"]
        # Many scrapers at once would take the time that backups need.
        with self._lock:
            body = self._page.text()
        headers = [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)]
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            # The names repeat on every line: the quickest level makes a twentieth of it.
            body = gzip.compress(body, 1)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [body] if environ["REQUEST_METHOD"] == "GET" else []


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Dual(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        # Both families, whichever the cluster has.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        # A line for each scrape would bury what matters.
        log.debug(format, *args)


class MetricsServer:
    """Listens on a port until it is stopped; OSError if the port can't be had."""

    def __init__(self, figures: Figures, port: int) -> None:
        app = Application(figures)
        try:
            self._server: _Server = make_server("::", port, app, _Dual, _Handler)
        except OSError:
            # No IPv6 on this node.
            self._server = make_server("", port, app, _Server, _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on: what was asked for, or a free one if that was 0."""
        return int(self._server.server_port)

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
