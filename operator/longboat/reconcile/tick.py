"""The operator's heartbeat: finds what is due in chunked lists, so that no object needs a timer of its own.

Every few seconds it looks through the policies; every few minutes through everything that may have work left, which is
what heals a watch that has died. It only fills the queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, DISK_BACKUP, DISK_SNAPSHOT, RESTORE, VOLUME_SNAPSHOT
from longboat.kube.port import Cluster, Object
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND, OWNER_UID
from longboat.reconcile import routing, stored_data, trash_notes
from longboat.reconcile.context import Context
from longboat.reconcile.epochs import is_contested
from longboat.reconcile.figures import Figures
from longboat.reconcile.queue import LOW, NORMAL, URGENT, Key, WorkQueue
from longboat.reconcile.routing import LEFT_TO_DO, RETENTION, TRASH, Owners

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1)
BETWEEN_STORED = 0.2
"""Seconds between two namespaces whose backups are looked up in a store: after a start none waits for that."""

Step = Callable[[Context], object]


def later(queue: WorkQueue, key: Key) -> Step:
    """Return a step that leaves a task to the workers: what takes long holds up nothing that is due."""
    return lambda _: queue.add(key, priority=LOW)


class _Beating:
    """The cluster, which tells of each call and of each object of a list: so much the tick has come further."""

    def __init__(self, cluster: Cluster, beat: Callable[[], None]) -> None:
        self._cluster, self._beat = cluster, beat

    def __getattr__(self, name: str) -> Any:
        self._beat()
        return getattr(self._cluster, name)

    def list(self, *args: Any, **more: Any) -> Iterator[Object]:
        self._beat()
        for each in self._cluster.list(*args, **more):
            self._beat()
            yield each


class Tick:
    """Runs in a thread of its own; ``steps`` are done with every tick, ``cleaning`` with every full pass."""

    def __init__(
        self,
        ctx: Context,
        queue: WorkQueue,
        owners: Owners,
        steps: tuple[Step, ...] = (),
        cleaning: tuple[Step, ...] = (),
        monotonic: Callable[[], float] = time.monotonic,
        figures: Figures | None = None,
    ) -> None:
        self._queue, self._owners, self._figures = queue, owners, figures or Figures()
        self._ctx = replace(ctx, cluster=cast(Cluster, _Beating(ctx.cluster, self._beat)))
        self._steps, self._cleaning, self._monotonic = steps, cleaning, monotonic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tick", daemon=True)
        self._moved = monotonic()
        self._next_full: datetime | None = None
        self._next_hourly: datetime | None = None
        self._next_stored: datetime | None = None
        self._troubled: dict[str, datetime] = {}

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End after the tick that is under way."""
        self._stop.set()
        self._thread.join(timeout)

    def age(self) -> float:
        """Return the seconds since the tick came further: one that has much to do is not one that hangs."""
        return self._monotonic() - self._moved

    def request_full(self) -> None:
        """Have the next tick look through everything."""
        self._next_full = None

    def thaw_first(self) -> int:
        """Put the DiskBackups that may hold a guest frozen at the head of the queue; return how many there are."""
        keys = [routing.key_of(each) for each in self._ctx.cluster.list(DISK_BACKUP) if routing.has_open_cut(each)]
        for key in keys:
            self._queue.add(key, priority=URGENT)
        return len(keys)

    def once(self) -> None:
        """Tick: a step that fails is told of once and does not stop the others."""
        self._guarded("policies", self._policies)
        for step in self._steps:
            self._guarded(step.__module__, partial(step, self._ctx))
        if self._is_time(self._next_full):
            self._next_full = self._ctx.now() + self._ctx.settings.full_resync_period
            self._full()
        self._beat()

    def _run(self) -> None:
        period = self._ctx.settings.resync_period.total_seconds()
        while not self._stop.is_set():
            begun = self._monotonic()
            self.once()
            self._stop.wait(max(0.5, period - (self._monotonic() - begun)))

    def _beat(self) -> None:
        self._moved = self._monotonic()

    def _policies(self) -> None:
        now = self._ctx.now()
        for policy in self._figures.policies(self._ctx.cluster.list(BACKUP_POLICY), now.timestamp()):
            self._guarded(_named(policy), partial(self._policy, policy, now))

    def _policy(self, policy: Object, now: datetime) -> None:
        if routing.is_due(policy, now):
            self._queue.add(routing.key_of(policy))
        if routing.is_edited(policy):
            # What its backups and their manifests say of their expiry is not what it says any more.
            self._queue.add(routing.retention_of(policy))

    def _full(self) -> None:
        hourly = self._is_time(self._next_hourly)
        self._tell_of_hung()
        self._guarded("restores", self._restores)
        self._guarded("snapshots", self._snapshots)
        self._guarded("stores", self._stores)
        self._guarded("stuck policies", self._stuck_policies)
        self._guarded("backups", lambda: self._backups(hourly))
        for step in self._cleaning:
            self._guarded(step.__module__, partial(step, self._ctx))
        self._guarded("trash", lambda: self._trash(hourly))
        if hourly:
            self._next_hourly = self._ctx.now() + HOUR
        self._forget_troubled()

    def _restores(self) -> None:
        for each in self._ctx.cluster.list(RESTORE):
            self._guarded(_named(each), partial(self._look, each))

    def _snapshots(self) -> None:
        ready: dict[str, Key] = {}
        for each in self._ctx.cluster.list(DISK_SNAPSHOT):
            self._guarded(_named(each), partial(self._look, each))
            if routing.may_be_lost(each):
                ready[each["metadata"]["uid"]] = routing.key_of(each)
        if ready:
            self._lost(ready)

    def _lost(self, ready: dict[str, Key]) -> None:
        """Look at Ready DiskSnapshots whose VolumeSnapshot is gone: no event tells of it while the operator is away."""
        # Listed after its owners: what is made for one is there before the owner is Ready.
        for each in self._ctx.cluster.list(VOLUME_SNAPSHOT, labels={MANAGED_BY: MANAGER, OWNER_KIND: "DiskSnapshot"}):
            if "deletionTimestamp" not in each["metadata"]:
                ready.pop(each["metadata"]["labels"].get(OWNER_UID, ""), None)
        for key in ready.values():
            self._queue.add(key, priority=LOW)

    def _stores(self) -> None:
        for store in self._ctx.cluster.list(BACKUP_STORE):
            self._queue.add(routing.key_of(store))
            self._queue.add(routing.maintenance_of(store), priority=LOW)

    def _trash(self, hourly: bool) -> None:
        """Look at the trash every hour, and where somebody else is in charge in between: he may not be any more."""
        for place, data in trash_notes.noted(self._ctx):
            if hourly or is_contested(data):
                self._queue.add(Key(TRASH, place.namespace, place.name), priority=LOW)

    def _stuck_policies(self) -> None:
        for policy in self._ctx.cluster.list(BACKUP_POLICY):
            if routing.is_stuck(policy):
                self._queue.add(routing.key_of(policy), priority=LOW)

    def _backups(self, hourly: bool) -> None:
        """Look at what is under way, and every hour at the history too, which may be a hundred times as much."""
        horizon = routing.horizon(self._ctx.now(), HOUR)
        expiring: set[Key] = set()
        stored: dict[Key, None] = {}
        daily = hourly and self._is_time(self._next_stored)
        found = self._ctx.cluster.list(DISK_BACKUP, fields=() if hourly else LEFT_TO_DO, cached=True)
        for backup in self._figures.backups(found, all_of_them=hourly):
            self._guarded(_named(backup), partial(self._look, backup))
            if hourly and routing.may_expire(backup, horizon):
                expiring.add(routing.policy_of(backup, RETENTION))
            if daily and (key := routing.stored_data_of(backup)):
                stored[key] = None
        for key in expiring:
            self._queue.add(key, priority=LOW)
        if daily:
            self._next_stored = self._ctx.now() + stored_data.EVERY
            self._look_up(stored)

    def _look_up(self, stored: Iterable[Key]) -> None:
        """Have looked, one after the other, whether the stores hold what finished backups rely on."""
        keys = list(stored)
        looked_at = {(key.name, key.namespace) for key in keys}
        # What was said of namespaces that have no backups any more is forgotten; of others it holds till the next look.
        for store, said in list(self._ctx.not_seen.items()):
            for namespace in list(said):
                if (store, namespace) not in looked_at:
                    del said[namespace]
        for number, key in enumerate(keys):
            self._queue.add(key, number * BETWEEN_STORED, priority=LOW)

    def _tell_of_hung(self) -> None:
        for key in self._queue.hung(self._ctx.settings.full_resync_period.total_seconds()):
            log.warning("%s %s/%s has been worked on for long and has not come back; the others go on", *key)

    def _look(self, obj: Object) -> None:
        self._owners.note(obj)
        if routing.is_open(obj):
            self._queue.add(routing.key_of(obj), priority=NORMAL)

    def _is_time(self, moment: datetime | None) -> bool:
        return moment is None or moment <= self._ctx.now()

    def _guarded(self, name: str, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            log.log(
                logging.DEBUG if name in self._troubled else logging.WARNING,
                "tick: %s: %s: %s; tried again with the next one",
                name,
                type(error).__name__,
                error,
            )
            self._troubled[name] = self._ctx.now()
        else:
            self._troubled.pop(name, None)

    def _forget_troubled(self) -> None:
        """Forget what was in trouble and has not been met since: an object that is gone, for one."""
        since = self._ctx.now() - max(2 * HOUR, 2 * self._ctx.settings.full_resync_period)
        self._troubled = {name: when for name, when in self._troubled.items() if when >= since}


def _named(obj: Object) -> str:
    return "{} {}/{}".format(*routing.key_of(obj))
