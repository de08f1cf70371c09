"""Tells each DiskBackup of a repository what a verification found out about it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from longboat.api import BackupStore, DiskBackup
from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP, NAMESPACE, POD
from longboat.kube.port import ConflictError, KubeError, NotFoundError
from longboat.mover import VerifyResult
from longboat.plan.maintenance import Attempt, RepositoryRecord, having_read
from longboat.plan.maintenance_findings import Hurt, Knowledge, finding, with_finding
from longboat.plan.mover import JOB_NAME
from longboat.reconcile import maintenance_records
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, readable, reference, save_status
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import RepositoryError
from longboat.repository.backups import newest_revisions

log = logging.getLogger(__name__)

RENEWED_AFTER = timedelta(days=7)
"""The time of the last look is written on a backup that is as whole as before no more often: histories are long."""
MOST_LINES = 5000


def tell(ctx: Context, record: RepositoryRecord, result: VerifyResult, job: str) -> None:
    """Write onto the DiskBackups in the repository whether they are whole; can be repeated."""
    namespace = ctx.cluster.get(NAMESPACE, record.namespace) if record.namespace else None
    attempt = record.verify.attempt
    if namespace is None or namespace["metadata"]["uid"] != record.namespace_uid or attempt is None:
        return
    known = Knowledge(_hurt(ctx, result, job), result)
    is_there, waiting = _presence(ctx, record), {each.backup for each in record.verify.suspects}
    waiting.difference_update(attempt.suspects)
    for backup in readable(DiskBackup, ctx.cluster.list(DISK_BACKUP, record.namespace)):
        # What a restore has met since the run began is for the next one to find.
        if _was_looked_at(backup, record, attempt) and is_there(backup) and backup.status.manifest not in waiting:
            _tell_one(ctx, backup, known)


def _was_looked_at(backup: DiskBackup, record: RepositoryRecord, attempt: Attempt) -> bool:
    status = backup.status
    if status.store is None or status.manifest is None or status.completed_at is None:
        return False
    here = status.store.name == record.store and status.store.repository.endswith(f"/{record.folder}")
    going = backup.metadata.deletion_timestamp is not None or status.tombstoned_at is not None
    return here and not going and status.completed_at <= attempt.started


def _presence(ctx: Context, record: RepositoryRecord) -> Callable[[DiskBackup], bool]:
    """Return what says whether a backup is in the repository: a run looks at what it finds, and misses nothing else."""
    try:
        store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", record.store)
        if store is None:
            return lambda _: False
        repository = maintenance_records.opened(ctx, store, record).repository
        names = newest_revisions(repository)
    except (StoreProblemError, RepositoryError) as problem:
        log.warning("%s: its backups are told by the next verification: %s", record.namespace, problem)
        return lambda _: False

    def is_there(backup: DiskBackup) -> bool:
        pinned, name = backup.status.store, backup.status.manifest
        same = pinned is not None and pinned.id == repository.id
        return same and name is not None and repository.keys.name_hash(name) in names

    return is_there


def _tell_one(ctx: Context, backup: DiskBackup, known: Knowledge) -> None:
    found = finding(backup, known)
    if found is None:
        return
    status = with_finding(backup, found, ctx.now(), renewed_after=timedelta(0) if known.whole else RENEWED_AFTER)
    # Whoever changed it meanwhile goes on; the next verification tells it.
    with contextlib.suppress(ConflictError, NotFoundError):
        save_status(ctx.cluster, backup, status)
        if found.verified != (backup.status.verified or "Yes"):
            trouble = found.reason == "Damaged"
            ctx.cluster.event(reference(backup), "Warning" if trouble else "Normal", found.reason, found.message)


def _hurt(ctx: Context, result: VerifyResult, job: str) -> Mapping[str, Hurt]:
    """Return the damaged backups by name: from the end of the Job's log, or the first few, from its result."""
    if not result.damaged:
        return {}
    found = {each.backup: each for each in _logged(ctx, job, min(MOST_LINES, result.damaged + 20))}
    if len(found) < result.damaged:
        log.warning("job %s: its log names %d of %d damaged backups", job, len(found), result.damaged)
    return {name: Hurt(backup=name) for name in result.hurt} | found


def note_read(ctx: Context, record: RepositoryRecord, job: str, lines: int = MOST_LINES) -> None:
    """Note down which disks of its suspects a verification has read so far, by so many lines of the log's end."""
    attempt = record.verify.attempt
    if attempt is None or not attempt.suspects:
        return
    found = set(_read(ctx, job, lines))
    if having_read(record, found) != record:
        maintenance_records.update(ctx, record, lambda now: having_read(now, found))


def _read(ctx: Context, job: str, lines: int) -> Iterator[tuple[str, str]]:
    for line in _lines(ctx, job, lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)["read"]
            yield str(told["backup"]), str(told["disk"])


def _logged(ctx: Context, job: str, lines: int) -> Iterator[Hurt]:
    for line in _lines(ctx, job, lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            yield Hurt.model_validate(json.loads(line)["hurt"])


def _lines(ctx: Context, job: str, lines: int) -> Iterator[str]:
    for pod in ctx.cluster.list(POD, ctx.settings.namespace, {JOB_NAME: job}):
        text = ""
        # What a lost node, or a log that is too long, does not give away is looked at by the next run.
        with contextlib.suppress(KubeError):
            text = ctx.cluster.logs(pod["metadata"]["name"], ctx.settings.namespace, tail=lines)
        yield from text.splitlines()
