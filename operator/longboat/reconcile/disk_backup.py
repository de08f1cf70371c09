"""DiskBackup: pin what the run depends on, capture the disks, hand the snapshots over, export them, write the manifest.

Each step looks at the world as it is and takes what is next, so that an operator that was killed goes on anywhere.
"""

from __future__ import annotations

from datetime import timedelta

from longboat.api import DiskBackup
from longboat.kube.kinds import DISK_BACKUP
from longboat.plan.backup import is_finished, phase_of, progress_of, progress_text, waits
from longboat.plan.cut import needs_thaw
from longboat.reconcile import backup_cut, backup_end, backup_snapshots, backup_start, export, hand_over, shared_cut
from longboat.reconcile.backup_cleanup import clean
from longboat.reconcile.backup_run import SOON, Run
from longboat.reconcile.backup_sweep import sweep
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load

__all__ = ["abandon", "reconcile", "sweep"]


def reconcile(ctx: Context, namespace: str, name: str) -> timedelta | None:
    """Bring a DiskBackup on its way; return when to look again, None if it has ended or its deletion has begun."""
    backup = load(ctx.cluster, DISK_BACKUP, DiskBackup, namespace, name)
    if backup is None or backup.metadata.deletion_timestamp is not None:
        return None
    run = Run(ctx, backup)
    if not is_finished(backup.status):
        _advance(run)
    if is_finished(run.status):
        backup_end.tidy(run)
    return min(run.waits, default=None)


def abandon(ctx: Context, backup: DiskBackup) -> bool:
    """Stop a run that will not be finished: thaw, stop Jobs, remove everything made for it, in both namespaces.

    Returns whether nothing is left; call it again until then. The data in the store is not touched.
    """
    run = Run(ctx, backup)
    backup_cut.thaw_if_needed(run)
    return clean(ctx, run.backup) and not needs_thaw(run.status.cut, ctx.now())


def _advance(run: Run) -> None:
    if run.status.disks is None and not backup_start.begin(run):
        return
    if shared_cut.step(run):
        if not backup_end.step(run):
            _report(run)
        return
    if not backup_cut.step(run):
        _report(run)
        return
    backup_snapshots.step(run)
    hand_over.step(run)
    export.step(run)
    if not backup_end.step(run):
        _report(run)


def _report(run: Run) -> None:
    phase = phase_of(run.disks)
    if is_finished(run.status.model_copy(update={"phase": phase})):
        # Every disk has ended; what is missing is the manifest.
        phase = "Exporting"
    good = sum(disk.phase == "Completed" for disk in run.disks)
    progress = progress_of(run.disks) if phase != "Exporting" or good < len(run.disks) else "99%"
    told = "; ".join(filter(None, [f"{good} of {len(run.disks)} disks are in the store", waits(run.disks)]))
    run.under_way(phase, told, phase=phase, progress=progress, progress_text=progress_text(run.disks))
    if not run.waits:
        run.wait(SOON)
