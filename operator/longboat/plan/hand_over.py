"""Handing a snapshot over to the operator's namespace, so that nobody can take it away while it is read.

A second, static VolumeSnapshotContent for the same snapshot of the storage system is made; the original is told to
retain the snapshot, and only then is the copy told to delete it: there is never more than one deleter, and never none
for longer than a step. ``next_step`` derives what to do from what is seen, so that it can be interrupted anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult, HandOver
from longboat.plan.backup_snapshots import labels_of, snapshot_names
from longboat.plan.names import DISK_KEY, child_name, digest, disk_key, joined
from longboat.plan.quantities import quantity_of

Object = dict[str, Any]
Step = Literal[
    "CopyContent",
    "CopySnapshot",
    "RetainOriginal",
    "Wait",
    "OwnCopy",
    "DeleteSnapshot",
    "DeleteContent",
    "Done",
    "Lost",
]

SECRETS = (
    "snapshot.storage.kubernetes.io/deletion-secret-name",
    "snapshot.storage.kubernetes.io/deletion-secret-namespace",
    "snapshot.storage.kubernetes.io/snapshotter-list-secret-name",
    "snapshot.storage.kubernetes.io/snapshotter-list-secret-namespace",
)
COPY_OF = "longboat.dev/copy-of"
"""Annotation of a copied content: the content that the CSI driver made."""


@dataclass(frozen=True)
class Seen:
    """The four objects of a hand-over, each None if it is not there."""

    snapshot: Object | None
    content: Object | None
    copy_snapshot: Object | None
    copy_content: Object | None


def copy_name(backup: DiskBackup, disk: str) -> str:
    """Return the name of the copied VolumeSnapshot in the operator's namespace."""
    return child_name(f"{backup.name[:32]}-{disk[:16]}", backup.uid, "copy", disk)


def copy_content_name(backup: DiskBackup, disk: str) -> str:
    """Return the name of the copied VolumeSnapshotContent."""
    return joined("longboat", digest(backup.uid, "content", disk, length=24))


def claim_name(backup: DiskBackup, disk: str) -> str:
    """Return the name of the claim that is made from the copy."""
    return child_name(f"{backup.name[:32]}-{disk[:16]}", backup.uid, "volume", disk)


def next_step(seen: Seen) -> Step:
    """Return the step that the four objects ask for."""
    if seen.copy_content is None or _going(seen.copy_content):
        return "CopyContent" if _there(seen.content) and seen.copy_content is None else "Lost"
    if policy_of(seen.copy_content) == "Delete":
        return _after_owning(seen)
    if not _there(seen.content):
        # Its deletion policy may have been Delete when it went: the copy points at nothing.
        return "Lost"
    if seen.copy_snapshot is None:
        return "CopySnapshot"
    if policy_of(seen.content) != "Retain":
        return "RetainOriginal"
    return "OwnCopy" if bound_together(seen.copy_snapshot, seen.copy_content) else "Wait"


def _after_owning(seen: Seen) -> Step:
    if seen.copy_snapshot is None:
        return "CopySnapshot"
    if seen.content is not None and policy_of(seen.content) != "Retain":
        return "RetainOriginal"
    if seen.snapshot is not None:
        return "Wait" if _going(seen.snapshot) else "DeleteSnapshot"
    if seen.content is not None:
        return "Wait" if _going(seen.content) else "DeleteContent"
    return "Done"


def bound_together(snapshot: Object | None, content: Object | None) -> bool:
    """Return whether a VolumeSnapshot is ready and it and the content point at each other."""
    if snapshot is None or content is None:
        return False
    status = snapshot.get("status") or {}
    back = (content.get("spec") or {}).get("volumeSnapshotRef") or {}
    there = status.get("boundVolumeSnapshotContentName") == content["metadata"]["name"]
    return bool(there and back.get("uid") == snapshot["metadata"]["uid"] and status.get("readyToUse"))


def policy_of(content: Object | None) -> str | None:
    """Return the deletion policy of a VolumeSnapshotContent."""
    return ((content or {}).get("spec") or {}).get("deletionPolicy")


def is_original(content: Object, backup: DiskBackup, disk: DiskResult) -> bool:
    """Return whether a VolumeSnapshotContent is that of the disk's own VolumeSnapshot, as the record says.

    The content decides, not the record: a status can be forged, but only administrators of the cluster write contents.
    """
    record, spec = disk.hand_over, content["spec"]
    back = spec["volumeSnapshotRef"]
    if record is None or disk.volume_snapshot not in snapshot_names(backup):
        return False
    same_snapshot = (back.get("namespace"), back.get("name")) == (backup.namespace, disk.volume_snapshot)
    handle = (content.get("status") or {}).get("snapshotHandle")
    return same_snapshot and (handle, spec["driver"]) == (record.snapshot_handle, record.driver)


def copied_content(backup: DiskBackup, disk: DiskResult, original: Object, namespace: str) -> Object:
    """Return the static content for the same snapshot of the storage system; it retains it until it is the owner."""
    annotations = original["metadata"].get("annotations") or {}
    spec: Object = {
        "deletionPolicy": "Retain",
        "driver": original["spec"]["driver"],
        "source": {"snapshotHandle": original["status"]["snapshotHandle"]},
        "volumeSnapshotRef": {"namespace": namespace, "name": copy_name(backup, disk.name)},
    }
    for key in ("sourceVolumeMode", "volumeSnapshotClassName"):
        if value := original["spec"].get(key):
            spec[key] = value
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshotContent",
        "metadata": {
            "name": copy_content_name(backup, disk.name),
            "labels": labels_of(backup),
            "annotations": {key: annotations[key] for key in SECRETS if key in annotations}
            | {COPY_OF: original["metadata"]["name"]},
        },
        "spec": spec,
    }


def copied_snapshot(backup: DiskBackup, disk: DiskResult, namespace: str, class_name: str | None) -> Object:
    """Return the VolumeSnapshot in the operator's namespace that is bound to the copied content."""
    spec: Object = {"source": {"volumeSnapshotContentName": copy_content_name(backup, disk.name)}}
    if class_name:
        spec["volumeSnapshotClassName"] = class_name
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": copy_name(backup, disk.name), "namespace": namespace, "labels": labels_of(backup)},
        "spec": spec,
    }


def export_claim(backup: DiskBackup, disk: DiskResult, namespace: str) -> Object:
    """Return the claim from which a mover reads: of the source's mode and class, large enough for the snapshot."""
    size = max((disk.hand_over.restore_size if disk.hand_over else 0) or 0, disk.claim_bytes or 0)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(backup, disk.name),
            "namespace": namespace,
            "labels": {**labels_of(backup), DISK_KEY: key_of(disk)},
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": disk.volume_mode,
            "storageClassName": disk.storage_class_name,
            "resources": {"requests": {"storage": quantity_of(size)}},
            "dataSource": {
                "apiGroup": "snapshot.storage.k8s.io",
                "kind": "VolumeSnapshot",
                "name": copy_name(backup, disk.name),
            },
        },
    }


def key_of(disk: DiskResult) -> str:
    """Return the identity of a disk in its namespace's repository."""
    assert disk.claim is not None
    return disk_key(disk.claim.uid, disk.volume_handle or "")


def record_of(content: Object, restore_size: int | None) -> HandOver:
    """Return what is written down before a hand-over begins."""
    return HandOver(
        snapshot_handle=content["status"]["snapshotHandle"],
        original_content=content["metadata"]["name"],
        driver=content["spec"]["driver"],
        restore_size=restore_size,
    )


def _there(obj: Object | None) -> bool:
    return obj is not None and not _going(obj)


def _going(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]
