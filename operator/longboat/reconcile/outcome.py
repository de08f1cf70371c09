"""Writes a status and tells of it: an Event for every change of what the condition Ready says."""

from __future__ import annotations

from typing import TypeVar

from longboat.api.common import Resource, Status
from longboat.plan.conditions import find
from longboat.reconcile.context import Context
from longboat.reconcile.objects import reference, save_status

R = TypeVar("R", bound=Resource)


def save(ctx: Context, resource: R, status: Status) -> R:
    """Write the status (see save_status); when the reason of Ready changed, record it as an Event too."""
    old: Status = resource.status  # type: ignore[attr-defined]  # Every kind has a status; their base can't name its type.
    status = status.model_copy(update={"observed_generation": resource.metadata.generation})
    saved = save_status(ctx.cluster, resource, status)
    before, after = find(old.conditions, "Ready"), find(status.conditions, "Ready")
    if after and (before is None or before.reason != after.reason):
        trouble = find(status.conditions, "Stalled") is not None
        ctx.cluster.event(reference(resource), "Warning" if trouble else "Normal", after.reason, after.message)
    return saved
