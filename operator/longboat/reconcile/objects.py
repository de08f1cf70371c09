"""Reads and writes our own objects as models."""

from __future__ import annotations

from typing import Any, TypeVar

from longboat.api.common import Resource, Status
from longboat.kube.kinds import Kind
from longboat.kube.port import Cluster, Object

R = TypeVar("R", bound=Resource)


def load(cluster: Cluster, kind: Kind, model: type[R], namespace: str, name: str) -> R | None:
    """Return an object of ours as it is now, or None if it does not exist."""
    found = cluster.get(kind, name, namespace)
    return None if found is None else model.model_validate(found)


def wire(resource: Resource) -> Object:
    """Return a resource as the API server wants it, as far as the operator knows it."""
    return resource.wire()


def reference(resource: Resource) -> Object:
    """Return what an Event needs to know of the object it is about."""
    meta = resource.metadata
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
    }


def owner_reference(resource: Resource) -> dict[str, Any]:
    """Return the ownerReference for a child in the same namespace that dies with the resource."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": resource.name,
        "uid": resource.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def save_status(cluster: Cluster, resource: R, status: Status) -> R:
    """Write the status if it differs from the resource's own, and return the resource as it is then.

    Raises ConflictError when the object has changed since it was read: what was decided on the old one must be decided
    again. Raises NotFoundError when it is gone.
    """
    before: Any = resource
    if status == before.status:
        return resource
    body = reference(resource) | {"spec": before.spec.wire(), "status": status.wire()}
    body["metadata"]["resourceVersion"] = resource.metadata.resource_version
    return type(resource).model_validate(cluster.update_status(body))
