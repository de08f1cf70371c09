"""Looks at the volume behind a claim of a mover before the mover is told anything."""

from __future__ import annotations

from longboat.kube.kinds import EVENT, PERSISTENT_VOLUME, STORAGE_CLASS
from longboat.kube.port import Cluster, Object
from longboat.plan.new_volume import is_bound, keep, new_volume_problem, unbound
from longboat.plan.problem import Problem


def volume_of(cluster: Cluster, claim: Object) -> Object | None:
    """Return the volume that a claim names, None if it names none or that is gone."""
    name = claim["spec"].get("volumeName")
    return cluster.get(PERSISTENT_VOLUME, name) if name else None


def proven_new(cluster: Cluster, claim: Object, provisioner: str, driver: str | None = None) -> Problem | None:
    """Return why a bound claim's volume must not be used; one that was there before is told to stay first."""
    volume = volume_of(cluster, claim)
    problem = new_volume_problem(volume, claim, provisioner, driver)
    if problem:
        spare(cluster, claim)
    return problem


def proven_new_of_class(cluster: Cluster, claim: Object) -> Problem | None:
    """Return why a bound claim's volume must not be used, if it is not a new one of the claim's StorageClass."""
    name = claim["spec"].get("storageClassName") or ""
    storage_class = cluster.get(STORAGE_CLASS, name)
    if storage_class is None:
        return Problem(
            "StorageClassNotFound",
            f"there is no StorageClass {name!r} any more, so that it can't be told whether the volume was made by its "
            "provisioner; create it again as it was, or create another Restore",
        )
    return proven_new(cluster, claim, storage_class["provisioner"])


def claim_says(cluster: Cluster, claim: Object) -> str:
    """Return in words that a claim of the operator's namespace has no volume, and the provisioner's last word on it."""
    if is_bound(claim):
        return ""
    return unbound(claim, cluster.list(EVENT, claim["metadata"]["namespace"]))


def spare(cluster: Cluster, claim: Object) -> None:
    """See that a volume that was not made for a claim does not go with it: before the claim is deleted."""
    volume = volume_of(cluster, claim)
    if volume and (operations := keep(volume, claim)):
        cluster.patch(PERSISTENT_VOLUME, volume["metadata"]["name"], operations)
