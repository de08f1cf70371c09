"""Whether the operator's clock is believed before anything goes by its age: a node's clock may have jumped."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from longboat.api import BackupStore, DiskBackup
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.plan.conditions import find
from longboat.plan.problem import Problem
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, readable
from longboat.repository import MAX_SKEW

log = logging.getLogger(__name__)

REASON = "ClockSkew"
API_SERVER, OWN = "API server", "operator"
STEPPED = (
    "the operator's clock and the API server's were put to another time at once: nothing expires until a check of a"
    " BackupStore agrees with them; if they are right and no store tells the time, restart the operator"
)
_SILENT = (
    "BackupStore {!r}: it does not tell the time, and that of another one, {}, is not this cluster's; nothing in it"
    " expires until they agree"
)
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
        _tell(ctx, _said(now - theirs))
    _look(ctx, theirs, now)
    return now - theirs


def _look(ctx: Context, theirs: datetime, own: datetime) -> None:
    # Both at the same time: what one of them said before it was put ahead is no use without the other's.
    if ctx.clock_steps is not None:
        found = [ctx.clock_steps.look(clock, says) for clock, says in ((API_SERVER, theirs), (OWN, own))]
        if all(found):
            _tell(ctx, STEPPED)


def problem(ctx: Context) -> Problem | None:
    """Return why nothing may go by its age now, None if it may. Raises UnavailableError."""
    found = skew(ctx)
    return Problem(REASON, _said(found)) if _is_off(found) else _step(ctx)


def problems_of_stores(ctx: Context, backups: Iterable[DiskBackup]) -> dict[str, Problem]:
    """Return, by the name of a store, why no backup in it may go by its age: stores have clocks of their own.

    They see what the API server's node lacks. Where one disagrees with the clock here, those that do not say that it
    is right are waited with, too.
    """
    names = {each.status.store.name for each in backups if each.status.store is not None}
    stores = {name: load(ctx.cluster, BACKUP_STORE, BackupStore, "", name) for name in sorted(names)}
    found = {name: found for name, each in stores.items() if each and (found := _problem_of(ctx, each)) is not None}
    since, others = ctx.now() - _longest(ctx), [each for name, each in stores.items() if each and name not in found]
    silent = [each.name for each in others if found and not _agrees(ctx, each, since)]
    return found | {name: Problem(REASON, _SILENT.format(name, ", ".join(found))) for name in silent}


def _step(ctx: Context) -> Problem | None:
    """Return why a clock that agrees with the API server's is not believed: both were put to another time at once.

    They may be those of one node. Whoever was not there tells whether they are right now: a store.
    """
    since = ctx.clock_steps.since(OWN) if ctx.clock_steps is not None else None
    if ctx.clock_steps is None or since is None:
        return None
    if ctx.clock_steps.since(API_SERVER) is None or any(_agrees(ctx, each, since) for each in _stores(ctx)):
        ctx.clock_steps.settle()
        return None
    return Problem(REASON, STEPPED)


def _stores(ctx: Context) -> list[BackupStore]:
    return list(readable(BackupStore, ctx.cluster.list(BACKUP_STORE)))


def _agrees(ctx: Context, store: BackupStore, since: datetime) -> bool:
    """Tell whether a store's check since then has found the operator's clock to be right."""
    checked, found = store.status.last_check_time, find(store.status.conditions, "Available")
    if checked is None or not since <= checked <= ctx.now() or found is None or found.status != "True":
        return False
    # Signatures of S3 hold for a quarter of an hour: of another clock they would have been refused.
    return store.status.clock_skew_seconds is not None or store.spec.s3 is not None


def _problem_of(ctx: Context, store: BackupStore) -> Problem | None:
    name, longest = store.name, _longest(ctx)
    found, checked = find(store.status.conditions, "Available"), store.status.last_check_time
    if found is not None and found.status == "False" and found.reason == REASON:
        return Problem(
            REASON, f"BackupStore {name!r}: its clock and this cluster's differ; nothing in it expires until they agree"
        )
    if checked is None or -MAX_SKEW <= ctx.now() - checked <= longest:
        return None
    return Problem(
        REASON,
        f"BackupStore {name!r}: its last check was at {checked:%Y-%m-%dT%H:%M:%SZ}, more than {longest} from now by the"
        " operator's clock; nothing in it expires until it has been checked again and the clocks agree",
    )


def _longest(ctx: Context) -> timedelta:
    """Return for how long a store's check tells of the time: it may take a minute, however short its period is."""
    return max(2 * ctx.settings.store_check_period, MAX_SKEW)


def _is_off(found: timedelta) -> bool:
    return abs(found) > MAX_SKEW


def _said(found: timedelta) -> str:
    side = "ahead of" if found > timedelta() else "behind"
    return (
        f"the operator's clock is {abs(found).total_seconds():.0f} s {side} the API server's: nothing expires until"
        " they agree; set the clocks of their nodes by NTP"
    )


def _tell(ctx: Context, message: str) -> None:
    log.error("%s", message)
    own = ctx.cluster.get(NAMESPACE, ctx.settings.namespace)
    if own is not None:
        ctx.cluster.event(own, "Warning", REASON, message)
