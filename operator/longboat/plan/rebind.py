"""Moves a filled volume from the claim in the operator's namespace to the user's claim, one safe step at a time.

The order keeps two rules. The volume is kept (Retain) before its first claim goes, so the data can't go with it; and
the claim reference moves only from the very claim that was filled. Each step is derived from what is there, so that it
does not matter after which one the operator was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from longboat.api import Restore
from longboat.plan.names import MANAGED_BY, OWNER_KIND, OWNER_NAMESPACE, OWNER_UID, owner_labels
from longboat.plan.problem import Problem

Object = dict[str, Any]
Operation = dict[str, Any]

RECLAIM_POLICY = "longboat.dev/reclaim-policy"
"""Annotation on a volume that changes hands: the reclaim policy that it gets back."""
LOST_BYTES = "longboat.dev/lost-bytes"
"""Annotation that stays on a volume that was restored with spec.salvage: bytes of the backup that are not on it."""

_POLICY = "/spec/persistentVolumeReclaimPolicy"
_REF = "/spec/claimRef"


@dataclass(frozen=True)
class Step:
    """The next step. Patch: change the volume. Drop: delete the staging claim. Wait: for the controllers. Done."""

    verb: Literal["Patch", "Drop", "Wait", "Done"]
    operations: tuple[Operation, ...] = ()


def next_step(restore: Restore, volume: Object | None, staging: Object | None, claim: Object) -> Step | Problem:
    """Return the next step of the re-bind.

    ``volume`` is the one named by status.volume, ``staging`` the claim it was filled through, ``claim`` the user's own,
    which must be the recorded one (status.claimUID). The objects that do not exist (any more) are None.
    """
    if volume is None:
        return Problem(
            "VolumeLost",
            f"PersistentVolume {restore.status.volume!r} with the restored data is gone; create another Restore",
            True,
        )
    name, spec = volume["metadata"]["name"], volume["spec"]
    if problem := foreign_volume(claim, name):
        return problem
    ref = spec.get("claimRef") or {}
    if staging is not None and ref.get("uid") == staging["metadata"]["uid"]:
        return _towards(restore, volume, claim)
    if ref.get("uid") != claim["metadata"]["uid"]:
        return Problem(
            "VolumeTaken",
            f"PersistentVolume {name!r} belongs to claim {ref.get('namespace')}/{ref.get('name')} now, expected "
            f"{restore.namespace}/{restore.spec.claim.name}; create another Restore",
            final=True,
        )
    return _after(volume, staging, claim)


def foreign_volume(claim: Object, expected: str | None) -> Problem | None:
    """Return ProvisionerIgnoredDataSource if the user's claim got a volume that is not the one with the data."""
    bound = claim["spec"].get("volumeName")
    if bound is None or bound == expected:
        return None
    return Problem(
        "ProvisionerIgnoredDataSource",
        f"PersistentVolumeClaim {claim['metadata']['name']!r} was bound to volume {bound!r}, which as far as is known "
        "here does not hold the backup: its provisioner ignores spec.dataSourceRef, or this status is older than the "
        "volume (etcd was put back). The claim is left as it is and not attached. Look what it holds; to restore again "
        "create another Restore, with a StorageClass of another driver if it is empty",
        final=True,
    )


def reclaim_policy_back(volume: Object) -> list[Operation]:
    """Return the patch that ends a re-bind: the recorded reclaim policy, and none of our marks; empty if it is done."""
    meta = volume["metadata"]
    policy = (meta.get("annotations") or {}).get(RECLAIM_POLICY)
    if policy is None:
        return []
    labels = [key for key in meta.get("labels") or {} if key in _OUR_LABELS]
    return [
        _test(f"{_REF}/uid", volume["spec"]["claimRef"].get("uid")),
        {"op": "replace", "path": _POLICY, "value": policy},
        *({"op": "remove", "path": f"/metadata/labels/{_escaped(key)}"} for key in labels),
        {"op": "remove", "path": f"/metadata/annotations/{_escaped(RECLAIM_POLICY)}"},
    ]


def discard(volume: Object, staging: Object) -> list[Operation]:
    """Return the patch by which a volume that never left its staging claim goes with it; empty if it is not so."""
    uid = staging["metadata"]["uid"]
    if (volume["spec"].get("claimRef") or {}).get("uid") != uid or _policy(volume) == "Delete":
        return []
    annotations = volume["metadata"].get("annotations") or {}
    path = f"/metadata/annotations/{_escaped(RECLAIM_POLICY)}"
    unmark = [{"op": "remove", "path": path}] if RECLAIM_POLICY in annotations else []
    return [_test(f"{_REF}/uid", uid), {"op": "replace", "path": _POLICY, "value": "Delete"}, *unmark]


_OUR_LABELS = frozenset({MANAGED_BY, OWNER_KIND, OWNER_NAMESPACE, OWNER_UID})


def _towards(restore: Restore, volume: Object, claim: Object) -> Step:
    spec, ref = volume["spec"], volume["spec"]["claimRef"]
    same = [_test(f"{_REF}/name", ref["name"]), _test(f"{_REF}/uid", ref["uid"])]
    if RECLAIM_POLICY not in (volume["metadata"].get("annotations") or {}) or _policy(volume) != "Retain":
        return Step("Patch", (*same, *_marks(restore, volume), {"op": "replace", "path": _POLICY, "value": "Retain"}))
    meta = claim["metadata"]
    target = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"], "name": meta["name"]}
    moved = {"op": "replace", "path": _REF, "value": target | {"uid": meta["uid"]}}
    return Step("Patch", (*same, _test(_POLICY, spec["persistentVolumeReclaimPolicy"]), moved))


def _after(volume: Object, staging: Object | None, claim: Object) -> Step:
    if (claim.get("status") or {}).get("phase") != "Bound":
        return Step("Wait")
    if staging is not None:
        # The volume is Retain from before the move until the staging claim is gone.
        return Step("Wait" if "deletionTimestamp" in staging["metadata"] else "Drop")
    back = reclaim_policy_back(volume)
    return Step("Patch", tuple(back)) if back else Step("Done")


def _marks(restore: Restore, volume: Object) -> list[Operation]:
    """Label and annotate the volume, so that its policy is put right even if the Restore is deleted meanwhile."""
    meta = volume["metadata"]
    labels = (meta.get("labels") or {}) | owner_labels(restore.kind, restore.namespace, restore.uid)
    annotations = (meta.get("annotations") or {}) | {RECLAIM_POLICY: restore.status.reclaim_policy or _policy(volume)}
    if restore.spec.salvage:
        annotations[LOST_BYTES] = str(restore.status.lost_bytes or 0)
    return [
        {"op": "add", "path": "/metadata/labels", "value": labels},
        {"op": "add", "path": "/metadata/annotations", "value": annotations},
    ]


def _policy(volume: Object) -> str:
    return str(volume["spec"].get("persistentVolumeReclaimPolicy", "Retain"))


def _test(path: str, value: object) -> Operation:
    return {"op": "test", "path": path, "value": value}


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
