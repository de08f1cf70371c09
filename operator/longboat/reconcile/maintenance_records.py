"""The records of upkeep: a ConfigMap for each repository, in the operator's namespace.

They hold what was decided about a run before its Job is made, the result of the last one, and the tokens by which this
operator knows the repository's epoch as its own. Losing one stops prune and sweep of that repository: the data stays.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping

from pydantic import ValidationError

from longboat.api import BackupStore
from longboat.kube.kinds import CONFIG_MAP
from longboat.kube.port import AlreadyExistsError, Cluster, ConflictError, Object
from longboat.plan.generations import FIRST
from longboat.plan.maintenance import RepositoryRecord
from longboat.plan.maintenance_job import record_key
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND
from longboat.reconcile.config_maps import Data, change_data
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import RepositoryAccess

log = logging.getLogger(__name__)

LABELS = {MANAGED_BY: MANAGER, OWNER_KIND: "Maintenance"}

Change = Callable[[RepositoryRecord], RepositoryRecord]


def all_records(cluster: Cluster, system: str) -> Iterator[RepositoryRecord]:
    """Yield the records of all stores; ``system`` is the operator's namespace. What can't be read is left out."""
    for each in cluster.list(CONFIG_MAP, system, LABELS):
        if (record := _record_in(each)) is not None:
            yield record


def read(ctx: Context, key: str) -> RepositoryRecord | None:
    """Return the record of a repository (see record_key) as it is now, None if there is none that can be read."""
    found = ctx.cluster.get(CONFIG_MAP, _name(key), ctx.settings.namespace)
    return None if found is None else _record_in(found)


def add(ctx: Context, record: RepositoryRecord) -> RepositoryRecord:
    """Note down a repository that was seen for the first time; return what is noted of it."""
    meta = {"name": _name(_key(record)), "namespace": ctx.settings.namespace, "labels": LABELS}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": _data(record)}
    try:
        ctx.cluster.create(body)
    except AlreadyExistsError:
        return read(ctx, _key(record)) or record
    return record


def update(ctx: Context, record: RepositoryRecord, change: Change) -> RepositoryRecord:
    """Change what is noted of a repository and return it; others that change it at the same moment lose nothing.

    Raises ConflictError if it is gone, can't be read, or changes all the time.
    """
    name, result = _name(_key(record)), list[RepositoryRecord]()

    def decide(data: Data | None) -> Data | None:
        before = None if data is None else _record(name, data)
        if before is None:
            raise ConflictError(f"configmaps {name!r} is gone, or can't be read")
        after = change(before)
        result[:] = [after]
        return None if after == before else _data(after)

    change_data(ctx, name, LABELS, decide)
    return result[0]


def tokens_of(ctx: Context, store: str, folder: str) -> list[str]:
    """Return the tokens that prunes of a repository were given; raises ConflictError if it is not known which."""
    found = ctx.cluster.get(CONFIG_MAP, _name(record_key(store, folder)), ctx.settings.namespace)
    if found is None:
        return []
    record = _record_in(found)
    if record is None:
        raise ConflictError(f"configmaps {found['metadata']['name']!r} can't be read")
    return record.tokens


def is_pruning(ctx: Context, store: str, folder: str) -> bool:
    """Return whether a prune of a repository is under way: who takes over its epoch meanwhile ends it."""
    record = read(ctx, record_key(store, folder))
    return record is not None and record.prune.attempt is not None and not record.prune.attempt.dry_run


def opened(ctx: Context, store: BackupStore, record: RepositoryRecord) -> RepositoryAccess:
    """Return the repository of a record, with the credentials of maintenance; raises StoreProblemError."""
    return ctx.repositories.find(
        store,
        record.namespace_uid,
        namespace=record.namespace,
        purpose="maintenance",
        generation=record.generation or FIRST,
    )


def _key(record: RepositoryRecord) -> str:
    return record_key(record.store, record.folder)


def _name(key: str) -> str:
    return f"longboat-maintenance-{key}"


def _data(record: RepositoryRecord) -> dict[str, str]:
    # What people look for is beside the rest.
    return {
        "store": record.store,
        "namespace": record.namespace,
        "namespaceUID": record.namespace_uid,
        "record": json.dumps(record.wire(), sort_keys=True),
    }


def _record(name: str, data: Mapping[str, str] | None) -> RepositoryRecord | None:
    try:
        return RepositoryRecord.model_validate_json((data or {}).get("record", ""))
    except ValidationError as error:
        log.warning("ConfigMap %s can't be read, so that nothing is done in its repository: %s", name, error)
        return None


def _record_in(found: Object) -> RepositoryRecord | None:
    return _record(found["metadata"]["name"], found.get("data"))
