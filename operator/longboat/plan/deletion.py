"""What becomes of a backup's data when somebody deletes its DiskBackup: keeping it is always the safe side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

CONFIRM = "longboat.dev/confirm-deletion"
"""Annotation that answers a deletion that was held: "true" removes the data too, "false" keeps it."""

SETTLE = timedelta(seconds=3)
"""A deletion waits this long, so that many at once are seen as such and not one by one."""
ABANDON_WAIT = timedelta(minutes=10)
"""A run whose remains cannot be removed holds a deletion up for this long at most; they are swept by their labels."""
STORE_WAIT = timedelta(minutes=10)
"""A store that cannot be reached holds a deletion up for this long at most."""


class Act(StrEnum):
    """What to do about a deletion."""

    WAIT = "Wait"
    HOLD = "Hold"
    BURY = "Bury"
    RELEASE = "Release"


@dataclass(frozen=True)
class Facts:
    """What is known of a deletion; ``deletions`` counts those of the namespace within an hour, this one included."""

    has_data: bool
    tombstoned: bool
    namespace_going: bool
    kind_going: bool
    answer: str | None
    age: timedelta
    deletions: int
    limit: int
    hold: bool
    """Whether somebody has said that it is to be kept: in spec.hold, or in the rule that its manifest carries."""


@dataclass(frozen=True)
class Verdict:
    """What to do, and why in the words of a condition or Event; without a reason there is nothing to tell."""

    act: Act
    reason: str = ""
    message: str = ""


_KEPT = "the data stays in the store; applying the DiskBackup again brings it back"


def decide(facts: Facts) -> Verdict:
    """Return what to do about the deletion of a DiskBackup that is not running."""
    on_hold = facts.hold and facts.answer != "true"
    going = facts.namespace_going or facts.kind_going
    if not facts.has_data or (facts.tombstoned and (going or not on_hold)):
        return Verdict(Act.RELEASE)
    if facts.namespace_going:
        return Verdict(Act.RELEASE, "DataKept", f"the namespace is being deleted: {_KEPT}, by an administrator")
    if facts.kind_going:
        return Verdict(Act.RELEASE, "DataKept", f"the kind DiskBackup is being removed: {_KEPT}")
    if facts.answer == "false" and not facts.tombstoned:
        return Verdict(Act.RELEASE, "DataKept", f'the annotation {CONFIRM} is "false": {_KEPT}')
    if facts.answer == "true":
        return Verdict(Act.BURY)
    if on_hold:
        # Who put it on hold need not be who deletes it.
        return Verdict(Act.HOLD, "OnHold", _ON_HOLD)
    if facts.age < SETTLE:
        return Verdict(Act.WAIT)
    if facts.deletions > facts.limit:
        return Verdict(Act.HOLD, "ManyDeletions", _question(facts))
    return Verdict(Act.BURY)


_ON_HOLD = (
    "it is on hold, by spec.hold or by the rule that its manifest carries, and its data stays: to remove the data after"
    f' the trash period, set spec.hold to false, or annotate this DiskBackup with {CONFIRM}="true", whatever holds it;'
    f' with {CONFIRM}="false" the object goes and its data stays in the store'
)


def gave_up(problem: str) -> Verdict:
    """Return the end of a deletion whose store could not be used in time."""
    minutes = int(STORE_WAIT.total_seconds() // 60)
    return Verdict(Act.RELEASE, "DataKept", f"the store could not be used for {minutes} minutes ({problem}): {_KEPT}")


def _question(facts: Facts) -> str:
    return (
        f"{facts.deletions} DiskBackups of this namespace were deleted within an hour, more than {facts.limit}:"
        f' annotate this one with {CONFIRM}="true" to remove its data after the trash period too, or with'
        f' {CONFIRM}="false" to keep its data in the store'
    )
