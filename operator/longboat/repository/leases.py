"""Leases: what a writer is about to refer to, told to whoever removes packs.

A writer publishes `leases/<lease id>/<6 digits>` before it reads its parent, and a further one at least every
RENEW_EVERY with the packs uploaded since; all of them together are roots. A lease lives while its newest object is
younger, by the store's clock, than LEASE_TTL. It is removed at the end, as far as the credentials allow; a writer that
fails leaves it, so that the next attempt finds what was uploaded.

With each renewal the condemned lists are read: whoever holds a lease has seen every list that existed at any time since
the lease began, as lists live for a grace period of at least MIN_GRACE, and no two renewals begin further apart than
the time to live less a margin. A longer gap (a node that slept) ends the lease for good. It is measured by the writer's
clock and by the store's: the writer's stands still while its machine, itself a virtual one, is paused.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from .condemned import CondemnedPacks
from .documents import Document, seal_document
from .errors import LeaseLostError, StoreError
from .layout import ID_BYTES, LEASES, Kind
from .manifests import Text
from .object_store import put_fresh
from .repository import Repository

RENEW_EVERY = timedelta(minutes=2)
LEASE_TTL = timedelta(minutes=30)
_MARGIN = timedelta(minutes=10)  # A manifest is written only while the lease has this long to live.
_LONGEST_GAP = LEASE_TTL - _MARGIN
MIN_GRACE = timedelta(hours=1)  # Condemned packs stay at least this long: longer than any gap or late commit.
DEFAULT_GRACE = timedelta(hours=24)


def seconds_since_boot() -> float:
    """Return a clock that never jumps and goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseRecord(Document):
    """One renewal: what the writer works on and the names of the packs it uploaded since the last one."""

    disk_key: Text
    backup_name: Text
    parent: Text | None = None
    packs: tuple[Text, ...] = ()


class Lease:
    """A writer's lease; renewed by a thread of its own until it is released."""

    def __init__(
        self,
        repository: Repository,
        disk_key: str,
        backup_name: str,
        packs_since: Callable[[tuple[int, int]], tuple[list[str], list[str]]] = lambda _: ([], []),
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Prepare a lease; `packs_since((n, m))` names packs and map packs uploaded after the first n and m."""
        self._repository, self._disk_key, self._backup_name = repository, disk_key, backup_name
        self._packs_since, self._clock = packs_since, clock or seconds_since_boot
        self.condemned = CondemnedPacks(repository)
        self.modified = datetime.min.replace(tzinfo=UTC)  # When the newest object was written, by the store's clock.
        self._read_since: datetime | None = None  # That of the last renewal that read the lists, too.
        self._folder = f"{LEASES}{repository.random(ID_BYTES).hex()}/"
        self._parent: str | None = None
        self._reused: tuple[str, ...] = ()
        self._told, self._number = (0, 0), 0
        self._renewed, self._lost = self._clock(), False
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Publish the lease and keep it renewed."""
        self.renew()
        self._thread.start()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: Any) -> None:
        """Stop renewing; remove the lease's objects, or tell the rest of the uploaded packs if the writer failed."""
        self._stop.set()
        self._thread.join()
        if failure is None:
            self.remove()
            return
        with contextlib.suppress(StoreError):
            self.renew()

    def remove(self) -> None:
        """Remove the lease's objects, as far as the credentials allow."""
        # What can't be removed (credentials without that right, a store that is away) dies of age.
        with contextlib.suppress(StoreError):
            for number in range(self._number):
                self._repository.store.delete(f"{self._folder}{number:06d}")

    def name_parent(self, parent: str | None) -> None:
        """Publish which manifest is about to be read as parent."""
        self._parent = parent
        self.renew()

    def name_reused(self, packs: Sequence[str]) -> None:
        """Publish which packs of earlier attempts may be referred to, before any of them is looked at."""
        self._reused = tuple(packs)
        self.renew()

    def renew(self) -> None:
        """Publish the packs uploaded since the last time and read the condemned lists; a StoreError if that fails."""
        with self._lock:
            begun = self._clock()
            self._publish()
            stood_still = self._read_since is not None and self.modified - self._read_since > _LONGEST_GAP
            self._lost = self._lost or stood_still or begun - self._renewed > _LONGEST_GAP.total_seconds()
            self.condemned.refresh()
            self._renewed, self._read_since = begun, self.modified

    def assure(self) -> None:
        """Renew before a manifest is written; LeaseLostError if any renewal came so late that a list may be missed."""
        self.renew()
        if self._lost:
            raise LeaseLostError("the lease could not be renewed in time: packs it named may be gone; run it again")

    def _publish(self) -> None:
        packs, maps = self._packs_since(self._told)
        record = LeaseRecord(
            disk_key=self._disk_key,
            backup_name=self._backup_name,
            parent=self._parent,
            packs=(*self._reused, *packs, *maps),
        )
        data = seal_document(self._repository.keys, Kind.LEASE, self._repository.random(ID_BYTES), record)
        name = f"{self._folder}{self._number:06d}"
        # A number is used once, even if it is not known whether the write succeeded: the next object repeats the packs.
        self._number += 1
        self.modified = put_fresh(self._repository.store, name, data).modified
        self._told, self._reused = (self._told[0] + len(packs), self._told[1] + len(maps)), ()

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_EVERY.total_seconds()):
            # A failed renewal is made up for by the next one; assure() notices if none succeeded for too long.
            with contextlib.suppress(StoreError):
                self.renew()
