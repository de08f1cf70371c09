"""Which metrics there are, and what objects say in them: from raw objects, without reading models.

Nothing counts in the operator's memory: what a restart would lose is kept in the status of policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from longboat.plan.disks import vm_disks
from longboat.plan.maintenance import RepositoryRecord
from longboat.plan.maintenance_status import PRUNED, VERIFIED
from longboat.plan.master_keys import NOT_RENEWED, RENEWED
from longboat.plan.policy import DISKS_LEFT_OUT
from longboat.plan.policy_figures import MOST_TARGETS
from longboat.plan.quantities import bytes_of
from longboat.plan.retention import FINISHED
from longboat.plan.store_locks import FAILED as LOCKS_NOT_EXTENDED
from longboat.plan.stored_data import NOT_SEEN
from longboat.plan.take_over import CONFLICT

Object = dict[str, Any]
Sample = tuple[str, tuple[str, ...], float]
"""The name of a metric, the values of its labels in their order, and its value."""
POLICY = ("namespace", "policy")
TARGET = (*POLICY, "kind", "target")
DISK = (*POLICY, "store", "vm", "disk", "claim")

REPOSITORY = ("store", "namespace")
DELETED = "(deleted)"
"""Stands for the namespaces that are gone: no namespace has such a name."""
SEVERAL = "(several)"
"""Stands for what is of no single claim."""


@dataclass(frozen=True)
class Metric:
    """One family: names of counters end in _total, those of summaries stand for _count and _sum."""

    name: str
    type: Literal["gauge", "counter", "summary"]
    help: str
    labels: tuple[str, ...] = ()


_LAST_SUCCESS = "longboat_policy_target_last_success_timestamp_seconds"

_WARNINGS = {
    NOT_SEEN: (NOT_SEEN,),
    CONFLICT: (CONFLICT,),
    PRUNED: ("PruneHeld", "NotListed"),
    VERIFIED: ("NotListed", "Late"),
    RENEWED: (NOT_RENEWED,),
}
"""By a condition of a BackupStore those of its reasons that are not metrics of their own."""

# By the path in the status of a BackupStore: what is not there has not been found out.
_UPKEEP = {
    ("repositories",): (
        "repositories",
        "Repositories of this cluster in it: of each namespace, also one that is gone, one for each master key.",
    ),
    ("prune", "lastRunTime"): ("prune_timestamp_seconds", "When a prune ended well for the last time."),
    ("prune", "freedBytes"): ("prune_freed_bytes", "What the last prune of each repository removed."),
    ("prune", "waitingBytes"): ("prune_waiting_bytes", "What later ones remove, after their grace period."),
    ("prune", "failing"): ("prune_failing", "Repositories whose last prune failed."),
    ("verify", "oldestRunTime"): (
        "verify_oldest_timestamp_seconds",
        "When the repository was verified that has not been for the longest time, or was first seen if it never was.",
    ),
    ("verify", "damaged"): ("damaged_backups", "Backups that the last verification of their repository found damaged."),
    ("verify", "lost"): (
        "lost_backups",
        "Those among the damaged that can't be restored whole; deleted ones do not count.",
    ),
    ("verify", "failing"): ("verify_failing", "Repositories whose last verification failed."),
}

METRICS = (
    Metric("longboat_build_info", "gauge", "1; the operator's version.", ("version",)),
    Metric("longboat_tick_timestamp_seconds", "gauge", "When the operator last came to the end of all policies."),
    Metric(
        "longboat_clock_skew_seconds",
        "gauge",
        "By how much the operator's clock and the API server's differ; 0 while both say the same.",
    ),
    Metric("longboat_policy_info", "gauge", "1; a BackupPolicy in words.", (*POLICY, "target", "schedule", "store")),
    Metric("longboat_policy_expected_interval_seconds", "gauge", "From one slot of the schedule to the next.", POLICY),
    Metric(
        "longboat_policy_suspended_timestamp_seconds", "gauge", "Since when it is suspended; absent otherwise.", POLICY
    ),
    Metric("longboat_policy_stalled", "gauge", "1 while it can't go on; absent otherwise.", (*POLICY, "reason")),
    Metric(
        "longboat_policy_protected",
        "gauge",
        "1 if every target has a good backup as recent as the schedule promises, else 0.",
        POLICY,
    ),
    Metric(
        "longboat_policy_disks_left_out",
        "gauge",
        "1 while the newest good backups lack disks that no backup can hold; absent otherwise.",
        POLICY,
    ),
    Metric(
        _LAST_SUCCESS,
        "gauge",
        "Moment that the newest good backup of a virtual machine or claim holds; 0: there is none.",
        TARGET,
    ),
    Metric(
        "longboat_policy_target_overdue_timestamp_seconds",
        "gauge",
        "When that backup will be, or was, too old: half an interval after the slot that should have followed it. "
        "Absent while the policy is suspended.",
        TARGET,
    ),
    Metric(
        "longboat_vm_protected",
        "gauge",
        "1 if a policy, suspended or not, has the virtual machine or a disk of it as its target, else 0.",
        ("namespace", "vm"),
    ),
    Metric("longboat_backups_kept", "gauge", "DiskBackups that are kept, failed and unfinished ones included.", POLICY),
    Metric(
        "longboat_backups_total",
        "counter",
        "DiskBackups of the policy that have ended; result is Completed, PartiallyFailed or Failed.",
        (*POLICY, "result"),
    ),
    Metric("longboat_backup_duration_seconds", "summary", "How long they took, from their start to their end.", POLICY),
    Metric("longboat_backup_read_bytes_total", "counter", "What they read from disks.", POLICY),
    Metric("longboat_backup_transferred_bytes_total", "counter", "What they added to the store.", POLICY),
    Metric(
        "longboat_backups_unfinished", "gauge", "DiskBackups that have not ended; absent if there are none.", POLICY
    ),
    Metric(
        "longboat_backup_oldest_unfinished_timestamp_seconds", "gauge", "When the oldest of these was created.", POLICY
    ),
    Metric(
        "longboat_stored_bytes",
        "gauge",
        "What the kept backups of a disk have added to the store; also of policies that are gone.",
        DISK,
    ),
    Metric("longboat_backups_data_missing", "gauge", "DiskBackups whose data is gone (condition DataMissing).", POLICY),
    Metric("longboat_suspect_backups", "gauge", "DiskBackups that may hold wrong blocks (condition Suspect).", POLICY),
    Metric(
        "longboat_change_tracking_mismatches",
        "gauge",
        "DiskBackups that found their CSI driver wrong on what has changed.",
        POLICY,
    ),
    # Not where it is: whatever can reach the port would read it.
    Metric("longboat_store_info", "gauge", "1; a BackupStore.", ("store",)),
    Metric("longboat_store_capacity_bytes", "gauge", "spec.capacity of the store; absent if it has none.", ("store",)),
    Metric(
        "longboat_store_up", "gauge", "1 if backups can be written and read, else 0; absent if unknown.", ("store",)
    ),
    Metric(
        "longboat_store_warning",
        "gauge",
        "1 while a condition of the store has the reason BackupsNotSeen, EpochConflict, PruneHeld, NotListed, Late or "
        "RenewalFailed, or is LocksNotExtended; absent otherwise.",
        ("store", "reason"),
    ),
    Metric("longboat_store_last_check_timestamp_seconds", "gauge", "When that was last tried.", ("store",)),
    Metric(
        "longboat_store_locks_kept_timestamp_seconds",
        "gauge",
        "When all locks of a write-once bucket were last looked at, to extend them; absent where there are none.",
        ("store",),
    ),
    Metric(
        "longboat_repository_live_bytes",
        "gauge",
        "What a namespace's backups need in a store, as its last prune found; (deleted): those that are gone.",
        REPOSITORY,
    ),
    Metric(
        "longboat_claim_live_bytes",
        "gauge",
        "The same by the claim whose disk it is; (several): what disks share, the small index of all, and the smallest "
        "disks of a namespace with very many.",
        (*REPOSITORY, "claim"),
    ),
    Metric(
        "longboat_store_used_bytes",
        "gauge",
        "What lies there of it altogether: also what a later prune removes. Without manifests and leases.",
        REPOSITORY,
    ),
    *(Metric(f"longboat_store_{name}", "gauge", text, ("store",)) for name, text in _UPKEEP.values()),
)
RESULTS = (("Completed", "completed"), ("PartiallyFailed", "partiallyFailed"), ("Failed", "failed"))


def policy_samples(policy: Object) -> Iterator[Sample]:
    """Yield what a BackupPolicy says. Raises ValueError, TypeError or AttributeError if it can't be read."""
    meta, spec, status = policy["metadata"], policy["spec"], policy.get("status") or {}
    its = (meta["namespace"], meta["name"])
    store = (spec.get("storeRef") or {}).get("name", "")
    yield "longboat_policy_info", (*its, status.get("target") or "", status.get("schedule") or "", store), 1.0
    if (interval := status.get("expectedIntervalSeconds")) is not None:
        yield "longboat_policy_expected_interval_seconds", its, float(interval)
    if since := status.get("suspendedAt"):
        yield "longboat_policy_suspended_timestamp_seconds", its, seconds(since)
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    if _holds(conditions, "Stalled"):
        yield "longboat_policy_stalled", (*its, str(conditions["Stalled"]["reason"])), 1.0
    if "Protected" in conditions:
        yield "longboat_policy_protected", its, float(_holds(conditions, "Protected"))
        if conditions["Protected"]["reason"] == DISKS_LEFT_OUT:
            yield "longboat_policy_disks_left_out", its, 1.0
    for target in status.get("targets") or ():
        yield from _target(its, target)
    yield "longboat_backups_kept", its, float(status.get("backups") or 0)
    yield from _totals(its, status.get("totals") or {})
    for each in status.get("usage") or ():
        yield "longboat_stored_bytes", (*its, *_disk(each)), float(each.get("storedBytes") or 0)
    yield "longboat_backups_data_missing", its, float(status.get("dataMissing") or 0)
    yield "longboat_suspect_backups", its, float(status.get("suspectBackups") or 0)
    yield "longboat_change_tracking_mismatches", its, float(status.get("changeTrackingMismatches") or 0)


