"""Changes VolumeSnapshotContents, and does away with the snapshots behind them: one deleter at any instant."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Literal

from longboat.kube.kinds import VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT, Kind
from longboat.kube.port import Cluster, ConflictError, NotFoundError, Object, Operation
from longboat.plan.hand_over import Seen, policy_of


def set_policy(
    cluster: Cluster, content: Object, policy: Literal["Retain", "Delete"], labels: Mapping[str, str] | None = None
) -> None:
    """Set the deletion policy of this very content, and add labels by which it is found again.

    Raises ConflictError if it is another one by now, NotFoundError if it is gone.
    """
    meta = content["metadata"]
    operations: list[Operation] = [
        {"op": "test", "path": "/metadata/uid", "value": meta["uid"]},
        {"op": "replace", "path": "/spec/deletionPolicy", "value": policy},
    ]
    if labels and not meta.get("labels"):
        operations.append({"op": "add", "path": "/metadata/labels", "value": dict(labels)})
    elif labels:
        operations += [{"op": "add", "path": f"/metadata/labels/{_escaped(k)}", "value": v} for k, v in labels.items()]
    cluster.patch(VOLUME_SNAPSHOT_CONTENT, meta["name"], operations)


def delete_this(cluster: Cluster, kind: Kind, obj: Object | None) -> None:
    """Delete this very object; another one of its name stays."""
    if obj is None or "deletionTimestamp" in obj["metadata"]:
        return
    meta = obj["metadata"]
    with contextlib.suppress(ConflictError):
        cluster.delete(kind, meta["name"], meta.get("namespace", ""), uid=meta["uid"])


def destroy(cluster: Cluster, seen: Seen, labels: Mapping[str, str]) -> bool:
    """Do away with a snapshot of the storage system and all that stands for it; return whether nothing is left.

    Where there is a copy it is the one that deletes, else the original is. Idempotent: look again until it is True.
    """
    if all(each is None for each in (seen.snapshot, seen.content, seen.copy_snapshot, seen.copy_content)):
        return True
    with contextlib.suppress(NotFoundError):
        if seen.copy_content is not None:
            _destroy_by_copy(cluster, seen, labels)
        else:
            _destroy_original(cluster, seen, labels)
    return False


def _destroy_by_copy(cluster: Cluster, seen: Seen, labels: Mapping[str, str]) -> None:
    if _there(seen.content) and policy_of(seen.content) != "Retain":
        set_policy(cluster, seen.content or {}, "Retain", labels)
    if _there(seen.copy_content) and policy_of(seen.copy_content) != "Delete":
        set_policy(cluster, seen.copy_content or {}, "Delete")
    if seen.snapshot is not None:
        delete_this(cluster, VOLUME_SNAPSHOT, seen.snapshot)
        return
    delete_this(cluster, VOLUME_SNAPSHOT_CONTENT, seen.content)
    if seen.copy_snapshot is not None:
        delete_this(cluster, VOLUME_SNAPSHOT, seen.copy_snapshot)
    elif seen.content is None:
        delete_this(cluster, VOLUME_SNAPSHOT_CONTENT, seen.copy_content)


def _destroy_original(cluster: Cluster, seen: Seen, labels: Mapping[str, str]) -> None:
    if _there(seen.content) and policy_of(seen.content) != "Delete":
        # Its class retains snapshots, or its copy is gone: it holds the only reference.
        set_policy(cluster, seen.content or {}, "Delete", labels)
    if seen.snapshot is not None:
        delete_this(cluster, VOLUME_SNAPSHOT, seen.snapshot)
    else:
        delete_this(cluster, VOLUME_SNAPSHOT_CONTENT, seen.content)
    delete_this(cluster, VOLUME_SNAPSHOT, seen.copy_snapshot)


def _there(obj: Object | None) -> bool:
    return obj is not None and "deletionTimestamp" not in obj["metadata"]


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
