"""Which backups of a policy are kept, which expire, and why: per disk, since a backup is as good as its disks are.

A DiskBackup expires only when nothing keeps any of its disks, so that a disk captured well in a partial backup counts
as good for that disk. Only good captures count for keepLast and keepNewest: runs that fail never cost a good one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from longboat.api import DiskBackup
from longboat.api.backup_policy import Retention
from longboat.api.common import parse_duration
from longboat.api.disk_backup import UnconfirmedRule
from longboat.plan.names import disk_key
from longboat.plan.recorded_rule import unconfirmed

FINISHED = frozenset({"Completed", "PartiallyFailed", "Failed"})


class Keep(StrEnum):
    """Why something is kept."""

    KEEP_FOR = "KeepFor"
    EXPIRES_AT = "ExpiresAt"
    KEEP_LAST = "KeepLast"
    NEWEST_GOOD = "NewestGood"
    HOLD = "Hold"
    IN_USE = "InUse"
    RUNNING = "Running"
    NO_RULE = "NoRule"
    RECORDED = "RecordedRule"
    CONFIRMATION = "AwaitingConfirmation"


@dataclass(frozen=True)
class Point:
    """A backup as far as retention is concerned; ``disks`` are the identities of the disks that it captured well."""

    name: str
    moment: datetime
    disks: frozenset[str] = frozenset()
    finished: bool = True
    hold: bool = False
    in_use: bool = False
    expires_at: datetime | None = None
    own_rule: Retention | None = None
    recorded: UnconfirmedRule = field(default_factory=UnconfirmedRule)


@dataclass(frozen=True)
class Rule:
    """What holds for all points of a policy: its retention, or None once the policy has been gone for the trash period.

    ``grace_until`` is when the trash period of a policy that is gone ends; None while it exists.
    """

    retention: Retention | None
    grace_until: datetime | None = None


@dataclass(frozen=True)
class Reason:
    """One cause to keep a point: for which disk (None: the backup as a whole), and until when if that is known."""

    keep: Keep
    disk: str | None = None
    until: datetime | None = None

    def __str__(self) -> str:
        until = f" until {self.until:%Y-%m-%dT%H:%MZ}" if self.until else ""
        return f"{self.keep}{until}"


@dataclass(frozen=True)
class Decision:
    """What becomes of a point: it expires if no reason keeps it. ``expires_at`` is when its time is up otherwise."""

    point: Point
    reasons: tuple[Reason, ...]
    expires_at: datetime | None

    @property
    def keep(self) -> bool:
        """Whether anything keeps the backup."""
        return bool(self.reasons)

    def why(self) -> str:
        """Return the reasons in words, each once."""
        return ", ".join(dict.fromkeys(str(reason) for reason in self.reasons))


def decide(points: Sequence[Point], rule: Rule, now: datetime) -> list[Decision]:
    """Return a decision for each of a policy's points, in their order."""
    ranks = _ranks(points)
    return [_decide(point, ranks, rule, now) for point in points]


def spare_whole(
    decisions: Sequence[Decision], hurt: Mapping[str, frozenset[str]], rule: Rule, now: datetime
) -> list[Decision]:
    """Return the decisions for all points of a policy with those kept that only whole backups count for.

    ``hurt`` says by a point's name which of its disks are damaged: they are no less kept for that, but do not stand in
    for a whole capture.
    """
    points = [each.point for each in decisions]
    whole = decide([replace(each, disks=each.disks - hurt.get(each.name, frozenset())) for each in points], rule, now)
    return [
        each if each.keep else Decision(each.point, other.reasons, each.expires_at)
        for each, other in zip(decisions, whole, strict=True)
    ]


def rule_of(policy: Retention | None, gone_since: datetime | None, trash_period: timedelta, now: datetime) -> Rule:
    """Return the rule for the backups of a policy that exists, or is gone since a moment.

    For the trash period after its deletion a policy's backups are kept as if it were there (by the rule that each
    carries), so that applying it again loses nothing; after that only keepFor counts.
    """
    if policy is not None:
        return Rule(policy)
    return Rule(None, grace_until=(gone_since or now) + trash_period)


