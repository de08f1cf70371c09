"""Serves the metrics over HTTP, on a port of their own."""

from __future__ import annotations

import gzip
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from longboat.handlers.metrics_page import Page
from longboat.reconcile.figures import Figures

log = logging.getLogger(__name__)

PATH = "/metrics"
CONNECTIONS = 4
"""Clients that are answered at once; others are turned away before they cost a thread. Nobody is asked who he is."""
CLIENT_PATIENCE = 10.0
"""Seconds that a whole connection may take, from when it is accepted to the last byte: then it is cut.

It is looked at twice a second, by the thread that accepts. Until then a client holds a thread and the page of its time.
"""
FRESH = 1.0
"""Seconds for which all scrapes get the same page."""
_TEXT = ("Content-Type", "text/plain; charset=utf-8")

StartResponse = Callable[[str, list[tuple[str, str]]], object]
Clock = Callable[[], float]
"""Seconds from any moment on, and never back."""


@dataclass(frozen=True)
class _Body:
    plain: bytes
    made: float

    @cached_property
    def packed(self) -> bytes:
        # The names repeat on every line: the quickest level makes a twentieth of it.
        return gzip.compress(self.plain, 1)


class Application:
    """The WSGI application: one page for all scrapes of a second, and none before there is something whole to tell."""

    def __init__(self, figures: Figures, clock: Clock = time.monotonic) -> None:
        self._figures, self._page, self._clock = figures, Page(figures), clock
        self._lock, self._body = threading.Lock(), _Body(b"", -math.inf)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a scrape."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("404 Not Found", [_TEXT])
            return [f"GET {PATH} is all there is here\n".encode()]
        if not self._figures.is_known:
            # Half of the policies would look as if the others had been deleted.
            start_response("503 Service Unavailable", [_TEXT, ("Retry-After", "5")])
            return [b"the operator has not seen all policies yet\n"]
        packed = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        body = self._text(packed)
        headers = [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4), ("Content-Length", str(len(body)))]
        start_response("200 OK", [*headers, ("Content-Encoding", "gzip")] if packed else headers)
        return [body] if environ["REQUEST_METHOD"] == "GET" else []

    def _text(self, packed: bool) -> bytes:
        # Many scrapers at once would take the time, and many pages the memory, that backups need.
        with self._lock:
            if self._clock() - self._body.made >= FRESH:
                text = self._page.text()
                self._body = _Body(text, self._clock())
            return self._body.packed if packed else self._body.plain


class _Server(ThreadingMixIn, WSGIServer):
    """Answers so many clients at once, each for so long: see CONNECTIONS and CLIENT_PATIENCE."""

    daemon_threads = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places, self._deadlines = threading.Lock(), dict[Any, float]()
        self.clock: Clock = time.monotonic
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._has_place(request):
            super().process_request(request, client_address)
        else:
            log.debug("%s is turned away: %d others are being answered", client_address, CONNECTIONS)
            self.shutdown_request(request)

    def _has_place(self, request: Any) -> bool:
        with self._places:
            if len(self._deadlines) >= CONNECTIONS:
                return False
            self._deadlines[request] = self.clock() + CLIENT_PATIENCE
            return True

    def service_actions(self) -> None:
        """Cut what takes too long, whether it is asking or reading: its thread then finds the connection at its end."""
        with self._places:
            for request, deadline in self._deadlines.items():
                if self.clock() >= deadline:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        # The place is given back before the socket's number can be another connection's, which would be cut instead.
        with self._places:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        # What a client does wrong is no matter for the log.
        log.debug("the connection of %s ended early", client_address, exc_info=True)


class _Dual(_Server):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        # Both families, whichever the cluster has.
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        # A line for each scrape would bury what matters.
        log.debug(format, *args)


class MetricsServer:
    """Listens on a port until it is stopped; OSError if the port can't be had."""

    def __init__(self, figures: Figures, port: int, clock: Clock = time.monotonic) -> None:
        app = Application(figures, clock)
        try:
            self._server: _Server = make_server("::", port, app, _Dual, _Handler)
        except OSError:
            # No IPv6 on this node.
            self._server = make_server("", port, app, _Server, _Handler)
        self._server.clock = clock
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
