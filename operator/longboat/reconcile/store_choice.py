"""Finds the BackupStore for a namespace's backups."""

from __future__ import annotations

from collections.abc import Mapping

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.kube.port import Cluster
from longboat.plan.maintenance import bucket_of, removals_held
from longboat.plan.problem import Problem
from longboat.plan.stores import choose_store
from longboat.reconcile.objects import readable


def stores_of(cluster: Cluster) -> list[BackupStore]:
    """Return all stores; there are few."""
    return list(readable(BackupStore, cluster.list(BACKUP_STORE)))


def store_for(cluster: Cluster, namespace: str, name: str | None) -> BackupStore | Problem:
    """Return the store of this name (None: the default one) if the namespace may use it, else what is in the way.

    Problems: StoreNotFound, NoDefaultStore, SeveralDefaultStores.
    """
    return choose_store(stores_of(cluster), name, labels_of(cluster, namespace))


def labels_of(cluster: Cluster, namespace: str) -> Mapping[str, str]:
    """Return the labels of a namespace."""
    found = cluster.get(NAMESPACE, namespace) or {"metadata": {}}
    labels: Mapping[str, str] = found["metadata"].get("labels") or {}
    return labels


def held_at(cluster: Cluster, store: BackupStore) -> str:
    """Return which store, of those that lead to the bucket of this one, asks that nothing be removed from it, and how.

    An empty text if none does. Whoever puts a bucket right need not know that another store leads there, too.
    """
    bucket = bucket_of(store)
    others = [each for each in stores_of(cluster) if each.name != store.name and bucket_of(each) == bucket]
    held = ((each.name, removals_held(each)) for each in [store, *others])
    return next((f"BackupStore {name}: {field}" for name, field in held if field), "")
