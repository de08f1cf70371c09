"""An object of ours that is there but can't be read: it says so itself, and holds up nobody else.

The schema lets nothing through that the operator can't read, as far as is known. What got in before it did, or comes
from another version, is told of in a condition; a guest is thawed and a deletion goes on, by what can be read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from longboat.api import DiskBackup
from longboat.api.common import Resource, Status
from longboat.kube import kinds
from longboat.kube.kinds import Kind
from longboat.kube.port import Object
from longboat.plan import kstatus
from longboat.plan.conditions import find
from longboat.plan.problem import Problem
from longboat.reconcile import backup_cut, deletion, disk_backup
from longboat.reconcile.backup_run import Run
from longboat.reconcile.context import Context
from longboat.reconcile.objects import Salvaged, model_of, reference, salvage

log = logging.getLogger(__name__)

_KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (kinds.BACKUP_POLICY, kinds.DISK_BACKUP, kinds.DISK_SNAPSHOT, kinds.RESTORE, kinds.BACKUP_STORE)
}


def attend(ctx: Context, kind_name: str, namespace: str, name: str) -> tuple[bool, timedelta | None]:
    """See to an object if it can't be read; return whether that is so, and when to look again."""
    kind = _KINDS.get(kind_name)
    obj = ctx.cluster.get(kind, name, namespace) if kind else None
    if obj is None:
        return False, None
    found = salvage(model_of(kind_name), obj)
    if not found.problems:
        return False, None
    log.warning("%s %s/%s can't be read: %s", kind_name, namespace, name, "; ".join(found.problems))
    return True, _attend(ctx, obj, found)


def _attend(ctx: Context, obj: Object, found: Salvaged[Any]) -> timedelta | None:
    backup = found.resource if isinstance(found.resource, DiskBackup) else None
    if backup is not None and backup.metadata.deletion_timestamp is not None:
        return deletion.delete(ctx, backup, disk_backup.abandon)
    if found.resource is None or obj["metadata"].get("deletionTimestamp"):
        return None
    if backup is not None and found.status_is_whole:
        run = Run(ctx, backup)
        backup_cut.thaw_if_needed(run)
        _tell(ctx, obj, run.backup, found)
        return min(run.waits, default=None)
    _tell(ctx, obj, found.resource, found)
    return None


def _tell(ctx: Context, obj: Object, resource: Resource, found: Salvaged[Any]) -> None:
    """Write the conditions alone: what else the status holds may be the record of a newer version."""
    status: Status = resource.status  # type: ignore[attr-defined]  # Every kind has a status; their base can't name its type.
    remedy = f"correct it, or delete the {resource.kind} and create another one"
    problem = Problem("Unreadable", f"{'; '.join(found.problems)}: {remedy}")
    conditions = kstatus.stalled(status.conditions, problem, now=ctx.now(), generation=resource.metadata.generation)
    before = find(status.conditions, "Stalled")
    if conditions == status.conditions:
        return
    raw = status.wire() if found.status_is_whole else dict(obj.get("status") or {})
    body = {**obj, "metadata": {**obj["metadata"], "resourceVersion": resource.metadata.resource_version}}
    ctx.cluster.update_status(body | {"status": raw | {"conditions": [each.wire() for each in conditions]}})
    if before is None or before.reason != problem.reason:
        ctx.cluster.event(reference(resource), "Warning", problem.reason, problem.message)
