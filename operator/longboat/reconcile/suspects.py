"""Tells on earlier backups of a disk that its CSI driver, on which they relied, was found wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import DISK_BACKUP
from longboat.kube.port import NotFoundError, RefusedError
from longboat.plan.change_tracking import SUSPECT, as_suspect, same_disk, suspects
from longboat.reconcile.backup_run import Run
from longboat.reconcile.objects import readable, reference, save_status

log = logging.getLogger(__name__)


def mark(run: Run, wrong: Sequence[DiskResult]) -> list[str]:
    """Mark what rests on the drivers of these disks, which this run found wrong, and return its names; idempotent.

    It is done before the run notes what was found: an operator that is killed in between does it again. It is done
    again at the end, as an earlier backup of the disk may have been completed meanwhile. What becomes of the run does
    not matter: the driver was wrong.
    """
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
