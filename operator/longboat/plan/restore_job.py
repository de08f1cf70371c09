"""The mover that fills a volume from the store, and what comes after one that failed."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

from longboat.api import Restore
from longboat.mover import Failure, FileOwner, RestoreJob, RestoreResult
from longboat.plan.automatic import CLAIM_UID
from longboat.plan.mover import LOST, Mover, mount_path
from longboat.plan.names import child_name, owner_labels
from longboat.plan.restore_target import image_bytes
from longboat.repository import StoreSettings

Object = dict[str, Any]

ATTEMPTS = 3
PENDING_TOLD = timedelta(seconds=30)
"""A volume that is not made after this is told of, with what the storage says."""
PENDING_PATIENCE = timedelta(hours=1)
"""A mover that has not begun after this has failed."""
SALVAGED = "Salvaged"
"""Condition of a Restore whose disk is not whole."""
_HOSTNAME = "kubernetes.io/hostname"


def job_name(restore: Restore, attempt: int) -> str:
    """Return the name of the Job of an attempt (1, 2, …)."""
    return child_name(restore.name, restore.uid, "restore", str(attempt))


def retry_delay(attempt: int, reason: str) -> timedelta:
    """Return how long to wait after an attempt (1, 2, …) that failed for a reason.

    >>> retry_delay(1, "StoreUnavailable"), retry_delay(1, "PodLost")
    (datetime.timedelta(seconds=30), datetime.timedelta(seconds=10))
    """
    return timedelta(seconds=(10 if reason in LOST else 30) << (attempt - 1))


def mover_of(restore: Restore, attempt: int, staging: Object, job: RestoreJob, affinity: Object | None) -> Mover:
    """Return the mover of an attempt; it is told apart from one that filled an earlier staging claim."""
    claim_uid = staging["metadata"]["uid"]
    labels = owner_labels(restore.kind, restore.namespace, restore.uid) | {CLAIM_UID: claim_uid}
    return Mover(
        role="restore",
        name=job_name(restore, attempt),
        secret_name=secret_name(restore, attempt, claim_uid),
        labels=labels,
        job=json.loads(job.model_dump_json(by_alias=True, exclude_none=True)),
        claim=staging["metadata"]["name"],
        volume_mode=restore.status.volume_mode or "Filesystem",
        node_affinity=affinity,
    )


def secret_name(restore: Restore, attempt: int, claim_uid: str) -> str:
    """Return the name of an attempt's Secret."""
    return child_name(restore.name, restore.uid, "restore", str(attempt), claim_uid)


def restore_job(restore: Restore, settings: StoreSettings, path: str, master_key: bytes, user: int) -> RestoreJob:
    """Return what the mover is told."""
    return RestoreJob(
        store=settings,
        repository_path=path,
        master_key=base64.b64encode(master_key).decode(),
        manifest=restore.status.manifest or "",
        object_id=restore.status.object_id,
        content=restore.status.content or "Disk",
        target_path=mount_path(restore.status.volume_mode or "Filesystem"),
        target_size=image_bytes(restore),
        # The volume was made for this Restore alone: what is in it is an earlier attempt's.
        replace_existing=True,
        salvage=restore.spec.salvage,
        file_owner=FileOwner(uid=user, gid=user),
    )


def lost(result: RestoreResult) -> str:
    """Return what is told of a salvaged disk that is not whole."""
    ranges = ", ".join(f"{length} at {offset}" for offset, length in result.lost_ranges)
    others = f"; other backups lack it, too: {', '.join(result.hurt)}" if result.hurt else ""
    return (
        f"{result.lost_bytes} bytes of the backup could not be read in any backup (the first ranges, in"
        f" bytes: {ranges}): {result.note or 'they are zeros'}. Check what is on it before it is used, beginning with"
        f" its file systems{others}"
    )


def hurt_by(failure: Failure) -> str:
    """Return what is told of data that a restore has found lost, an empty text if it has not."""
    if failure.lost_from is None:
        return ""
    hurt = f"; that hurts the backups {failure.hurt_text}" if failure.hurt_text else ""
    return f"; what is to be at byte {failure.lost_from} of the disk is lost{hurt}"


def filled(job: Object, staging: Object) -> bool:
    """Return whether a Job worked on this very staging claim, not on an earlier one of its name."""
    labels = job["metadata"].get("labels") or {}
    return bool(labels.get(CLAIM_UID) == staging["metadata"]["uid"])


def affinity_for(vmi: Object | None, neighbours: list[Object]) -> Object | None:
    """Return where a late-binding volume is to be made: where the machine runs, else where its other volumes are.

    ``neighbours`` are the PersistentVolumes of the machine's other disks; the result is a node selector.
    """
    node = ((vmi or {}).get("status") or {}).get("nodeName")
    if node:
        return {"nodeSelectorTerms": [{"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": [node]}]}]}
    return next(filter(None, map(_required, neighbours)), None)


def _required(volume: Object) -> Object | None:
    required: Object | None = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required")
    return required
