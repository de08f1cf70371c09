"""Reads from the cluster what `longboat check` judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longboat.api import KINDS
from longboat.api.common import GROUP
from longboat.kube.kinds import (
    BACKUP_POLICY,
    BACKUP_STORE,
    CUSTOM_RESOURCE_DEFINITION,
    DEPLOYMENT,
    DISK_BACKUP,
    KUBEVIRT,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    STORAGE_CLASS,
    STORAGE_PROFILE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CLASS,
    Kind,
)
from longboat.kube.port import Cluster, Object, RefusedError

OPERATOR_LABELS = {"app.kubernetes.io/name": "longboat", "app.kubernetes.io/component": "operator"}
OUR_DEFINITIONS = tuple(f"{kind.plural}.{GROUP}" for kind in KINDS)
SNAPSHOT_DEFINITIONS = tuple(
    f"{plural}.snapshot.storage.k8s.io"
    for plural in ("volumesnapshots", "volumesnapshotcontents", "volumesnapshotclasses")
)


@dataclass(frozen=True)
class Observation:
    """The cluster as `longboat check` found it; objects are as the API server sends them.

    ``unseen`` names the plurals that the caller may not list: what depends on them is unknown, not missing.
    """

    definitions: Mapping[str, Object] = field(default_factory=dict)
    kubevirts: tuple[Object, ...] = ()
    operators: tuple[Object, ...] = ()
    stores: tuple[Object, ...] = ()
    storage_classes: tuple[Object, ...] = ()
    snapshot_classes: tuple[Object, ...] = ()
    profiles: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    machines: tuple[Object, ...] = ()
    instances: tuple[Object, ...] = ()
    snapshots: tuple[Object, ...] = ()
    backups: tuple[Object, ...] = ()
    policies: tuple[Object, ...] = ()
    unseen: frozenset[str] = frozenset()


def observe(cluster: Cluster, operator_namespace: str) -> Observation:
    """Return the cluster as it is. Raises UnavailableError if the API server does not answer."""
    unseen: set[str] = set()

    def listed(kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None) -> tuple[Object, ...]:
        try:
            return tuple(cluster.list(kind, namespace, labels))
        except RefusedError:
            unseen.add(kind.plural)
            return ()

    return Observation(
        definitions=_definitions(cluster, unseen),
        kubevirts=listed(KUBEVIRT),
        operators=listed(DEPLOYMENT, operator_namespace, OPERATOR_LABELS),
        stores=listed(BACKUP_STORE),
        storage_classes=listed(STORAGE_CLASS),
        snapshot_classes=listed(VOLUME_SNAPSHOT_CLASS),
        profiles=listed(STORAGE_PROFILE),
        volumes=listed(PERSISTENT_VOLUME),
        claims=listed(PERSISTENT_VOLUME_CLAIM),
        machines=listed(VIRTUAL_MACHINE),
        instances=listed(VIRTUAL_MACHINE_INSTANCE),
        snapshots=listed(VOLUME_SNAPSHOT),
        backups=listed(DISK_BACKUP),
        policies=listed(BACKUP_POLICY),
        unseen=frozenset(unseen),
    )


def _definitions(cluster: Cluster, unseen: set[str]) -> dict[str, Object]:
    found: dict[str, Object] = {}
    for name in (*OUR_DEFINITIONS, *SNAPSHOT_DEFINITIONS):
        try:
            definition = cluster.get(CUSTOM_RESOURCE_DEFINITION, name)
        except RefusedError:
            unseen.add(CUSTOM_RESOURCE_DEFINITION.plural)
            return {}
        if definition:
            found[name] = definition
    return found
