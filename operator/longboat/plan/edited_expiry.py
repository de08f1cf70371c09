"""Which backups expire because somebody edited something, and not because time went by.

Each status says what held for the backup until now: the rule, the moment, whether it was held. What would stay by that,
and goes by what is asked for now, goes because of an edit. Many of those at once stop and ask, as deletions do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from longboat.api import BackupPolicy, DiskBackup
from longboat.plan.deletion import CONFIRM
from longboat.plan.retention import Decision, Keep, Rule, decide, has_data

CONFIRM_EXPIRY = "longboat.dev/confirm-expiry"
"""Annotation of a BackupPolicy: the generation whose retention may let many backups expire at once."""
HELD = "ExpiryHeld"
"""Condition of a BackupPolicy whose backups wait for an answer."""
_MOST_NAMES = 5


class Cause(StrEnum):
    """What was edited: the retention of the policy, or expiresAt or hold of the DiskBackup."""

    POLICY = "Policy"
    OWN = "Own"


@dataclass(frozen=True)
class Held:
    """Backups that wait for an answer, by name; ``limit`` is how many may go without one."""

    causes: Mapping[str, Cause]
    limit: int


def caused(runs: Iterable[DiskBackup], decisions: Sequence[Decision], rule: Rule, now: datetime) -> dict[str, Cause]:
    """Return which backups with data are about to expire because of an edit, and what was edited."""
    going = {each.point.name for each in decisions if not each.keep}
    # What is marked already has been decided on.
    asked = [run for run in runs if run.name in going and has_data(run) and run.status.tombstoned_at is None]
    found = {run.name: Cause.OWN for run in asked if _was_kept(run, now)}
    return found | dict.fromkeys(_by_policy(asked, decisions, rule, now), Cause.POLICY)


def _by_policy(runs: Sequence[DiskBackup], decisions: Sequence[Decision], rule: Rule, now: datetime) -> Iterable[str]:
    """Yield what the rule would keep that was applied to it last."""
    points = [each.point for each in decisions]
    kept: list[tuple[object, set[str]]] = []
    for run in runs:
        before = run.status.retention
        if rule.retention is None or before is None or before == rule.retention:
            continue
        names = next((names for retention, names in kept if retention == before), None)
        if names is None:
            names = {each.point.name for each in decide(points, Rule(before), now) if each.keep}
            kept.append((before, names))
        if run.name in names:
            yield run.name


def _was_kept(run: DiskBackup, now: datetime) -> bool:
    moment = run.status.expires_at
    return _was_held(run) or (moment is not None and now < moment)


def _was_held(run: DiskBackup) -> bool:
    return Keep.HOLD in (run.status.kept_because or "").split(", ")


def kept_because(run: DiskBackup) -> str:
    """Return what the status of a backup says that waits for an answer; that it was held is not forgotten."""
    return ", ".join([Keep.CONFIRMATION, *([Keep.HOLD] if _was_held(run) else [])])


def is_confirmed(run: DiskBackup, cause: Cause, policy: BackupPolicy | None) -> bool:
    """Return whether somebody has answered that a backup may go."""
    if run.metadata.annotations.get(CONFIRM) == "true":
        return True
    return (
        cause is Cause.POLICY
        and policy is not None
        and policy.metadata.annotations.get(CONFIRM_EXPIRY) == str(policy.metadata.generation)
    )


def question(held: Held, generation: int | None) -> str:
    """Return what is asked of the people, with the two ways to answer."""
    said = [f"more than {held.limit} backups would be gone within an hour because of edits, and wait for an answer"]
    by_policy = _names(held, Cause.POLICY)
    if by_policy:
        said.append(
            f"by spec.retention {by_policy}: annotate this BackupPolicy with"
            f' {CONFIRM_EXPIRY}="{generation}" to let them go, or set spec.retention back'
        )
    if own := _names(held, Cause.OWN):
        said.append(
            f"by spec.expiresAt or spec.hold of their own {own}: annotate each with"
            f' {CONFIRM}="true" to let it go, or set the field back'
        )
    return "; ".join(said)


def _names(held: Held, cause: Cause) -> str:
    names = sorted(name for name, each in held.causes.items() if each is cause)
    rest = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"DiskBackups {', '.join(names[:_MOST_NAMES])}{rest}" if names else ""
