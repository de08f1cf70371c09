"""An S3 proxy that lets one user create objects and nothing else, as a policy with `s3:if-none-match` does on AWS.

The S3 server of the tests refuses that condition in policies. The proxy stands before it, passes everything on as it
came (signatures stay valid), and notes who asked for what.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.s3 import S3Settings
from tests.contract.servers import serving

_DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>write-once</Message></Error>"


@dataclass
class Journal:
    """Requests as (method, path), those of them that were refused, and the headers of uploads by path."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    uploads: dict[str, dict[str, str]] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    """Passes requests on, but for those that the creator may not make."""

    protocol_version = "HTTP/1.1"
    upstream: S3Settings
    creator: str
    journal: Journal

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = (self.command, urlsplit(self.path).path)
        self.journal.asked.append(request)
        if self.command == "PUT":
            self.journal.uploads[request[1]] = {name.lower(): value for name, value in self.headers.items()}
        if self._forbidden():
            self.journal.refused.append(request)
            self.answer(403, {}, _DENIED)
            return
        self.answer(*self.forward(body))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Ask the server behind; return its answer's status, headers and body."""
        url = urlsplit(self.upstream.endpoint)
        context = ssl.create_default_context(cafile=self.upstream.ca_file)
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _forbidden(self) -> bool:
        if f"Credential={self.creator}/" not in self.headers.get("Authorization", ""):
            return False
        if self.command == "PUT":
            return self.headers.get("If-None-Match") != "*"
        return self.command not in {"GET", "HEAD"}

    def answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
        """Send an answer; it announces `length` bytes instead of those that there are."""
        self.send_response(status)
        dropped = {"connection", "transfer-encoding", "date", "server"} | ({"content-length"} if length else set())
        kept = {name: value for name, value in headers.items() if name.lower() not in dropped}
        for name, value in kept.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in kept):
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def running(
    directory: Path, upstream: S3Settings, creator: str, handler_class: type[Handler] = Handler
) -> Iterator[tuple[str, str, Journal]]:
    """Run the proxy on loopback; yield its endpoint, its authority's certificate, and what it notes."""
    journal = Journal()
    with serving(directory, handler_class, upstream=upstream, creator=creator, journal=journal) as (endpoint, ca_pem):
        yield endpoint, ca_pem, journal
