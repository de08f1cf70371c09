"""The moment of capture: whether to freeze, who may cut, and what may be claimed of it, by evidence alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from longboat.api.disk_backup import Consistency, Cut, DiskBackupStatus, DiskResult

Object = dict[str, Any]
FreezePlan = Literal["Freeze", "NotRunning", "Paused", "NoAgent", "GivenUp", "NoMachine"]

MAX_FREEZES = 3
"""Attempts that freeze the guest; after these interrupted ones the disks are captured without."""
MAX_ATTEMPTS = 6
OPEN_LIMIT = timedelta(minutes=5)
"""A cut that has been open for longer than this holds nobody up: its guest has thawed itself long since."""
CLOCK_SKEW = timedelta(seconds=2)
"""How far the CSI driver's clock may be off the operator's, beside its granularity of a second."""
_SECOND = timedelta(seconds=1)
_MAYBE_FROZEN = frozenset({"Requested", "Frozen", "Refused"})


@dataclass(frozen=True)
class Verdict:
    """What may be claimed of a cut, and why."""

    consistency: Consistency
    consistency_reason: str
    same_moment: bool
    same_moment_reason: str


def freeze_plan(machine: str | None, vmi: Object | None, attempt: int) -> FreezePlan:
    """Return whether to freeze the guest of the virtual machine that uses the disks (None: there is none)."""
    if machine is None:
        return "NoMachine"
    if not_running(vmi):
        return "NotRunning"
    if _holds(vmi, "Paused"):
        return "Paused"
    if not _holds(vmi, "AgentConnected"):
        return "NoAgent"
    return "Freeze" if attempt <= MAX_FREEZES else "GivenUp"


def not_running(vmi: Object | None) -> bool:
    """Return whether nothing runs that could write: no instance, or one that has ended."""
    return vmi is None or (vmi.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def interrupted(cut: Cut | None) -> bool:
    """Return whether an attempt, found at the start of a look, was interrupted."""
    return cut is not None and cut.ended_at is None


def needs_thaw(cut: Cut | None, now: datetime) -> bool:
    """Return whether the guest may still be frozen by this cut."""
    if cut is None or cut.freeze not in _MAYBE_FROZEN or cut.thawed_at is not None:
        return False
    return now < cut.started_at + OPEN_LIMIT


def is_open(cut: Cut | None, now: datetime) -> bool:
    """Return whether another cut of the same virtual machine has to wait for this one."""
    if cut is None or now >= cut.started_at + OPEN_LIMIT:
        return False
    return cut.ended_at is None or needs_thaw(cut, now)


def holding_up(others: Iterable[tuple[str, DiskBackupStatus]], machine: str | None, now: datetime) -> str | None:
    """Return the name of a DiskBackup whose open cut of the same virtual machine has to end first, or None.

    A thaw ends every freeze of a guest, so that two cuts at once would spoil each other.
    """
    if machine is None:
        return None
    same = (name for name, status in others if status.virtual_machine == machine and is_open(status.cut, now))
    return next(iter(sorted(same)), None)


def captured(disks: Iterable[DiskResult]) -> list[DiskResult]:
    """Return the disks that have a snapshot with a moment."""
    return [disk for disk in disks if disk.cut_time is not None and disk.phase not in ("Failed", "Unsupported")]


def skew(disks: Sequence[DiskResult]) -> timedelta:
    """Return how far the moments of the disks are apart."""
    times = [disk.cut_time for disk in disks if disk.cut_time is not None]
    return max(times) - min(times) if times else timedelta(0)


def verdict(cut: Cut, disks: Sequence[DiskResult], unfreeze_timeout: timedelta) -> Verdict:
    """Return what may be claimed of the captured disks; without evidence nothing is.

    Frozen at the cut means: the guest confirmed the freeze, every snapshot was seen as cut before the thaw was asked
    for (so that no clock has to be trusted), before the guest's own time-out, and the CSI driver's times do not
    contradict that.
    """
    doubt = frozen_doubt(cut, disks, unfreeze_timeout)
    if doubt is None:
        reason = "the guest's file systems were frozen while every disk was captured"
        return Verdict("Application", reason, True, reason)
    same, why = _same_moment(cut, disks)
    return Verdict("Crash", doubt, same, why)


def frozen_doubt(cut: Cut, disks: Sequence[DiskResult], unfreeze_timeout: timedelta) -> str | None:
    """Return why it can't be claimed that every disk was captured while the guest was frozen, or None if it can."""
    if cut.freeze != "Frozen" or cut.frozen_at is None:
        return _not_frozen(cut)
    if cut.shared_with:
        return _shared(cut.shared_with)
    if cut.thaw_error or cut.thawed_at is None:
        return f"the guest did not thaw cleanly, so that the freeze may have failed: {cut.thaw_error or 'no answer'}"
    if cut.cut_at is None or cut.cut_at > cut.thawed_at:
        return "the snapshots were not all cut before the guest was thawed"
    if cut.cut_at - cut.started_at >= unfreeze_timeout:
        return f"the last snapshot was cut after the guest's own time-out of {unfreeze_timeout.total_seconds():.0f} s"
    return _contradiction(cut.frozen_at, cut.thawed_at, disks)


