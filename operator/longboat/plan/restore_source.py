"""What a Restore restores: the point in a backup or a snapshot, or why it can't be restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from longboat.api import DiskBackup, DiskSnapshot, Restore
from longboat.api.common import DiskContent
from longboat.api.disk_backup import DiskResult
from longboat.plan.conditions import holds
from longboat.plan.problem import Problem

Object = dict[str, Any]
VolumeMode = Literal["Block", "Filesystem"]

_FIELD = "spec.source"
IMAGE_SHARE = 0.94
"""Part of a filesystem volume that a disk image may fill: the rest is for the file system itself (as CDI reckons)."""


@dataclass(frozen=True)
class Waiting:
    """Not yet: something is under way."""

    reason: str
    message: str


@dataclass(frozen=True)
class Point:
    """One disk at one moment. Sizes in bytes: of the data, and of the volume that holds it with certainty.

    From a backup: ``store``, ``repository`` and ``manifest`` are set. From a snapshot: ``volume_snapshot`` and
    ``driver``.
    """

    title: str
    source_claim: str | None
    volume_mode: VolumeMode
    storage_class: str | None
    data_bytes: int
    volume_bytes: int
    store: str | None = None
    repository: str | None = None
    repository_id: str | None = None
    manifest: str | None = None
    object_id: str | None = None
    content: DiskContent = "Disk"
    volume_snapshot: str | None = None
    driver: str | None = None
    suspected_by: str | None = None
    """DiskBackup that found out that blocks of this one may be wrong."""


def point_in_backup(restore: Restore, backup: DiskBackup | None) -> Point | Waiting | Problem:
    """Return the point of a Restore whose source is a DiskBackup (None if that does not exist)."""
    source = restore.spec.source.disk_backup
    assert source is not None
    where = f"{_FIELD}.diskBackup"
    if backup is None or _goes(backup):
        return _missing(where, "DiskBackup", source.name, gone=backup is not None)
    if backup.status.phase == "Failed":
        return Problem("SourceFailed", f"{where}: DiskBackup {source.name!r} failed; restore from another", final=True)
    if backup.status.phase not in ("Completed", "PartiallyFailed"):
        phase = backup.status.phase or "Pending"
        return Waiting("SourceNotReady", f"{where}: waiting for DiskBackup {source.name!r}, which is {phase}")
    disk = _disk_of(where, source.disk, backup)
    return disk if isinstance(disk, Problem) else _backup_point(where, backup, disk)


def _goes(backup: DiskBackup) -> bool:
    """Return whether a DiskBackup is being deleted, and nothing holds that up: what waits for an answer is there."""
    held = holds(backup.status.conditions, "DeletionHeld") and backup.status.tombstoned_at is None
    return backup.metadata.deletion_timestamp is not None and not held


def point_in_snapshot(
    restore: Restore, snapshot: DiskSnapshot | None, volume_snapshot: Object | None, content: Object | None
) -> Point | Waiting | Problem:
    """Return the point of a Restore whose source is a DiskSnapshot; the objects that do not exist are None."""
    source = restore.spec.source.disk_snapshot
    assert source is not None
    where = f"{_FIELD}.diskSnapshot"
    if snapshot is None or snapshot.metadata.deletion_timestamp:
        return _missing(where, "DiskSnapshot", source.name, gone=snapshot is not None)
    status = snapshot.status
    if status.phase == "Failed":
        return Problem(
            "SourceFailed", f"{where}: DiskSnapshot {source.name!r} failed; restore from another", final=True
        )
    if status.phase != "Ready" or not status.size_bytes or not status.volume_snapshot:
        return Waiting("SourceNotReady", f"{where}: waiting until DiskSnapshot {source.name!r} is Ready")
    if volume_snapshot is None or content is None:
        lost = f"{where}: the VolumeSnapshot of DiskSnapshot {source.name!r} is gone; restore from another"
        return Problem("SnapshotLost", lost, final=True)
    return Point(
        title=f"snapshot {source.name}",
        source_claim=status.claim.name if status.claim else None,
        volume_mode=status.volume_mode or "Filesystem",
        storage_class=status.storage_class_name,
        data_bytes=status.size_bytes,
        volume_bytes=status.size_bytes,
        volume_snapshot=status.volume_snapshot,
        driver=content["spec"].get("driver"),
    )


def not_attachable(point: Point) -> Problem | None:
    """Return NotADisk for what no machine can have as a disk, None for a disk."""
    if point.content == "Disk":
        return None
    return Problem(
        "NotADisk",
        f"spec.attach: {point.title} is the TPM and EFI state of a machine: files, no disk that could be attached; "
        "create a Restore without attach, stop the machine, take the label persistent-state-for off its claim and put "
        "it, with the machine's name as value, on the restored one",
        final=True,
    )


def _missing(where: str, kind: str, name: str, *, gone: bool) -> Problem:
    if gone:
        return Problem("SourceDeleted", f"{where}: {kind} {name!r} is being deleted; restore from another", final=True)
    return Problem("SourceNotFound", f"{where}.name: there is no {kind} {name!r} in this namespace; name another")


def _disk_of(where: str, name: str | None, backup: DiskBackup) -> DiskResult | Problem:
    disks = backup.status.disks or []
    known = ", ".join(each.name for each in disks) or "none"
    if name is None and len(disks) != 1:
        message = f"{where}.disk: DiskBackup {backup.name!r} has {len(disks)} disks; name one of: {known}"
        return Problem("DiskNameRequired", message, final=True)
    disk = next((each for each in disks if name in (None, each.name)), None)
    if disk is None:
        message = f"{where}.disk: DiskBackup {backup.name!r} has no disk {name!r}; its disks are: {known}"
        return Problem("DiskNotFound", message, final=True)
    return disk


def _backup_point(where: str, backup: DiskBackup, disk: DiskResult) -> Point | Problem:
    store = backup.status.store
    if disk.phase != "Completed" or not disk.manifest or disk.logical_bytes is None or store is None:
        why = disk.message or disk.reason or f"it is {disk.phase}"
        message = f"{where}.disk: disk {disk.name!r} of DiskBackup {backup.name!r} was not backed up: {why}"
        return Problem("DiskNotBackedUp", f"{message}; restore from another", final=True)
    mode = disk.volume_mode or "Filesystem"
    captured = (disk.hand_over.restore_size if disk.hand_over else None) or 0
    if disk.content == "Archive":
        # The archive says little of the volume that its files need.
        captured = max(captured, disk.claim_bytes or 0)
    return Point(
        title=f"{backup.name}/{disk.name}",
        source_claim=disk.claim.name if disk.claim else None,
        volume_mode=mode,
        storage_class=disk.storage_class_name,
        data_bytes=disk.logical_bytes,
        volume_bytes=max(captured, volume_bytes(disk.logical_bytes, mode)),
        store=store.name,
        repository=store.repository,
        repository_id=store.id,
        manifest=disk.manifest,
        object_id=disk.object_id,
        suspected_by=disk.suspected_by,
        content=disk.content,
    )


def volume_bytes(data_bytes: int, mode: VolumeMode) -> int:
    """Return the size of a volume, in whole MiB, that holds a disk of this many bytes with certainty."""
    exact = data_bytes if mode == "Block" else int(data_bytes / IMAGE_SHARE) + 1
    return -(-exact // (1 << 20)) << 20
