"""Tells on earlier backups of a disk that its CSI driver, on which they relied, was found wrong."""

from __future__ import annotations

import logging

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import DISK_BACKUP
from longboat.kube.port import NotFoundError, RefusedError
from longboat.plan.change_tracking import SUSPECT, as_suspect, same_disk, suspects
from longboat.reconcile.backup_run import Run
from longboat.reconcile.objects import readable, reference, save_status

log = logging.getLogger(__name__)


def mark(run: Run) -> list[str]:
    """Mark what rests on drivers that this run found wrong, and return its names; idempotent.

    It is done before the run says that it has ended: an operator that is killed in between does it again.
    """
    wrong = [disk for disk in run.disks if disk.phase == "Completed" and disk.mismatch]
    if not wrong:
        return []
    backups = list(readable(DiskBackup, run.ctx.cluster.list(DISK_BACKUP, run.backup.namespace)))
    marked: dict[str, DiskBackup] = {}
    for disk in wrong:
        for each in suspects(run.backup, disk, backups):
            marked[each.uid] = _marked(run, marked.get(each.uid, each), disk)
    return [each.name for each in marked.values()]


def _marked(run: Run, suspect: DiskBackup, disk: DiskResult) -> DiskBackup:
    its = same_disk(suspect, disk)
    if its is None or its.suspected_by:
        return suspect
    status = as_suspect(suspect, disk, run.backup, run.ctx.now())
    try:
        saved = save_status(run.ctx.cluster, suspect, status)
    except NotFoundError:
        return suspect
    except RefusedError as error:
        # One that the API server takes no longer holds up neither this run nor the other suspects.
        log.warning("%s/%s may hold wrong blocks and could not be marked: %s", suspect.namespace, suspect.name, error)
        return suspect
    message = next(each.message for each in status.conditions or () if each.type == SUSPECT)
    run.ctx.cluster.event(reference(suspect), "Warning", SUSPECT, message)
    return saved
