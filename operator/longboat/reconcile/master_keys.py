"""Gives namespaces new master keys when their store asks for that: in its upkeep, and before a run writes anything.

A new key is a new repository beside the old one. What is noted of it is the time stamp that the store gave its header:
who is killed anywhere finds by it, or by the listing, what is done and what is not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial

from longboat.api import BackupStore
from longboat.kube.port import ConflictError
from longboat.plan.generations import FIRST, folder_of
from longboat.plan.maintenance import RepositoryRecord, record_of, with_made
from longboat.plan.master_keys import Renewal, asked_after, newest_of
from longboat.reconcile import maintenance_records
from longboat.reconcile.context import Context
from longboat.reconcile.objects import reference
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.repository import RepositoryError
from longboat.repository.layout import HEADER_NAME

log = logging.getLogger(__name__)

AT_ONCE = 100
"""New keys that are made in one look: its workers are others', too, and a run makes its namespace's own in time."""


def renew_all(
    ctx: Context, store: BackupStore, records: Mapping[str, RepositoryRecord], names: Mapping[str, str]
) -> tuple[dict[str, RepositoryRecord], Renewal | None]:
    """Give the namespaces of a store new keys where it asks for them; return the records with the new ones, by folder.

    ``names`` are those of the living namespaces by UID: for one that is gone nothing is written any more.
    """
    after, found = asked_after(store, ctx.now()), dict(records)
    if after is None:
        return found, None
    made, pending, problem, silent = 0, list[str](), "", False
    newest = newest_of(records.values(), names)
    for each in newest:
        try:
            record = _dated(ctx, store, each)
            if record.made is not None and record.made < after and not silent and made < AT_ONCE:
                record, made = _renewed(ctx, store, record, names), made + 1
        except (StoreProblemError, ConflictError) as error:
            # If it is not this one's own fault the others would wait for the same store.
            silent |= isinstance(error, StoreProblemError) and error.retryable
            log.warning("BackupStore %s: %s: no new master key: %s", store.name, names[each.namespace_uid], error)
            problem, record = problem or str(error), each
        found[record.folder] = record
        if record.made is None or record.made < after:
            pending.append(names[record.namespace_uid])
    if made:
        message = f"{made} namespace{'s' if made > 1 else ''} got new master keys: first backups there are full ones"
        ctx.cluster.event(reference(store), "Normal", "MasterKeysMade", message)
    return found, Renewal(after, len(newest) - len(pending), tuple(pending), problem)


def _dated(ctx: Context, store: BackupStore, record: RepositoryRecord) -> RepositoryRecord:
    """Return the record with the time stamp of the repository's header, asked for once; completes what is not closed.

    Raises StoreProblemError.
    """
    if record.made is not None:
        return record
    number = record.generation or FIRST
    if number == FIRST:
        access = maintenance_records.opened(ctx, store, record)
    else:
        # Whoever made it may not have come to closing those before it.
        access = ctx.repositories.renew(store, record.namespace_uid, number - 1, namespace=record.namespace)
    return maintenance_records.update(ctx, record, partial(with_made, made=header_time(access)))


def _renewed(ctx: Context, store: BackupStore, record: RepositoryRecord, names: Mapping[str, str]) -> RepositoryRecord:
    """Give a namespace a new key in place of the one of a record; return the record of the new repository."""
    number = record.generation or FIRST
    access = ctx.repositories.renew(store, record.namespace_uid, number, namespace=record.namespace)
    log.info("%s: a new master key in BackupStore %s: %s", names[record.namespace_uid], store.name, access.path)
    folder = folder_of(record.namespace_uid, number + 1)
    fresh = maintenance_records.add(ctx, record_of(folder, store.name, names, ctx.now().replace(microsecond=0)))
    return maintenance_records.update(ctx, fresh, partial(with_made, made=header_time(access)))


def renewed(
    ctx: Context, store: BackupStore, namespace_uid: str, access: RepositoryAccess, *, namespace: str
) -> RepositoryAccess:
    """Return the repository that a run writes to: the newest one, or a new one if the store asks for a newer key.

    Raises StoreProblemError: nothing is written under a key that was given up.
    """
    after = asked_after(store, ctx.now())
    if after is None or header_time(access) >= after:
        return access
    ctx.repositories.renew(store, namespace_uid, access.generation, namespace=namespace)
    log.info("%s: a new master key in BackupStore %s, before a backup", namespace, store.name)
    return ctx.repositories.open(store, namespace_uid, namespace=namespace)


def header_time(access: RepositoryAccess) -> datetime:
    """Return when a repository was made, by the store's clock; raises StoreProblemError."""
    try:
        return access.repository.store.head(HEADER_NAME).modified
    except RepositoryError as error:
        raise problem_of(error) from error
