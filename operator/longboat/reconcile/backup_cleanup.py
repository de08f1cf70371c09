"""Removes what was made for a DiskBackup, in both namespaces: disk by disk when it is done, or all of it."""

from __future__ import annotations

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import JOB, PERSISTENT_VOLUME_CLAIM, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT
from longboat.kube.port import Cluster, Object
from longboat.plan.backup_snapshots import is_ours, is_own_snapshot, labels_of
from longboat.plan.hand_over import Seen, claim_name, copy_content_name, copy_name, is_original
from longboat.plan.names import OWNER_UID
from longboat.reconcile.base_snapshots import keep
from longboat.reconcile.context import Context
from longboat.reconcile.mover import stop
from longboat.reconcile.new_volume import spare
from longboat.reconcile.snapshot_contents import delete_this, destroy


def clean_disk(ctx: Context, backup: DiskBackup, disk: DiskResult) -> bool:
    """Remove what was made for a disk; return whether nothing is left. Call it again until then."""
    cluster, system = ctx.cluster, ctx.settings.namespace
    claim = _ours(cluster.get(PERSISTENT_VOLUME_CLAIM, claim_name(backup, disk.name), system), backup)
    if claim is not None:
        spare(cluster, claim)
    delete_this(cluster, PERSISTENT_VOLUME_CLAIM, claim)
    if claim is None:
        keep(ctx, backup, disk)
    # Some storage can't delete a snapshot under a volume that is made from it.
    return claim is None and destroy(cluster, seen_of(cluster, system, backup, disk), labels_of(backup))


def clean(ctx: Context, backup: DiskBackup) -> bool:
    """Remove everything that was made for a backup; return whether nothing is left. Call it again until then."""
    jobs = list(ctx.cluster.list(JOB, ctx.settings.namespace, {OWNER_UID: backup.uid}))
    for job in jobs:
        stop(ctx.cluster, job)
    disks = [clean_disk(ctx, backup, disk) for disk in backup.status.disks or ()]
    return not jobs and all(disks) and discard_originals(ctx, backup)


def discard_originals(ctx: Context, backup: DiskBackup) -> bool:
    """Remove the backup's VolumeSnapshots that no disk refers to (any more); return whether none is left."""
    known = {disk.volume_snapshot for disk in backup.status.disks or ()}
    left = False
    for found in ctx.cluster.list(VOLUME_SNAPSHOT, backup.namespace, {OWNER_UID: backup.uid}):
        if found["metadata"]["name"] not in known and is_own_snapshot(found, backup):
            left = True
            destroy(ctx.cluster, Seen(found, bound_content(ctx.cluster, found), None, None), labels_of(backup))
    return not left


def seen_of(cluster: Cluster, system: str, backup: DiskBackup, disk: DiskResult) -> Seen:
    """Return the objects of a disk's hand-over, as far as they are there and ours."""
    snapshot = cluster.get(VOLUME_SNAPSHOT, disk.volume_snapshot, backup.namespace) if disk.volume_snapshot else None
    if snapshot is not None and not is_own_snapshot(snapshot, backup):
        snapshot = None
    return Seen(
        snapshot,
        _original(cluster, backup, disk, snapshot),
        _ours(cluster.get(VOLUME_SNAPSHOT, copy_name(backup, disk.name), system), backup),
        _ours(cluster.get(VOLUME_SNAPSHOT_CONTENT, copy_content_name(backup, disk.name)), backup),
    )


def _original(cluster: Cluster, backup: DiskBackup, disk: DiskResult, snapshot: Object | None) -> Object | None:
    if disk.hand_over is None:
        return bound_content(cluster, snapshot)
    content = cluster.get(VOLUME_SNAPSHOT_CONTENT, disk.hand_over.original_content)
    return content if content is not None and is_original(content, backup, disk) else None


def bound_content(cluster: Cluster, snapshot: Object | None) -> Object | None:
    """Return the content of a VolumeSnapshot if the two point at each other: a foreign one is none of ours."""
    name = ((snapshot or {}).get("status") or {}).get("boundVolumeSnapshotContentName")
    content = cluster.get(VOLUME_SNAPSHOT_CONTENT, name) if name else None
    if snapshot is None or content is None:
        return None
    same = content["spec"]["volumeSnapshotRef"].get("uid") == snapshot["metadata"]["uid"]
    return content if same else None


def _ours(found: Object | None, backup: DiskBackup) -> Object | None:
    return found if found is not None and is_ours(found, backup) else None
