"""Reads and writes our own objects as models."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from longboat.api import KINDS
from longboat.api.common import GROUP, Resource, Status
from longboat.kube.kinds import NAMESPACE, Kind
from longboat.kube.port import Cluster, Object

log = logging.getLogger(__name__)

R = TypeVar("R", bound=Resource)
_MOST_PROBLEMS = 50


@dataclass(frozen=True)
class Salvaged(Generic[R]):
    """What can be read of an object; ``problems`` name the fields that can't, none if the object is whole."""

    resource: R | None
    problems: tuple[str, ...]
    status_is_whole: bool


def load(cluster: Cluster, kind: Kind, model: type[R], namespace: str, name: str) -> R | None:
    """Return an object of ours as it is now, or None if it does not exist; ValidationError if it can't be read."""
    found = cluster.get(kind, name, namespace)
    return None if found is None else model.model_validate(found)


def readable(model: type[R], found: Iterable[Object]) -> Iterator[R]:
    """Yield the objects of a list that can be read; one that can't is reported and holds up none of the others."""
    for each in found:
        try:
            yield model.model_validate(slim(each))
        except ValidationError as error:
            meta = each["metadata"]
            place = f"{meta.get('namespace', '')}/{meta['name']}"
            log.warning("%s %s is left out: %s", model.__name__, place, "; ".join(_said(error)))


def namespace_names(cluster: Cluster) -> dict[str, str]:
    """Return the names of the namespaces that there are, by UID: a name may have been another one's before."""
    return {each["metadata"]["uid"]: each["metadata"]["name"] for each in cluster.list(NAMESPACE)}


def slim(obj: Object) -> Object:
    """Return an object without the labels and annotations of others: they may be a thousand times the rest of it."""
    meta = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    for each in ("labels", "annotations"):
        meta[each] = {key: value for key, value in (meta.get(each) or {}).items() if key.startswith(f"{GROUP}/")}
    return obj | {"metadata": meta}


def model_of(kind: str) -> type[Resource]:
    """Return the model of one of our kinds."""
    return next(each for each in KINDS if each.model_fields["kind"].default == kind)


def salvage(model: type[R], obj: Object) -> Salvaged[R]:
    """Return what can be read of an object, without the fields that can't be; ``resource`` is None if none is left."""
    rest, problems, whole = copy.deepcopy(obj), list[str](), True
    for _ in range(_MOST_PROBLEMS):
        try:
            return Salvaged(model.model_validate(rest), tuple(problems), whole)
        except ValidationError as error:
            first = error.errors()[0]
            # What is missing is not there to be left out: what lacks it is.
            path = first["loc"][:-1] if first["type"] == "missing" else first["loc"]
            whole = whole and path[:1] != ("status",)
            problems += [each for each in _said(error) if each not in problems]
            if len(path) < 2 or not _left_out(rest, path):
                break
    return Salvaged(None, tuple(problems), whole)


def _left_out(obj: Any, path: tuple[int | str, ...]) -> bool:
    *above, last = path
    for step in above:
        obj = obj[step]
    if isinstance(last, str) and last not in obj:
        return False
    del obj[last]
    return True


def _said(error: ValidationError) -> list[str]:
    """Return what is wrong, each with its field; of what was given no more than a line's worth."""
    return [
        f"{'.'.join(map(str, each['loc']))}: {str(each['input'])[:60]!r} can't be read: {each['msg']}"
        for each in error.errors(include_url=False)[:5]
    ]


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
    # Only the status is written, on the version that was read: the spec is as it was, also where it was only salvaged.
    written = cluster.update_status(body)
    return type(resource).model_validate(written | {"spec": body["spec"]})
