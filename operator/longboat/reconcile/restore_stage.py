"""What the stages of a restore hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longboat.api import Restore
from longboat.plan.problem import Problem
from longboat.plan.restore_source import Waiting
from longboat.reconcile.context import Context
from longboat.reconcile.outcome import save


@dataclass(frozen=True)
class Stage:
    """The Restore as it is now, and why it can't go on to the next stage yet, if it can't."""

    restore: Restore
    stop: Problem | Waiting | None = None


def updated(ctx: Context, restore: Restore, **fields: Any) -> Restore:
    """Write fields of the status, and return the Restore as it is then."""
    return save(ctx, restore, restore.status.model_copy(update=fields))
