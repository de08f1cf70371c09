"""Where everything of the local cluster lies: outside the source tree, but for build/ with the kubeconfig."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.progress import say

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = Path(__file__).resolve().parent


def cache_dir() -> Path:
    """The cache that all checkouts share: $LONGBOAT_CACHE, or longboat/ under the user's cache directory."""
    explicit = os.environ.get("LONGBOAT_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longboat"


def checkout_id() -> str:
    """Eight hex digits that tell this checkout from others on the machine."""
    return hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]


def content_key(*parts: bytes) -> str:
    """A short key of some inputs; a change of any part, or of where one ends, changes it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the machine-wide lock `name`; waits for other processes, and a dead holder's lock is free at once."""
    path = lock_file(name)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_by_all(name: str) -> Iterator[Callable[[], bool]]:
    """Hold the machine-wide lock `name` together with others; the function gives it up and tells who was the last."""
    with lock_file(name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)

        def is_last() -> bool:
            # Not made exclusive at once: two that wait for each other's share would both be refused.
            fcntl.flock(handle, fcntl.LOCK_UN)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield is_last


def lock_file(name: str) -> Path:
    """The file of a lock; it stays when nobody holds it."""
    path = cache_dir() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
