"""What the operator keeps in ConfigMaps of its own namespace: several of its threads change the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from longboat.kube.kinds import CONFIG_MAP
from longboat.kube.port import AlreadyExistsError, ConflictError
from longboat.reconcile.context import Context

Data = dict[str, str]
_TRIES = 5


def change_data(
    ctx: Context, name: str, labels: Mapping[str, str], decide: Callable[[Data | None], Data | None]
) -> None:
    """Change the data of a ConfigMap; others that change it at the same moment lose nothing.

    ``decide`` is given the data, None if there is no such ConfigMap, and returns what it is to be, None to leave it as
    it is; it is asked again if somebody was quicker. Raises ConflictError if somebody always is.
    """
    for _ in range(_TRIES):
        found = ctx.cluster.get(CONFIG_MAP, name, ctx.settings.namespace)
        before = None if found is None else dict(found.get("data") or {})
        after = decide(before)
        if after is None or after == before:
            return
        try:
            if found is None:
                meta = {"name": name, "namespace": ctx.settings.namespace, "labels": dict(labels)}
                ctx.cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": after})
            else:
                version = found["metadata"]["resourceVersion"]
                test = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
                # "add" replaces what is there, and what is not there is no reason to fail.
                change = {"op": "add", "path": "/data", "value": after}
                ctx.cluster.patch(CONFIG_MAP, name, [test, change], ctx.settings.namespace)
        except (AlreadyExistsError, ConflictError):
            continue
        return
    raise ConflictError(f"configmaps {name!r} changes all the time")
