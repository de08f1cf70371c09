"""Automatic snapshots: one look at everything now and then, and a few writes with every tick.

A scan lists machines, claims and snapshots in chunks and reads nothing one by one. Its result is a queue that the ticks
work off slowly, so that the first day of an installation with 10,000 disks is no stampede.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from longboat.api import DiskSnapshot
from longboat.kube.kinds import (
    DISK_SNAPSHOT,
    NAMESPACE,
    PERSISTENT_VOLUME_CLAIM,
    STORAGE_CLASS,
    STORAGE_PROFILE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CLASS,
)
from longboat.kube.port import AlreadyExistsError, ConflictError, NotFoundError, Object, RefusedError
from longboat.plan.automatic import CLAIM_UID, Disk, Removal, Rules, Taken, due, removals, snapshot_of
from longboat.plan.disks import claims_in_use
from longboat.plan.names import OPT_OUT
from longboat.plan.problem import Problem
from longboat.plan.snapshot_class import choose_snapshot_class
from longboat.plan.snapshots import is_there, volume_snapshot_name
from longboat.reconcile import clock, disk_snapshot
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, readable
from longboat.reconcile.snapshot_use import SnapshotUsers

log = logging.getLogger(__name__)

SCAN_EVERY = timedelta(seconds=60)
SCAN_SHARE = 50
"""A scan that took t is repeated after 50 t at the earliest: at most 2 % of a core, however large the cluster."""
WRITES_PER_TICK = 20
PROVISIONERS = ("volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner")


@dataclass(frozen=True)
class Creation:
    """A DiskSnapshot to create."""

    snapshot: Object


@dataclass(frozen=True)
class Expiry:
    """A DiskSnapshot that has come to its expiry."""

    namespace: str
    name: str


Action = Creation | Removal | Expiry
Claim = tuple[str, str]
"""Namespace and UID: a UID alone could be claimed, in a label, by the snapshots of another namespace."""


@dataclass
class Memory:
    """What a process remembers from tick to tick; losing it costs one scan."""

    queue: deque[Action] = field(default_factory=deque)
    next_scan: datetime | None = None


_MEMORY = Memory()


def tick(ctx: Context, memory: Memory = _MEMORY) -> None:
    """Scan if it is time, and take the next few actions. Cheap when there is nothing to do."""
    if not memory.queue and (memory.next_scan is None or memory.next_scan <= ctx.now()):
        begun = ctx.now()
        memory.queue.extend(scan(ctx))
        memory.next_scan = ctx.now() + max(SCAN_EVERY, SCAN_SHARE * (ctx.now() - begun))
    _keep_if_untimely(ctx, memory)
    users = SnapshotUsers(ctx.cluster)
    for _ in range(min(WRITES_PER_TICK, len(memory.queue))):
        _act(ctx, memory.queue.popleft(), users)


def _keep_if_untimely(ctx: Context, memory: Memory) -> None:
    """Forget what would go now while the operator's clock is not to be believed; later scans find it again."""
    if any(not isinstance(each, Creation) for each in memory.queue) and clock.problem(ctx):
        memory.queue = deque(each for each in memory.queue if isinstance(each, Creation))


def scan(ctx: Context) -> list[Action]:
    """Return everything that is due now, removals first: they make room."""
    rules = Rules(ctx.settings.automatic_snapshot_every, ctx.settings.trash_period)
    taken, expired = _snapshots(ctx)
    disks, claims = _disks(ctx)
    known = {_claim_of(disk): disk for disk in disks}
    actions: list[Action] = []
    for claim, each in taken.items():
        actions += removals(known.get(claim), claim in claims, each, ctx.now(), rules)
    wanted = [disk for disk in disks if due(disk, taken.get(_claim_of(disk), ()), ctx.now(), rules)]
    # Expiry comes last: many of one user hold up the snapshots of nobody else.
    return actions + [Creation(snapshot_of(disk, ctx.now(), rules)) for disk in wanted] + expired


def _snapshots(ctx: Context) -> tuple[dict[Claim, list[Taken]], list[Action]]:
    taken: dict[Claim, list[Taken]] = defaultdict(list)
    expired: list[Action] = []
    users = SnapshotUsers(ctx.cluster)
    for each in readable(DiskSnapshot, ctx.cluster.list(DISK_SNAPSHOT)):
        if each.metadata.deletion_timestamp:
            continue
        if each.status.expires_at and each.status.expires_at <= ctx.now():
            # One that is needed still costs no place among what is done.
            if not users.of(each):
                expired.append(Expiry(each.namespace, each.name))
        elif each.spec.origin == "Automatic":
            taken[each.namespace, _claim_uid(each)].append(_taken(each))
    return taken, expired


def _claim_of(disk: Disk) -> Claim:
    return disk.namespace, disk.claim_uid


def _claim_uid(each: DiskSnapshot) -> str:
    return each.status.claim.uid if each.status.claim else each.metadata.labels.get(CLAIM_UID, "")


