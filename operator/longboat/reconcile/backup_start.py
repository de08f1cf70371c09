"""The beginning of a run: find out everything it depends on and write it down, before anything is touched.

A DiskBackup whose manifest is in the store is adopted instead, and one of a slot long gone is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta

from longboat.api import BackupPolicy, BackupStore
from longboat.api.disk_backup import DiskResult, PinnedPolicy, PinnedStore
from longboat.kube.kinds import (
    BACKUP_POLICY,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
)
from longboat.kube.port import Object
from longboat.plan import kstatus
from longboat.plan.backoff import look_again
from longboat.plan.backup import expires_at, gave_up, is_punctual, last_begin, slot_missed
from longboat.plan.backup_target import (
    Wanted,
    content_of,
    disks_of,
    hopeless,
    pinned,
    target_of,
    wanted,
    with_problem,
)
from longboat.plan.block_size import block_size_of
from longboat.plan.disks import VmDisk, claim_problem, claims_in_use
from longboat.plan.generations import FIRST
from longboat.plan.problem import Problem
from longboat.plan.state import state_user
from longboat.plan.stores import admits
from longboat.reconcile.backup_adoption import adopt_from
from longboat.reconcile.backup_run import LATER, Run
from longboat.reconcile.backup_store_access import each_at, known_bad_at, open_at
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess
from longboat.reconcile.snapshot_support import Machine, machine, snapshot_class_of, state_claims
from longboat.reconcile.store_choice import labels_of, store_for, stores_of
from longboat.reconcile.trash_notes import note_unseen

log = logging.getLogger(__name__)


def begin(run: Run) -> bool:
    """Pin the run; return False if it can't begin now, or need not: adopted, refused or stalled."""
    policy = load(run.ctx.cluster, BACKUP_POLICY, BackupPolicy, run.backup.namespace, run.backup.spec.policy_ref.name)
    if policy is None:
        return _without_policy(run)
    store = store_for(run.ctx.cluster, run.backup.namespace, _store_name(policy))
    if isinstance(store, Problem):
        return _stall(run, policy, store)
    if bad := known_bad_at(run.ctx, store, run.backup.namespace):
        return _wait_for(run, policy, store, bad)
    access = open_at(run.ctx, store, run.backup.namespace)
    if isinstance(access, Problem):
        return _stall(run, policy, access)
    adopted = adopt_from(run, access, store) or _adopt_from_older(run, policy, store, access)
    if isinstance(adopted, Problem):
        return _stall(run, policy, adopted)
    if adopted:
        return False
    if missed := slot_missed(run.backup, policy):
        return _refuse_slot(run, policy, missed, store.name)
    return _pin(run, policy, store, access)


def _adopt_from_older(run: Run, policy: BackupPolicy, store: BackupStore, newest: RepositoryAccess) -> bool | Problem:
    """Adopt the backup from a repository that was written to before the newest one was made; see adopt_from."""
    if newest.generation == FIRST:
        return False
    for access in each_at(run.ctx, store, run.backup.namespace, newest.generation):
        found = access if isinstance(access, Problem) else adopt_from(run, access, store)
        if isinstance(found, Problem) and not found.passing and is_punctual(run.backup, policy):
            # It is the schedule's new run: no old backup of its name can be there, and others must not stop it.
            log.warning("%s/%s: %s: %s", run.backup.namespace, run.backup.name, found.reason, found.message)
        elif found:
            return found
    return False


def _store_name(policy: BackupPolicy) -> str | None:
    return policy.spec.store_ref.name if policy.spec.store_ref else None


def _without_policy(run: Run) -> bool:
    """Without its policy a backup can be adopted, but not made."""
    problem = _adopt_from_any(run, ())
    if problem is None:
        return False
    if missed := slot_missed(run.backup, None):
        return _refuse(run, missed) if problem.reason == "PolicyNotFound" else _stall(run, None, problem)
    return _stall(run, None, problem)


def _refuse_slot(run: Run, policy: BackupPolicy, missed: Problem, searched: str) -> bool:
    """Refuse an old slot, when no store that the policy may have had before holds its backup."""
    problem = _adopt_from_any(run, (searched,))
    if problem is None:
        return False
    return _refuse(run, missed) if problem.reason == "PolicyNotFound" else _stall(run, policy, problem)


def _adopt_from_any(run: Run, searched: tuple[str, ...]) -> Problem | None:
    """Adopt from any store open to the namespace: None if that was done, a store's problem, or PolicyNotFound."""
    unclear = None
    for store in _open_stores(run):
        if store.name in searched:
            continue
        namespace = run.backup.namespace
        bad = known_bad_at(run.ctx, store, namespace)
        for access in [bad] if bad else each_at(run.ctx, store, namespace):
            found = access if isinstance(access, Problem) else adopt_from(run, access, store)
            if isinstance(found, Problem):
                unclear = unclear or found
            elif found:
                return None
    return unclear or _policy_not_found(run)


def _open_stores(run: Run) -> Iterator[BackupStore]:
    labels = labels_of(run.ctx.cluster, run.backup.namespace)
    return (store for store in stores_of(run.ctx.cluster) if admits(store, labels))


def _policy_not_found(run: Run) -> Problem:
    name = run.backup.spec.policy_ref.name
    return Problem(
        "PolicyNotFound",
        f"spec.policyRef.name: there is no BackupPolicy {name!r} in this namespace; create it, or delete this "
        "DiskBackup and create one that names an existing policy",
    )