def _target(its: tuple[str, str], target: Object) -> Iterator[Sample]:
    labels = (*its, target["kind"], target["name"])
    success, late = target.get("lastSuccessTime"), target.get("overdueAt")
    yield _LAST_SUCCESS, labels, seconds(success) if success else 0.0
    if late:
        yield "longboat_policy_target_overdue_timestamp_seconds", labels, seconds(late)


def _totals(its: tuple[str, str], totals: Object) -> Iterator[Sample]:
    counts = [(result, float(totals.get(key) or 0)) for result, key in RESULTS]
    for result, count in counts:
        yield "longboat_backups_total", (*its, result), count
    yield "longboat_backup_duration_seconds_count", its, sum(count for _, count in counts)
    yield "longboat_backup_duration_seconds_sum", its, float(totals.get("seconds") or 0)
    yield "longboat_backup_read_bytes_total", its, float(totals.get("readBytes") or 0)
    yield "longboat_backup_transferred_bytes_total", its, float(totals.get("storedBytes") or 0)


def _disk(usage: Object) -> tuple[str, ...]:
    return tuple(str(usage.get(key) or "") for key in ("store", "virtualMachine", "disk", "claim"))


def store_samples(store: Object) -> Iterator[Sample]:
    """Yield what a BackupStore says. Raises ValueError, TypeError or AttributeError if it can't be read."""
    status, name = store.get("status") or {}, store["metadata"]["name"]
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    yield "longboat_store_info", (name,), 1.0
    if capacity := store["spec"].get("capacity"):
        yield "longboat_store_capacity_bytes", (name,), float(bytes_of(capacity))
    if conditions.get("Available", {"status": "Unknown"})["status"] != "Unknown":
        yield "longboat_store_up", (name,), float(_holds(conditions, "Available"))
    said = {type_: str(conditions[type_]["reason"]) for type_ in _WARNINGS if type_ in conditions}
    if _holds(conditions, LOCKS_NOT_EXTENDED):
        # Whatever is in the way: the locks end all the same.
        yield "longboat_store_warning", (name, LOCKS_NOT_EXTENDED), 1.0
    if (kept := status.get("locksKeptTime")) and (store["spec"].get("s3") or {}).get("objectLock"):
        yield "longboat_store_locks_kept_timestamp_seconds", (name,), seconds(kept)
    for reason in sorted({reason for type_, reason in said.items() if reason in _WARNINGS[type_]}):
        yield "longboat_store_warning", (name, reason), 1.0
    if checked := status.get("lastCheckTime"):
        yield "longboat_store_last_check_timestamp_seconds", (name,), seconds(checked)
    for path, (metric, _) in _UPKEEP.items():
        found: Any = status.get("maintenance") or {}
        for step in path:
            found = (found or {}).get(step)
        if found is not None:
            yield f"longboat_store_{metric}", (name,), seconds(found) if path[-1].endswith("Time") else float(found)


