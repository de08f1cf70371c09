"""Takes a backup over from its manifest, when its DiskBackup was deleted or lost, and is applied again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from longboat.api import BackupStore
from longboat.api.common import format_time
from longboat.api.disk_backup import DiskBackupStatus, DiskResult, PinnedStore
from longboat.kube.kinds import NAMESPACE
from longboat.plan import kstatus
from longboat.plan.backup import expires_at, phase_of, progress_text, totals
from longboat.plan.problem import Problem
from longboat.plan.recorded_rule import recorded_retention, told, unasked
from longboat.reconcile.backup_run import Run
from longboat.reconcile.backup_store_access import find_at
from longboat.reconcile.epochs import require_charge
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, told_in_namespace
from longboat.reconcile.store_access import problem_of
from longboat.reconcile.trash_notes import Place
from longboat.repository import (
    BackupManifest,
    DiskReference,
    Repository,
    RepositoryError,
    find_backup_in_time,
    has_tombstone,
    read_disk_manifest,
    remove_tombstone,
)
from longboat.repository.errors import BackupNotFoundError, DamagedError

log = logging.getLogger(__name__)

_NOT_TAKEN_OVER = ("conditions", "observed_generation", "tombstoned_at", "policy_gone_at", "kept_because")


def adopt_from(run: Run, access: RepositoryAccess, store: BackupStore) -> bool | Problem:
    """Adopt the backup if a manifest of its name is there; return whether the run is over by that, or what is wrong."""
    try:
        manifest = _believed(run, access, store)
        if manifest and (foreign := _foreign(run, manifest)):
            _finish(run, run.status.model_copy(update={"phase": "Failed"}), foreign)
            return True
        # Also without a manifest: a run of this name that was deleted before it wrote one has left its mark. On the
        # backup that is made now it would hide it, and date its deletion back.
        marked = has_tombstone(access.repository, run.backup.name)
        if (manifest or marked) and (problem := _not_in_charge(run, access, store)):
            return problem
        if marked and (problem := _undo_deletion(run, access, store)):
            return problem
        lost = _lost_disks(access.repository, manifest) if manifest else {}
    except RepositoryError as error:
        return _problem(store, problem_of(error))
    except StoreProblemError as error:
        return _problem(store, error)
    if manifest is None:
        return False
    _finish(run, _status(run, manifest, store, access, lost), _incomplete(lost))
    return True


def _undo_deletion(run: Run, access: RepositoryAccess, store: BackupStore) -> Problem | None:
    """Take the mark of a deletion off, with the credentials of maintenance: exports may not delete."""
    its = find_at(run.ctx, store, run.backup.namespace, access.repository.id, purpose="maintenance", path=access.path)
    if isinstance(its, Problem):
        return its
    remove_tombstone(its.repository, run.backup.name)
    return None


def _not_in_charge(run: Run, access: RepositoryAccess, store: BackupStore) -> Problem | None:
    """Return what is in the way of taking anything over: another cluster may own it. A new run is in nobody's way."""
    place = Place(store.name, run.backup.namespace, _uid(run), access.generation)
    try:
        require_charge(run.ctx, place, access)
    except StoreProblemError as error:
        return _problem(store, error)
    return None


def _believed(run: Run, access: RepositoryAccess, store: BackupStore) -> BackupManifest | None:
    """Return the backup of this name: what was written after its repository had been closed is not taken over."""
    place, namespace = (store, _uid(run), access.generation), run.backup.namespace
    closed = run.ctx.repositories.closed(*place, namespace=namespace)
    accepted = run.ctx.repositories.accepted(*place, namespace=namespace)
    return find_backup_in_time(access.repository, run.backup.name, closed, accepted)


def _uid(run: Run) -> str:
    namespace = run.ctx.cluster.get(NAMESPACE, run.backup.namespace)
    return namespace["metadata"]["uid"] if namespace else ""


def _problem(store: BackupStore, error: StoreProblemError) -> Problem:
    return Problem(error.reason, told_in_namespace(store.name, error), passing=error.retryable)


def _foreign(run: Run, manifest: BackupManifest) -> Problem | None:
    policy = _section(manifest, "status").get("policy")
    its = policy.get("name") if isinstance(policy, dict) else None
    if its not in (None, run.backup.spec.policy_ref.name):
        return _name_taken(run, f"of another policy ({its!r}); choose another name (metadata.generateName makes one)")
    if _is_earlier(run, manifest):
        return None
    # The run of a clone of this cluster (a copy of etcd), most likely: its disks have gone their own way since.
    return _name_taken(
        run,
        f"from {format_time(manifest.created)} that no earlier DiskBackup of this name made: another cluster may be"
        " writing into this repository; if it is yours, delete this DiskBackup and apply it again to take it over",
    )


def _is_earlier(run: Run, manifest: BackupManifest) -> bool:
    """Return whether another DiskBackup of this name made the backup, before this one was there."""
    maker = _section(manifest, "diskBackup").get("uid")
    return maker != run.backup.uid and manifest.created < run.backup.metadata.creation_timestamp