def _stall(run: Run, policy: BackupPolicy | None, problem: Problem) -> bool:
    # One that may be in the store is not Failed before that is known: whoever deleted it then, would lose its data.
    unknown = problem.passing and not is_punctual(run.backup, policy)
    if problem.final:
        return _refuse(run, problem)
    if gave_up(run.backup, policy, run.ctx.now()) and not unknown:
        if not is_punctual(run.backup, policy):
            # Its deletion will not be seen, as a Failed one has no finalizer, and its data may be in the trash.
            note_unseen(run.ctx, run.backup)
        return _refuse(run, problem)
    pause = look_again(run.ctx.now() - run.backup.metadata.creation_timestamp, LATER)
    left = last_begin(run.backup, policy) - run.ctx.now()
    # The last look is at the end of its time, not somewhere before it.
    run.wait(min(pause, left) if left > timedelta(0) else pause, problem)
    run.under_way(problem.reason, problem.message, phase="Pending")
    return False


def _wait_for(run: Run, policy: BackupPolicy, store: BackupStore, bad: Problem) -> bool:
    """Wait for a store that is known to be bad, without using it: nothing is captured that could not be stored."""
    checked = store.status.last_check_time
    if gave_up(run.backup, policy, run.ctx.now()) and checked and checked < last_begin(run.backup, policy):
        # It may be well by now: no slot is lost to what was so before its time was over.
        run.wait(LATER, bad)
        run.under_way(bad.reason, bad.message, phase="Pending")
        return False
    return _stall(run, policy, bad)


def _refuse(run: Run, problem: Problem) -> bool:
    conditions = kstatus.stalled(
        run.status.conditions, problem, now=run.ctx.now(), generation=run.backup.metadata.generation
    )
    run.write(phase="Failed", conditions=conditions, completed_at=run.ctx.now(), cleaned_up=True)
    return False


def _pin(run: Run, policy: BackupPolicy, store: BackupStore, access: RepositoryAccess) -> bool:
    ask = wanted(run.backup, policy)
    if isinstance(ask, Problem):
        return _stall(run, policy, ask)
    user = machine(run.ctx.cluster, run.backup.namespace, ask.virtual_machine)
    whole = user.vm if ask.disk is None else None
    found = disks_of(ask, user.vm, user.vmi, state_claims(run.ctx.cluster, whole) if whole else ())
    if isinstance(found, Problem):
        return _stall(run, policy, found)
    disks = [_disk(run, ask, each) for each in found]
    nothing = hopeless(disks)
    if nothing is not None:
        return _stall(run, policy, nothing)
    _write(run, policy, store, access, ask, user, disks)
    return True


def _write(
    run: Run,
    policy: BackupPolicy,
    store: BackupStore,
    access: RepositoryAccess,
    ask: Wanted,
    user: Machine,
    disks: list[DiskResult],
) -> None:
    changes = {
        "phase": "Snapshotting",
        "policy": PinnedPolicy(name=policy.name, uid=policy.uid),
        "retention": policy.spec.retention,
        "store": PinnedStore(
            name=store.name,
            location=store.spec.location,
            repository=access.path,
            id=access.repository.id,
            dedupe=store.spec.dedupe,
        ),
        "target": target_of(user.vm, _first_claim(run, disks), ask.disk),
        "virtual_machine": ask.virtual_machine or _machine_using(run, disks),
        "started_at": run.ctx.now(),
        "disks": disks,
        "progress": "0%",
    }
    changes["expires_at"] = expires_at(run.backup, run.status.model_copy(update=changes))
    run.under_way("Snapshotting", "the disks are about to be captured", **changes)


def _disk(run: Run, ask: Wanted, disk: VmDisk) -> DiskResult:
    as_named = DiskResult(name=disk.name, content=disk.content)
    if disk.claim is None:
        problem = disk.unsupported or Problem("NoClaim", "the disk has no PersistentVolumeClaim", final=True)
        return with_problem(as_named, problem)
    claim = _claim(run, disk.claim)
    if missing := claim_problem(claim, disk.claim, field=f"disk {disk.name!r}"):
        return with_problem(as_named, missing)
    assert claim is not None
    volume = run.ctx.cluster.get(PERSISTENT_VOLUME, claim["spec"].get("volumeName", ""))
    snapshot_class = snapshot_class_of(run.ctx.cluster, claim)
    # A backup in blocks of the ordinary size is better than none.
    if isinstance(asked := block_size_of(claim), Problem):
        run.event("Warning", asked.reason, asked.message)
    return pinned(disk.name, claim, volume, snapshot_class, content_of(disk, ask, claim))


def _claim(run: Run, name: str) -> Object | None:
    return run.ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, name, run.backup.namespace)


def _first_claim(run: Run, disks: list[DiskResult]) -> Object | None:
    claims = [disk.claim.name for disk in disks if disk.claim]
    return _claim(run, claims[0]) if claims else None


def _machine_using(run: Run, disks: list[DiskResult]) -> str | None:
    """Return the virtual machine that uses a claim named directly: its guest is frozen for it, too."""
    cluster, namespace = run.ctx.cluster, run.backup.namespace
    instances = list(cluster.list(VIRTUAL_MACHINE_INSTANCE, namespace))
    users = claims_in_use(cluster.list(VIRTUAL_MACHINE, namespace), instances)
    for claim in [disk.claim.name for disk in disks if disk.claim]:
        if user := users.get((namespace, claim)):
            return user[0]
        if machine_name := state_user(instances, claim):
            return machine_name
    return None
