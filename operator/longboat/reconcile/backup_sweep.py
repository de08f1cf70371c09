"""Removes what was made for DiskBackups that are gone: where no ownerReference reaches, labels do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from longboat.kube.kinds import (
    CUSTOM_RESOURCE_DEFINITION,
    DISK_BACKUP,
    JOB,
    PERSISTENT_VOLUME_CLAIM,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
    Kind,
)
from longboat.kube.port import Object
from longboat.plan.hand_over import COPY_OF, Seen
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND, OWNER_NAMESPACE, OWNER_UID
from longboat.reconcile.context import Context
from longboat.reconcile.new_volume import spare
from longboat.reconcile.routing import LEFT_TO_DO
from longboat.reconcile.snapshot_contents import delete_this, destroy

_LABELS = {MANAGED_BY: MANAGER, OWNER_KIND: "DiskBackup"}
_DEFINITION = "diskbackups.longboat.dev"


def sweep(ctx: Context) -> None:
    """Remove what belongs to no DiskBackup any more, or to a finished one; what has no labels of ours is left alone.

    What is there is listed before the owners are: an owner is always older than what was made for it, so that none is
    taken for gone while it is new. Nothing is removed when the kind itself is gone or going, as then no owner is seen.
    """
    found = {
        kind: list(ctx.cluster.list(kind, ctx.settings.namespace if kind.namespaced else "", _LABELS))
        for kind in (JOB, PERSISTENT_VOLUME_CLAIM, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT)
    }
    if not _kind_is_there(ctx):
        return
    # A finished one that has left something behind tidies up itself: the tick has it looked at with each pass.
    owners = {each["metadata"]["uid"] for each in ctx.cluster.list(DISK_BACKUP, fields=LEFT_TO_DO, cached=True)}
    gone = _gone(ctx, (each for every in found.values() for each in every if _uid(each) not in owners))
    orphans = {kind: [each for each in every if _uid(each) in gone] for kind, every in found.items()}
    for claim in orphans[PERSISTENT_VOLUME_CLAIM]:
        spare(ctx.cluster, claim)
    for kind in (JOB, PERSISTENT_VOLUME_CLAIM):
        for each in orphans[kind]:
            delete_this(ctx.cluster, kind, each)
    # A snapshot goes only after the claims that are made from it.
    busy = {_uid(each) for each in orphans[PERSISTENT_VOLUME_CLAIM]}
    for seen in _snapshots(ctx, orphans):
        any_one = seen.copy_content or seen.content or seen.copy_snapshot
        if any_one is not None and _uid(any_one) not in busy:
            destroy(ctx.cluster, seen, {})


def _kind_is_there(ctx: Context) -> bool:
    definition = ctx.cluster.get(CUSTOM_RESOURCE_DEFINITION, _DEFINITION)
    return definition is not None and "deletionTimestamp" not in definition["metadata"]


def _gone(ctx: Context, found: Iterable[Object]) -> set[str]:
    """Return the UIDs of the owners that are not there any more."""
    gone: set[str] = set()
    owners: dict[str, set[str]] = {}
    for each in found:
        if (uid := _uid(each)) and (namespace := each["metadata"]["labels"].get(OWNER_NAMESPACE)):
            owners.setdefault(namespace, set()).add(uid)
    for namespace, uids in owners.items():
        # This look, at everything in the owners' namespace, is the one that counts.
        gone |= uids - {each["metadata"]["uid"] for each in ctx.cluster.list(DISK_BACKUP, namespace)}
    return gone


def _snapshots(ctx: Context, orphans: dict[Kind, list[Object]]) -> Iterator[Seen]:
    """Yield what stands for each snapshot of the storage system: the copy with its original, or either alone."""
    contents = {each["metadata"]["name"]: each for each in orphans[VOLUME_SNAPSHOT_CONTENT]}
    snapshots = {each["metadata"]["name"]: each for each in orphans[VOLUME_SNAPSHOT]}
    copies = [each for each in contents.values() if _copy_of(each)]
    for copy in copies:
        original = ctx.cluster.get(VOLUME_SNAPSHOT_CONTENT, _copy_of(copy))
        copied = snapshots.pop(copy["spec"]["volumeSnapshotRef"]["name"], None)
        yield Seen(_snapshot_of(ctx, original), original, copied, copy)
    known = {_copy_of(copy) for copy in copies}
    for name, original in contents.items():
        if name not in known and not _copy_of(original):
            yield Seen(_snapshot_of(ctx, original), original, None, None)
    yield from _alone(snapshots.values())


def _alone(snapshots: Iterable[Object]) -> Iterator[Seen]:
    return (Seen(None, None, each, None) for each in snapshots if "volumeSnapshotContentName" in each["spec"]["source"])


def _snapshot_of(ctx: Context, content: Object | None) -> Object | None:
    """Return the VolumeSnapshot in the tenant's namespace that a content belongs to, if it is still there."""
    ref = ((content or {}).get("spec") or {}).get("volumeSnapshotRef")
    found = ctx.cluster.get(VOLUME_SNAPSHOT, ref["name"], ref["namespace"]) if ref else None
    if found is None or found["metadata"]["uid"] != (ref or {}).get("uid"):
        return None
    return found if _uid(found) else None


def _copy_of(content: Object) -> str:
    return str((content["metadata"].get("annotations") or {}).get(COPY_OF, ""))


def _uid(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(OWNER_UID, ""))