def machine_samples(machines: Iterable[Object], policies: Iterable[Iterable[Sample]]) -> Iterator[Sample]:
    """Yield which virtual machines are targets, given what each policy says.

    Nothing is said of a namespace with a policy that has more targets than its status tells of.
    """
    covered, unclear = set[tuple[str, ...]](), set[str]()
    for samples in policies:
        targets = [labels for name, labels, _ in samples if name == _LAST_SUCCESS]
        if len(targets) >= MOST_TARGETS:
            unclear.add(targets[0][0])
        covered |= {(namespace, kind, target) for namespace, _, kind, target in targets}
    for vm in machines:
        meta = vm["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        if namespace in unclear or "deletionTimestamp" in meta:
            continue
        claims = {(namespace, "PersistentVolumeClaim", disk.claim) for disk in vm_disks(vm, None)}
        protected = (namespace, "VirtualMachine", name) in covered or not claims.isdisjoint(covered)
        yield "longboat_vm_protected", (namespace, name), float(protected)


def repository_samples(
    records: Iterable[RepositoryRecord], names: Mapping[str, str], buckets: Mapping[str, str]
) -> Iterator[Sample]:
    """Yield what lies in the stores, as far as a prune has looked.

    ``names`` are those of the living namespaces by UID: a record's own may be another tenant's by now. ``buckets`` says
    where each store leads (see bucket_of): what is not there, or not any more, is left out.
    """
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for each in records:
        if (result := each.prune.result) is None or not _lies_there(each, buckets):
            continue
        labels = (each.store, names.get(each.namespace_uid) or DELETED)
        rest = (result.condemned, result.waiting, result.later, result.leased)
        sizes: dict[tuple[str, tuple[str, ...]], int] = {("longboat_repository_live_bytes", labels): result.live.bytes}
        sizes["longboat_store_used_bytes", labels] = result.live.bytes + sum(count.bytes for count in rest)
        for claim, size in result.live_by_claim.items():
            sizes["longboat_claim_live_bytes", (*labels, claim or SEVERAL)] = size
        for key, size in sizes.items():
            # Many namespaces may be gone.
            found[key] = found.get(key, 0.0) + size
    yield from ((name, labels, size) for (name, labels), size in found.items())


def _lies_there(record: RepositoryRecord, buckets: Mapping[str, str]) -> bool:
    known = record.store in buckets and record.missing is None
    # Where an older version's prune has looked was not noted: the next one says it.
    return known and record.prune.bucket in ("", buckets[record.store])


@dataclass
class Survey:
    """What a pass over DiskBackups has seen of each policy, by namespace and name, and of each disk."""

    unfinished: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    """How many have not ended, and when the oldest of these was created."""
    stored: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Bytes by the labels of longboat_stored_bytes."""

    def note(self, backup: Object) -> None:
        """Take a DiskBackup into account. Raises ValueError, TypeError, AttributeError or KeyError: it is left out."""
        status, meta = backup.get("status") or {}, backup["metadata"]
        policy = (meta["namespace"], backup["spec"]["policyRef"]["name"])
        if status.get("phase") not in FINISHED:
            count, oldest = self.unfinished.get(policy, (0, float("inf")))
            self.unfinished[policy] = count + 1, min(oldest, seconds(meta["creationTimestamp"]))
        store, machine = (status.get("store") or {}).get("name") or "", status.get("virtualMachine") or ""
        for disk in status.get("disks") or () if status.get("manifest") else ():
            if disk.get("phase") == "Completed":
                key = (*policy, store, machine, disk["name"], (disk.get("claim") or {}).get("name") or "")
                self.stored[key] = self.stored.get(key, 0) + int(disk.get("storedBytes") or 0)


def unfinished_samples(unfinished: Mapping[tuple[str, str], tuple[int, float]]) -> Iterator[Sample]:
    """Yield what is under way."""
    for policy, (count, oldest) in unfinished.items():
        yield "longboat_backups_unfinished", policy, float(count)
        yield "longboat_backup_oldest_unfinished_timestamp_seconds", policy, oldest


def orphan_samples(stored: Mapping[tuple[str, ...], int], policies: Iterable[tuple[str, str]]) -> Iterator[Sample]:
    """Yield what the backups of other policies than these, which say it themselves, have added to the stores."""
    known = set(policies)
    for labels, size in stored.items():
        if labels[:2] not in known:
            yield "longboat_stored_bytes", labels, float(size)


def seconds(moment: str) -> float:
    """Return a moment of the API server in seconds since 1970; ValueError if it is none."""
    return datetime.fromisoformat(moment).timestamp()


def _holds(conditions: Mapping[str, Object], type_: str) -> bool:
    return bool(conditions.get(type_, {}).get("status") == "True")
