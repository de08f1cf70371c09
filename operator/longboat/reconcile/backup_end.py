"""The end of a run: the machine's manifest, written last, and what the DiskBackup says for good."""

from __future__ import annotations

from typing import Any

from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import VIRTUAL_MACHINE
from longboat.kube.port import Object
from longboat.plan import kstatus
from longboat.plan.backoff import look_again
from longboat.plan.backup import (
    all_ended,
    expires_at,
    expiry_rule,
    failures,
    phase_of,
    progress_of,
    progress_text,
    totals,
)
from longboat.plan.change_tracking import found_out
from longboat.plan.manifest import manifest_metadata
from longboat.plan.problem import Problem
from longboat.plan.shared_cut import is_shared
from longboat.reconcile import suspects
from longboat.reconcile.backup_cleanup import clean
from longboat.reconcile.backup_generation import is_late, late
from longboat.reconcile.backup_run import SOON, Run
from longboat.reconcile.backup_store_access import open_repository, wait_or_fail
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, for_namespace, told_in_namespace
from longboat.repository import (
    RepositoryError,
    find_backup,
    read_disk_manifest,
    reference_to,
    write_backup_manifest,
)


def step(run: Run) -> bool:
    """Finish the run if no disk is under way any more; return whether it is finished."""
    if not all_ended(run.disks):
        return False
    good = [disk for disk in run.disks if disk.phase == "Completed"]
    if good:
        access = open_repository(run, good)
        if access is None or not _in_time(run, good) or not _write_manifest(run, access, good):
            return False
    _finish(run, bool(good))
    return True


def tidy(run: Run) -> None:
    """Remove what is left of a finished run."""
    if run.status.cleaned_up:
        return
    if clean(run.ctx, run.backup):
        run.write(cleaned_up=True)
    else:
        # Somebody's finalizer may hold it for ever.
        run.wait(look_again(run.ctx.now() - (run.status.completed_at or run.ctx.now()), SOON))


def _in_time(run: Run, good: list[DiskResult]) -> bool:
    """Tell whether the manifest can be written: a late one would be taken for forged, and stop every prune."""
    try:
        if not is_late(run):
            return True
    except StoreProblemError as error:
        wait_or_fail(run, Problem(error.reason, told_in_namespace(_store(run), error)), good)
        return False
    for disk in good:
        run.fail(disk, late())
    run.wait(SOON)
    return False


def _store(run: Run) -> str:
    return run.status.store.name if run.status.store else ""


def _write_manifest(run: Run, access: RepositoryAccess, good: list[DiskResult]) -> bool:
    repository = access.repository
    try:
        references = [reference_to(read_disk_manifest(repository, disk.manifest or ""), disk.name) for disk in good]
        created = (run.status.cut and run.status.cut.cut_at) or run.status.started_at or run.ctx.now()
        expiry = expiry_rule(run.backup, run.status.retention) if run.status.retention else None
        write_backup_manifest(repository, run.backup.name, created, references, expiry, _metadata(run))
        # What was written is read back: "Completed" is said of what is there.
        found = find_backup(repository, run.backup.name)
    except RepositoryError as error:
        _problem(run, error, good)
        return False
    return found is not None


def _problem(run: Run, error: RepositoryError, good: list[DiskResult]) -> None:
    said = for_namespace(_store(run), error.reason, str(error))
    problem = Problem(error.reason, f"the backup's manifest could not be written: {said}")
    if error.reason not in _HOPELESS:
        # Without the manifest a captured disk is not to be found again: it does not count.
        wait_or_fail(run, problem, good)
        return
    for disk in good:
        run.fail(disk, problem)
    run.wait(SOON)


_HOPELESS = frozenset({"ManifestConflict", "BackupNotFound"})
"""The name is taken in the store, or what was exported is not there any more: waiting changes nothing."""


def _metadata(run: Run) -> dict[str, Any]:
    name = run.status.virtual_machine
    vm: Object | None = run.ctx.cluster.get(VIRTUAL_MACHINE, name, run.backup.namespace) if name else None
    ended = run.status.model_copy(update=_final(run))
    return manifest_metadata(run.backup, ended, vm)


def _final(run: Run) -> dict[str, Any]:
    phase = phase_of(run.disks)
    # Nothing of a failed run has got anywhere, and nothing is there that could expire.
    failed = phase == "Failed"
    return {
        "phase": phase,
        "progress": None if failed else progress_of(run.disks),
        "progress_text": progress_text(run.disks),
        "completed_at": run.ctx.now(),
        "expires_at": None if failed else expires_at(run.backup, run.status),
        **totals(run.disks),
    }


def _finish(run: Run, any_good: bool) -> None:
    final = _final(run)
    phase = final["phase"]
    now, generation = run.ctx.now(), run.backup.metadata.generation
    suspected = suspects.mark(run, [disk for disk in run.disks if disk.mismatch])
    before = found_out(run.backup, run.disks, suspected, now)
    if phase == "Completed":
        conditions = kstatus.ready(before, "Completed", _summary(run), now=now, generation=generation)
    else:
        problem = Problem(_reason(run, phase), failures(run.disks) or "no disk could be backed up")
        conditions = kstatus.stalled(before, problem, now=now, generation=generation)
    run.write(**final, conditions=conditions, manifest=run.backup.name if any_good else None)


def _reason(run: Run, phase: str) -> str:
    """Return the disks' own reason when all failed for the same one."""
    reasons = {disk.reason for disk in run.disks if disk.phase == "Failed"}
    return reasons.pop() or phase if phase == "Failed" and len(reasons) == 1 else phase


def _summary(run: Run) -> str:
    good = [disk for disk in run.disks if disk.phase == "Completed"]
    skipped = [disk.name for disk in run.disks if disk.phase == "Unsupported"]
    rest = f"; not supported: {', '.join(skipped)}" if skipped else ""
    return f"{len(good)} disk{'s' if len(good) != 1 else ''} in BackupStore {_store(run)!r}{rest}{_shared(run)}"


def _shared(run: Run) -> str:
    its = run.status.shared_cut
    return f"; shares the cut and the export of DiskBackup {its.name!r}" if its and is_shared(run.status) else ""