def _taken(each: DiskSnapshot) -> Taken:
    created = each.metadata.creation_timestamp
    moment, phase = each.status.taken_at or created, each.status.phase or "Pending"
    return Taken(each.namespace, each.name, each.uid, _claim_uid(each), created, moment, phase)


def _disks(ctx: Context) -> tuple[list[Disk], set[Claim]]:
    """Return the disks of all machines, and all claims, disks or not."""
    out_namespaces, out_machines = _opted_out_namespaces(ctx), set[tuple[str, str]]()
    users = claims_in_use(_machines(ctx, out_machines), ctx.cluster.list(VIRTUAL_MACHINE_INSTANCE))
    storage = _Storage(ctx)
    disks, claims = [], set()
    for claim in ctx.cluster.list(PERSISTENT_VOLUME_CLAIM):
        meta = claim["metadata"]
        claims.add((meta["namespace"], meta["uid"]))
        user = users.get((meta["namespace"], meta["name"]))
        if user is None or meta["namespace"] == ctx.settings.namespace or not _bound(claim):
            continue
        out = meta["namespace"] in out_namespaces or (meta["namespace"], user[0]) in out_machines or _opted_out(claim)
        wanted = ctx.settings.automatic_snapshots and not out
        disks.append(Disk(meta["namespace"], meta["name"], meta["uid"], *user, wanted, storage.can_snapshot(claim)))
    return disks, claims


def _machines(ctx: Context, opted_out: set[tuple[str, str]]) -> Iterator[Object]:
    for vm in ctx.cluster.list(VIRTUAL_MACHINE):
        if _opted_out(vm):
            opted_out.add((vm["metadata"]["namespace"], vm["metadata"]["name"]))
        yield vm


def _opted_out_namespaces(ctx: Context) -> set[str]:
    # A namespace that is going takes no new objects.
    return {
        each["metadata"]["name"]
        for each in ctx.cluster.list(NAMESPACE)
        if _opted_out(each) or each["metadata"].get("deletionTimestamp")
    }


def _opted_out(obj: Object) -> bool:
    return bool((obj["metadata"].get("labels") or {}).get(OPT_OUT) == "disabled")


def _bound(claim: Object) -> bool:
    return (claim.get("status") or {}).get("phase") == "Bound" and "deletionTimestamp" not in claim["metadata"]


class _Storage:
    """Tells from a few lists which claims can be snapshotted, without reading their volumes."""

    def __init__(self, ctx: Context) -> None:
        self._snapshot_classes = list(ctx.cluster.list(VOLUME_SNAPSHOT_CLASS))
        self._profiles = {each["metadata"]["name"]: each for each in ctx.cluster.list(STORAGE_PROFILE)}
        self._drivers = {each["metadata"]["name"]: each["provisioner"] for each in ctx.cluster.list(STORAGE_CLASS)}
        self._known: dict[tuple[str | None, str | None], bool] = {}

    def can_snapshot(self, claim: Object) -> bool:
        storage_class = claim["spec"].get("storageClassName")
        annotations = claim["metadata"].get("annotations") or {}
        annotated = next((annotations[key] for key in PROVISIONERS if key in annotations), None)
        key = (storage_class, annotated or self._drivers.get(storage_class or ""))
        if key not in self._known:
            profile = self._profiles.get(storage_class or "")
            chosen = choose_snapshot_class(key[1], self._snapshot_classes, profile)
            self._known[key] = not isinstance(chosen, Problem)
        return self._known[key]


def _act(ctx: Context, action: Action, users: SnapshotUsers) -> None:
    try:
        if isinstance(action, Creation):
            ctx.cluster.create(action.snapshot)
        elif isinstance(action, Removal):
            _remove(ctx, action, users)
        else:
            disk_snapshot.reconcile(ctx, action.namespace, action.name)
    except AlreadyExistsError:
        # The snapshot of this slot was made between the scan and now.
        return
    except (ConflictError, NotFoundError, RefusedError) as error:
        # One disk's trouble is not the others'; the next scan looks at it again.
        log.warning("automatic snapshots: %s", error)


def _remove(ctx: Context, removal: Removal, users: SnapshotUsers) -> None:
    """Delete a snapshot after a second look: what was true when the scan was made need not be true now."""
    old, successor = removal.snapshot, removal.successor
    found = load(ctx.cluster, DISK_SNAPSHOT, DiskSnapshot, old.namespace, old.name)
    if found is None or found.uid != old.uid or found.spec.origin != "Automatic":
        return
    if (found.status.phase or "Pending") != old.phase:
        return
    if (successor and not _still_ready(ctx, successor)) or users.of(found):
        return
    ctx.cluster.delete(DISK_SNAPSHOT, old.name, old.namespace, uid=old.uid)


def _still_ready(ctx: Context, each: Taken) -> bool:
    found = load(ctx.cluster, DISK_SNAPSHOT, DiskSnapshot, each.namespace, each.name)
    if found is None or found.uid != each.uid or found.status.phase != "Ready":
        return False
    # The status tells of what was; the data lies behind this.
    return is_there(ctx.cluster.get(VOLUME_SNAPSHOT, volume_snapshot_name(found), found.namespace), found)
