"""What comes of damage that a restore has met: its backup counts as verified no more, a verification is due at once.

A restore may write nothing into the repository, and has not looked at everything; the verification writes down what is
damaged, so that no new backup refers to it. All of this is noted before the restore is said to have ended.
"""

from __future__ import annotations

import logging

from longboat.api import DiskBackup, Restore
from longboat.kube.kinds import DISK_BACKUP, NAMESPACE
from longboat.kube.port import ConflictError
from longboat.plan.maintenance import record_of, repositories_in, suspected
from longboat.plan.maintenance_findings import DAMAGE_MET, with_damage_met
from longboat.plan.maintenance_job import record_key
from longboat.reconcile import maintenance_records
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, reference, save_status

log = logging.getLogger(__name__)


def note_damage(ctx: Context, restore: Restore, *, lost: bool, at: int | None = None) -> None:
    """Have the backup of a restore verified that has met unrecorded damage; can be repeated.

    ``lost``: there is data that no backup has, from byte ``at`` on as far as that is known. Raises ConflictError if
    the DiskBackup changes at the same moment.
    """
    source = restore.spec.source.disk_backup
    backup = load(ctx.cluster, DISK_BACKUP, DiskBackup, restore.namespace, source.name) if source else None
    if backup is None or backup.status.manifest is None or not _is_source(restore, backup):
        return
    _ask_for_verification(ctx, restore, backup.status.manifest, at or 0)
    status = with_damage_met(backup, restore.name, lost, ctx.now())
    if status != backup.status:
        saved = save_status(ctx.cluster, backup, status)
        message = next(each.message for each in status.conditions or () if each.reason == DAMAGE_MET)
        ctx.cluster.event(reference(saved), "Warning", DAMAGE_MET, message)


def _is_source(restore: Restore, backup: DiskBackup) -> bool:
    """Tell whether a DiskBackup is the one that was restored: another one may have its name by now."""
    wanted, store = restore.status, backup.status.store
    if store is None or (store.name, store.repository) != (wanted.store, wanted.repository):
        return False
    disk = (wanted.manifest, wanted.object_id)
    return wanted.manifest is not None and any((d.manifest, d.object_id) == disk for d in backup.status.disks or ())


def _ask_for_verification(ctx: Context, restore: Restore, backup: str, at: int) -> None:
    store, folder, now = restore.status.store or "", (restore.status.repository or "").rpartition("/")[2], ctx.now()
    if not repositories_in([folder]):
        return
    record = maintenance_records.read(ctx, record_key(store, folder))
    if record is None:
        namespace = ctx.cluster.get(NAMESPACE, restore.namespace)
        names = {namespace["metadata"]["uid"]: restore.namespace} if namespace else {}
        record = maintenance_records.add(ctx, record_of(folder, store, names, now.replace(microsecond=0)))
    disk = restore.status.manifest or ""
    try:
        maintenance_records.update(ctx, record, lambda found: suspected(found, backup, now, disk, at))
    except ConflictError as error:
        # Nothing is done in the repository then, which is told by the store.
        log.warning("%s/%s: its damage is not verified: %s", restore.namespace, restore.name, error)
