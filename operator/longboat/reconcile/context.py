"""What every reconciler is given: the ports, the clock and the operator's settings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from longboat.kube.port import Cluster, VirtualMachines
from longboat.reconcile.clock_steps import ClockSteps
from longboat.reconcile.repositories import Repositories


@dataclass(frozen=True)
class Settings:
    """The operator's configuration (values of the chart, passed by the environment)."""

    namespace: str
    """Namespace of the operator and its movers."""
    image: str
    """Image of the movers: the operator's own."""
    image_pull_policy: str = "IfNotPresent"
    location: str | None = None
    """Where this cluster is; a store in the same place is told so."""
    cluster_id: str = ""
    """UID of the namespace kube-system: separates clusters that share a bucket."""
    trash_period: timedelta = timedelta(days=7)
    """How long the data of a deleted backup can be brought back."""
    unfreeze_timeout: timedelta = timedelta(seconds=30)
    """The guest thaws itself after this, whatever happens to the operator."""
    snapshot_ready_within: timedelta = timedelta(hours=12)
    """How long a snapshot of a backup may take to be usable: some storage uploads it first."""
    automatic_snapshots: bool = True
    automatic_snapshot_every: timedelta = timedelta(days=1)
    mover_user: int = 107
    """User and group of the movers: the owner of disk.img files of KubeVirt."""
    mover_resources: dict[str, dict[str, str]] = field(default_factory=dict)
    mover_pull_secrets: tuple[str, ...] = ()
    movers_at_once: int = 10
    """Exports that may be under way at once, and restores as well: a restore never waits for backups."""
    mover_service_account: str = "default"
    """Service account of the movers; no token for the API server is mounted.

    It needs no rights but for changed blocks: the service asks whether it may get VolumeSnapshots here.
    """
    changed_blocks: bool = True
    """Ask CSI drivers with a SnapshotMetadataService what has changed, and keep the snapshots that this needs."""
    base_snapshot_longest: timedelta = timedelta(days=35)
    """How long a snapshot is kept at most for that: while it is, it holds the space of what was written since."""
    audit_percent: float = 1.0
    """Share of what a driver calls unchanged that each export reads and compares nevertheless."""
    full_read_every: int = 30
    """Every so many backups of a disk one reads everything whatever its driver says; 0: none does."""
    resync_period: timedelta = timedelta(seconds=10)
    """Period of the tick that finds what is due."""
    full_resync_period: timedelta = timedelta(minutes=5)
    """Period of the pass over everything: unfinished work, expiry, what no event told of."""
    store_check_period: timedelta = timedelta(minutes=5)
    """How often each BackupStore is tried out."""
    deletion_limit: int = 10
    """More DiskBackups than this deleted within an hour in a namespace stop and ask."""


@dataclass(frozen=True)
class Context:
    """Everything with an effect that a reconciler may use."""

    cluster: Cluster
    virtual_machines: VirtualMachines
    now: Callable[[], datetime]
    sleep: Callable[[float], None]
    settings: Settings
    repositories: Repositories
    expiring_edits: dict[str, threading.Lock] = field(default_factory=dict)
    """By namespace; held by the one who lets its backups expire because of edits, of which there may not be many."""
    many_deletions: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    """How many deletions there were when, by namespace; see deletion. Losing it costs a count."""
    not_seen: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """By store and namespace, why nothing of its backups was found there, None if something was; see stored_data."""
    clock_skew: dict[str, tuple[datetime, timedelta]] = field(default_factory=dict)
    """When the operator's clock was compared with another's, and by how much it was ahead of that; see clock."""
    clock_steps: ClockSteps | None = None
    """Whether clocks were put to another time since the operator began; see clock. None: nobody looks."""
