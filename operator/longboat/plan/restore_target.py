"""Where a Restore restores to: the new claim, its twin in the operator's namespace, and what speaks against them."""

from __future__ import annotations

from typing import Any

from longboat.api import Restore
from longboat.api.common import GROUP
from longboat.api.restore import RestoreStatus
from longboat.plan.names import child_name, owner_labels
from longboat.plan.problem import Problem
from longboat.plan.quantities import bytes_of, quantity_of
from longboat.plan.restore_source import IMAGE_SHARE, Point

Object = dict[str, Any]

RESTORE_UID = "longboat.dev/restore-uid"
"""Annotation on a restored claim: the Restore that made it."""
RESTORED_FROM = "longboat.dev/restored-from"
"""Annotation on a restored claim: what was restored, in words."""
SALVAGE = "longboat.dev/salvage"
"""Annotation on a restored claim: bytes may be missing, as the Restore has spec.salvage. The claim is made before it is
known whether any are, and claims of users are changed by users alone: LOST_BYTES is on the volume."""

_MOST_BYTES = (1 << 63) - 1
"""What Kubernetes can count, in a status for one."""


def size_of(restore: Restore, point: Point) -> int | Problem:
    """Return the new claim's size in bytes, or VolumeTooSmall or VolumeTooLarge."""
    if restore.spec.claim.size is None:
        return point.volume_bytes
    asked = bytes_of(restore.spec.claim.size)
    if asked > _MOST_BYTES:
        message = (
            f"spec.claim.size: {restore.spec.claim.size} is more than any volume has; ask for less, or leave it out"
        )
        return Problem("VolumeTooLarge", message, final=True)
    if asked >= point.data_bytes:
        return asked
    return Problem(
        "VolumeTooSmall",
        f"spec.claim.size: {restore.spec.claim.size} is less than the disk of {quantity_of(point.data_bytes)}; "
        f"ask for {quantity_of(point.volume_bytes)} or more, or leave size out",
        final=True,
    )


def storage_class_name(restore: Restore, point: Point) -> str | Problem:
    """Return the name of the new claim's StorageClass: the one asked for, else the original's."""
    name = restore.spec.claim.storage_class_name or point.storage_class
    if name:
        return name
    return Problem(
        "StorageClassRequired",
        "spec.claim.storageClassName: the original disk had no StorageClass; name one",
        final=True,
    )


def storage_class_problem(name: str, storage_class: Object | None, point: Point) -> Problem | None:
    """Return StorageClassNotFound, or StorageClassMismatch for a snapshot that another driver made."""
    if storage_class is None:
        return Problem(
            "StorageClassNotFound",
            f"spec.claim.storageClassName: there is no StorageClass {name!r}; create it, or name an existing one",
        )
    if point.driver is None or storage_class.get("provisioner") == point.driver:
        return None
    return Problem(
        "StorageClassMismatch",
        f"spec.claim.storageClassName: {name!r} is of the driver {storage_class.get('provisioner')!r}, the snapshot of "
        f"{point.driver!r}, and only a class of that driver can restore it; name one, or restore from a backup",
        final=True,
    )


def binds_late(storage_class: Object | None) -> bool:
    """Return whether volumes of the class are made for the first pod that uses them (WaitForFirstConsumer)."""
    return (storage_class or {}).get("volumeBindingMode") == "WaitForFirstConsumer"


def claim_ownership(restore: Restore, claim: Object) -> Problem | None:
    """Return ClaimExists unless the claim was made for this very Restore."""
    meta = claim["metadata"]
    if meta["uid"] == restore.status.claim_uid:
        return None
    ours = (meta.get("annotations") or {}).get(RESTORE_UID) == restore.uid
    if ours and _is_as_we_make_it(restore, claim) and restore.status.claim_uid is None:
        return None
    message = f"spec.claim.name: PersistentVolumeClaim {meta['name']!r} exists already and is left alone; create a "
    empty = waits_for_restore(claim) and "volumeName" not in claim["spec"]
    remedy = ", or first delete the claim, which an earlier Restore left empty" if empty else ""
    return Problem("ClaimExists", f"{message}Restore with another claim name{remedy}", final=True)


def waits_for_restore(claim: Object) -> bool:
    """Return whether a claim is one that a Restore is to fill."""
    source = claim["spec"].get("dataSourceRef") or {}
    return bool((source.get("apiGroup"), source.get("kind")) == (GROUP, "Restore"))


def users_claim(restore: Restore, status: RestoreStatus) -> Object:
    """Return the user's claim: from a snapshot an ordinary one, else one that CSI provisioners leave to us."""
    notes = {RESTORE_UID: restore.uid, RESTORED_FROM: status.source or ""}
    if restore.spec.salvage:
        notes[SALVAGE] = "true"
    meta = {"name": restore.spec.claim.name, "namespace": restore.namespace, "annotations": notes}
    return _claim(meta, _claim_spec(restore, status) | _data_source(restore, status))


def staging_name(restore: Restore) -> str:
    """Return the name of the claim in the operator's namespace that is filled for the user's one."""
    return child_name(restore.name, restore.uid, "restore")


def staging_claim(restore: Restore, namespace: str) -> Object:
    """Return the claim in the operator's namespace: of the same class, size and mode as the user's one."""
    meta = {
        "name": staging_name(restore),
        "namespace": namespace,
        "labels": owner_labels(restore.kind, restore.namespace, restore.uid),
    }
    return _claim(meta, _claim_spec(restore, restore.status))


def is_staging(restore: Restore, claim: Object) -> bool:
    """Return whether a claim of the staging name was made for this Restore."""
    labels = claim["metadata"].get("labels") or {}
    return bool(labels.items() >= owner_labels(restore.kind, restore.namespace, restore.uid).items())


def image_bytes(restore: Restore) -> int | None:
    """Return how large the disk image is made, in whole MiB: more than the backup only if more was asked for."""
    status = restore.status
    if restore.spec.claim.size is None or status.volume_mode != "Filesystem" or not status.size_bytes:
        return None
    if status.content == "Archive":
        return None
    return int(status.size_bytes * IMAGE_SHARE) >> 20 << 20 or None


def _claim(meta: Object, spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _claim_spec(restore: Restore, status: RestoreStatus) -> Object:
    return {
        "accessModes": restore.spec.claim.access_modes or ["ReadWriteOnce"],
        "volumeMode": status.volume_mode,
        "storageClassName": status.storage_class_name,
        "resources": {"requests": {"storage": quantity_of(status.size_bytes or 0)}},
    }


def _is_as_we_make_it(restore: Restore, claim: Object) -> bool:
    """Return whether a claim that says it is ours is: whoever makes a smaller one would get round their quota."""
    status, spec = restore.status, claim["spec"]
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage", "0")
    if status.size_bytes is None or bytes_of(asked) != status.size_bytes:
        return False
    wanted = _claim_spec(restore, status)
    same = all(spec.get(field) == wanted[field] for field in ("accessModes", "volumeMode", "storageClassName"))
    return same and _has_our_source(restore, claim)


def _has_our_source(restore: Restore, claim: Object) -> bool:
    # The API server fills in one of the two fields from the other: only what we set is compared.
    wanted = _data_source(restore, restore.status)
    return all((claim["spec"].get(field) or {}).items() >= source.items() for field, source in wanted.items())


def _data_source(restore: Restore, status: RestoreStatus) -> Object:
    if status.volume_snapshot:
        source = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": status.volume_snapshot}
        return {"dataSource": source}
    return {"dataSourceRef": {"apiGroup": GROUP, "kind": restore.kind, "name": restore.name}}