def _name_taken(run: Run, whose: str) -> Problem:
    return Problem("NameTaken", f"the store holds a backup {run.backup.name!r} {whose}", final=True)


def _lost_disks(repository: Repository, manifest: BackupManifest) -> dict[str, str]:
    """Return which disks, by name, the store does not have as the backup refers to them, and why.

    Raises RepositoryError if the store does not tell.
    """
    found = ((disk.disk, _lost(repository, disk)) for disk in manifest.disks)
    return {name: why for name, why in found if why}


def _lost(repository: Repository, disk: DiskReference) -> str | None:
    try:
        stored = read_disk_manifest(repository, disk.manifest)
    except (BackupNotFoundError, DamagedError) as error:
        log.warning("%s", error)
        state = "can't be read" if isinstance(error, DamagedError) else "is not in the store"
        return f"its manifest {disk.manifest} {state}; restore the disk from another backup"
    if stored.object_id != disk.object_id:
        return f"{disk.manifest} is not what this backup wrote; restore the disk from another backup"
    return None


def _incomplete(lost: Mapping[str, str]) -> Problem | None:
    if not lost:
        return None
    told = "; ".join(f"disk {name!r}: {why}" for name, why in sorted(lost.items()))
    return Problem("DataMissing", f"the backup was found in the store without all of its data: {told}", final=True)


def _status(
    run: Run, manifest: BackupManifest, store: BackupStore, access: RepositoryAccess, lost: Mapping[str, str]
) -> DiskBackupStatus:
    status = DiskBackupStatus()
    with contextlib.suppress(ValidationError):
        status = DiskBackupStatus.model_validate(_section(manifest, "status"))
    disks = [_told(disk, lost.get(disk.name)) for disk in _disks(status.disks or [], manifest)]
    changes: dict[str, Any] = {
        "disks": disks,
        "phase": phase_of(disks),
        "progress": "100%",
        "progress_text": progress_text(disks),
        "store": PinnedStore(
            name=store.name, location=store.spec.location, repository=access.path, id=access.repository.id
        ),
        "manifest": manifest.name,
        "retention": recorded_retention(manifest.expiry) or status.retention,
        "unconfirmed_rule": unasked(manifest.expiry, run.backup.spec),
        "adopted": True,
        "cleaned_up": True,
        "started_at": status.started_at or manifest.created,
        "completed_at": status.completed_at or manifest.created,
        **totals(disks),
        **{name: getattr(run.status, name) for name in _NOT_TAKEN_OVER},
    }
    status = status.model_copy(update=changes)
    return status.model_copy(update={"expires_at": expires_at(run.backup, status)})


def _disks(known: list[DiskResult], manifest: BackupManifest) -> list[DiskResult]:
    """Return the disks as the run knew them; what counts as good is what the manifest itself refers to."""
    by_name = {disk.name: disk for disk in known}
    good = {}
    for reference in manifest.disks:
        disk = by_name.get(reference.disk) or DiskResult(name=reference.disk)
        good[reference.disk] = disk.model_copy(
            update={
                "phase": "Completed",
                "manifest": reference.manifest,
                "object_id": reference.object_id,
                "logical_bytes": reference.size_bytes,
                "stored_bytes": reference.stored_bytes,
            }
        )
    rest = {disk.name: disk for disk in known if disk.name not in good and disk.phase in ("Failed", "Unsupported")}
    return [*good.values(), *rest.values()]


def _told(disk: DiskResult, lost: str | None) -> DiskResult:
    """Return the disk as lost if it is: its manifest stays, as the record of what is not there."""
    return disk.model_copy(update={"phase": "Failed", "reason": "DataMissing", "message": lost}) if lost else disk


def _finish(run: Run, status: DiskBackupStatus, problem: Problem | None) -> None:
    before, now, generation = run.status.conditions, run.ctx.now(), run.backup.metadata.generation
    if problem:
        conditions = kstatus.stalled(before, problem, now=now, generation=generation)
    else:
        message = _adopted(run, status)
        conditions = kstatus.ready(before, "Adopted", message, now=now, generation=generation)
    changed = {name: getattr(status, name) for name in DiskBackupStatus.model_fields}
    run.write(**{**changed, "conditions": conditions, "cleaned_up": True})


def _adopted(run: Run, status: DiskBackupStatus) -> str:
    """Return what is said of a backup that was taken over; who asked for a run now learns that there was none."""
    store = status.store.name if status.store else ""
    begun = format_time(status.started_at) if status.started_at else "earlier"
    found = f"the backup of this name from {begun} was found in BackupStore {store!r} and taken over; nothing was run"
    found += told(status.unconfirmed_rule)
    if run.backup.spec.slot is not None:
        return found
    return f"{found}: to run the policy now, create a DiskBackup of another name (metadata.generateName makes one)"


def _section(manifest: BackupManifest, name: str) -> dict[str, Any]:
    """Return a part of what the operator wrote into a manifest, empty if it is not there."""
    section = manifest.metadata.get(name) if isinstance(manifest.metadata, dict) else None
    return section if isinstance(section, dict) else {}
