"""Upkeep of the repositories in a BackupStore: prune and verify, as Jobs.

A look at everything now and then (which repositories there are, what is noted of each) finds what is due. The looks in
between, while Jobs are under way, read these Jobs alone and begin the next ones. What a process remembers from look to
look saves it reading; before a run begins its record is read anew.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, JOB, NAMESPACE
from longboat.kube.port import ConflictError, NotFoundError
from longboat.plan.conditions import find
from longboat.plan.generations import namespace_of
from longboat.plan.maintenance import (
    Due,
    RepositoryRecord,
    due_runs,
    known_by,
    record_of,
    repositories_in,
    with_missing,
)
from longboat.plan.maintenance_job import jobs_of
from longboat.plan.maintenance_status import PRUNED, VERIFIED, maintenance_status, with_maintenance
from longboat.plan.master_keys import RENEWED, Renewal, status_of, with_renewal
from longboat.plan.take_over import CONFLICT
from longboat.reconcile import maintenance_records, maintenance_run, master_keys
from longboat.reconcile.context import Context
from longboat.reconcile.epochs import Token, new_token
from longboat.reconcile.objects import load, namespace_names, reference, save_status
from longboat.reconcile.repositories import Silence, StoreProblemError
from longboat.reconcile.store_access import StoreAccess, folders
from longboat.reconcile.store_locks import Folders
from longboat.repository import RepositoryError
from longboat.repository.errors import RepositoryNotFoundError

log = logging.getLogger(__name__)

LIST_EVERY = timedelta(hours=1)
"""How often the bucket is asked which repositories there are."""
BUSY = timedelta(seconds=5)
"""The next look while Jobs are under way."""
NEW_AT_ONCE = 500
SCAN_SHARE = 50
"""After the end of a Job everything is looked at again, if the last look took so many times less than it is ago."""
_TROUBLE = frozenset({"Damaged", "Late", "NotListed", "PruneFailed", "PruneHeld", "RenewalFailed", "VerifyFailed"})

Wish = tuple[int, Mapping[str, str]]
"""What a store asks for: the generation of its spec, and its annotations of ours."""


@dataclass
class Memory:
    """What a process remembers of a store; losing it costs a look at everything."""

    repositories: frozenset[str] = frozenset()
    """Folders of the repositories of this cluster in the store."""
    listed: datetime | None = None
    scanned: datetime | None = None
    problem: str = ""
    """Why the bucket could not be asked."""
    took: timedelta = timedelta(0)
    """How long the last look at everything has taken."""
    ended: bool = False
    """Whether a Job has ended since."""
    wish: Wish | None = None
    due: deque[Due] = field(default_factory=deque)


_MEMORY: dict[str, Memory] = {}


def reconcile(
    ctx: Context,
    namespace: str,
    name: str,
    *,
    memory: dict[str, Memory] = _MEMORY,
    inside: Folders = folders,
    token: Token = new_token,
) -> timedelta | None:
    """See to the upkeep of a store's repositories; ``namespace`` is empty, as stores lie in none."""
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, namespace, name)
    if store is None or store.metadata.deletion_timestamp:
        memory.pop(name, None)
        return None
    found = memory.setdefault(name, Memory())
    busy, ended = _follow(ctx, store)
    found.ended |= ended
    if store.status.available != "Yes" or not ctx.settings.cluster_id:
        # What is under way ends by itself; nothing is begun.
        found.scanned = None
        return BUSY if busy else ctx.settings.full_resync_period
    if _is_old(ctx, store, found):
        _scan(ctx, store, found, inside)
    busy += _begin(ctx, store, found, store.spec.maintenance.parallelism - busy, token)
    return BUSY if busy or found.due or found.ended else ctx.settings.full_resync_period


def _follow(ctx: Context, store: BackupStore) -> tuple[int, bool]:
    """Look at the store's Jobs; return how many are under way, and whether one has ended."""
    jobs = list(ctx.cluster.list(JOB, ctx.settings.namespace, jobs_of(store.name)))
    busy = 0
    for job in jobs:
        try:
            busy += maintenance_run.follow(ctx, store, job)
        except StoreProblemError as problem:
            log.warning("job %s waits: %s: %s", job["metadata"]["name"], problem.reason, problem.message)
            busy += 1
    return busy, busy < len(jobs)


def _is_old(ctx: Context, store: BackupStore, found: Memory) -> bool:
    if found.wish != _wish(store):
        # Whoever asks for something means what is there now.
        found.listed = None
        return True
    if found.scanned is None:
        return True
    longest = ctx.settings.full_resync_period
    holds = min(longest, SCAN_SHARE * found.took) if found.ended else longest
    # A look in the future is a clock that was put back.
    return not timedelta(0) <= ctx.now() - found.scanned < holds


def _wish(store: BackupStore) -> Wish:
    return store.metadata.generation, store.metadata.annotations


def _scan(ctx: Context, store: BackupStore, found: Memory, inside: Folders) -> None:
    begun = ctx.now()
    _list_repositories(ctx, store, found, inside)
    every = maintenance_records.all_records(ctx.cluster, ctx.settings.namespace)
    records = {each.folder: each for each in every if each.store == store.name}
    if found.listed is None:
        # Those that are known already are seen to while the bucket does not tell.
        found.repositories = repositories_in(folder for folder, each in records.items() if each.missing is None)
    names = namespace_names(ctx.cluster)
    records |= _new(ctx, store, found, found.repositories - records.keys(), names)
    _note_missing(ctx, records.values(), found.repositories)
    seen = {folder: record for folder, record in records.items() if folder in found.repositories}
    unseen = {namespace_of(folder) for folder in found.repositories - records.keys()}
    seen, renewal = master_keys.renew_all(ctx, store, seen, names, unseen, found.problem)
    if renewal is not None and renewal.stale:
        found.listed = None
    found.repositories |= seen.keys()
    here = [record for _, record in sorted(seen.items())]
    found.due = deque(due_runs(here, store, ctx.now()))
    # Who reads of a namespace by its name takes it for the one that has this name now.
    _save(ctx, store, [known_by(each, names) for each in here], found.problem, renewal)
    found.scanned, found.wish, found.took, found.ended = ctx.now(), _wish(store), ctx.now() - begun, False


