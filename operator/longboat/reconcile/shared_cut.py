"""A run that shares the cut and the export of another one of its slot, and writes manifests of its own.

It waits for the other one, takes over what that one can say of the moment, has a second manifest written for each disk,
and goes on as every run does: its own manifest comes last. Until it has taken over, nothing of it is anywhere; whatever
is in the way, it captures its disks itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import timedelta

from pydantic import ValidationError

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.common import format_time
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP
from longboat.kube.port import Object
from longboat.plan.backoff import look_again
from longboat.plan.backup import expiry_rule
from longboat.plan.export import identity_of
from longboat.plan.problem import Problem
from longboat.plan.shared_cut import (
    circle,
    decide_again,
    following,
    given_up,
    impatience,
    is_exported,
    is_shared,
    is_undecided,
    is_waiting,
    leader_of,
    obstacle,
    taken_over,
    unknown_yet,
    waiting,
)
from longboat.reconcile.backup_generation import is_late
from longboat.reconcile.backup_run import LATER, SOON, Run
from longboat.reconcile.backup_store_access import open_repository, wait_or_fail
from longboat.reconcile.objects import load, readable
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, for_namespace, told_in_namespace
from longboat.repository import RepositoryError, SecondBackup, StoredDisk, StoreError, write_second_manifest

_AT_ONCE = timedelta(seconds=1)


def step(run: Run) -> bool:
    """Bring on a run that shares another one's cut, or may; return False if it captures its disks itself."""
    if is_undecided(run.backup):
        return _decide(run)
    if not is_shared(run.status):
        return False
    if _take_over(run):
        _store(run)
    return is_shared(run.status)


def _decide(run: Run) -> bool:
    others = list(_others(run))
    leader = leader_of(run.backup, others)
    if leader is not None:
        run.write(shared_cut=following(leader, run.ctx.now()))
        message = f"shares the cut and the export of DiskBackup {leader.name!r}, which has the same slot and its disks"
        run.event("Normal", "CutShared", message)
        run.wait(_AT_ONCE)
        return True
    if unknown_yet(run.backup, others, _policies(run, others), run.ctx.now()):
        run.wait(decide_again(run.backup, run.ctx.now()))
        return True
    return False


def _others(run: Run) -> Iterator[DiskBackup]:
    """Yield the runs of this slot that use the same machine, or have not said yet which one they use."""
    slot, machine = run.backup.spec.slot, run.status.virtual_machine
    assert slot is not None
    for each in dict.fromkeys((machine or "", "")):
        fields = (f"spec.slot={format_time(slot)}", f"status.virtualMachine={each}")
        found = run.ctx.cluster.list(DISK_BACKUP, run.backup.namespace, fields=fields)
        # Hundreds of runs may have one slot: those of other machines and disks are not worth being parsed.
        yield from readable(DiskBackup, (raw for raw in found if _may_matter(run, raw)))


def _may_matter(run: Run, raw: Object) -> bool:
    disks = (raw.get("status") or {}).get("disks")
    claims = {disk.claim.uid for disk in run.disks if disk.claim}
    same = disks is None or any((each.get("claim") or {}).get("uid") in claims for each in disks)
    return same and raw["spec"].get("virtualMachine") in (None, run.status.virtual_machine)


def _policies(run: Run, others: Iterable[DiskBackup]) -> Iterator[BackupPolicy]:
    """Yield the policies of runs that have not said what they have, and those that have yet to make theirs."""
    named = {each.spec.policy_ref.name for each in others if each.status.disks is None}
    slot = format_time(run.backup.spec.slot) if run.backup.spec.slot else ""
    found = run.ctx.cluster.list(BACKUP_POLICY, run.backup.namespace)
    return readable(BackupPolicy, (raw for raw in found if raw["metadata"]["name"] in named or _is_due(raw, slot)))


def _is_due(raw: Object, slot: str) -> bool:
    next_slot = (raw.get("status") or {}).get("nextSlot")
    return next_slot is not None and str(next_slot) <= slot


