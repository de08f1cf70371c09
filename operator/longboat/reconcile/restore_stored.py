"""What a Restore is made from in the store, and whether it is there at all, before anything is made for it."""

from __future__ import annotations

from longboat.api import BackupStore, DiskBackup, Restore
from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP, NAMESPACE
from longboat.plan.conditions import holds
from longboat.plan.generations import generation_at
from longboat.plan.problem import Problem
from longboat.plan.stored_data import DATA_MISSING
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, told_in_namespace
from longboat.reconcile.restore_stage import Stage
from longboat.reconcile.store_access import problem_of
from longboat.repository import RepositoryError, require_on_time
from longboat.repository.backups import disk_exists


def stored(ctx: Context, restore: Restore) -> Stage:
    """Refuse what is certain to fail: the DiskBackup says that data is missing, and it is that of this very disk.

    What the DiskBackup says may be a day old, and be about other disks of it: the store itself is asked. If that does
    not answer nothing is certain, and the restore is tried as any other.
    """
    source = restore.spec.source.disk_backup
    if source is None or restore.status.claim_uid or not restore.status.manifest:
        return Stage(restore)
    backup = load(ctx.cluster, DISK_BACKUP, DiskBackup, restore.namespace, source.name)
    if backup is None or not holds(backup.status.conditions, DATA_MISSING) or not _is_gone(ctx, restore):
        return Stage(restore)
    message = (
        f"spec.source.diskBackup: BackupStore {restore.status.store!r} does not hold {restore.status.source} any more;"
        " nothing was made. Restore from another DiskBackup; should the data be put back, this Restore goes on"
    )
    return Stage(restore, Problem(DATA_MISSING, message))


def _is_gone(ctx: Context, restore: Restore) -> bool:
    access = opened(ctx, restore)
    if isinstance(access, Problem):
        return False
    try:
        return not disk_exists(access.repository, restore.status.manifest or "")
    except RepositoryError:
        return False


def opened(ctx: Context, restore: Restore) -> RepositoryAccess | Problem:
    """Return the repository that a Restore reads, with the credentials of restores, or why it can't be read."""
    name = restore.status.store or ""
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", name)
    namespace = ctx.cluster.get(NAMESPACE, restore.namespace)
    if store is None or namespace is None:
        return Problem(
            "StoreNotFound", f"BackupStore {name!r}, which holds the backup, does not exist; create it again"
        )
    uid = namespace["metadata"]["uid"]
    try:
        access = ctx.repositories.find(
            store,
            uid,
            restore.status.repository_id,
            namespace=restore.namespace,
            purpose="restore",
            generation=generation_at(restore.status.repository or "", uid),
        )
        # Read for its manifest only: what was written after a repository had been closed is not restored.
        closed = ctx.repositories.closed(store, uid, access.generation, namespace=restore.namespace, purpose="restore")
        accepted = ctx.repositories.accepted(
            store, uid, access.generation, namespace=restore.namespace, purpose="restore"
        )
        require_on_time(access.repository, [restore.status.manifest or ""], closed, accepted)
    except StoreProblemError as error:
        return Problem(error.reason, told_in_namespace(name, error))
    except RepositoryError as error:
        return Problem(error.reason, told_in_namespace(name, problem_of(error)))
    if access.path != restore.status.repository:
        return Problem(
            "RepositoryMismatch",
            f"the backup lies in repository {restore.status.repository!r}, but this namespace's is {access.path!r}: it "
            "was made by an earlier namespace of this name, or in another cluster; ask the administrator to restore it",
            final=True,
        )
    return access
