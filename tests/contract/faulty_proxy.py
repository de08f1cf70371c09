"""A proxy before the tests' S3 server that spoils chosen requests: no answer, half of one, a slow one, a 503, twice."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.cluster.s3 import S3Settings
from tests.contract import write_once_proxy

Fault = Literal["reset", "lost", "truncated", "slow", "unavailable", "duplicated"]
_STEPS = 8
_PAUSE = 0.05
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>reduce your rate</Message></Error>"


class Plan:
    """Which requests go wrong: `choose(method, path)` names a fault, or None; `met` counts those that did."""

    def __init__(self) -> None:
        self.choose: Callable[[str, str], Fault | None] = lambda method, path: None
        self.met = 0

    def first(self, fault: Fault, count: int, method: str, part: str) -> None:
        """Spoil the first `count` requests of a method whose path has this part."""
        self.met = 0

        def choose(asked: str, path: str) -> Fault | None:
            return fault if asked == method and part in path and self.met < count else None

        self.choose = choose


class FaultyHandler(write_once_proxy.Handler):
    """Passes requests on as the plan says; the server behind never gets half of one."""

    plan: Plan
    fault: Fault | None = None

    def pass_on(self) -> None:
        """Answer one request."""
        self.fault = self.plan.choose(self.command, self.path)
        self.plan.met += self.fault is not None
        if self.fault == "unavailable":
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer(503, {}, _BUSY)
        elif self.fault == "reset":
            self._reset()
        else:
            super().pass_on()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Ask the server behind, twice if that is the fault; the second answer is the one that is heard."""
        if self.fault == "duplicated":
            super().forward(body)
        return super().forward(body)

    def answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
        """Send an answer, or what the fault makes of it."""
        if self.fault == "lost":
            self._reset()
        elif self.fault == "truncated":
            self._send_part(status, headers, body)
        elif self.fault == "slow":
            self._send_slowly(status, headers, body)
        else:
            super().answer(status, headers, body)

    def _send_part(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().answer(status, headers, body[: len(body) // 2], len(body))
        self._reset()

    def _send_slowly(self, status: int, headers: dict[str, str], body: bytes) -> None:
        step = len(body) // _STEPS + 1
        super().answer(status, headers, body[:step], len(body))
        for at in range(step, len(body), step):
            time.sleep(_PAUSE)
            self.wfile.write(body[at : at + step])

    def _reset(self) -> None:
        self.close_connection = True
        # Lingering for no time makes the end of the connection a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            return  # The connection was reset.


@contextmanager
def running(directory: Path, upstream: S3Settings) -> Iterator[tuple[str, str, Plan]]:
    """Run the proxy on loopback; yield its endpoint, its authority's certificate, and the plan of its faults."""
    plan = Plan()
    handler: Any = type("Handler", (FaultyHandler,), {"plan": plan})
    with write_once_proxy.running(directory, upstream, "nobody", handler) as (endpoint, ca_pem, _):
        yield endpoint, ca_pem, plan
