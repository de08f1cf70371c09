"""Opens the repository that a backup is pinned to; a store that can't be used is a condition, and looked at again."""

from __future__ import annotations

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.plan.backup import RUN_PATIENCE, all_ended
from longboat.plan.problem import Problem
from longboat.reconcile.backup_run import LATER, Run
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError


def open_at(ctx: Context, store: BackupStore, namespace: str) -> RepositoryAccess | Problem:
    """Return a namespace's repository in a store, or what is wrong with the store."""
    found = ctx.cluster.get(NAMESPACE, namespace)
    if found is None:
        return Problem("NamespaceNotFound", f"the namespace {namespace!r} is gone")
    try:
        return ctx.repositories.open(store, found["metadata"]["uid"])
    except StoreProblemError as error:
        return Problem(error.reason, f"BackupStore {store.name!r}: {error.message}")


def open_repository(run: Run) -> RepositoryAccess | None:
    """Return the repository that the backup is pinned to, or None: it is waited for, or the disks have failed.

    A path other than the pinned one (another cluster id) is refused: the data would be looked for elsewhere later.
    """
    pinned = run.status.store
    assert pinned is not None
    store = load(run.ctx.cluster, BACKUP_STORE, BackupStore, "", pinned.name)
    access: RepositoryAccess | Problem
    if store is None:
        access = Problem(
            "StoreNotFound", f"BackupStore {pinned.name!r} is gone; make it again, the backup waits for it"
        )
    else:
        access = open_at(run.ctx, store, run.backup.namespace)
    if not isinstance(access, Problem) and access.path != pinned.repository:
        message = f"the repository is at {access.path!r}, but this backup began with {pinned.repository!r}"
        access = Problem("RepositoryMoved", message)
    if isinstance(access, Problem):
        wait_or_fail(run, access)
        return None
    return access


def wait_or_fail(run: Run, problem: Problem) -> None:
    """Wait for the store, with its problem as a condition; after a day the disks that need it have failed."""
    begun = run.status.started_at or run.ctx.now()
    if run.ctx.now() - begun < RUN_PATIENCE:
        run.wait(LATER, problem)
        return
    # Without the manifest a captured disk is not to be found again: it does not count.
    for disk in run.in_phase(*(("Completed",) if all_ended(run.disks) else ("HandedOver", "Exporting"))):
        run.fail(disk, problem)
