"""When a disk gets its automatic snapshot, and when an old one goes.

Each disk has a slot of its own in every period, by the hash of its claim's UID, so that thousands of disks are spread
over the day. A disk without a snapshot of its current slot is due: a new disk therefore gets its first one at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from longboat.api.common import API_VERSION
from longboat.plan.names import MANAGED_BY, MANAGER, ORIGIN, digest, joined

CLAIM_UID = "longboat.dev/claim-uid"
"""Label of an automatic DiskSnapshot: the UID of the claim it was planned for."""
RETRY_AFTER = timedelta(hours=1)
"""A failed automatic snapshot makes way for another attempt after this."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Disk:
    """A disk of a virtual machine. ``wanted``: not opted out. ``supported``: its storage can make snapshots."""

    namespace: str
    claim: str
    claim_uid: str
    virtual_machine: str
    name: str
    wanted: bool = True
    supported: bool = True


@dataclass(frozen=True)
class Taken:
    """An automatic DiskSnapshot; ``moment`` is when it was taken, or created while it is not taken yet."""

    namespace: str
    name: str
    uid: str
    claim_uid: str
    created: datetime
    moment: datetime
    phase: Literal["Pending", "Ready", "Failed"]


@dataclass(frozen=True)
class Removal:
    """An automatic snapshot to delete; ``successor`` must still be there and Ready, if there is one."""

    snapshot: Taken
    successor: Taken | None = None


@dataclass(frozen=True)
class Rules:
    """``every``: the period. ``trash_period``: how long the last snapshot of a deleted disk stays."""

    every: timedelta
    trash_period: timedelta


def slot(claim_uid: str, now: datetime, every: timedelta) -> datetime:
    """Return the beginning of the disk's current slot: at most one period ago."""
    seconds = int(every.total_seconds())
    offset = int(digest("slot", claim_uid), 16) % seconds
    passed = int((now - _EPOCH).total_seconds()) - offset
    return _EPOCH + timedelta(seconds=passed // seconds * seconds + offset)


def due(disk: Disk, taken: Sequence[Taken], now: datetime, rules: Rules) -> bool:
    """Return whether the disk needs a snapshot now; never while one is still being made."""
    if not (disk.wanted and disk.supported) or any(each.phase == "Pending" for each in taken):
        return False
    since = slot(disk.claim_uid, now, rules.every)
    return not any(each.created >= since for each in taken)


def removals(
    disk: Disk | None, claim_exists: bool, taken: Sequence[Taken], now: datetime, rules: Rules
) -> list[Removal]:
    """Return which of a disk's automatic snapshots go.

    An older one goes once a newer one is Ready, a failed one to make way for another attempt, one that is never cut
    after a period. The last good one of a disk that gets no more snapshots (``disk`` is None or not wanted) stays a
    period longer than it would have, and for the trash period if its claim is gone: it may be all that is left.
    """
    good = sorted((each for each in taken if each.phase == "Ready"), key=lambda each: (each.moment, each.name))
    newest = good[-1] if good else None
    gone = [Removal(each, newest) for each in good[:-1]]
    gone += [Removal(each) for each in taken if each.phase != "Ready" and now - each.created >= _patience(each, rules)]
    if newest and (disk is None or not disk.wanted) and now - newest.moment >= _last(claim_exists, rules):
        gone.append(Removal(newest))
    return gone


def snapshot_of(disk: Disk, now: datetime, rules: Rules) -> dict[str, Any]:
    """Return the DiskSnapshot to create for the disk's current slot; its name is the same whenever it is asked for."""
    stamp = slot(disk.claim_uid, now, rules.every).strftime("%Y%m%dt%H%M")
    return {
        "apiVersion": API_VERSION,
        "kind": "DiskSnapshot",
        "metadata": {
            "name": joined(disk.claim, "auto", stamp, digest(disk.claim_uid, length=10)),
            "namespace": disk.namespace,
            "labels": {MANAGED_BY: MANAGER, ORIGIN: "Automatic", CLAIM_UID: disk.claim_uid},
        },
        "spec": {"disk": {"virtualMachine": disk.virtual_machine, "name": disk.name}, "origin": "Automatic"},
    }


def _patience(each: Taken, rules: Rules) -> timedelta:
    return min(RETRY_AFTER, rules.every) if each.phase == "Failed" else rules.every


def _last(claim_exists: bool, rules: Rules) -> timedelta:
    return 2 * rules.every if claim_exists else max(rules.trash_period, 2 * rules.every)