def _list_repositories(ctx: Context, store: BackupStore, found: Memory, inside: Folders) -> None:
    """Ask the bucket which repositories there are: those of namespaces without any backup, or gone, have data, too."""
    if found.listed is not None and timedelta(0) <= ctx.now() - found.listed < LIST_EVERY:
        return
    own = ctx.cluster.get(NAMESPACE, ctx.settings.namespace)
    try:
        settings = StoreAccess(ctx.cluster, ctx.settings).settings_of(store, "maintenance")
        names = inside(settings, f"{ctx.settings.cluster_id}/")
    except (StoreProblemError, RepositoryError) as error:
        found.problem = f"the store does not tell which repositories are in it: {error.reason}: {error}"
        log.warning("BackupStore %s: %s", store.name, found.problem)
        return
    # The operator's own is there to try the key, and holds nothing.
    uid = own["metadata"]["uid"] if own else ""
    found.repositories = frozenset(each for each in repositories_in(names) if namespace_of(each) != uid)
    found.listed, found.problem = ctx.now(), ""


def _note_missing(ctx: Context, records: Iterable[RepositoryRecord], listed: frozenset[str]) -> None:
    """Note down which repositories the bucket lists no more, or lists again: nobody is charged for what is gone."""
    changed = [each for each in records if (each.missing is None) != (each.folder in listed)]
    now = ctx.now().replace(microsecond=0)
    for each in changed[:NEW_AT_ONCE]:
        since = None if each.folder in listed else now
        # What others change all the time is noted at another look.
        with contextlib.suppress(ConflictError):
            maintenance_records.update(ctx, each, partial(with_missing, since=since))


def _new(
    ctx: Context, store: BackupStore, found: Memory, folders: Iterable[str], names: Mapping[str, str]
) -> dict[str, RepositoryRecord]:
    """Note down repositories that were not seen before: their first runs come within a period from now.

    A folder without a header is none, and stays out until the bucket is asked again.
    """
    now, records, silence = ctx.now().replace(microsecond=0), dict[str, RepositoryRecord](), Silence()
    for folder in sorted(folders)[:NEW_AT_ONCE]:
        if silence.is_total:
            # The others would not be opened either; the next look goes on here.
            break
        made = record_of(folder, store.name, names, now)
        try:
            if _is_repository(ctx, store, made):
                records[folder] = maintenance_records.add(ctx, made)
            else:
                found.repositories -= {folder}
            silence.heard(None)
        except StoreProblemError as problem:
            log.warning("BackupStore %s: %s waits: %s: %s", store.name, folder, problem.reason, problem.message)
            silence.heard(problem)
    return records


def _is_repository(ctx: Context, store: BackupStore, record: RepositoryRecord) -> bool:
    """Tell whether there is a header; raises StoreProblemError if nobody can tell at the moment."""
    try:
        maintenance_records.opened(ctx, store, record)
    except StoreProblemError as problem:
        if problem.retryable:
            raise
        # What is there and can't be opened is told by its runs, which fail.
        return problem.reason != RepositoryNotFoundError.reason
    return True


def _begin(ctx: Context, store: BackupStore, found: Memory, room: int, token: Token) -> int:
    """Begin what is due, as far as there is room; return how many Jobs are under way more than before."""
    begun = 0
    while found.due and begun < room:
        due = found.due.popleft()
        try:
            begun += maintenance_run.start(ctx, store, due, token)
        except StoreProblemError as problem:
            if problem.retryable and problem.reason != CONFLICT:
                # The store does not answer: the others would fail, too.
                found.due.clear()
        except ConflictError as error:
            log.warning("%s of %s in store %s waits: %s", due.work, due.folder, store.name, error)
    return begun


def _save(
    ctx: Context, store: BackupStore, records: Sequence[RepositoryRecord], problem: str, renewal: Renewal | None
) -> None:
    """Write what the upkeep comes to into the store's status, and tell of it if that has changed."""
    # Read anew: a check of the store, which takes its time, may have written meanwhile.
    newest = load(ctx.cluster, BACKUP_STORE, BackupStore, "", store.name)
    if newest is None:
        return
    conditions = with_maintenance(newest.status.conditions, newest, records, ctx.now(), problem)
    status = newest.status.model_copy(
        update={
            "maintenance": maintenance_status(newest, records, ctx.now(), problem),
            "master_keys": status_of(newest, renewal),
            "conditions": with_renewal(conditions, newest, renewal, ctx.now()),
        }
    )
    try:
        save_status(ctx.cluster, newest, status)
    except (ConflictError, NotFoundError):
        return
    for type_ in (PRUNED, VERIFIED, RENEWED):
        before, after = find(newest.status.conditions, type_), find(status.conditions, type_)
        if after is not None and (before is None or before.reason != after.reason):
            trouble = after.reason in _TROUBLE
            ctx.cluster.event(reference(newest), "Warning" if trouble else "Normal", after.reason, after.message)
