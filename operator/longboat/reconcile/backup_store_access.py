"""Opens the repository that a backup is pinned to; a store that can't be used is a condition, and looked at again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from longboat.api import BackupStore
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.plan.backup import RUN_PATIENCE
from longboat.plan.conditions import find
from longboat.plan.generations import FIRST, folder_of, generation_at
from longboat.plan.known_store import known_bad
from longboat.plan.problem import Problem
from longboat.reconcile import master_keys
from longboat.reconcile.backup_run import LATER, Run
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import Purpose, RepositoryAccess, StoreProblemError, told_in_namespace
from longboat.reconcile.store_settings import SettingsReader
from longboat.repository.errors import RepositoryNotFoundError


def known_bad_at(ctx: Context, store: BackupStore, namespace: str) -> Problem | None:
    """Return what is known to be wrong with a store for a namespace, without using the store; None: it is to be tried.

    The store's check tries the store's own credentials: it says nothing to a namespace that writes with others.
    """
    bad = known_bad(store, ctx.now())
    if bad is None:
        return None
    try:
        own = SettingsReader(ctx.cluster, ctx.settings.namespace).has_own(store, namespace)
    except StoreProblemError:
        # Whoever opens the store needs the same Secret, and tells what is wrong with it.
        return None
    return None if own else bad


def open_at(ctx: Context, store: BackupStore, namespace: str) -> RepositoryAccess | Problem:
    """Return the repository in a store that a namespace's backups are written to, or what is wrong with the store."""
    found = ctx.cluster.get(NAMESPACE, namespace)
    if found is None:
        return Problem("NamespaceNotFound", f"the namespace {namespace!r} is gone")
    uid = found["metadata"]["uid"]
    try:
        access = ctx.repositories.open(store, uid, namespace=namespace)
        return master_keys.renewed(ctx, store, uid, access, namespace=namespace)
    except StoreProblemError as error:
        return Problem(error.reason, told_in_namespace(store.name, error), passing=error.retryable)


def find_at(
    ctx: Context,
    store: BackupStore,
    namespace: str,
    repository_id: str | None = None,
    *,
    purpose: Purpose = "export",
    path: str = "",
) -> RepositoryAccess | Problem:
    """Return a repository that a namespace has in a store, of that id if one is given, or what is wrong.

    The one that a noted path leads to, the first one without it.
    """
    found = ctx.cluster.get(NAMESPACE, namespace)
    if found is None:
        return Problem("NamespaceNotFound", f"the namespace {namespace!r} is gone")
    uid = found["metadata"]["uid"]
    number = generation_at(path, uid)
    try:
        return ctx.repositories.find(store, uid, repository_id, namespace=namespace, purpose=purpose, generation=number)
    except StoreProblemError as error:
        return Problem(error.reason, told_in_namespace(store.name, error), passing=error.retryable)


def each_at(
    ctx: Context, store: BackupStore, namespace: str, below: int | None = None
) -> Iterator[RepositoryAccess | Problem]:
    """Yield a namespace's repositories, the newest first, of those before one if it is given, or what is wrong.

    One that was never made, or was removed when nothing was left in it, is left out.
    """
    found = ctx.cluster.get(NAMESPACE, namespace)
    if found is None:
        yield Problem("NamespaceNotFound", f"the namespace {namespace!r} is gone")
        return
    uid = found["metadata"]["uid"]
    try:
        numbers = {FIRST, *ctx.repositories.generations(store, uid, namespace=namespace)}
    except StoreProblemError as error:
        yield Problem(error.reason, told_in_namespace(store.name, error), passing=error.retryable)
        return
    for number in sorted(numbers, reverse=True):
        if below is None or number < below:
            access = find_at(ctx, store, namespace, path=folder_of(uid, number))
            if not isinstance(access, Problem) or access.reason != RepositoryNotFoundError.reason:
                yield access


def open_repository(run: Run, disks: Sequence[DiskResult]) -> RepositoryAccess | None:
    """Return the repository that the backup is pinned to, or None: it is waited for, or these disks have failed.

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
        access = find_at(run.ctx, store, run.backup.namespace, pinned.id, path=pinned.repository)
    if not isinstance(access, Problem) and access.path != pinned.repository:
        message = f"the repository is at {access.path!r}, but this backup began with {pinned.repository!r}"
        access = Problem("RepositoryMoved", message)
    if isinstance(access, Problem):
        wait_or_fail(run, access, disks)
        return None
    return access


def wait_or_fail(run: Run, problem: Problem, disks: Sequence[DiskResult]) -> None:
    """Wait for the store, with its problem as a condition; after a day of it the disks that need it have failed.

    A run may take days: what counts is how long the store has been in the way, not how long ago the run began.
    """
    before = find(run.status.conditions, "Stalled")
    if before is None or before.reason != problem.reason or run.ctx.now() - before.last_transition_time < RUN_PATIENCE:
        run.wait(LATER, problem)
        return
    for disk in disks:
        run.fail(disk, problem)
