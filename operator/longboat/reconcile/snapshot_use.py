"""Who still needs a snapshot: a Restore that is not done, or a claim whose volume is not made from it yet."""

from __future__ import annotations

from longboat.api import DiskSnapshot
from longboat.kube.kinds import PERSISTENT_VOLUME_CLAIM, RESTORE
from longboat.kube.port import Cluster, Object
from longboat.plan.snapshots import restores_from, volume_snapshot_name, waits_for_snapshot
from longboat.reconcile.objects import slim


class SnapshotUsers:
    """Looks once at each namespace that is asked for: keep it for a moment, not for longer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[str, tuple[list[Object], list[Object]]] = {}

    def of(self, snapshot: DiskSnapshot) -> str | None:
        """Return who needs a DiskSnapshot, in words; None if nobody does."""
        restores, claims = self._look(snapshot.namespace)
        for each in restores:
            if restores_from(each, snapshot.name):
                return f"Restore {each['metadata']['name']!r}"
        for each in claims:
            if waits_for_snapshot(each, volume_snapshot_name(snapshot)):
                return f"PersistentVolumeClaim {each['metadata']['name']!r}"
        return None

    def _look(self, namespace: str) -> tuple[list[Object], list[Object]]:
        if namespace not in self._seen:
            claims = self._cluster.list(PERSISTENT_VOLUME_CLAIM, namespace)
            pending = [slim(each) for each in claims if _is_pending(each)]
            self._seen[namespace] = ([slim(each) for each in self._cluster.list(RESTORE, namespace)], pending)
        return self._seen[namespace]


def _is_pending(claim: Object) -> bool:
    return (claim.get("status") or {}).get("phase") in (None, "Pending")
