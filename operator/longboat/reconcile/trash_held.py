"""What stays in the trash beyond its time: it may be all that is left of a disk."""

from __future__ import annotations

from collections.abc import Iterable

from longboat.api import DiskBackup
from longboat.kube.kinds import DISK_BACKUP
from longboat.plan.policy import is_lost
from longboat.plan.retention import good_disks
from longboat.reconcile.context import Context
from longboat.reconcile.objects import readable
from longboat.repository import Repository, Tombstone
from longboat.repository.backups import disk_manifest_names
from longboat.repository.layout import split_disk_manifest_name

EXPIRED = "retention"
"""By whom the tombstones of backups are that nobody has deleted."""


def held_back(ctx: Context, namespace: str, repository: Repository, stones: Iterable[Tombstone]) -> set[str]:
    """Return which backups have expired and are not to be removed, as all others of one of their disks are lost.

    A verification may find that out only after the last whole one had gone into the trash. What somebody has deleted is
    not held back: it was meant. Errors of the store are raised.
    """
    expired = {repository.keys.name_hash(each.backup_name): each.backup_name for each in stones if _has_expired(each)}
    lost = _lost_disks(ctx, namespace) if expired else ()
    makers = (split_disk_manifest_name(name) for disk in lost for name in disk_manifest_names(repository, disk))
    return {expired[parts[2]] for parts in makers if parts and parts[2] in expired}


def _has_expired(stone: Tombstone) -> bool:
    return stone.deleted_by == EXPIRED


def _lost_disks(ctx: Context, namespace: str) -> frozenset[str]:
    """Return the identities of the disks that have backups, each of which is known to be lost."""
    every = readable(DiskBackup, ctx.cluster.list(DISK_BACKUP, namespace))
    kept = [each for each in every if each.metadata.deletion_timestamp is None and each.status.tombstoned_at is None]
    lost = frozenset[str]().union(*(good_disks(each) for each in kept if is_lost(each)))
    return lost.difference(*(good_disks(each) for each in kept if not is_lost(each)))
