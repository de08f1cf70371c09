"""An API server in memory, as far as the operator can tell the difference.

``KillAt`` stands between the operator and the fake, and kills the operator before or after its nth write.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from longboat.api import KINDS
from longboat.kube.fields import matches
from longboat.kube.kinds import NAMESPACE, Kind, kind_of
from longboat.kube.port import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    Object,
    Operation,
    RefusedError,
)

Key = tuple[Kind, str, str]

_ATOMS = frozenset({str, int, float, bool, type(None)})
_LABEL = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")


def copied(value: Any) -> Any:
    """Return a deep copy of what JSON holds; tests copy so often that they took twice as long with copy.deepcopy."""
    kind = type(value)
    if kind is dict:
        return {key: copied(each) for key, each in value.items()}
    if kind is list:
        return [copied(each) for each in value]
    return value if kind in _ATOMS else copy.deepcopy(value)


class FakeCluster:
    """Implements the port Cluster in memory.

    ``hooks`` are called after every write with (verb, object), so that a simulator of controllers can act on it;
    ``events`` lists (reason, message) of the Events recorded.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC), namespaces: Sequence[str] = ()) -> None:
        self.now = now
        self.objects: dict[Key, Object] = {}
        self.events: list[tuple[str, str]] = []
        self.pod_logs: dict[tuple[str, str], str] = {}
        self.writes = 0
        self.hooks: list[Callable[[str, Object], None]] = []
        self._numbers = itertools.count(1)
        for name in namespaces:
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        return copied(self.objects.get((kind, namespace if kind.namespaced else "", name)))

    def server_time(self) -> datetime:
        return self.now().replace(microsecond=0)

    def list(
        self,
        kind: Kind,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
        *,
        cached: bool = False,
    ) -> Iterator[Object]:
        _require_selectable(kind, fields)
        for (each, its_namespace, _), obj in sorted(self.objects.items(), key=lambda item: item[0][1:]):
            if each == kind and namespace in ("", its_namespace) and _selected(obj, labels) and matches(obj, fields):
                yield copied(obj)

    def create(self, obj: Object) -> Object:
        obj = copied(obj)
        kind, meta = kind_of(obj), obj["metadata"]
        self._require_namespace(kind, meta)
        if "name" not in meta:
            meta["name"] = meta["generateName"] + f"{next(self._numbers):05x}"
        key = self._key(kind, meta)
        _require_labels(meta)
        if key in self.objects:
            raise AlreadyExistsError(f"{kind.plural} {meta['name']!r} already exists")
        stamp = self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        number = next(self._numbers)
        meta |= {"uid": f"{number:08x}-0000-4000-8000-{number:012x}", "generation": 1, "creationTimestamp": stamp}
        if kind.api_version.startswith("longboat.dev/"):
            # A status in a create is dropped, as with every kind that has the status subresource.
            obj.pop("status", None)
        return self._write("create", key, obj)

    def patch(self, kind: Kind, name: str, operations: Sequence[Operation], namespace: str = "") -> Object:
        key = (kind, namespace if kind.namespaced else "", name)
        before = self._existing(key)
        after = copied(before)
        for operation in operations:
            _apply(after, copied(operation))
        _require_labels(after["metadata"])
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = after["metadata"].get("generation", 1) + 1
        return self._write("patch", key, after)

    def update_status(self, obj: Object) -> Object:
        kind, meta = kind_of(obj), obj["metadata"]
        key = self._key(kind, meta)
        before = self._existing(key)
        if meta.get("resourceVersion") not in (None, before["metadata"]["resourceVersion"]):
            raise ConflictError(f"{kind.plural} {meta['name']!r} has changed")
        return self._write("status", key, before | {"status": copied(obj.get("status", {}))})

    def delete(self, kind: Kind, name: str, namespace: str = "", *, uid: str | None = None) -> bool:
        key = (kind, namespace if kind.namespaced else "", name)
        if key not in self.objects:
            return False
        obj = copied(self.objects[key])
        if uid and obj["metadata"]["uid"] != uid:
            raise ConflictError(f"{kind.plural} {name!r} has another uid")
        obj["metadata"].setdefault("deletionTimestamp", self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        self._write("delete", key, obj)
        return True

    def logs(self, pod: str, namespace: str, *, tail: int = 20) -> str:
        return "\n".join(self.pod_logs.get((namespace, pod), "").splitlines()[-tail:])

    def event(self, about: Object, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.events.append((reason, message))

    def _key(self, kind: Kind, meta: Object) -> Key:
        return kind, meta.get("namespace", "") if kind.namespaced else "", meta["name"]

    def _existing(self, key: Key) -> Object:
        if key not in self.objects:
            raise NotFoundError(f"{key[0].plural} {key[2]!r} not found")
        return copied(self.objects[key])

    def _require_namespace(self, kind: Kind, meta: Object) -> None:
        if not kind.namespaced:
            return
        namespace = self.objects.get((NAMESPACE, "", meta.get("namespace", "")))
        if namespace is None:
            raise NotFoundError(f"namespaces {meta.get('namespace')!r} not found")
        if "deletionTimestamp" in namespace["metadata"]:
            raise RefusedError(f"namespace {meta['namespace']!r} is being terminated")

    def _write(self, verb: str, key: Key, obj: Object) -> Object:
        self.writes += 1
        obj["metadata"]["resourceVersion"] = str(next(self._numbers))
        if "deletionTimestamp" in obj["metadata"] and not obj["metadata"].get("finalizers"):
            self.objects.pop(key, None)
            self._collect(obj)
        else:
            self.objects[key] = obj
        for hook in list(self.hooks):
            hook(verb, copied(obj))
        return copied(obj)

    def _collect(self, owner: Object) -> None:
        # The garbage collector deletes what has no owner left.
        uid = owner["metadata"].get("uid")
        for (kind, namespace, name), obj in list(self.objects.items()):
            references = obj["metadata"].get("ownerReferences") or []
            if references and all(each["uid"] == uid for each in references):
                self.delete(kind, name, namespace)


def _require_labels(meta: Object) -> None:
    for name, value in (meta.get("labels") or {}).items():
        if len(value) > 63 or not _LABEL.match(value):
            raise RefusedError(f"metadata.labels: Invalid value: {name}={value!r}: must be no more than 63 characters")


def _require_selectable(kind: Kind, fields: Sequence[str]) -> None:
    if not fields:
        return
    known = {field for model in KINDS if model.plural == kind.plural for field in model.selectable}
    for each in fields:
        if f".{each.partition('=')[0].removesuffix('!')}" not in known:
            raise RefusedError(f"field label not supported: {each}")


def _selected(obj: Object, labels: Mapping[str, str] | None) -> bool:
    has = obj["metadata"].get("labels") or {}
    return all(has.get(key) == value for key, value in (labels or {}).items())


def _apply(document: Any, operation: Operation) -> None:
    *parents, last = [
        part.replace("~1", "/").replace("~0", "~") for part in str(operation["path"]).lstrip("/").split("/")
    ]
    node = document
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.get(part)
        if node is None:
            raise ConflictError(f"the path {operation['path']} does not exist")
    _apply_to(node, last, operation)


def _apply_to(node: Any, last: str, operation: Operation) -> None:
    op = operation["op"]
    if isinstance(node, list):
        _apply_to_list(node, last, operation)
    elif op == "test":
        if node.get(last) != operation.get("value"):
            raise ConflictError(f"testing value {operation['path']} failed")
    elif op == "remove" and last not in node:
        raise ConflictError(f"the path {operation['path']} does not exist")
    elif op == "remove":
        del node[last]
    else:
        node[last] = operation["value"]


def _apply_to_list(node: list[Any], last: str, operation: Operation) -> None:
    op = operation["op"]
    if op == "add":
        node.insert(len(node) if last == "-" else int(last), operation["value"])
    elif op == "remove":
        del node[int(last)]
    elif op == "replace":
        node[int(last)] = operation["value"]
    elif int(last) >= len(node) or node[int(last)] != operation.get("value"):
        raise ConflictError(f"testing value {operation['path']} failed")


class FakeVirtualMachines:
    """Implements the port VirtualMachines: remembers calls; ``fail`` gives the error to raise for a verb."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.frozen: set[tuple[str, str]] = set()
        self.volumes: list[tuple[str, str, Object]] = []
        self.fail: dict[str, Exception] = {}
        self.on_add_volume: Callable[[str, str, Object], None] = lambda name, namespace, volume: None

    def freeze(self, name: str, namespace: str, unfreeze_timeout: str) -> None:
        self._called("freeze", namespace, name)
        self.frozen.add((namespace, name))

    def unfreeze(self, name: str, namespace: str) -> None:
        self._called("unfreeze", namespace, name)
        self.frozen.discard((namespace, name))

    def add_volume(self, name: str, namespace: str, volume: Object, *, dry_run: bool = False) -> None:
        self._called("addvolume", namespace, name)
        if dry_run:
            return
        if any(each[:2] == (namespace, name) and each[2]["name"] == volume["name"] for each in self.volumes):
            raise ConflictError(f"volume {volume['name']!r} exists")
        self.volumes.append((namespace, name, copied(volume)))
        self.on_add_volume(name, namespace, volume)

    def _called(self, verb: str, namespace: str, name: str) -> None:
        self.calls.append((verb, namespace, name))
        if verb in self.fail:
            raise self.fail[verb]


class Killed(BaseException):
    """The operator was killed; a BaseException, so that no handler of errors swallows it."""


class KillAt:
    """Passes everything on to ports and kills the operator at its nth effect, ``before`` or after it took place.

    ``effects`` counts those that happened. Wrap the cluster and the virtual machines with one counter by ``wrap``.
    """

    WRITES = frozenset({"create", "patch", "update_status", "delete", "freeze", "unfreeze", "add_volume"})

    def __init__(self, nth: int | None = None, *, before: bool = True) -> None:
        self.nth = nth
        self.before = before
        self.effects = 0

    def wrap(self, port: Any) -> Any:
        """Return the port with the bomb in it."""
        return _Bombed(port, self)

    def strike(self, moment_is_before: bool) -> None:
        """Count an effect, and kill at the chosen one."""
        if moment_is_before:
            self.effects += 1
        if self.effects == self.nth and moment_is_before == self.before:
            raise Killed(f"killed {'before' if self.before else 'after'} effect {self.nth}")


class _Bombed:
    def __init__(self, port: Any, bomb: KillAt) -> None:
        self._port, self._bomb = port, bomb

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name not in KillAt.WRITES:
            return method

        def bombed(*args: Any, **kwargs: Any) -> Any:
            self._bomb.strike(True)
            result = method(*args, **kwargs)
            self._bomb.strike(False)
            return result

        return bombed


__all__ = ["FakeCluster", "FakeVirtualMachines", "KillAt", "Killed"]