def _contradiction(frozen: datetime, thawed: datetime, disks: Sequence[DiskResult]) -> str | None:
    for disk in disks:
        moment = disk.cut_time
        # The driver's time is cut off to whole seconds: the snapshot was up to a second later.
        if moment is None or not frozen - _SECOND - CLOCK_SKEW <= moment <= thawed + CLOCK_SKEW:
            return (
                f"the CSI driver says that disk {disk.name!r} was cut at {moment}, outside of the freeze "
                f"({frozen:%H:%M:%S} to {thawed:%H:%M:%S}); check the clocks of the storage nodes"
            )
    return None


def _not_frozen(cut: Cut) -> str:
    error = f": {cut.freeze_error}" if cut.freeze_error else ""
    words = {
        "NoMachine": "no virtual machine uses the disk; whatever else writes to it was not asked to stop",
        "NotRunning": f"the virtual machine was not running{error}",
        "Paused": "the virtual machine was paused, and a paused guest can't be frozen",
        "NoAgent": "the guest agent was not connected, so that the guest could not be frozen",
        "GivenUp": f"{MAX_FREEZES} attempts with a frozen guest were interrupted, this one did without a freeze",
        "Refused": f"the guest could not be frozen{error}",
    }
    return words.get(cut.freeze or "", f"the guest was not frozen{error}")


def _same_moment(cut: Cut, disks: Sequence[DiskResult]) -> tuple[bool, str]:
    if len(disks) <= 1:
        return True, "there is just one disk"
    if cut.freeze == "NotRunning" and _nothing_wrote(cut):
        return True, "the virtual machine was not running, so that nothing wrote to its disks"
    apart = skew(disks).total_seconds()
    also = f"; {_shared(cut.shared_with)}" if cut.shared_with else ""
    return False, f"the disks were captured one after the other, {apart:.0f} s apart by the CSI driver's clock{also}"


def _nothing_wrote(cut: Cut) -> bool:
    # Whether the machine still stood still was looked at when the attempt ended: it says nothing of a later snapshot.
    in_time = cut.cut_at is not None and cut.ended_at is not None and cut.cut_at <= cut.ended_at
    return in_time and not cut.freeze_error and not cut.shared_with


def _shared(machine: str) -> str:
    return f"the virtual machine {machine!r} used one of the disks as well, and was not asked to stop writing"


def _holds(vmi: Object | None, condition: str) -> bool:
    conditions = ((vmi or {}).get("status") or {}).get("conditions") or ()
    return any(each.get("type") == condition and each.get("status") == "True" for each in conditions)
