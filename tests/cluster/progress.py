"""Progress lines with the seconds since the program began, so that a slow step is seen as it happens."""

from __future__ import annotations

import sys
import threading
import time

_BEGAN = time.monotonic()
_LOCK = threading.Lock()


class ClusterError(RuntimeError):
    """Something the local cluster needs is missing or did not come up; the message says what to do."""


def say(text: str) -> None:
    """Print one line to standard error; steps that run in parallel do not mix their lines."""
    with _LOCK:
        print(f"[{time.monotonic() - _BEGAN:6.1f}s] {text}", file=sys.stderr, flush=True)
