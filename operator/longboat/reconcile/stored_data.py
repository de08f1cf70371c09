"""Looks whether what finished backups rely on is still in the store: after a start, and then daily.

Two listings for each repository of a namespace in a store, whatever the number of backups. It only tells: nothing is
ever deleted for it, and a store that does not answer, or lists nothing at all, proves nothing about a backup.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from longboat.api import BackupStore, DiskBackup
from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP, NAMESPACE
from longboat.kube.port import ConflictError, NotFoundError
from longboat.plan.generations import generation_at
from longboat.plan.maintenance_findings import with_presence
from longboat.plan.stored_data import (
    DATA_MISSING,
    NOT_IN_SIGHT,
    Held,
    held_by,
    missing,
    not_in_sight,
    nothing_seen,
    relies_on,
)
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, reference, save_status
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.repository import RepositoryError
from longboat.repository.backups import newest_revisions
from longboat.repository.listing import list_disks

log = logging.getLogger(__name__)

EVERY = timedelta(days=1)
RETRY = timedelta(hours=1)
MORE = timedelta(minutes=10)
AT_ONCE = 500
"""DiskBackups that are written in one look: who lost many learns of the others in the next ones."""

_ELSEWHERE = frozenset({"RepositoryNotFound", "RepositoryReplaced"})


@dataclass
class _Seen:
    """What a look at one of a namespace's repositories came to: why nothing was seen, or that nobody knows."""

    problem: str | None = None
    again: timedelta | None = None
    is_known: bool = True


def look_up(ctx: Context, namespace: str, store_name: str) -> timedelta | None:
    """Compare a namespace's finished DiskBackups with what their store lists; return when to look again before time."""
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", store_name)
    held = [held_by(each) for each in ctx.cluster.list(DISK_BACKUP, namespace) if relies_on(each, store_name)]
    if store is None or not held:
        _tell_store(ctx, store_name, namespace, None)
        return None
    found = ctx.cluster.get(NAMESPACE, namespace)
    if found is None:
        return RETRY
    uid = found["metadata"]["uid"]
    generations = {generation_at(each.path, uid) for each in held}
    seen = [
        _look(ctx, store, namespace, uid, number, [each for each in held if generation_at(each.path, uid) == number])
        for number in sorted(generations)
    ]
    problems = [each.problem for each in seen if each.problem]
    if problems or all(each.is_known for each in seen):
        _tell_store(ctx, store_name, namespace, "; ".join(problems) or None)
    return min((each.again for each in seen if each.again is not None), default=None)


def _look(ctx: Context, store: BackupStore, namespace: str, uid: str, generation: int, held: Sequence[Held]) -> _Seen:
    """Look at one of the namespace's repositories, for those that say that they are in it."""
    try:
        access = ctx.repositories.find(store, uid, namespace=namespace, generation=generation)
        here = [each for each in held if each.repository == access.repository.id]
        revisions, objects = _listed(access, {name for each in here for name in each.disks.values()})
    except StoreProblemError as problem:
        if problem.reason in _ELSEWHERE:
            return _Seen(problem.message)
        log.info("%s: what its backups rely on is not known: %s: %s", namespace, problem.reason, problem.message)
        return _Seen(again=RETRY, is_known=False)
    hashed = access.repository.keys.name_hash
    found = {each.manifest for each in here if hashed(each.manifest) in revisions}
    if nothing_seen(here, found, objects):
        return _Seen(f"{access.path} lists nothing of its {len(here)} backups")
    # What was made into a repository that is not here any more is no loss of this one, and nobody can look at it.
    elsewhere = len(held) - len(here)
    other = f"{access.path} is another repository than that of {elsewhere} of its {len(held)} backups"
    again = _tell_backups(ctx, namespace, store.name, here, lambda each: each.lacks(found, objects))
    return _Seen(other if elsewhere else None, again)


def require_in_sight(ctx: Context, namespace: str, access: RepositoryAccess) -> None:
    """Return if the repository lists what a namespace's finished DiskBackups rely on; StoreProblemError otherwise.

    For prunes, which take what no manifest refers to for garbage: manifests that somebody hid must not end as that.
    The repository is told by its id: the BackupStore may have had another name when a backup was made.
    """
    held = [held_by(each) for each in ctx.cluster.list(DISK_BACKUP, namespace) if relies_on(each)]
    here = [each for each in held if each.repository == access.repository.id]
    if not here:
        return
    revisions, objects = _listed(access, {name for each in here for name in each.disks.values()})
    found = {each.manifest for each in here if access.repository.keys.name_hash(each.manifest) in revisions}
    if lacking := sorted(each.name for each in here if each.lacks(found, objects)):
        raise StoreProblemError(NOT_IN_SIGHT, not_in_sight(namespace, lacking), retryable=False)


def _listed(access: RepositoryAccess, disks: set[str]) -> tuple[set[str], set[str]]:
    """Return the hashes of the names of all backups in a repository, and which of these disk manifests are there."""
    try:
        revisions = set(newest_revisions(access.repository))
        return revisions, disks & list_disks(access.repository).keys()
    except RepositoryError as error:
        raise problem_of(error) from error


def _tell_store(ctx: Context, store: str, namespace: str, problem: str | None) -> None:
    """Leave what was found for the BackupStore's own reconciler, which tells it once for all of its namespaces."""
    if problem:
        log.warning("%s: nothing of its backups is seen in BackupStore %r: %s", namespace, store, problem)
    ctx.not_seen.setdefault(store, {})[namespace] = problem


def _tell_backups(
    ctx: Context, namespace: str, store: str, held: Iterable[Held], lacks: Callable[[Held], str | None]
) -> timedelta | None:
    changed = [(each, what) for each in held if bool(what := lacks(each)) != each.told]
    for each, what in changed[:AT_ONCE]:
        try:
            _tell(ctx, namespace, each.name, each.manifest, what and missing(what, store))
        except (ConflictError, NotFoundError):
            continue  # Somebody is at work on it, or it is gone: the next look sees what has become of it.
    return MORE if len(changed) > AT_ONCE else None


def _tell(ctx: Context, namespace: str, name: str, manifest: str, message: str | None) -> None:
    backup = load(ctx.cluster, DISK_BACKUP, DiskBackup, namespace, name)
    if backup is None or backup.status.manifest != manifest or backup.metadata.deletion_timestamp:
        return
    status = with_presence(backup, message, ctx.now())
    if message:
        log.warning("%s/%s: %s", namespace, name, message)
    save_status(ctx.cluster, backup, status)
    if message:
        ctx.cluster.event(reference(backup), "Warning", DATA_MISSING, message)
    else:
        ctx.cluster.event(reference(backup), "Normal", "DataFound", "the store holds its data again")
