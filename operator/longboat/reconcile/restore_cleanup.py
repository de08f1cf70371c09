"""Takes back what a restore has made that failed, or whose Restore was deleted on the way.

A volume that has reached the user's claim is the user's, and gets its reclaim policy back. One that has not was made
for this restore alone and goes with its staging claim. The user's claim stays, also when it never got a volume: the
operator has no right to delete claims of users, so that no fault of it can.
"""

from __future__ import annotations

import contextlib
from datetime import timedelta

from longboat.api import Restore
from longboat.kube.kinds import (
    CUSTOM_RESOURCE_DEFINITION,
    JOB,
    NAMESPACE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
    Kind,
)
from longboat.kube.port import ConflictError, Object
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND, OWNER_NAMESPACE, OWNER_UID, owner_labels
from longboat.plan.new_volume import made_for
from longboat.plan.rebind import discard, reclaim_policy_back
from longboat.plan.restore_target import claim_ownership
from longboat.reconcile.context import Context
from longboat.reconcile.new_volume import spare
from longboat.reconcile.restore_claim import find_claim

_KIND = "Restore"
_DEFINITION = "restores.longboat.dev"


def left_empty(ctx: Context, restore: Restore) -> str:
    """Return what to say of the claim that a Restore that failed leaves empty; nothing if it leaves none."""
    claim = find_claim(ctx, restore)
    if claim is None or restore.status.volume_snapshot or claim_ownership(restore, claim) is not None:
        # A claim made from a snapshot is complete as it is: it may have a consumer already.
        return ""
    if not _never_bound(claim) or _about_to_be_bound(ctx, restore, claim):
        return ""
    return f"; PersistentVolumeClaim {restore.spec.claim.name!r} stays, empty: delete it to use the name again"


def abandon(ctx: Context, namespace: str, uid: str) -> timedelta | None:
    """Take back what a deleted Restore has left, if it is really gone; return when to look again."""
    if _kind_is_there(ctx) and _really_gone(ctx, namespace, uid):
        take_back(ctx, namespace, uid)
    return None


def take_back(ctx: Context, namespace: str, uid: str) -> None:
    """Remove what was made in the operator's namespace for a Restore, and set its volume's reclaim policy right.

    Harmless to repeat, and nothing happens to what a Restore that is done has made.
    """
    labels = owner_labels(_KIND, namespace, uid)
    stagings = list(ctx.cluster.list(PERSISTENT_VOLUME_CLAIM, ctx.settings.namespace, labels))
    for staging in stagings:
        _discard_volume(ctx, staging)
    for volume in ctx.cluster.list(PERSISTENT_VOLUME, labels=labels):
        if operations := reclaim_policy_back(volume):
            ctx.cluster.patch(PERSISTENT_VOLUME, volume["metadata"]["name"], operations)
    for job in ctx.cluster.list(JOB, ctx.settings.namespace, labels):
        _delete(ctx, JOB, job)
    for staging in stagings:
        _delete(ctx, PERSISTENT_VOLUME_CLAIM, staging)


def sweep(ctx: Context) -> None:
    """Take back what is left of Restores that do not exist any more: the operator may have been away."""
    kind = {MANAGED_BY: MANAGER, OWNER_KIND: _KIND}
    found = [
        *ctx.cluster.list(PERSISTENT_VOLUME_CLAIM, ctx.settings.namespace, kind),
        *ctx.cluster.list(JOB, ctx.settings.namespace, kind),
        *ctx.cluster.list(PERSISTENT_VOLUME, labels=kind),
    ]
    if not _kind_is_there(ctx):
        # Then no owner is seen, whether it is there or not.
        return
    owners = {(_label(each, OWNER_NAMESPACE), _label(each, OWNER_UID)) for each in found}
    for namespace in {namespace for namespace, _ in owners}:
        alive = {each["metadata"]["uid"] for each in ctx.cluster.list(RESTORE, namespace)}
        for uid in {uid for its, uid in owners if its == namespace} - alive:
            if _really_gone(ctx, namespace, uid):
                take_back(ctx, namespace, uid)


def _kind_is_there(ctx: Context) -> bool:
    definition = ctx.cluster.get(CUSTOM_RESOURCE_DEFINITION, _DEFINITION)
    return definition is not None and "deletionTimestamp" not in definition["metadata"]


def _really_gone(ctx: Context, namespace: str, uid: str) -> bool:
    """A second look: an empty list of a namespace that is there must not be taken for proof by itself."""
    if ctx.cluster.get(NAMESPACE, namespace) is None:
        return True
    return all(each["metadata"]["uid"] != uid for each in ctx.cluster.list(RESTORE, namespace))


def _discard_volume(ctx: Context, staging: Object) -> None:
    name = staging["spec"].get("volumeName")
    volume = ctx.cluster.get(PERSISTENT_VOLUME, name) if name else None
    if volume and not made_for(volume, staging):
        # It was there before: it is nobody's to delete, whatever its reclaim policy says.
        spare(ctx.cluster, staging)
    elif volume and (operations := discard(volume, staging)):
        ctx.cluster.patch(PERSISTENT_VOLUME, volume["metadata"]["name"], operations)


def _never_bound(claim: Object) -> bool:
    return "volumeName" not in claim["spec"] and (claim.get("status") or {}).get("phase") in (None, "Pending")


def _about_to_be_bound(ctx: Context, restore: Restore, claim: Object) -> bool:
    volume = ctx.cluster.get(PERSISTENT_VOLUME, restore.status.volume) if restore.status.volume else None
    return volume is not None and _reference_uid(volume) == claim["metadata"]["uid"]


def _reference_uid(volume: Object) -> str:
    return str((volume["spec"].get("claimRef") or {}).get("uid", ""))


def _delete(ctx: Context, kind: Kind, obj: Object) -> None:
    meta = obj["metadata"]
    with contextlib.suppress(ConflictError):
        ctx.cluster.delete(kind, meta["name"], meta["namespace"], uid=meta["uid"])


def _label(obj: Object, key: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(key, ""))
