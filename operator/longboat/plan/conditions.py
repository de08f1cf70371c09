"""Conditions in the form that kstatus, Argo CD and Flux read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from longboat.api.common import Condition

ConditionStatus = Literal["True", "False", "Unknown"]


def with_condition(
    conditions: Sequence[Condition] | None,
    type_: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    *,
    now: datetime,
    generation: int | None = None,
) -> list[Condition]:
    """Return the conditions with this one set; the time of transition moves only when the status does."""
    before = find(conditions, type_)
    since = before.last_transition_time if before and before.status == status else now
    condition = Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    return [each for each in conditions or () if each.type != type_] + [condition]


def without_condition(conditions: Sequence[Condition] | None, type_: str) -> list[Condition]:
    """Return the conditions without those of this type."""
    return [each for each in conditions or () if each.type != type_]


def find(conditions: Sequence[Condition] | None, type_: str) -> Condition | None:
    """Return the condition of this type, if there is one."""
    return next((each for each in conditions or () if each.type == type_), None)


def holds(conditions: Sequence[Condition] | None, type_: str) -> bool:
    """Return whether the condition of this type is True."""
    condition = find(conditions, type_)
    return condition is not None and condition.status == "True"
