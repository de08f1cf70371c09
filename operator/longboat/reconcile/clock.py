"""Whether the operator's clock is believed before anything goes by its age: a node's clock may have jumped."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from longboat.api import BackupStore, DiskBackup
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.plan.conditions import find
from longboat.plan.problem import Problem
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.repository import MAX_SKEW

log = logging.getLogger(__name__)

REASON = "ClockSkew"
API_SERVER = "API server"
AGAIN = timedelta(minutes=1)
"""A comparison holds for as long, by the clock that was compared: one that jumps is compared again at once."""


def skew(ctx: Context) -> timedelta:
    """Return by how much the operator's clock is ahead of the API server's, as it was found within the last minute.

    Administrators are told when the two begin to disagree. Raises UnavailableError: then nothing is known.
    """
    before, known = ctx.clock_skew.get(API_SERVER, (None, timedelta()))
    if before is not None and timedelta() <= ctx.now() - before < AGAIN:
        return known
    theirs, now = ctx.cluster.server_time(), ctx.now()
    ctx.clock_skew[API_SERVER] = now, now - theirs
    if _is_off(now - theirs) and not _is_off(known):
        _tell(ctx, now - theirs)
    return now - theirs


def problem(ctx: Context) -> Problem | None:
    """Return why nothing may go by its age now, None if it may. Raises UnavailableError."""
    found = skew(ctx)
    return Problem(REASON, _said(found)) if _is_off(found) else None


def problem_with(ctx: Context, backups: Iterable[DiskBackup]) -> Problem | None:
    """Return the same for backups, whose stores have clocks as well: those that the API server's node lacks."""
    stores = {each.status.store.name for each in backups if each.status.store is not None}
    return problem(ctx) or next(filter(None, (_problem_of(ctx, name) for name in sorted(stores))), None)


def _problem_of(ctx: Context, name: str) -> Problem | None:
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", name)
    found = find(store.status.conditions, "Available") if store else None
    if found is None or found.status != "False" or found.reason != REASON:
        return None
    return Problem(
        REASON, f"BackupStore {name!r}: its clock and this cluster's differ; nothing expires until they agree"
    )


def _is_off(found: timedelta) -> bool:
    return abs(found) > MAX_SKEW


def _said(found: timedelta) -> str:
    side = "ahead of" if found > timedelta() else "behind"
    return (
        f"the operator's clock is {abs(found).total_seconds():.0f} s {side} the API server's: nothing expires until"
        " they agree; set the clocks of their nodes by NTP"
    )


def _tell(ctx: Context, found: timedelta) -> None:
    log.error("%s", _said(found))
    own = ctx.cluster.get(NAMESPACE, ctx.settings.namespace)
    if own is not None:
        ctx.cluster.event(own, "Warning", REASON, _said(found))
