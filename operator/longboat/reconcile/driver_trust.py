"""Holds against a CSI driver what earlier exports of a disk have found out about it."""

from __future__ import annotations

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import DISK_BACKUP
from longboat.plan import driver_trust
from longboat.plan.export import with_mismatch
from longboat.reconcile import base_snapshots
from longboat.reconcile.backup_run import Run
from longboat.reconcile.objects import readable

_HOLDING = ("status.driverDistrusted=true",)


def judged(run: Run, disk: DiskResult) -> DiskResult:
    """Note with a disk, before it is exported, whether its driver is asked what has changed.

    Nobody else exports the disk meanwhile. What this very backup has found stays. It is handed on as well while nobody
    could be asked (a service that is away for an upgrade): whoever found out may have expired when it is back.
    """
    if disk.mismatch:
        return disk
    held = run.ctx.cluster.list(DISK_BACKUP, run.backup.namespace, fields=_HOLDING)
    others = (each for each in readable(DiskBackup, held) if each.uid != run.backup.uid)
    service = base_snapshots.service_of(run.ctx, disk.hand_over.driver if disk.hand_over else None)
    forgiven = driver_trust.forgiven(service, run.ctx.now())
    return run.update(disk, distrust=driver_trust.held_against(disk, others, forgiven))


def caught(run: Run, disk: DiskResult, found: str) -> DiskResult:
    """Return the disk with what its export has found out about the driver; what was found first stays."""
    if disk.mismatch:
        return disk
    noted = driver_trust.caught(run.backup.name, run.ctx.now(), run.ctx.settings.full_read_every)
    return with_mismatch(disk, found).model_copy(update={"distrust": noted})
