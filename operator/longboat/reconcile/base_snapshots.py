"""Keeps the snapshot that the next export of a disk is compared with, for as long as one may ask for it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial

from pydantic import ValidationError

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.kube.kinds import (
    DISK_BACKUP,
    PERSISTENT_VOLUME_CLAIM,
    SNAPSHOT_METADATA_SERVICE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.kube.port import ConflictError, NotFoundError, Object, Operation, RefusedError
from longboat.mover.changes import SnapshotMetadata
from longboat.plan.base_snapshots import (
    BACKUP_NAME,
    BACKUP_UID,
    KEPT,
    audience_of,
    change_source,
    is_kept,
    is_whole,
    labels_of,
    may_keep,
    needless,
    same_owner,
)
from longboat.plan.hand_over import Seen, copy_content_name, copy_name, key_of
from longboat.plan.names import DISK_KEY, OWNER_NAMESPACE
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.snapshot_contents import destroy

log = logging.getLogger(__name__)


def service_of(ctx: Context, driver: str | None) -> Object | None:
    """Return the SnapshotMetadataService of a CSI driver, None if it has none or changed blocks are not wanted."""
    if not ctx.settings.changed_blocks or not driver:
        return None
    try:
        return ctx.cluster.get(SNAPSHOT_METADATA_SERVICE, driver)
    except RefusedError:
        # Rights that were given before the operator knew of the kind: a full read does no harm.
        return None


def asked(ctx: Context, backup: DiskBackup, disk: DiskResult) -> tuple[SnapshotMetadata | None, str]:
    """Return whom the export of a disk asks for changed blocks (None: nobody), and the audience of its token."""
    service = service_of(ctx, disk.hand_over.driver if disk.hand_over else None)
    source = change_source(service, backup, disk, ctx.settings.namespace)
    audience = audience_of(service) if source else ""
    return (source, audience) if audience else (None, "")


def keep(ctx: Context, backup: DiskBackup, disk: DiskResult) -> None:
    """Pass the copied pair of an exported disk on to the disk, if a later export may ask about it; idempotent."""
    if not may_keep(backup, disk):
        return
    cluster, system = ctx.cluster, ctx.settings.namespace
    snapshot = cluster.get(VOLUME_SNAPSHOT, copy_name(backup, disk.name), system)
    content = cluster.get(VOLUME_SNAPSHOT_CONTENT, copy_content_name(backup, disk.name))
    if not is_whole(snapshot, content, backup, disk) or snapshot is None or content is None:
        return
    if service_of(ctx, content["spec"]["driver"]) is None:
        return
    with contextlib.suppress(NotFoundError, ConflictError):
        if not is_kept(snapshot, backup, disk):
            operations = _passed_on(snapshot, backup, disk)
            cluster.patch(VOLUME_SNAPSHOT, snapshot["metadata"]["name"], operations, system)
        if not is_kept(content, backup, disk):
            operations = _passed_on(content, backup, disk)
            cluster.patch(VOLUME_SNAPSHOT_CONTENT, content["metadata"]["name"], operations)
    _sweep(ctx, KEPT | {DISK_KEY: key_of(disk)})


def sweep(ctx: Context) -> None:
    """Remove every kept snapshot that no export will ask about; what has no labels of ours is left alone."""
    _sweep(ctx, KEPT)


def _passed_on(obj: Object, backup: DiskBackup, disk: DiskResult) -> list[Operation]:
    """Return what makes the disk the owner of this very object."""
    meta = obj["metadata"]
    if meta.get("annotations"):
        path, value = "/metadata/annotations/" + BACKUP_NAME.replace("/", "~1"), backup.name
        noted: Operation = {"op": "add", "path": path, "value": value}
    else:
        noted = {"op": "add", "path": "/metadata/annotations", "value": {BACKUP_NAME: backup.name}}
    owned: Operation = {"op": "add", "path": "/metadata/labels", "value": labels_of(backup, disk)}
    return [{"op": "test", "path": "/metadata/uid", "value": meta["uid"]}, owned, noted]


def _sweep(ctx: Context, labels: dict[str, str]) -> None:
    # All the disks of a driver have the same service.
    service = cache(partial(service_of, ctx))
    needed: dict[str, list[tuple[datetime, Object]]] = {}
    for snapshot in list(ctx.cluster.list(VOLUME_SNAPSHOT, ctx.settings.namespace, labels)):
        try:
            moment = _moment_if_needed(ctx, snapshot, service)
        except ValidationError as error:
            # Its DiskBackup, or one that pretends to be, can't be read: it stays, and holds up none of the others.
            log.warning("kept snapshot %s stays: %s", snapshot["metadata"]["name"], error.errors(include_url=False)[:1])
            continue
        if moment is None:
            _remove(ctx, snapshot)
        else:
            needed.setdefault(snapshot["metadata"]["labels"][DISK_KEY], []).append((moment, snapshot))
    for same_disk in needed.values():
        for _, older in sorted(same_disk, key=lambda each: each[0])[:-1]:
            _remove(ctx, older)


def _moment_if_needed(
    ctx: Context, snapshot: Object, service: Callable[[str | None], Object | None]
) -> datetime | None:
    """Return when the disk was captured, None if no export will ask about the snapshot."""
    meta, settings = snapshot["metadata"], ctx.settings
    labels = meta.get("labels") or {}
    namespace, name = labels.get(OWNER_NAMESPACE, ""), (meta.get("annotations") or {}).get(BACKUP_NAME, "")
    backup = load(ctx.cluster, DISK_BACKUP, DiskBackup, namespace, name) if namespace and name else None
    if backup is not None and backup.uid != labels.get(BACKUP_UID):
        backup = None
    disks = (backup.status.disks or ()) if backup else ()
    disk = next((each for each in disks if each.claim and key_of(each) == labels.get(DISK_KEY)), None)
    claim = ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, disk.claim.name, namespace) if disk and disk.claim else None
    if needless(disk, backup, claim, ctx.now(), settings.base_snapshot_longest) or disk is None or not disk.cut_time:
        return None
    driver = disk.hand_over.driver if disk.hand_over else None
    return disk.cut_time if service(driver) else None


def _remove(ctx: Context, snapshot: Object) -> None:
    name = (snapshot.get("status") or {}).get("boundVolumeSnapshotContentName")
    content = ctx.cluster.get(VOLUME_SNAPSHOT_CONTENT, name) if name else None
    its = snapshot["metadata"]["labels"]
    if content is not None and not same_owner(
        content, {key: its.get(key, "") for key in (*KEPT, DISK_KEY, BACKUP_UID)}
    ):
        # Half passed on, or not ours: the deletion of the VolumeSnapshot is all that is ours to do.
        content = None
    destroy(ctx.cluster, Seen(None, None, snapshot, content), {})
