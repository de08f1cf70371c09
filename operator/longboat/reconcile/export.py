"""Exports each disk that is handed over: a claim from the copied snapshot, a mover, its result, and nothing left."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import timedelta

from pydantic import ValidationError

from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import JOB, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, SECRET
from longboat.kube.port import AlreadyExistsError, Object, RefusedError
from longboat.mover import ExportJob, ExportResult, Failure
from longboat.plan.backoff import look_again
from longboat.plan.backup import expiry_rule, percent
from longboat.plan.backup_snapshots import is_ours, name_taken
from longboat.plan.change_tracking import MISMATCH
from longboat.plan.driver_trust import DISTRUSTED
from longboat.plan.export import (
    PENDING_PATIENCE,
    PENDING_TOLD,
    completed,
    disk_label,
    distrusted,
    identity_of,
    job_name,
    labels,
    most_attempts,
    retry_delay,
    secret_name,
)
from longboat.plan.hand_over import claim_name, export_claim
from longboat.plan.mover import ATTEMPT, Mover, hung, mount_path, standing_since
from longboat.plan.names import DISK, OWNER_NAMESPACE
from longboat.plan.new_volume import is_bound
from longboat.plan.problem import Problem
from longboat.plan.state import LEFT_OUT
from longboat.reconcile import base_snapshots, driver_trust, suspects
from longboat.reconcile import mover as movers
from longboat.reconcile.backup_cleanup import clean_disk
from longboat.reconcile.backup_generation import REPLACED, is_known_late, open_for_export
from longboat.reconcile.backup_run import LATER, SOON, Run
from longboat.reconcile.new_volume import claim_says, proven_new
from longboat.reconcile.repositories import StoreProblemError, for_namespace, log_once
from longboat.repository import DEFAULT_BLOCK_SIZE

AT_FIRST, PROGRESS_PERIOD = timedelta(seconds=1), timedelta(seconds=5)


def step(run: Run) -> None:
    """Bring on the export of every disk that is handed over, and tidy up after those that ended."""
    for disk in run.in_phase("HandedOver"):
        _begin(run, disk)
    for disk in run.in_phase("Exporting"):
        _follow(run, disk)
    for disk in run.in_phase("Completed", "Failed"):
        _tidy(run, disk)


def _begin(run: Run, disk: DiskResult) -> None:
    holder = run.ctx.cluster.get(JOB, job_name(disk), run.ctx.settings.namespace)
    if holder is not None and not is_ours(holder, run.backup):
        _queue(run, disk, holder)
        return
    # The number is written before the Job is made: an operator that was killed in between makes the same one.
    run.update(disk, phase="Exporting", attempts=1, started_at=run.ctx.now(), message=None)


def _queue(run: Run, disk: DiskResult, holder: Object) -> None:
    meta = holder["metadata"]
    namespace = (meta.get("labels") or {}).get(OWNER_NAMESPACE, "unknown")
    message = f"waiting for another export of this disk (Job {meta['name']!r} for a backup in {namespace!r}) to end"
    run.update(disk, message=message)
    run.wait(SOON)


def _follow(run: Run, disk: DiskResult) -> None:
    state = movers.observe(run.ctx.cluster, run.ctx.settings.namespace, job_name(disk))
    if state.job is not None and not is_ours(state.job, run.backup):
        if disk.job is None:
            _queue(run, disk, state.job)
            return
        # Ours was deleted, and another backup was quicker.
        state = movers.MoverState("Absent")
    if disk.retry_at is not None:
        _retry(run, disk, state.job)
    elif state.job is not None and not _current(state.job, disk):
        movers.stop(run.ctx.cluster, state.job)
        run.wait(SOON)
    else:
        _act_on(run, disk, state)


def _current(job: Object, disk: DiskResult) -> bool:
    its = job["metadata"]["labels"]
    return bool(its.get(ATTEMPT) == str(disk.attempts) and its.get(DISK) == disk_label(disk))


def _act_on(run: Run, disk: DiskResult, state: movers.MoverState) -> None:
    match state.phase:
        case "Absent" if disk.job is None:
            _start(run, disk)
        case "Absent":
            message = f"Job {job_name(disk)!r} was deleted before it ended"
            _failed(run, disk, Failure(reason="JobDeleted", message=message, retryable=True))
        case "Pending":
            _pending(run, disk, state)
        case "Running":
            _progress(run, disk, state)
        case "Succeeded":
            _succeeded(run, disk, state)
        case "Failed" if state.failure is not None:
            _failed(run, disk, state.failure)


def _start(run: Run, disk: DiskResult) -> None:
    settings, namespace = movers.mover_settings(run.ctx.settings), run.backup.namespace
    if full := movers.crowded(run.ctx.cluster, "export", job_name(disk), namespace, settings, run.ctx.now()):
        _wait_for_room(run, disk, full)
        return
    # Written before the Job is made, so that all who look at it tell it the same.
    disk = driver_trust.judged(run, disk)
    mover = _mover(run, disk)
    if mover is None:
        return
    try:
        job = movers.start(run.ctx.cluster, mover, settings, run.ctx.now())
    except movers.NoRoomError as error:
        _wait_for_room(run, disk, str(error))
        return
    except RefusedError as error:
        _failed(
            run,
            disk,
            Failure(reason="JobRefused", message=f"the export Job was refused: {error.answer}", retryable=True),
        )
        return
    if job is None:
        run.wait(SOON)
        return
    disk = _note_job(run, disk, job)
    _ensure_claim(run, disk)
    run.wait(AT_FIRST)


def _note_job(run: Run, disk: DiskResult, job: Object) -> DiskResult:
    # What it waited for before, room for one, is not counted against the Job.
    return run.update(disk, job=job["metadata"]["uid"], message=None, started_at=run.ctx.now())


def _wait_for_room(run: Run, disk: DiskResult, full: str) -> None:
    run.update(disk, message=full)
    run.wait(LATER)


def _mover(run: Run, disk: DiskResult) -> Mover | None:
    access = open_for_export(run, disk)
    if access is None:
        return None
    # A driver that was found wrong is not asked again: the next audit might see nothing, and believe it.
    distrust = MISMATCH if disk.mismatch else DISTRUSTED if disk.distrust else None
    changes, audience = (None, "") if distrust else base_snapshots.asked(run.ctx, run.backup, disk)
    job = ExportJob(
        store=access.settings,
        repository_path=access.path,
        master_key=base64.b64encode(access.master_key).decode(),
        source_path=mount_path(disk.volume_mode or "Filesystem"),
        disk=identity_of(disk),
        backup_name=run.backup.name,
        created=disk.cut_time or run.ctx.now(),
        expiry=expiry_rule(run.backup, run.status.retention) if run.status.retention else None,
        snapshot_handle=disk.hand_over.snapshot_handle if disk.hand_over else "",
        changes=changes,
        distrust=distrust,
        audit_share=run.ctx.settings.audit_percent / 100,
        full_read_every=run.ctx.settings.full_read_every,
        block_size=disk.block_size or DEFAULT_BLOCK_SIZE,
        dedupe=run.status.store.dedupe if run.status.store else "Disk",
        content=disk.content,
        leave_out=LEFT_OUT if disk.content == "Archive" else (),
    )
    return Mover(
        role="export",
        name=job_name(disk),
        secret_name=secret_name(run.backup, disk),
        labels=labels(run.backup, disk),
        job=json.loads(job.model_dump_json(by_alias=True, exclude_none=True)),
        claim=claim_name(run.backup, disk.name),
        volume_mode=disk.volume_mode or "Filesystem",
        node_affinity=_affinity(run, disk),
        token_audience=audience,
    )


def _affinity(run: Run, disk: DiskResult) -> Object | None:
    volume = run.ctx.cluster.get(PERSISTENT_VOLUME, disk.node_affinity_pv) if disk.node_affinity_pv else None
    required: Object | None = (((volume or {}).get("spec") or {}).get("nodeAffinity") or {}).get("required")
    return required


def _ensure_claim(run: Run, disk: DiskResult) -> None:
    system, name = run.ctx.settings.namespace, claim_name(run.backup, disk.name)
    found = run.ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, name, system)
    if found is not None:
        if not is_ours(found, run.backup):
            run.fail(disk, name_taken("PersistentVolumeClaim", name))
        return
    try:
        run.ctx.cluster.create(export_claim(run.backup, disk, system))
    except AlreadyExistsError:
        run.fail(disk, name_taken("PersistentVolumeClaim", name))
    except RefusedError as error:
        message = f"PersistentVolumeClaim {name!r} in {system!r} was refused: {error.answer}"
        _failed(run, disk, Failure(reason="ClaimRefused", message=message, retryable=True))


def _pending(run: Run, disk: DiskResult, state: movers.MoverState) -> None:
    if state.job is not None and disk.job is None:
        disk = _note_job(run, disk, state.job)
    _ensure_claim(run, disk)
    disk = next(each for each in run.disks if each.name == disk.name)
    if state.job is not None and disk.phase == "Exporting" and disk.retry_at is None:
        _equip(run, disk, state.job)
    disk = next(each for each in run.disks if each.name == disk.name)
    if disk.phase == "Exporting" and disk.retry_at is None:
        _wait_for_pod(run, disk, state.message)


def _equip(run: Run, disk: DiskResult, job: Object) -> None:
    """Tell the mover what to do once the volume that it reads is known to be made from the snapshot."""
    system = run.ctx.settings.namespace
    if run.ctx.cluster.get(SECRET, secret_name(run.backup, disk), system) is not None:
        # It has been told; the repository is opened once for each mover, not with each look.
        return
    name, driver = claim_name(run.backup, disk.name), disk.hand_over.driver if disk.hand_over else ""
    claim = run.ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, name, system)
    if claim is None or not is_bound(claim) or not is_ours(claim, run.backup):
        return
    if problem := proven_new(run.ctx.cluster, claim, driver, driver):
        run.fail(disk, problem)
        return
    mover = _mover(run, disk)
    if mover is not None:
        movers.equip(run.ctx.cluster, mover, job)


def _wait_for_pod(run: Run, disk: DiskResult, pod: str) -> None:
    waited = run.ctx.now() - (disk.started_at or run.ctx.now())
    if waited >= PENDING_TOLD:
        message = f"waiting since {int(waited.total_seconds() // 60)} min: {_claim_says(run, disk)}{pod}"
        if waited >= PENDING_PATIENCE:
            _failed(run, disk, Failure(reason="MoverNotStarted", message=message, retryable=True))
            return
        run.update(disk, message=message)
    run.wait(_next_look(run, disk, SOON) if waited < PENDING_TOLD else LATER)


def _next_look(run: Run, disk: DiskResult, longest: timedelta) -> timedelta:
    """Return when to look again: a small disk is exported within seconds, a large one takes hours."""
    return look_again(run.ctx.now() - (disk.started_at or run.ctx.now()), AT_FIRST, longest)


def _claim_says(run: Run, disk: DiskResult) -> str:
    name = claim_name(run.backup, disk.name)
    claim = run.ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, name, run.ctx.settings.namespace)
    said = claim_says(run.ctx.cluster, claim) if claim else f"PersistentVolumeClaim {name!r} is not there yet"
    return f"{said}; " if said else ""


def _progress(run: Run, disk: DiskResult, state: movers.MoverState) -> None:
    done, total = (state.progress.done, state.progress.total) if state.progress else (None, None)
    since = standing_since(done, disk.bytes_done, disk.progressed_at, run.ctx.now())
    if failure := hung(done, total, since, run.ctx.now()) or _too_late(run):
        _failed(run, disk, failure)
        return
    changes: dict[str, object] = {"message": None, "progressed_at": since}
    if state.job is not None:
        changes["job"] = state.job["metadata"]["uid"]
    if state.progress is not None:
        its = state.progress
        share = percent(its.done, its.total, ended=False)
        changes |= {"bytes_done": its.done, "logical_bytes": its.total, "progress": share}
    run.update(disk, **changes)
    run.wait(_next_look(run, disk, PROGRESS_PERIOD))


def _too_late(run: Run) -> Failure | None:
    # A store that does not answer is the mover's concern.
    with contextlib.suppress(StoreProblemError):
        if is_known_late(run):
            message = "the namespace got a new master key: the disk is exported again, into its new repository"
            return Failure(reason=REPLACED, message=message, retryable=True)
    return None


def _succeeded(run: Run, disk: DiskResult, state: movers.MoverState) -> None:
    try:
        result = ExportResult.model_validate(state.result)
    except ValidationError as error:
        _failed(run, disk, Failure(reason="ResultUnreadable", message=str(error)[:500], retryable=True))
        return
    result = result.model_copy(update={"note": _note(run, result)})
    before, reason = disk, distrusted(result)
    if reason == MISMATCH:
        disk = driver_trust.caught(run, disk, result.note)
    done = completed(disk, result)
    if done.mismatch:
        suspects.mark(run, [done])
    run.update(before, **{name: getattr(done, name) for name in type(done).model_fields})
    run.event("Normal", "DiskExported", f"disk {disk.name!r}: {result.stored_bytes} bytes stored ({result.mode})")
    if reason and not before.mismatch:
        message = f"disk {disk.name!r} was read as a whole, its CSI driver could not be relied on: {done.message}"
        run.event("Warning", reason, message)


def _note(run: Run, result: ExportResult) -> str:
    """Return what an export says of itself, as it is told in its namespace."""
    if result.full_reason not in _UNREADABLE:
        return result.note
    store = run.status.store.name if run.status.store else ""
    log_once(store, result.full_reason, result.note)
    return "what earlier backups stored could not all be read, so that everything was stored anew"


_UNREADABLE = ("ParentUnreadable", "DamageUnreadable", "CondemnedUnreadable")


def _failed(run: Run, disk: DiskResult, failure: Failure) -> None:
    store = run.status.store.name if run.status.store else ""
    failure = failure.model_copy(update={"message": for_namespace(store, failure.reason, failure.message)})
    if failure.reason == MISMATCH:
        # Written below, together with all that follows; the Job is there, and says it again, until then.
        disk = driver_trust.caught(run, disk, failure.message)
        suspects.mark(run, [disk])
    attempt, most = disk.attempts or 1, most_attempts(disk)
    if not failure.retryable or attempt >= most:
        tried = f" (attempt {attempt} of {most})" if failure.retryable else ""
        run.fail(disk, Problem(failure.reason, failure.message + tried))
        return
    delay = retry_delay(attempt, failure.reason)
    message = f"attempt {attempt} of {most} failed, trying again: {failure.message}"
    run.event("Warning", failure.reason, f"disk {disk.name!r}: {message}")
    changed = run.update(
        disk, reason=failure.reason, message=message, retry_at=run.ctx.now() + delay, job=None, progressed_at=None
    )
    _retry(run, changed, run.ctx.cluster.get(JOB, job_name(disk), run.ctx.settings.namespace))


def _retry(run: Run, disk: DiskResult, job: Object | None) -> None:
    """Free the disk for others while waiting, then begin the next attempt."""
    if job is not None and is_ours(job, run.backup):
        movers.stop(run.ctx.cluster, job)
    due = disk.retry_at or run.ctx.now()
    if run.ctx.now() < due:
        run.wait(due - run.ctx.now())
        return
    attempts = (disk.attempts or 0) + 1
    run.update(disk, attempts=attempts, retry_at=None, started_at=run.ctx.now(), job=None, progress=None)
    run.wait(timedelta(seconds=1))


def _tidy(run: Run, disk: DiskResult) -> None:
    if disk.claim is None:
        return
    job = run.ctx.cluster.get(JOB, job_name(disk), run.ctx.settings.namespace)
    if job is not None and is_ours(job, run.backup) and job["metadata"]["labels"].get(DISK) == disk_label(disk):
        movers.stop(run.ctx.cluster, job)
    with contextlib.suppress(RefusedError):
        clean_disk(run.ctx, run.backup, disk)
