"""Which snapshots stay after an export because the next one asks what has changed since, and where it asks.

The copy in the operator's namespace, a VolumeSnapshot and its content, passes from its DiskBackup to the disk: its
labels say so, and nothing that tidies up after the backup touches it any more.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult
from longboat.mover.changes import SnapshotMetadata
from longboat.plan.backup_snapshots import is_ours
from longboat.plan.hand_over import copy_name, key_of, policy_of
from longboat.plan.mover import TOKEN_PATH
from longboat.plan.names import DISK_KEY, MANAGED_BY, MANAGER, OWNER_KIND, owner_labels

Object = dict[str, Any]

KEPT = {MANAGED_BY: MANAGER, OWNER_KIND: "Disk"}
"""Labels of every kept pair."""
BACKUP_UID = "longboat.dev/backup-uid"
"""Label: the DiskBackup that the snapshot was exported for."""
BACKUP_NAME = "longboat.dev/backup"
"""Annotation: its name. Its namespace is the label of the owner's."""


def labels_of(backup: DiskBackup, disk: DiskResult) -> dict[str, str]:
    """Return the labels of a pair that belongs to the disk."""
    assert disk.claim is not None
    owner = owner_labels("Disk", backup.namespace, disk.claim.uid)
    return {**owner, DISK_KEY: key_of(disk), BACKUP_UID: backup.uid}


def may_keep(backup: DiskBackup, disk: DiskResult) -> bool:
    """Return whether the export of a disk is one that the next may ask about."""
    over = disk.hand_over is not None and disk.hand_over.done
    going = backup.metadata.deletion_timestamp is not None
    return over and not going and disk.phase == "Completed" and disk.volume_mode == "Block" and disk.claim is not None


def is_whole(snapshot: Object | None, content: Object | None, backup: DiskBackup, disk: DiskResult) -> bool:
    """Return whether a copied pair stands for the exported snapshot, alone, and is the backup's or kept from it."""
    if (
        snapshot is None
        or content is None
        or any("deletionTimestamp" in each["metadata"] for each in (snapshot, content))
    ):
        return False
    bound = (snapshot.get("status") or {}).get("boundVolumeSnapshotContentName") == content["metadata"]["name"]
    back = content["spec"]["volumeSnapshotRef"].get("uid") == snapshot["metadata"]["uid"]
    known = all(is_ours(each, backup) or is_kept(each, backup, disk) for each in (snapshot, content))
    return bool(bound and back and known and policy_of(content) == "Delete")


def is_kept(obj: Object, backup: DiskBackup, disk: DiskResult) -> bool:
    """Return whether an object of a pair belongs to the disk already."""
    return same_owner(obj, labels_of(backup, disk))


def same_owner(obj: Object, labels: Mapping[str, str]) -> bool:
    """Return whether an object has all of these labels."""
    its = obj["metadata"].get("labels") or {}
    return all(its.get(key) == value for key, value in labels.items())


def needless(
    disk: DiskResult | None, backup: DiskBackup | None, claim: Object | None, now: datetime, longest: timedelta
) -> str | None:
    """Return in words why no export will ask for what has changed since a kept snapshot, None if one may.

    ``disk`` is that of its DiskBackup, None if it is not there; ``claim`` the claim of that name as it is now.
    """
    if backup is None or disk is None or backup.metadata.deletion_timestamp is not None:
        return "its DiskBackup is gone"
    if backup.status.tombstoned_at is not None:
        return "its data is on the way out"
    if backup.status.policy_gone_at is not None:
        return "its policy is gone"
    if claim is None or disk.claim is None or claim["metadata"]["uid"] != disk.claim.uid:
        return "its disk is gone"
    if disk.cut_time is None or now - disk.cut_time > longest:
        return f"it is older than {longest}"
    return None


def change_source(
    service: Object | None, backup: DiskBackup, disk: DiskResult, namespace: str
) -> SnapshotMetadata | None:
    """Return where the export of a disk asks for changed blocks, None if nobody can be asked.

    ``service`` is the SnapshotMetadataService of the disk's driver, ``namespace`` that of the copied snapshots.
    """
    if service is None or disk.volume_mode != "Block":
        return None
    try:
        return SnapshotMetadata(
            address=service["spec"]["address"],
            ca_pem=base64.b64decode(service["spec"]["caCert"]).decode("ascii"),
            token_path=TOKEN_PATH,
            namespace=namespace,
            snapshot_name=copy_name(backup, disk.name),
        )
    except (KeyError, ValueError, binascii.Error, ValidationError):
        return None


def audience_of(service: Object | None) -> str:
    """Return for whom a token has to be made out that the service takes."""
    return str(((service or {}).get("spec") or {}).get("audience") or "")
