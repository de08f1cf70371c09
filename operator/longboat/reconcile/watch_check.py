"""Finds out whether the watches still tell of what happens: one that died without a word would delay everything.

A watch can stop telling of anything while its connection looks well (kopf#585, kopf#1276), and nothing in the process
sees it. So what the API server has is compared with what was told of, every half a minute in a small cluster and not at
more than 2 % of a core in a large one. What was found is worked on at once; a watch that is caught twice is replaced by
a restart of the process, through its liveness probe.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from longboat.kube.kinds import DISK_BACKUP, DISK_SNAPSHOT, RESTORE, Kind
from longboat.kube.port import Object
from longboat.reconcile import routing
from longboat.reconcile.context import Context
from longboat.reconcile.queue import WorkQueue
from longboat.reconcile.routing import LEFT_TO_DO, Owners

log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds from one look to the next."""
SHARE = 50
"""A look that took t is repeated after 50 t at the earliest."""
PATIENCE = timedelta(seconds=30)
"""An event may take this long; what is younger is left to the watch."""
CAUGHT = 2
"""A kind whose watch is found silent in so many looks, one after the other, has none."""
KINDS = (DISK_BACKUP, DISK_SNAPSHOT, RESTORE)


class WatchCheck:
    """A step of the tick; not for use by more than one thread, except silent()."""

    def __init__(self, queue: WorkQueue, owners: Owners, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._owners, self._monotonic = queue, owners, monotonic
        # The lists with which the watches begin have some time to arrive.
        self._next = monotonic() + EVERY
        self._caught: dict[str, int] = {}

    def __call__(self, ctx: Context) -> None:
        """Look, if it is time."""
        begun = self._monotonic()
        if begun < self._next:
            return
        # Also if a look fails, the next one is not before its time.
        self._next = begun + EVERY
        for kind in KINDS:
            self._look(ctx, kind)
        ended = self._monotonic()
        self._next = ended + max(EVERY, SHARE * (ended - begun))

    def silent(self) -> str | None:
        """Return which watch tells of nothing any more, None if all of them are well."""
        kind = next((kind for kind, count in self._caught.items() if count >= CAUGHT), None)
        return f"the watch of {kind} objects tells of nothing any more; a restart begins a new one" if kind else None

    def _look(self, ctx: Context, kind: Kind) -> None:
        # What is finished is not missed: of DiskBackups, whose history is long, only the others are asked for.
        fields = LEFT_TO_DO if kind == DISK_BACKUP else ()
        listed = ctx.cluster.list(kind, fields=fields, cached=True)
        missed = [each for each in listed if self._is_missed(each, ctx.now())]
        for each in missed:
            meta = each["metadata"]
            log.warning("%s %s/%s: no event has told of it", kind.name, meta["namespace"], meta["name"])
            self._owners.note(each)
            self._queue.add(routing.key_of(each))
        self._caught[kind.name] = self._caught.get(kind.name, 0) + 1 if missed else 0

    def _is_missed(self, obj: Object, now: datetime) -> bool:
        if not routing.is_open(obj) or self._owners.knows(obj["metadata"]["uid"]):
            return False
        return now - datetime.fromisoformat(obj["metadata"]["creationTimestamp"]) > PATIENCE
