"""Runs that are under way while their namespace gets a new master key: what is not exported yet goes under it.

Nothing is begun in a repository that is closed, and what is at work in one ends before it would not be believed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from longboat.api import BackupStore
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.plan.generations import generation_at
from longboat.plan.problem import Problem
from longboat.reconcile.backup_run import Run
from longboat.reconcile.backup_store_access import open_at, open_repository, wait_or_fail
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, told_in_namespace
from longboat.repository.leases import LEASE_TTL

REPLACED = "MasterKeyReplaced"
"""The reason of what could not be written any more, as its repository was closed meanwhile."""
MARGIN = timedelta(minutes=10)
"""An export that still runs so long before its manifest would be late is begun again in the new repository."""


def open_for_export(run: Run, disk: DiskResult) -> RepositoryAccess | None:
    """Return the repository for an attempt to export a disk, or None: it is waited for, or the disk has failed.

    It is the one that the run is pinned to while that is the newest of its namespace. Afterwards the run moves to the
    newest one, if it has nothing in the old one yet: a backup lies in one repository.
    """
    found = _newest(run)
    if isinstance(found, Problem):
        wait_or_fail(run, found, [disk])
        return None
    if found is None:
        return open_repository(run, [disk])
    if any(each.phase == "Completed" or (each.phase == "Exporting" and _other(each, disk)) for each in run.disks):
        run.fail(disk, _replaced())
        return None
    pinned = run.status.store
    assert pinned is not None
    moved = pinned.model_copy(update={"repository": found.path, "id": found.repository.id})
    # Written before anything is made for it there: a deletion looks for the data where the status says it is.
    run.write(store=moved)
    return open_repository(run, [disk])


def _other(each: DiskResult, disk: DiskResult) -> bool:
    return each.name != disk.name and each.job is not None


def _newest(run: Run) -> RepositoryAccess | Problem | None:
    """Return the newest repository of the run's namespace, None if the run is pinned to it, or what is wrong."""
    store, uid, pinned = _place(run)
    if store is None or not uid:
        # Whoever opens the repository tells of it.
        return None
    try:
        numbers = run.ctx.repositories.generations(store, uid, namespace=run.backup.namespace)
    except StoreProblemError as error:
        return Problem(error.reason, told_in_namespace(store.name, error), passing=error.retryable)
    if pinned >= max(numbers, default=pinned):
        return None
    found = open_at(run.ctx, store, run.backup.namespace)
    # What is newer may have no header: a rotation that was interrupted.
    return None if isinstance(found, RepositoryAccess) and found.generation <= pinned else found


def is_late(run: Run) -> bool:
    """Tell whether what is written now into the run's repository would not be believed, or very soon; see closing."""
    return _is_late(run, closed(run))


def is_known_late(run: Run) -> bool:
    """Tell the same by what is known already: an export is looked at so often that the store must keep no worker."""
    store, uid, pinned = _place(run)
    if store is None or not uid:
        return False
    return _is_late(run, run.ctx.repositories.known_closed(store, uid, pinned, namespace=run.backup.namespace))


def _is_late(run: Run, since: datetime | None) -> bool:
    return since is not None and run.ctx.now() > since + LEASE_TTL - MARGIN


def closed(run: Run) -> datetime | None:
    """Return since when the run's repository is closed, None if it is the newest; raises StoreProblemError."""
    store, uid, pinned = _place(run)
    if store is None or not uid:
        return None
    return run.ctx.repositories.closed(store, uid, pinned, namespace=run.backup.namespace)


def _place(run: Run) -> tuple[BackupStore | None, str, int]:
    pinned = run.status.store
    assert pinned is not None
    store = load(run.ctx.cluster, BACKUP_STORE, BackupStore, "", pinned.name)
    namespace = run.ctx.cluster.get(NAMESPACE, run.backup.namespace)
    uid = namespace["metadata"]["uid"] if namespace else ""
    return store, uid, generation_at(pinned.repository, uid)


def _replaced() -> Problem:
    return Problem(
        REPLACED,
        "the namespace got a new master key while the backup was under way, and other disks of it lie in the repository"
        " of the old one: the next run of the policy backs this disk up; create a DiskBackup to have it now",
    )


def late() -> Problem:
    """Return what is said of a disk that was captured too late after the key was replaced."""
    return Problem(
        REPLACED,
        "the namespace got a new master key while the backup was under way, which ended too late to be believed under"
        " the old one: the next run of the policy backs the disk up; create a DiskBackup to have it now",
    )
