"""A stand-in for the XML API of Google Cloud Storage, as its documentation describes it.

No emulator that can be had speaks the conditions of that API (x-goog-if-generation-match), which is what the client
uses. So this shows that our side speaks the protocol as documented; nothing here was seen at the real service.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from longboat.repository import StoreSettings
from tests.contract.servers import serving

BUCKET = "backups"
_PAGE = 1000
# A key that needs no token: where tokens come from is fixed, and can't be reached from a test.
KEY = json.dumps({"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True})


@dataclass(frozen=True)
class Stored:
    """An object; its generation is the microseconds of its writing."""

    data: bytes
    modified: datetime
    generation: int

    def headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{self.generation:x}"',
            "x-goog-generation": str(self.generation),
            "Last-Modified": format_datetime(self.modified, usegmt=True),
        }


@dataclass
class Bucket:
    """The objects; without `may_overwrite` as for the role Storage Object Creator: no overwriting, no deletion."""

    objects: dict[str, Stored] = field(default_factory=dict)
    may_overwrite: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)
    generation: int = 0

    def next_generation(self) -> int:
        self.generation = max(self.generation + 1, int(datetime.now(UTC).timestamp() * 1_000_000))
        return self.generation


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = self._name()
        if name is None:
            return
        with self.bucket.lock:
            current = self.bucket.objects.get(name)
            if current and not self.bucket.may_overwrite:
                self._error(403, "AccessDenied", "export@example does not have storage.objects.delete access")
                return
            wanted = self.headers.get("x-goog-if-generation-match")
            if wanted is not None and int(wanted) != (current.generation if current else 0):
                self._error(412, "PreconditionFailed")
                return
            stored = Stored(data, datetime.now(UTC), self.bucket.next_generation())
            self.bucket.objects[name] = stored
        self._answer(200, b"", stored.headers())

    def do_GET(self) -> None:
        name = self._name()
        if name == "":
            self._list()
        elif name is not None:
            self._read(name)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        name = self._name()
        if name is None:
            return
        if not self.bucket.may_overwrite:
            self._error(403, "AccessDenied")
        elif self.bucket.objects.pop(name, None) is None:
            self._error(404, "NoSuchKey")
        else:
            self._answer(204, b"")

    def log_message(self, *_: Any) -> None:
        return

    def _name(self) -> str | None:
        bucket, _, name = urlsplit(self.path).path.lstrip("/").partition("/")
        if bucket == BUCKET:
            return unquote(name)
        self._error(404, "NoSuchBucket")
        return None

    def _read(self, name: str) -> None:
        stored = self.bucket.objects.get(name)
        if stored is None:
            self._error(404, "NoSuchKey")
            return
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, stored.data, stored.headers())
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = stored.data[int(first) : int(last) + 1]
        if not part:
            self._error(416, "InvalidRange")
            return
        end, size = int(first) + len(part) - 1, len(stored.data)
        self._answer(206, part, stored.headers() | {"Content-Range": f"bytes {first}-{end}/{size}"})

    def _list(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        delimiter = query.get("delimiter", [""])[0]
        with self.bucket.lock:
            found = sorted(
                (name, each) for name, each in self.bucket.objects.items() if name.startswith(prefix) and name > after
            )
        folders = {_folder(name, prefix, delimiter) for name, _ in found} - {""}
        found = [(name, each) for name, each in found if not _folder(name, prefix, delimiter)]
        page, more = found[:_PAGE], len(found) > _PAGE
        text = "".join(_contents(name, each) for name, each in page)
        text += "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders))
        if more:
            text += f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>"
        body = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{text}</ListBucketResult>"
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str, details: str = "") -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Details>{details}</Details></Error>"
        self._answer(status, text.encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _folder(name: str, prefix: str, delimiter: str) -> str:
    """The part of a name up to the delimiter that follows the prefix, the delimiter with it; empty if none follows."""
    head, found, _ = name.removeprefix(prefix).partition(delimiter) if delimiter else (name, "", "")
    return f"{prefix}{head}{found}" if found else ""


def _contents(name: str, stored: Stored) -> str:
    modified = stored.modified.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    parts = {"Key": escape(name), "Size": len(stored.data), "LastModified": modified, "ETag": f"{stored.generation:x}"}
    return "<Contents>" + "".join(f"<{key}>{value}</{key}>" for key, value in parts.items()) + "</Contents>"


@contextmanager
def running(directory: Path, bucket: Bucket) -> Iterator[StoreSettings]:
    """Serve the bucket on loopback; yield how to reach it."""
    with serving(directory, _Handler, bucket=bucket) as (endpoint, ca_pem):
        yield StoreSettings(type="gcs", endpoint=endpoint, bucket=BUCKET, service_account_key=KEY, ca_pem=ca_pem)
