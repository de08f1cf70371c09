"""Where everything of the local cluster lies: outside the source tree, but for build/ with the kubeconfig."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
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
    path = cache_dir() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
