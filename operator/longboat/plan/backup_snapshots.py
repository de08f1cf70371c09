"""The VolumeSnapshots of a DiskBackup."""

from __future__ import annotations

from typing import Any

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.plan.cut import MAX_ATTEMPTS
from longboat.plan.mover import ATTEMPT
from longboat.plan.names import OWNER_UID, child_name, owner_labels
from longboat.plan.problem import Problem

Object = dict[str, Any]


def labels_of(backup: DiskBackup) -> dict[str, str]:
    """Return the labels by which what was made for a backup is found again."""
    return owner_labels("DiskBackup", backup.namespace, backup.uid)


def snapshot_name(backup: DiskBackup, disk: str, attempt: int) -> str:
    """Return the name of a disk's VolumeSnapshot in an attempt to cut."""
    return child_name(f"{backup.name[:32]}-{disk[:16]}", backup.uid, "snapshot", disk, str(attempt))


def volume_snapshot(backup: DiskBackup, disk: DiskResult, attempt: int, owner: Object) -> Object:
    """Return the VolumeSnapshot to create for a disk; ``owner`` is the ownerReference to the backup.

    Labels and annotations of others are not copied: what is tracked by Argo CD or selected by label is not this.
    """
    assert disk.claim is not None
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {
            "name": snapshot_name(backup, disk.name, attempt),
            "namespace": backup.namespace,
            "labels": {**labels_of(backup), ATTEMPT: str(attempt)},
            "ownerReferences": [owner],
        },
        "spec": {
            "source": {"persistentVolumeClaimName": disk.claim.name},
            "volumeSnapshotClassName": disk.snapshot_class,
        },
    }


def is_ours(found: Object, backup: DiskBackup) -> bool:
    """Return whether something was made for this very backup."""
    return bool((found["metadata"].get("labels") or {}).get(OWNER_UID) == backup.uid)


def snapshot_names(backup: DiskBackup) -> frozenset[str]:
    """Return the names that VolumeSnapshots of the backup's disks can have, over all attempts to cut."""
    disks = [disk.name for disk in backup.status.disks or ()]
    return frozenset(snapshot_name(backup, disk, n) for disk in disks for n in range(1, MAX_ATTEMPTS + 1))


def is_own_snapshot(found: Object, backup: DiskBackup) -> bool:
    """Return whether a VolumeSnapshot in the backup's namespace was made for it: label, owner and name agree.

    A label alone is no evidence: whoever may make VolumeSnapshots there can set it.
    """
    meta = found["metadata"]
    owned = any(each.get("uid") == backup.uid for each in meta.get("ownerReferences") or ())
    return owned and is_ours(found, backup) and meta["name"] in snapshot_names(backup)


def claim_replaced(disk: DiskResult, claim: Object | None) -> Problem | None:
    """Return ClaimReplaced unless the claim of a disk's name is the one that the disk was when the run began."""
    meant, uid = disk.claim, claim["metadata"]["uid"] if claim else None
    if meant is not None and meant.uid == uid:
        return None
    name = meant.name if meant else ""
    return Problem(
        "ClaimReplaced",
        f"PersistentVolumeClaim {name!r} was deleted or made anew after the run began (metadata.uid is {uid}, expected "
        f"{meant.uid if meant else None}): it is another disk now; run again",
    )


def volume_replaced(disk: DiskResult, content: Object) -> Problem | None:
    """Return ClaimReplaced unless a VolumeSnapshotContent is of the disk's own volume."""
    handle = (content["spec"].get("source") or {}).get("volumeHandle")
    if handle is not None and handle == disk.volume_handle:
        return None
    return Problem(
        "ClaimReplaced",
        f"VolumeSnapshotContent {content['metadata']['name']!r}: spec.source.volumeHandle is {handle!r}, expected "
        f"{disk.volume_handle!r}: the claim was made anew after the run began, and is another disk now; run again",
    )


def name_taken(kind: str, name: str) -> Problem:
    """Return the problem of a child's name that somebody else uses."""
    return Problem(
        "NameTaken", f"{kind} {name!r} exists and was not made for this DiskBackup; delete it or rename it", final=True
    )
