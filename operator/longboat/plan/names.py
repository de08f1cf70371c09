"""Names and labels of everything the operator makes, as functions of what it is made for.

A child's name is deterministic, so that an operator that was killed finds what it made, and two attempts collide
instead of doubling.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

MAX_NAME = 63

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "longboat"
OWNER_KIND = "longboat.dev/owner-kind"
OWNER_NAMESPACE = "longboat.dev/owner-namespace"
OWNER_UID = "longboat.dev/owner-uid"
DISK_KEY = "longboat.dev/disk-key"
DISK = "longboat.dev/disk"
"""Label: a hash of the disk's name in its backup."""
POLICY_UID = "longboat.dev/policy-uid"
ORIGIN = "longboat.dev/origin"
FINALIZER = "longboat.dev/keep-data"
OPT_OUT = "longboat.dev/automatic-snapshots"
"""Label on a claim, VirtualMachine or Namespace; the value "disabled" opts out of automatic snapshots."""


def digest(*parts: str, length: int = 8) -> str:
    """Return a short stable hash of the parts, of lower-case hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:length]


def joined(head: str, *tail: str) -> str:
    """Return ``head-tail-…`` with the head truncated so that the whole is a DNS label of at most 63 characters."""
    suffix = "".join(f"-{part}" for part in tail)
    return head[: MAX_NAME - len(suffix)].rstrip("-.").replace(".", "-") + suffix


def backup_name(policy: str, target_uid: str, slot: datetime) -> str:
    """Return the name of the DiskBackup of a policy for a target in a slot.

    >>> backup_name("db-data-daily", "u", datetime(2026, 11, 22, 3, 30, tzinfo=UTC))[:27]
    'db-data-daily-20261122t0330'
    """
    stamp = slot.astimezone(UTC).strftime("%Y%m%dt%H%M")
    return joined(policy, stamp, digest("BackupPolicy", policy, target_uid, length=10))


def child_name(owner_name: str, owner_uid: str, *parts: str) -> str:
    """Return the name of something made for an owner; ``parts`` tell its children apart."""
    return joined(owner_name, digest(owner_uid, *parts, length=10))


def disk_key(claim_uid: str, volume_handle: str) -> str:
    """Return the identity of a disk over its life, in its namespace's repository: 32 hexadecimal digits."""
    return digest("disk", claim_uid, volume_handle, length=32)


def owner_labels(kind: str, namespace: str, uid: str) -> dict[str, str]:
    """Return the labels by which an object in the operator's namespace is traced to its owner and swept."""
    return {MANAGED_BY: MANAGER, OWNER_KIND: kind, OWNER_NAMESPACE: namespace, OWNER_UID: uid}
