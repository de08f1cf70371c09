"""What a DiskSnapshot makes, and what its VolumeSnapshot says of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from longboat.api import DiskSnapshot
from longboat.api.common import parse_duration
from longboat.plan.names import ORIGIN, OWNER_UID, child_name, owner_labels
from longboat.plan.problem import Problem
from longboat.plan.quantities import bytes_of

Object = dict[str, Any]

PATIENCE = timedelta(minutes=10)
"""How long a DiskSnapshot waits for a disk that isn't there: one taken much later is not the moment that was meant."""
ERROR_PATIENCE = timedelta(minutes=30)
"""How long the CSI driver may go on failing before the snapshot counts as failed."""


@dataclass(frozen=True)
class SnapshotState:
    """What a VolumeSnapshot and its content say; sizes in bytes.

    ``ready`` needs the two to point at each other: a snapshot bound to a foreign content holds foreign data.
    """

    ready: bool = False
    taken_at: datetime | None = None
    size: int | None = None
    handle: str | None = None
    error: str | None = None


def volume_snapshot_name(snapshot: DiskSnapshot) -> str:
    """Return the name of the VolumeSnapshot of a DiskSnapshot."""
    return child_name(snapshot.name, snapshot.uid)


def volume_snapshot(snapshot: DiskSnapshot, claim: str, snapshot_class: str, owner: Object) -> Object:
    """Return the VolumeSnapshot to create; ``owner`` is the ownerReference that gives both the same life.

    Labels of the claim or the machine are not copied: some tools select and delete by label.
    """
    labels = owner_labels(snapshot.kind, snapshot.namespace, snapshot.uid) | {ORIGIN: snapshot.spec.origin}
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {
            "name": volume_snapshot_name(snapshot),
            "namespace": snapshot.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {"source": {"persistentVolumeClaimName": claim}, "volumeSnapshotClassName": snapshot_class},
    }


def foreign(found: Object, snapshot: DiskSnapshot) -> Problem | None:
    """Return NameTaken if a VolumeSnapshot of our name was not made for this DiskSnapshot."""
    meta = found["metadata"]
    owners = {each.get("uid") for each in meta.get("ownerReferences") or ()}
    if snapshot.uid in owners and (meta.get("labels") or {}).get(OWNER_UID) == snapshot.uid:
        return None
    return Problem(
        "NameTaken",
        f"VolumeSnapshot {meta['name']!r} exists and was not made for this DiskSnapshot; "
        "delete it, or create a DiskSnapshot of another name",
    )


def is_there(found: Object | None, snapshot: DiskSnapshot) -> bool:
    """Return whether a DiskSnapshot's VolumeSnapshot (None if there is none) is its own, ready and here to stay."""
    if found is None or foreign(found, snapshot) or "deletionTimestamp" in found["metadata"]:
        return False
    return bool((found.get("status") or {}).get("readyToUse"))


def state_of(found: Object, content: Object | None) -> SnapshotState:
    """Return what a VolumeSnapshot and its VolumeSnapshotContent (None if not seen) say."""
    status = found.get("status") or {}
    error = (status.get("error") or {}).get("message")
    bound = content is not None and _points_at(content, found)
    size = status.get("restoreSize")
    return SnapshotState(
        ready=bool(status.get("readyToUse")) and bound,
        taken_at=_time(status.get("creationTime")),
        size=bytes_of(size) if size else None,
        handle=((content or {}).get("status") or {}).get("snapshotHandle") if bound else None,
        error=str(error) if error else None,
    )


def not_ready(name: str, within: timedelta) -> Problem:
    """Return the problem of a VolumeSnapshot that was not usable in the time that it was given."""
    minutes = int(within.total_seconds() // 60)
    return Problem(
        "SnapshotNotReady",
        f"VolumeSnapshot {name!r} was not readyToUse within {minutes} min; see the CSI driver and its snapshotter",
    )


def restores_from(restore: Object, snapshot: str) -> bool:
    """Return whether a Restore that is not done names this DiskSnapshot of its namespace."""
    source = restore["spec"].get("source", {}).get("diskSnapshot") or {}
    done = (restore.get("status") or {}).get("phase") in ("Completed", "Failed")
    return source.get("name") == snapshot and not done and "deletionTimestamp" not in restore["metadata"]


def waits_for_snapshot(claim: Object, name: str) -> bool:
    """Return whether a claim's volume is still to be made from this VolumeSnapshot of its namespace."""
    sources = [claim["spec"].get(field) or {} for field in ("dataSource", "dataSourceRef")]
    named = any((each.get("kind"), each.get("name")) == ("VolumeSnapshot", name) for each in sources)
    return named and (claim.get("status") or {}).get("phase") in (None, "Pending")


def expiry(snapshot: DiskSnapshot, taken_at: datetime | None) -> datetime | None:
    """Return when a DiskSnapshot expires, in whole seconds: from its moment, or its creation while it has none."""
    if snapshot.spec.expires_after is None:
        return None
    moment = taken_at or snapshot.metadata.creation_timestamp
    return moment.replace(microsecond=0) + parse_duration(snapshot.spec.expires_after)


def gave_up(snapshot: DiskSnapshot, problem: Problem, now: datetime) -> bool:
    """Return whether to stop waiting for the disk."""
    return problem.final or now - snapshot.metadata.creation_timestamp >= PATIENCE


def _points_at(content: Object, found: Object) -> bool:
    reference = (content.get("spec") or {}).get("volumeSnapshotRef") or {}
    name = (found.get("status") or {}).get("boundVolumeSnapshotContentName")
    return bool(name == content["metadata"]["name"] and reference.get("uid") == found["metadata"]["uid"])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
