"""Whether the volume behind a claim was made for it. An ordinary claim may just as well get one that exists already.

Kubernetes prefers any available PersistentVolume of the class to making one, whatever the claim's data source is. Such
a volume may hold the only copy of somebody's disk: it is neither written, nor read as if it were a copy, nor deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from longboat.plan.problem import Problem

Object = dict[str, Any]

PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"


def is_bound(claim: Object) -> bool:
    """Return whether a claim has its volume for good."""
    return (claim.get("status") or {}).get("phase") == "Bound" and bool(claim["spec"].get("volumeName"))


def unbound(claim: Object, events: Iterable[Object]) -> str:
    """Return in words that a claim has no volume yet; ``events``, of its namespace, say what the storage said."""
    meta, phase = claim["metadata"], (claim.get("status") or {}).get("phase", "new")
    about = [each for each in events if each["involvedObject"].get("uid") == meta["uid"] and each["type"] == "Warning"]
    latest = max(about, key=_last_seen, default={})
    why = f"its last Event says: {latest.get('message')}" if latest else "it has no Event that says why"
    return (
        f"PersistentVolumeClaim {meta['name']!r} in {meta['namespace']!r} is {phase}, expected Bound: {why}; the "
        f"storage of StorageClass {claim['spec'].get('storageClassName')!r} may be out of space or quota"
    )


def _last_seen(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def made_for(volume: Object, claim: Object) -> bool:
    """Return whether a volume was provisioned for this very claim; False also when it can't be known."""
    meta, uid = volume["metadata"], claim["metadata"]["uid"]
    if (volume["spec"].get("claimRef") or {}).get("uid") != uid or not _annotation(volume, PROVISIONED_BY):
        return False
    if uid in meta["name"]:
        # Provisioners name a volume after its claim; nobody could before the claim was there.
        return True
    # Whole seconds, both of them. A volume that the binder has picked was there before, however new it is.
    return _created(volume) >= _created(claim) and not _annotation(volume, BOUND_BY_CONTROLLER)


def new_volume_problem(volume: Object | None, claim: Object, provisioner: str, driver: str | None) -> Problem | None:
    """Return why a bound claim's volume must not be used: it is not new, or not of the provisioner that was meant.

    ``driver`` is the CSI driver that must have made it, None if any will do. ``volume`` is None if it is gone.
    """
    meta = claim["metadata"]
    where = f"PersistentVolumeClaim {meta['name']!r} in {meta['namespace']!r}"
    if volume is None:
        return Problem("VolumeLost", f"{where}: its volume {claim['spec'].get('volumeName')!r} is gone", final=True)
    name = volume["metadata"]["name"]
    if not made_for(volume, claim):
        return Problem(
            "VolumeNotNew",
            f"{where} was bound to PersistentVolume {name!r}, which was not provisioned for it and may hold data: "
            "expected a new one. It was left as it is, with the reclaim policy Retain; look whose it is, set its "
            "spec.claimRef for whom it is meant for, and start anew",
            final=True,
        )
    its = ((volume["spec"].get("csi") or {}).get("driver"), _annotation(volume, PROVISIONED_BY))
    if its[1] == provisioner and driver in (None, its[0]):
        return None
    return Problem(
        "ProvisionerMismatch",
        f"{where}: PersistentVolume {name!r} was made by {its[1]!r} (CSI driver {its[0]!r}), expected "
        f"{driver or provisioner!r}; look at the provisioner of StorageClass {claim['spec'].get('storageClassName')!r}",
        final=True,
    )


def keep(volume: Object, claim: Object) -> list[Object]:
    """Return the patch after which a volume outlives a claim that it was not made for; empty if it does already."""
    uid = claim["metadata"]["uid"]
    policy = volume["spec"].get("persistentVolumeReclaimPolicy", "Retain")
    if made_for(volume, claim) or (volume["spec"].get("claimRef") or {}).get("uid") != uid or policy == "Retain":
        return []
    return [
        {"op": "test", "path": "/spec/claimRef/uid", "value": uid},
        {"op": "replace", "path": "/spec/persistentVolumeReclaimPolicy", "value": "Retain"},
    ]


def _annotation(volume: Object, key: str) -> str:
    return str((volume["metadata"].get("annotations") or {}).get(key, ""))


def _created(obj: Object) -> datetime:
    return datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