def point_of(backup: DiskBackup, in_use: bool = False) -> Point:
    """Return what retention needs to know of a DiskBackup."""
    status = backup.status
    finished = status.phase in FINISHED
    cut = status.cut.cut_at if status.cut else None
    return Point(
        name=backup.name,
        moment=cut or status.started_at or backup.metadata.creation_timestamp,
        disks=good_disks(backup) if finished else frozenset(),
        finished=finished,
        hold=backup.spec.hold,
        in_use=in_use,
        expires_at=backup.spec.expires_at,
        own_rule=status.retention,
        recorded=unconfirmed(backup),
    )


def good_disks(backup: DiskBackup) -> frozenset[str]:
    """Return the identities of the disks that can be restored from a finished backup."""
    if backup.status.manifest is None:
        return frozenset()
    return frozenset(
        disk_key(disk.claim.uid, disk.volume_handle or "")
        for disk in backup.status.disks or ()
        if disk.phase == "Completed" and disk.claim is not None
    )


def has_data(backup: DiskBackup) -> bool:
    """Return whether the store holds, or may hold, something of this backup."""
    status = backup.status
    taken_over = status.shared_cut is not None and status.shared_cut.taken_over
    tried = any(disk.manifest or disk.attempts for disk in status.disks or ())
    return status.manifest is not None or taken_over or tried


def _ranks(points: Iterable[Point]) -> dict[tuple[str, str], int]:
    """Return (disk, point) → 1 for the disk's newest good capture, 2 for the one before it …"""
    ordered = sorted(points, key=lambda point: (point.moment, point.name), reverse=True)
    seen: dict[str, int] = {}
    ranks: dict[tuple[str, str], int] = {}
    for point in ordered:
        for disk in point.disks:
            seen[disk] = seen.get(disk, 0) + 1
            ranks[disk, point.name] = seen[disk]
    return ranks


def _decide(point: Point, ranks: dict[tuple[str, str], int], rule: Rule, now: datetime) -> Decision:
    retention = rule.retention or point.own_rule
    expires_at = _expiry(point, retention)
    reasons = [*_as_a_whole(point, now)]
    if expires_at is None:
        # It never belonged to a policy: whoever made it decides when it goes.
        reasons.append(Reason(Keep.NO_RULE))
    elif now < expires_at:
        keep = Keep.EXPIRES_AT if point.expires_at else Keep.KEEP_FOR
        reasons.append(Reason(keep, until=expires_at))
    if retention is not None and (rule.grace_until is None or now < rule.grace_until):
        reasons += _by_count(point, ranks, retention, rule.grace_until)
    return Decision(point, tuple(reasons), expires_at)


def _as_a_whole(point: Point, now: datetime) -> Iterable[Reason]:
    if not point.finished:
        yield Reason(Keep.RUNNING)
    if point.hold:
        yield Reason(Keep.HOLD)
    if point.in_use:
        yield Reason(Keep.IN_USE)
    recorded = point.recorded
    if recorded.hold or (recorded.expires_at is not None and now < recorded.expires_at):
        yield Reason(Keep.RECORDED, until=None if recorded.hold else recorded.expires_at)


def _by_count(
    point: Point, ranks: dict[tuple[str, str], int], retention: Retention, until: datetime | None
) -> Iterable[Reason]:
    for disk in sorted(point.disks):
        rank = ranks[disk, point.name]
        if retention.keep_last is not None and rank <= retention.keep_last:
            yield Reason(Keep.KEEP_LAST, disk, until)
        if retention.keep_newest and rank == 1:
            yield Reason(Keep.NEWEST_GOOD, disk, until)


def _expiry(point: Point, retention: Retention | None) -> datetime | None:
    """Return when the time is up: in whole seconds, as the status says it."""
    if point.expires_at is not None:
        return point.expires_at.replace(microsecond=0)
    return None if retention is None else point.moment.replace(microsecond=0) + parse_duration(retention.keep_for)
