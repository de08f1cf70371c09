"""Whether a CSI driver is asked what has changed on a disk, once an audit has caught it leaving out changes.

An audit sees a small share: a driver that was caught is not believed again because the next audit sees nothing. What
is known is on the DiskBackups, handed on from each backup of the disk to the next: the one that found out may expire.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskResult, Distrust
from longboat.plan.hand_over import key_of

DISTRUSTED = "ChangeTrackingDistrusted"
"""Why an export reads everything: an earlier one of the disk had caught the driver."""
TRUSTED_SINCE = "longboat.dev/trusted-since"
"""Annotation of a SnapshotMetadataService: what was found until this moment (RFC 3339) is not held against it."""


def caught(finder: str, now: datetime, every: int) -> Distrust:
    """Return what is held against a driver that the DiskBackup ``finder`` caught; everything is read ``every`` backups.

    It lasts as long as what no audit sees would: where nothing but audits checks (0), until an administrator says so.
    """
    return Distrust(found_by=finder, found_at=now, left=every or None)


def held_against(disk: DiskResult, backups: Iterable[DiskBackup], forgiven: datetime | None) -> Distrust | None:
    """Return what is noted with a disk whose driver is not asked, None if it is.

    ``backups`` are those of the namespace that hold something against a driver, ``forgiven`` the moment up to which
    that does not count any more.
    """
    found = [
        (its.distrust, _left(its))
        for each in backups
        for its in each.status.disks or ()
        if its.distrust is not None and _same(its, disk) and (forgiven is None or its.distrust.found_at > forgiven)
    ]
    if not found:
        return None
    latest = max((each for each, _ in found), key=lambda each: each.found_at)
    counts = [left for each, left in found if each.found_at == latest.found_at]
    left = min((each for each in counts if each is not None), default=None)
    if left == 0:
        return None
    return latest.model_copy(update={"left": left - 1 if left else None})


def _left(disk: DiskResult) -> int | None:
    its = disk.distrust.left if disk.distrust else None
    # One that has handed it on, and was not completed, is no backup that could be counted.
    uncounted = disk.mismatch is None and disk.phase != "Completed"
    return None if its is None else its + uncounted


def _same(one: DiskResult, other: DiskResult) -> bool:
    return one.claim is not None and other.claim is not None and key_of(one) == key_of(other)


def forgiven(service: dict[str, Any] | None, now: datetime) -> datetime | None:
    """Return since when an administrator trusts a driver again; None if nothing that counts is said.

    A moment that has not come counts for nothing: it would be about what nobody has found yet.
    """
    said = ((service or {}).get("metadata", {}).get("annotations") or {}).get(TRUSTED_SINCE, "")
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None and moment <= now else None


def told(distrust: Distrust) -> str:
    """Return in words why an export reads everything."""
    rest = {None: "until an administrator trusts it again", 0: "for the last time"}.get(
        distrust.left, f"and for {distrust.left} more backup{'s' if distrust.left != 1 else ''} of the disk"
    )
    return (
        f"DiskBackup {distrust.found_by!r} had caught the CSI driver leaving out what had changed: it is not asked,"
        f" {rest}, and everything is read"
    )


def is_distrusted(disks: Sequence[DiskResult]) -> bool | None:
    """Return what a DiskBackup says for others to find it by; nothing if nothing is held against its drivers."""
    return True if any(each.distrust for each in disks) else None
