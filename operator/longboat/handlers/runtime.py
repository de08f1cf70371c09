"""The running operator: its connection, its queue and its tick."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from longboat.handlers.metrics import MetricsServer
from longboat.handlers.settings import read_process_settings, read_settings
from longboat.kube.client import ApiServer, connect
from longboat.kube.kinds import NAMESPACE
from longboat.kube.port import Cluster, Object, UnavailableError
from longboat.reconcile import automatic_snapshots, disk_backup, restore_cleanup, routing
from longboat.reconcile.clock_steps import ClockSteps
from longboat.reconcile.context import Context
from longboat.reconcile.dispatch import work
from longboat.reconcile.figures import Figures
from longboat.reconcile.queue import Key, WorkQueue
from longboat.reconcile.routing import Owners
from longboat.reconcile.store_access import StoreAccess
from longboat.reconcile.tick import Tick, later
from longboat.reconcile.watch_check import WatchCheck

log = logging.getLogger(__name__)

HUNG = 1800.0
"""Seconds after which a worker is not expected back: every call has a time-out far below."""


@dataclass(frozen=True)
class Runtime:
    """What the handlers hand their events to."""

    ctx: Context
    queue: WorkQueue
    owners: Owners
    tick: Tick
    watches: WatchCheck
    metrics: MetricsServer | None = None

    def changed(self, obj: Object, change: str | None) -> None:
        """Take note of an event about an object of ours; never blocks on anything."""
        self.owners.note(obj, gone=change == "DELETED")
        for key, delay in routing.wakes(obj, change):
            self.queue.add(key, delay)
        if obj["kind"] == "BackupStore" and change is not None and routing.is_edited(obj):
            # Policies may have waited for it.
            self.tick.request_full()

    def child_changed(self, obj: Object, change: str | None = None) -> None:
        """Take note of an event about something that was made for an object of ours."""
        if key := self.owners.owner_of(obj, change):
            self.queue.add(key)

    def trouble(self) -> str | None:
        """Return what only a restart mends: hung workers, a tick that has stopped, a watch that tells of nothing."""
        if self.queue.is_stuck(HUNG):
            return f"all workers that a namespace may have are at the same objects for more than {HUNG:.0f} s"
        return self._too_old() or self.watches.silent()

    def _too_old(self) -> str | None:
        limit = max(60.0, 3 * self.ctx.settings.resync_period.total_seconds())
        age = self.tick.age()
        return f"the tick has come no further for {age:.0f} s, expected at most {limit:.0f} s" if age > limit else None

    def stop(self) -> None:
        """End the tick and the workers; what is not finished goes on with the next start."""
        if self.metrics is not None:
            self.metrics.stop()
        self.tick.stop()
        self.queue.stop()


def start() -> Runtime:
    """Connect, thaw what may be frozen first, and begin to work. Raises SettingsError, UnavailableError."""
    api = ApiServer(connect(os.environ.get("KUBECONFIG")))
    settings = replace(read_settings(os.environ), cluster_id=cluster_id(api))
    access = StoreAccess(api, settings)
    ctx = Context(api, api, lambda: datetime.now(UTC), time.sleep, settings, access, clock_steps=ClockSteps())
    queue, owners = WorkQueue(work(ctx), read_process_settings(os.environ).workers), Owners()
    watches, figures = WatchCheck(queue, owners), Figures()
    steps, cleaning = (
        (automatic_snapshots.tick, watches, figures),
        (
            disk_backup.sweep,
            restore_cleanup.sweep,
            # Three requests for each kept snapshot.
            later(queue, Key(routing.BASE_SNAPSHOTS, "", "")),
            figures.repositories,
            figures.machines,
        ),
    )
    tick = Tick(ctx, queue, owners, steps, cleaning, figures=figures)
    if frozen := tick.thaw_first():
        log.warning("%d backups were interrupted while a guest may have been frozen; they come first", frozen)
    queue.start()
    tick.start()
    log.info("longboat runs in namespace %s of cluster %s", settings.namespace, settings.cluster_id)
    return Runtime(ctx, queue, owners, tick, watches, _serve(figures))


def _serve(figures: Figures) -> MetricsServer | None:
    port = read_process_settings(os.environ).metrics_port
    try:
        return MetricsServer(figures, port) if port else None
    except OSError as error:
        # Backups come before what is told of them.
        log.error("no metrics: port %d can't be listened on: %s; set LONGBOAT_METRICS_PORT", port, error)
        return None


def cluster_id(cluster: Cluster) -> str:
    """Return the UID of the namespace kube-system, by which clusters that share a bucket are told apart."""
    found = cluster.get(NAMESPACE, "kube-system")
    if found is None:
        raise UnavailableError("the namespace kube-system does not exist yet")
    return str(found["metadata"]["uid"])
