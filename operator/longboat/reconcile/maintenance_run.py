"""One run of prune or verify: noted down, its Job made and followed, its result noted down, the Job removed.

Each step can be the last before the operator is killed: what was noted down says which Job it is, and the next look
goes on there.
"""

from __future__ import annotations

import logging
from datetime import datetime

from pydantic import ValidationError

from longboat.api import BackupStore
from longboat.kube.kinds import JOB, NAMESPACE, SECRET
from longboat.kube.port import AlreadyExistsError, Object, RefusedError
from longboat.mover import Failure, PruneRepack, PruneResult, VerifyResult
from longboat.plan import maintenance as plan
from longboat.plan.generations import FIRST
from longboat.plan.maintenance import Due, RepositoryRecord, Work, next_run, rules_of
from longboat.plan.maintenance_job import NOT_STARTED_AFTER, REPOSITORY_KEY, job_name, mover_of, record_key
from longboat.plan.mover import ROLE, Mover, mover_job
from longboat.reconcile import maintenance_findings, maintenance_records
from longboat.reconcile import mover as movers
from longboat.reconcile.context import Context
from longboat.reconcile.epochs import Token, new_token, own_tokens, require_charge
from longboat.reconcile.maintenance_records import read, update
from longboat.reconcile.mover import MoverState
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_choice import held_at
from longboat.reconcile.stored_data import require_in_sight
from longboat.reconcile.trash_notes import Place
from longboat.repository.closing import NOTHING

log = logging.getLogger(__name__)

_LATEST_LINES = 200
"""Of a log that is read every few seconds: several minutes of it."""


def start(ctx: Context, store: BackupStore, due: Due, token: Token = new_token) -> bool:
    """Begin a run that is due, or go on with one whose Job was not made; return whether there is one Job more now.

    Raises StoreProblemError, which is noted down as the run's failure, if the store does not answer.
    """
    record = read(ctx, record_key(store.name, due.folder))
    if record is None:
        return False
    attempt = record.runs(due.work).attempt
    if attempt is not None and attempt.job is None and plan.is_forbidden(record, due.work, store):
        record, attempt = _drop(ctx, record, due.work), None
    if attempt is None:
        moment = next_run(record, due.work, rules_of(store, due.work), ctx.now())
        if moment is None or moment > ctx.now():
            return False
        access = _opened(ctx, record, due.work, store, store.spec.maintenance.prune.dry_run)
        record = _note(ctx, record, due.work, store, token, access.repository.id)
    elif attempt.job is not None:
        if ctx.cluster.get(JOB, job_name(record, due.work, attempt.number), ctx.settings.namespace) is None:
            _fail(ctx, record, due.work, "JobDeleted", "somebody deleted the Job; there will be another one")
        return False
    else:
        access = _opened(ctx, record, due.work, store, attempt.dry_run)
    return _launch(ctx, record, due.work, store, access)


def _drop(ctx: Context, record: RepositoryRecord, work: Work) -> RepositoryRecord:
    """Forget a run that has done nothing yet; whether there is to be another one is for the store to say."""
    log.info("%s of %s in store %s is dropped: the store forbids it by now", work, record.namespace, record.store)
    return update(ctx, record, lambda found: plan.dropped(found, work))


def _opened(ctx: Context, record: RepositoryRecord, work: Work, store: BackupStore, dry_run: bool) -> RepositoryAccess:
    """Return the repository, if it is this operator that may remove what is in it, or the run removes nothing."""
    try:
        access = _open(ctx, record, work, store)
        if work == "prune" and not dry_run:
            require_charge(ctx, _place(record), access)
            require_not_held(ctx, store)
            if (namespace := _living_namespace(ctx, record)) is not None:
                require_in_sight(ctx, namespace, access)
    except StoreProblemError as problem:
        _fail(ctx, record, work, problem.reason, problem.message)
        raise
    return access


