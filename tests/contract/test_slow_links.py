"""A link that is slow but moves ends no backup; one that stands still does not hold it for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from longboat.plan.mover import HUNG_AFTER
from longboat.repository import ObjectStore, StoreSettings, open_store
from longboat.repository.bucket_clients import Patience
from longboat.repository.errors import UnreachableError
from longboat.repository.layout import PACK_TARGET
from longboat.repository.leases import MIN_GRACE
from tests.contract.servers import serving

SIZE = 3 << 20
PATIENCE = Patience(connect=5, request=1, idle=1, retries=0, retry_for=1)
IMPATIENT = replace(PATIENCE, least_rate=64 << 20)
_STEPS = 20


@dataclass
class Link:
    """How slow the link is: seconds that a transfer takes, and how many requests get no answer for so long at first."""

    seconds: float = 2.0
    stuck: int = 0
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """A server of one object of SIZE zeros, behind the link."""

    protocol_version = "HTTP/1.1"
    link: Link

    def do_PUT(self) -> None:
        """Take a body slowly."""
        length = int(self.headers["Content-Length"])
        if self._moves():
            for _ in range(_STEPS):
                self.rfile.read(length // _STEPS)
                time.sleep(self.link.seconds / _STEPS)
            self.rfile.read(length - length // _STEPS * _STEPS)
            self._head(200, 0)

    def do_GET(self) -> None:
        """Send the object slowly; a stuck one stops after its first byte."""
        self.link.asked.append("GET")
        self._head(206, SIZE)
        self.wfile.write(bytes(1))
        self.link.asked.pop()
        if self._moves():
            for _ in range(_STEPS):
                self.wfile.write(bytes((SIZE - 1) // _STEPS))
                time.sleep(self.link.seconds / _STEPS)
            self.wfile.write(bytes(SIZE - 1 - (SIZE - 1) // _STEPS * _STEPS))

    def _moves(self) -> bool:
        self.link.asked.append(self.command)
        if len(self.link.asked) > self.link.stuck:
            return True
        time.sleep(8)
        self.close_connection = True
        return False

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(length))
        if status == 206:
            self.send_header("Content-Range", f"bytes 0-{SIZE - 1}/{SIZE}")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def opened(tmp_path: Path, link: Link) -> Iterator[Callable[[Patience], ObjectStore]]:
    server: AbstractContextManager[tuple[str, str]] = serving(tmp_path, Handler, link=link)
    with server as (endpoint, ca):
        keys = {"access_key_id": "a", "secret_access_key": "s"}
        settings = StoreSettings(type="s3", endpoint=endpoint, bucket="bucket", ca_pem=ca, **keys)
        yield lambda patience: open_store(settings, patience)


Opened = Callable[[Patience], ObjectStore]


def test_what_moves_is_not_cut_off(opened: Opened, link: Link) -> None:
    store = opened(PATIENCE)
    store.put_new("packs/ab", bytes(SIZE))
    assert bytes(store.get_range("packs/ab", 0, SIZE)) == bytes(SIZE)
    assert link.asked == ["PUT", "GET"]


def test_what_stood_still_once_is_tried_again(opened: Opened, link: Link) -> None:
    link.stuck, link.seconds = 1, 0.1
    opened(IMPATIENT).put_new("packs/ab", bytes(SIZE))
    assert link.asked == ["PUT"] * 2
    link.asked.clear()
    assert len(opened(PATIENCE).get_range("packs/ab", 0, SIZE)) == SIZE
    assert link.asked == ["GET"] * 2


def test_what_stands_still_ends(opened: Opened, link: Link) -> None:
    link.stuck = 99
    with pytest.raises(UnreachableError, match="no answer in time"):
        opened(IMPATIENT).put_new("packs/ab", bytes(SIZE))
    with pytest.raises(UnreachableError, match="no answer in time"):
        opened(PATIENCE).get_range("packs/ab", 0, SIZE)
    assert link.asked == ["PUT"] * 2 + ["GET"] * 2


def test_a_transfer_ends_before_its_mover_is_taken_for_hung() -> None:
    patience, longest = Patience(), Patience().for_size(PACK_TARGET)
    assert patience.for_size(1 << 40) == longest < HUNG_AFTER.total_seconds()
    assert longest * (1 + patience.after_timeout) < MIN_GRACE.total_seconds()
    assert PACK_TARGET / patience.least_rate <= longest and patience.retry_for > patience.request
