"""Expiry that comes from edits: a few backups go at once, many stop and ask on their BackupPolicy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from longboat.api import BackupPolicy, DiskBackup
from longboat.plan.conditions import find, with_condition, without_condition
from longboat.plan.edited_expiry import HELD, Cause, Held, caused, is_confirmed, kept_because, question
from longboat.plan.problem import Problem
from longboat.plan.retention import Decision, Rule
from longboat.reconcile import trash_notes
from longboat.reconcile.context import Context
from longboat.reconcile.objects import reference, save_status

log = logging.getLogger(__name__)


def unconfirmed(
    ctx: Context, runs: Sequence[DiskBackup], decisions: Sequence[Decision], rule: Rule, policy: BackupPolicy | None
) -> dict[str, Cause]:
    """Return which backups are about to expire because of edits that nobody has confirmed, by name."""
    found = caused(runs, decisions, rule, ctx.now())
    by_name = {run.name: run for run in runs}
    return {name: cause for name, cause in found.items() if not is_confirmed(by_name[name], cause, policy)}


def hold(
    ctx: Context,
    namespace: str,
    edits: Mapping[str, Cause],
    policy: BackupPolicy | None,
    beside: Problem | None = None,
) -> set[str]:
    """Return which of them have to wait for an answer: all, if they are too many. The policy tells of it.

    ``beside`` is why others of its backups stay that would expire; told if nothing is to be asked.
    """
    limit = ctx.settings.deletion_limit
    many = bool(edits) and len(edits) + trash_notes.recent_deletions(ctx, namespace) > limit
    if policy is not None:
        asked = question(Held(edits, limit), policy.metadata.generation) if many else ""
        _tell(ctx, policy, Problem("ManyExpiries", asked) if many else beside)
    return set(edits) if many else set()


def hold_all(ctx: Context, policy: BackupPolicy | None, problem: Problem) -> None:
    """Tell on the policy why nothing of it expires, whatever its age."""
    log.warning("nothing expires of policy %s: %s", policy.name if policy else "that is gone", problem.message)
    if policy is not None:
        _tell(ctx, policy, problem)


def keep_waiting(ctx: Context, run: DiskBackup, policy: BackupPolicy | None) -> None:
    """Say on a DiskBackup that it waits; what its status says of its expiry stays, as the record of what held."""
    why = kept_because(run)
    if run.status.kept_because == why:
        return
    save_status(ctx.cluster, run, run.status.model_copy(update={"kept_because": why}))
    if policy is None:
        # There is no policy left to ask on.
        message = question(Held({run.name: Cause.OWN}, ctx.settings.deletion_limit), None)
        ctx.cluster.event(reference(run), "Warning", HELD, message)


def _tell(ctx: Context, policy: BackupPolicy, held: Problem | None) -> None:
    before, generation = policy.status.conditions, policy.metadata.generation
    if held is None:
        conditions = without_condition(before, HELD)
    else:
        conditions = with_condition(
            before, HELD, "True", held.reason, held.message, now=ctx.now(), generation=generation
        )
    old, new = find(before, HELD), find(conditions, HELD)
    if old == new:
        return
    save_status(ctx.cluster, policy, policy.status.model_copy(update={"conditions": conditions}))
    if held is not None and (old is None or old.reason != held.reason):
        ctx.cluster.event(reference(policy), "Warning", HELD, held.message)
