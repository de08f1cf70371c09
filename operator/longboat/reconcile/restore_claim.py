"""Second stage of a restore: the user's claim, made before anything else so that quota is asked first."""

from __future__ import annotations

from longboat.api import Restore
from longboat.kube.kinds import PERSISTENT_VOLUME_CLAIM
from longboat.kube.port import AlreadyExistsError, Object, RefusedError
from longboat.plan.problem import Problem
from longboat.plan.rebind import foreign_volume
from longboat.plan.restore_source import Waiting
from longboat.plan.restore_target import claim_ownership, users_claim
from longboat.reconcile.context import Context
from longboat.reconcile.restore_stage import Stage, updated


def claim(ctx: Context, restore: Restore) -> Stage:
    """Make the user's claim, or see that the one that is there is the one that was made."""
    found = find_claim(ctx, restore)
    if found is None:
        return _create(ctx, restore)
    if problem := _problem(restore, found):
        return Stage(restore, problem)
    if restore.status.claim_uid is None:
        restore = updated(ctx, restore, claim_uid=found["metadata"]["uid"])
    return Stage(restore)


def find_claim(ctx: Context, restore: Restore) -> Object | None:
    """Return the claim of the name that the Restore asks for, whoever made it."""
    return ctx.cluster.get(PERSISTENT_VOLUME_CLAIM, restore.spec.claim.name, restore.namespace)


def _create(ctx: Context, restore: Restore) -> Stage:
    if restore.status.claim_uid:
        return Stage(restore, _deleted(restore))
    try:
        made = ctx.cluster.create(users_claim(restore, restore.status))
    except AlreadyExistsError:
        # The next look tells whose it is.
        return Stage(restore, Waiting("ClaimAppeared", "looking whose claim has just appeared"))
    except RefusedError as error:
        message = f"spec.claim: PersistentVolumeClaim {restore.spec.claim.name!r} was refused: {error.answer}"
        return Stage(restore, Problem("ClaimRefused", message))
    return Stage(updated(ctx, restore, claim_uid=made["metadata"]["uid"]))


def _problem(restore: Restore, found: Object) -> Problem | None:
    if problem := claim_ownership(restore, found):
        return problem
    if "deletionTimestamp" in found["metadata"]:
        return _deleted(restore)
    return None if restore.status.volume_snapshot else foreign_volume(found, restore.status.volume)


def _deleted(restore: Restore) -> Problem:
    message = (
        f"PersistentVolumeClaim {restore.spec.claim.name!r} was deleted before it was done; create another Restore"
    )
    return Problem("ClaimDeleted", message, final=True)