def _take_over(run: Run) -> bool:
    """Return whether what the other run captured is taken over, now or before."""
    shared = run.status.shared_cut
    assert shared is not None
    if shared.taken_over:
        return True
    leader = _leader(run, shared.name)
    problem = obstacle(run.backup, leader)
    if problem is not None or leader is None:
        _give_up(run, problem.why if problem else "")
        return False
    if not is_exported(run.backup, leader, run.ctx.now()):
        problem = circle(run.backup, _followed(run, leader)) or impatience(run.backup, leader, run.ctx.now())
        if problem is not None:
            _give_up(run, problem.why)
            return False
        run.write(disks=waiting(run.backup, leader))
        run.wait(look_again(run.ctx.now() - (run.status.started_at or run.ctx.now()), SOON, LATER))
        return False
    # Written before anything is stored: a deletion looks for the data then, where the status says it is.
    run.write(**taken_over(run.backup, leader, run.ctx.settings.unfreeze_timeout))
    run.event("Normal", "Captured", f"{run.status.consistency} consistent: {run.status.consistency_reason}")
    return True


def _leader(run: Run, name: str) -> DiskBackup | None:
    with contextlib.suppress(ValidationError):
        return load(run.ctx.cluster, DISK_BACKUP, DiskBackup, run.backup.namespace, name)
    return None


def _followed(run: Run, leader: DiskBackup | None) -> Iterator[DiskBackup]:
    """Yield the run that is followed, the one that it waits for itself, and so on, each of them once."""
    seen = set[str]()
    while leader is not None and leader.uid not in seen:
        yield leader
        seen.add(leader.uid)
        shared = leader.status.shared_cut if is_waiting(leader) else None
        found = _leader(run, shared.name) if shared else None
        leader = found if found and shared and found.uid == shared.uid else None


def _store(run: Run) -> None:
    """Have a second manifest written of each disk."""
    disks = run.in_phase("Exporting")
    access = open_repository(run, disks) if disks else None
    if access is None or not _in_time(run, disks):
        return
    for disk in disks:
        if not _write(run, access, disk):
            return


def _in_time(run: Run, disks: list[DiskResult]) -> bool:
    try:
        if not is_late(run):
            return True
    except StoreProblemError as error:
        wait_or_fail(run, Problem(error.reason, told_in_namespace(_store_name(run), error)), disks)
        return False
    _give_up(run, "the namespace got a new master key meanwhile")
    return False


def _write(run: Run, access: RepositoryAccess, disk: DiskResult) -> bool:
    expiry = expiry_rule(run.backup, run.status.retention) if run.status.retention else None
    second = SecondBackup(run.backup.name, identity_of(disk), disk.cut_time or run.ctx.now(), expiry)
    try:
        stored = write_second_manifest(access.repository, disk.parent or "", second)
    except RepositoryError as error:
        message = for_namespace(_store_name(run), error.reason, str(error))
        if isinstance(error, StoreError):
            wait_or_fail(run, Problem(error.reason, f"disk {disk.name!r}: {message}"), [disk])
        else:
            _give_up(run, f"disk {disk.name!r}: {message}")
        return False
    run.update(disk, **_exported(run, stored))
    return True


def _exported(run: Run, stored: StoredDisk) -> dict[str, object]:
    size, shared = stored.manifest.size_bytes, run.status.shared_cut
    return {
        "phase": "Completed",
        "message": f"captured and exported by DiskBackup {shared.name if shared else ''!r}",
        "progress": "100%",
        "bytes_done": size,
        "logical_bytes": size,
        "read_bytes": 0,
        "stored_bytes": 0,
        "mode": "Incremental",
        "since_full_read": stored.manifest.since_full_read,
        "manifest": stored.name,
        "object_id": stored.object_id,
    }


def _give_up(run: Run, why: str) -> None:
    run.write(**given_up(run.backup, why))
    run.event("Normal", "CutNotShared", f"{why}; the disks are captured for this backup alone")


def _store_name(run: Run) -> str:
    return run.status.store.name if run.status.store else ""
