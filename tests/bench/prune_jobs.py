"""Two prunes as their Jobs run them, without the day that lies between: the store's clock is put ahead instead.

A prune condemns what was written a grace period ago, and deletes what was condemned a grace period ago; that is 24
hours, never less than one, by the store's clock. So all that is different here from what a Job does is what that clock
says: everything looks a day older to the first prune and two days older to the second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from longboat.mover.jobs import PruneJob
from longboat.mover.prune import run_prune
from longboat.mover.results import PruneResult
from longboat.repository import (
    DEFAULT_GRACE,
    ObjectInfo,
    ObjectStore,
    advance_epoch,
    open_with_master_key,
    sweep_tombstones,
    write_tombstone,
)
from longboat.repository.object_store import Data

STEP = DEFAULT_GRACE + timedelta(hours=1)
"""How far the clock goes ahead before each of the two prunes."""


class AheadStore:
    """Passes everything on; what is written through it is stamped by a clock that is ahead. Counts bytes read."""

    def __init__(self, store: ObjectStore, ahead: timedelta) -> None:
        self._store, self._ahead, self._lock = store, ahead, threading.Lock()
        self._written: set[str] = set()
        self.read_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_new(self, name: str, data: Data) -> str:
        self._written.add(name)
        return self._store.put_new(name, data)

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        self._written.add(name)
        return self._store.put_if_match(name, data, etag)

    def get(self, name: str, max_size: int) -> bytes:
        data = self._store.get(name, max_size)
        self._count(len(data))
        return data

    def get_range(self, name: str, offset: int, length: int) -> Data:
        data = self._store.get_range(name, offset, length)
        self._count(len(data))
        return data

    def head(self, name: str) -> ObjectInfo:
        return self._stamped(self._store.head(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return map(self._stamped, self._store.list(prefix))

    def _stamped(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified=info.modified + self._ahead) if info.name in self._written else info

    def _count(self, more: int) -> None:
        with self._lock:
            self.read_bytes += more


def clock(ahead: timedelta) -> Callable[[], datetime]:
    """Return a clock that is ahead of this machine's, as an AheadStore's is."""
    return lambda: datetime.now(UTC) + ahead


def remove_backups(job: PruneJob, store: ObjectStore, names: Sequence[str], now: Callable[[], datetime]) -> None:
    """Put backups into the trash and sweep it, as the operator does at the end of their trash period (here: none)."""
    repository = open_with_master_key(store, job.repository_path, job.master_key_bytes(), os.urandom)
    epoch = advance_epoch(repository, {*job.known_tokens, job.token}, job.token)
    for name in names:
        write_tombstone(repository, name, now(), "bench")
    removed = sweep_tombstones(repository, now(), timedelta(0), epoch=epoch).removed_backups
    assert sorted(removed) == sorted(names), f"of {names} only {removed} were removed"


def prune_ahead(job: PruneJob, store: ObjectStore, now: Callable[[], datetime]) -> PruneResult:
    """Prune; what a prune puts off would not be measured, so that it is an AssertionError here."""
    result = run_prune(job, store, now=now)
    assert not result.note, result.note
    assert not result.later.objects + result.waiting.objects, f"the prune has left work for later: {result}"
    return result