def require_not_held(ctx: Context, store: BackupStore) -> None:
    """Raise StoreProblemError RemovalsHeld if another BackupStore that leads to the same bucket holds removals."""
    if held := held_at(ctx.cluster, store):
        raise StoreProblemError("RemovalsHeld", f"{held}: nothing is removed from its bucket", retryable=False)


def _living_namespace(ctx: Context, record: RepositoryRecord) -> str | None:
    """Return the name of the repository's namespace, None if it is gone: another one may have its name."""
    found = ctx.cluster.get(NAMESPACE, record.namespace) if record.namespace else None
    return record.namespace if found and found["metadata"]["uid"] == record.namespace_uid else None


def _open(ctx: Context, record: RepositoryRecord, work: Work, store: BackupStore) -> RepositoryAccess:
    if work == "verify":
        # It reads most of what others wrote, and removes nothing: its pods are not given what can. The store's own
        # credentials, not those of a namespace, which may be gone or another one of its name.
        return ctx.repositories.find(
            store, record.namespace_uid, namespace="", purpose="export", generation=record.generation or FIRST
        )
    return maintenance_records.opened(ctx, store, record)


def _place(record: RepositoryRecord) -> Place:
    return Place(record.store, record.namespace, record.namespace_uid, record.generation or FIRST)


def _note(
    ctx: Context, record: RepositoryRecord, work: Work, store: BackupStore, token: Token, repository_id: str
) -> RepositoryRecord:
    """Note a run down before anything is made for it: a prune's token has to be known before it can be found."""
    others, fresh = (own_tokens(ctx, _place(record)), token()) if work == "prune" else ([], "")
    now = ctx.now()

    def begun(found: RepositoryRecord) -> RepositoryRecord:
        return plan.begin(plan.of_repository(found, repository_id, now), work, store, now, fresh, others)

    return update(ctx, record, begun)


def _launch(ctx: Context, record: RepositoryRecord, work: Work, store: BackupStore, access: RepositoryAccess) -> bool:
    try:
        mover = _mover(ctx, record, work, store, access)
    except StoreProblemError as problem:
        _fail(ctx, record, work, problem.reason, problem.message)
        raise
    try:
        job = _made(ctx, mover)
    except RefusedError as error:
        _fail(ctx, record, work, "JobRefused", f"the Job in the operator's namespace was refused: {error.answer}")
        return False
    if job is None:
        _fail(ctx, record, work, "NameTaken", f"Job {mover.name!r} in the operator's namespace is not ours; delete it")
        return False
    update(ctx, record, lambda found: plan.with_job(found, work, job["metadata"]["uid"]))
    movers.equip(ctx.cluster, mover, job)
    return True


def _mover(ctx: Context, record: RepositoryRecord, work: Work, store: BackupStore, access: RepositoryAccess) -> Mover:
    """Return the mover of a run; raises StoreProblemError, if it can't be told whether the repository is closed."""
    closed, accepted = None, NOTHING
    if work == "prune":
        # What a forger with an old key has written counts for nothing: the prune of an old repository ends at it.
        place = store, record.namespace_uid, access.generation
        closed = ctx.repositories.closed(*place, namespace=record.namespace, purpose="maintenance")
        accepted = ctx.repositories.accepted(*place, namespace=record.namespace, purpose="maintenance")
    return mover_of(record, work, store, access.settings, access.path, access.master_key, closed, accepted)


def _made(ctx: Context, mover: Mover) -> Object | None:
    """Return the mover's Job, made now or before; None if another one has its name."""
    try:
        return ctx.cluster.create(mover_job(mover, movers.mover_settings(ctx.settings)))
    except AlreadyExistsError:
        found = ctx.cluster.get(JOB, mover.name, ctx.settings.namespace)
        labels = (found or {"metadata": {}})["metadata"].get("labels") or {}
        return found if labels.get(REPOSITORY_KEY) == mover.labels[REPOSITORY_KEY] else None


