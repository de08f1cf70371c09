"""The pair of conditions Ready and Stalled, as kstatus and the tools built on it read them.

Ready=True is done, Ready=False alone is under way, Stalled=True needs somebody to act.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from longboat.api.common import Condition
from longboat.plan.conditions import with_condition, without_condition
from longboat.plan.problem import Problem

Conditions = Sequence[Condition] | None


def ready(conditions: Conditions, reason: str, message: str, *, now: datetime, generation: int) -> list[Condition]:
    """Return the conditions of an object that is as it was asked for."""
    rest = without_condition(conditions, "Stalled")
    return with_condition(rest, "Ready", "True", reason, message, now=now, generation=generation)


def under_way(conditions: Conditions, reason: str, message: str, *, now: datetime, generation: int) -> list[Condition]:
    """Return the conditions of an object that is being worked on."""
    rest = without_condition(conditions, "Stalled")
    return with_condition(rest, "Ready", "False", reason, message, now=now, generation=generation)


def stalled(conditions: Conditions, problem: Problem, *, now: datetime, generation: int) -> list[Condition]:
    """Return the conditions of an object that can't go on before somebody acts."""
    reason, message = problem.reason, problem.message
    first = with_condition(conditions, "Ready", "False", reason, message, now=now, generation=generation)
    return with_condition(first, "Stalled", "True", reason, message, now=now, generation=generation)
