"""Progress lines with the seconds since the program began, so that a slow step is seen as it happens, and waiting."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_BEGAN = time.monotonic()
_LOCK = threading.Lock()
T = TypeVar("T")


class ClusterError(RuntimeError):
    """Something the local cluster needs is missing or did not come up; the message says what to do."""


def say(text: str) -> None:
    """Print one line to standard error; steps that run in parallel do not mix their lines."""
    with _LOCK:
        print(f"[{time.monotonic() - _BEGAN:6.1f}s] {text}", file=sys.stderr, flush=True)


def wait_until(
    look: Callable[[], T],
    seconds: float,
    what: str,
    interval: float = 0.1,
    *,
    error: type[Exception] = ClusterError,
    evidence: Callable[[], str] | None = None,
) -> T:
    """Look until something is there, and return it.

    Raises `error` after `seconds`, naming `what` and adding the `evidence` of how things stand then.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise error("\n".join([f"waited {seconds:.0f} s in vain: {what}", *([evidence()] if evidence else [])]))
        time.sleep(interval)
    return found