def follow(ctx: Context, store: BackupStore, job: Object) -> bool:
    """Look at a Job of the store's; return whether it takes a place. What has ended is noted down and removed."""
    meta = job["metadata"]
    labels = meta["labels"]
    work, record = labels.get(ROLE), read(ctx, labels.get(REPOSITORY_KEY, ""))
    if work not in plan.WORKS or "deletionTimestamp" in meta:
        return False
    attempt = record.runs(work).attempt if record is not None else None
    if record is None or attempt is None or job_name(record, work, attempt.number) != meta["name"]:
        # Its end has been noted down; whoever did it was killed before this.
        movers.stop(ctx.cluster, job)
        return False
    if attempt.job is None:
        record = update(ctx, record, lambda found: plan.with_job(found, work, meta["uid"]))
    if movers.active(job):
        return _under_way(ctx, store, record, work, job)
    _end(ctx, store, record, work, movers.observe(ctx.cluster, ctx.settings.namespace, meta["name"]))
    movers.stop(ctx.cluster, job)
    return False


def _under_way(ctx: Context, store: BackupStore, record: RepositoryRecord, work: Work, job: Object) -> bool:
    meta = job["metadata"]
    if (job.get("status") or {}).get("ready"):
        if work == "verify":
            # A pod that is evicted takes its log along.
            maintenance_findings.note_read(ctx, record, meta["name"], _LATEST_LINES)
        return True
    if ctx.now() - datetime.fromisoformat(meta["creationTimestamp"]) >= NOT_STARTED_AFTER:
        state = movers.observe(ctx.cluster, ctx.settings.namespace, meta["name"])
        if state.phase == "Pending":
            _fail(ctx, record, work, "MoverNotStarted", state.message)
            movers.stop(ctx.cluster, job)
            return False
    if ctx.cluster.get(SECRET, meta["name"], ctx.settings.namespace) is None:
        # Without it no pod of the Job can begin: its run is one that has done nothing yet.
        if plan.is_forbidden(record, work, store):
            _drop(ctx, record, work)
            movers.stop(ctx.cluster, job)
            return False
        access = _open(ctx, record, work, store)
        mover = _mover(ctx, record, work, store, access)
        movers.equip(ctx.cluster, mover, job)
    return True


def _end(ctx: Context, store: BackupStore, record: RepositoryRecord, work: Work, state: MoverState) -> None:
    if state.phase == "Failed" and state.failure is not None:
        if work == "verify" and state.job is not None:
            maintenance_findings.note_read(ctx, record, state.job["metadata"]["name"])
        _failed(ctx, record, work, state.failure)
    elif state.phase == "Succeeded" and state.job is not None:
        try:
            _succeeded(ctx, store, record, work, state)
        except ValidationError as error:
            _fail(ctx, record, work, "ResultUnreadable", f"the result of the Job can't be read: {error}")


def _succeeded(ctx: Context, store: BackupStore, record: RepositoryRecord, work: Work, state: MoverState) -> None:
    if work == "prune":
        pruned = PruneResult.model_validate(state.result)
        update(ctx, record, lambda found: plan.pruned(found, pruned, ctx.now()))
        log.info("%s: prune freed %d bytes in store %s", record.namespace, pruned.freed.bytes, store.name)
        if pruned.repacked != PruneRepack():
            log.info("%s: prune repacked in store %s: %s", record.namespace, store.name, pruned.repacked)
        return
    verified = VerifyResult.model_validate(state.result)
    assert state.job is not None
    # Before it is noted that the run is over: who is killed in between does it again.
    maintenance_findings.tell(ctx, record, verified, state.job["metadata"]["name"])
    update(ctx, record, lambda found: plan.verified(found, verified, ctx.now()))


def _fail(ctx: Context, record: RepositoryRecord, work: Work, reason: str, message: str) -> None:
    _failed(ctx, record, work, Failure(reason=reason, message=message, retryable=True))


def _failed(ctx: Context, record: RepositoryRecord, work: Work, failure: Failure) -> None:
    log.warning("%s of %s in store %s: %s: %s", work, record.namespace, record.store, failure.reason, failure.message)
    update(ctx, record, lambda found: plan.failed(found, work, failure, ctx.now()))
