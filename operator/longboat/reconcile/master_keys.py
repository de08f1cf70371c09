"""Gives namespaces new master keys when their store asks for that: in its upkeep, and before a run writes anything.

A new key is a new repository beside the old one. For which moment it is made is noted of the old one before: who is
killed anywhere, and whose store has another clock, finds by it, or by the listing, what is done and what is not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from longboat.api import BackupStore
from longboat.kube.port import ConflictError
from longboat.plan.generations import FIRST, folder_of
from longboat.plan.maintenance import RepositoryRecord, bucket_of, record_of
from longboat.plan.maintenance_job import record_key
from longboat.plan.master_keys import (
    Renewal,
    asked_after,
    is_replaced_for,
    made_at,
    newest_of,
    of_bucket,
    with_made,
    with_replacement,
)
from longboat.reconcile import maintenance_records
from longboat.reconcile.context import Context
from longboat.reconcile.objects import reference
from longboat.reconcile.repositories import RepositoryAccess, Silence, StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.repository import RepositoryError
from longboat.repository.errors import GenerationConflictError, RepositoryNotFoundError
from longboat.repository.layout import HEADER_NAME

log = logging.getLogger(__name__)

AT_ONCE = 100
"""New keys that are made in one look: its workers are others', too, and a run makes its namespace's own in time."""
AT_MOST = 3
"""Repositories that a run makes or finds one after the other: more is a listing that does not change."""


def renew_all(
    ctx: Context,
    store: BackupStore,
    records: Mapping[str, RepositoryRecord],
    names: Mapping[str, str],
    unseen: Collection[str] = (),
    unlisted: str = "",
) -> tuple[dict[str, RepositoryRecord], Renewal | None]:
    """Give the namespaces of a store new keys where it asks for them; return the records with the new ones, by folder.

    ``names`` are those of the living namespaces by UID: for one that is gone nothing is written any more. ``unseen``
    are UIDs of namespaces that have repositories without a record: they wait. ``unlisted`` is why others are not known.
    """
    after, found = asked_after(store, ctx.now()), dict(records)
    if after is None:
        return found, None
    look, renewed_, pending = _Look(ctx, store, names, after), 0, [names[uid] for uid in sorted(unseen) if uid in names]
    for each in newest_of(records.values(), names):
        # Of one whose newest repository may not be known nothing is replaced.
        if each.namespace_uid in unseen:
            continue
        record, is_new = look.at(each)
        found[record.folder] = record
        renewed_ += is_new
        pending += [] if is_new else [names[record.namespace_uid]]
    if look.made:
        count = f"{look.made} namespace{'s' if look.made > 1 else ''}"
        message = f"{count} got new master keys: first backups there are full ones"
        ctx.cluster.event(reference(store), "Normal", "MasterKeysMade", message)
    return found, Renewal(after, renewed_, tuple(pending), look.problem, unlisted, look.stale)


@dataclass
class _Look:
    """One look at all namespaces of a store; ``problem`` is the first of them, ``stale`` as in Renewal."""

    ctx: Context
    store: BackupStore
    names: Mapping[str, str]
    after: datetime
    made: int = 0
    problem: str = ""
    stale: bool = False
    silence: Silence = field(default_factory=Silence)

    def at(self, record: RepositoryRecord) -> tuple[RepositoryRecord, bool]:
        """Give a namespace a new key if it needs one; return its newest record, and whether that is new enough."""
        record = of_bucket(record, bucket_of(self.store))
        if self.silence.is_total and record.made is None:
            return record, False
        try:
            record = _dated(self.ctx, self.store, record)
            if _is_new(self.ctx, record, self.after):
                return record, True
            if self.silence.is_total or self.made >= AT_ONCE:
                return record, False
            record = _renewed(self.ctx, self.store, record, self.names, self.after)
        except (StoreProblemError, ConflictError) as error:
            self._failed(record, error)
            return record, False
        self.made += 1
        self.silence.heard(None)
        return record, _is_new(self.ctx, record, self.after)

    def _failed(self, record: RepositoryRecord, error: StoreProblemError | ConflictError) -> None:
        if isinstance(error, StoreProblemError):
            self.silence.heard(error)
            self.stale |= error.reason == GenerationConflictError.reason
        name = self.names[record.namespace_uid]
        log.warning("BackupStore %s: %s: no new master key: %s", self.store.name, name, error)
        self.problem = self.problem or str(error)


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
    return _with_stamp(ctx, store, record, access)


def _with_stamp(
    ctx: Context, store: BackupStore, record: RepositoryRecord, access: RepositoryAccess
) -> RepositoryRecord:
    bucket, stamp = bucket_of(store), header_time(access)
    change = partial(with_made, bucket=bucket, repository_id=access.repository.id, stamp=stamp)
    return maintenance_records.update(ctx, record, change)


def _is_new(ctx: Context, record: RepositoryRecord, after: datetime) -> bool:
    """Tell whether a repository, when it was made is known, is not to be replaced for a moment."""
    if record.made is not None and after <= record.made:
        return True
    return _is_made_for(ctx, record.store, record.namespace_uid, record.generation or FIRST, after)


def _is_made_for(ctx: Context, store: str, namespace_uid: str, generation: int, after: datetime) -> bool:
    """Tell whether a repository was made for this very moment, as is noted of the one before it."""
    if generation == FIRST:
        return False
    before = record_key(store, folder_of(namespace_uid, generation - 1))
    return is_replaced_for(maintenance_records.read(ctx, before), after)


def _renewed(
    ctx: Context, store: BackupStore, record: RepositoryRecord, names: Mapping[str, str], after: datetime
) -> RepositoryRecord:
    """Give a namespace a new key in place of the one of a record; return the record of the new repository."""
    access = _replaced(ctx, store, record, after)
    log.info("%s: a new master key in BackupStore %s: %s", names[record.namespace_uid], store.name, access.path)
    folder = folder_of(record.namespace_uid, (record.generation or FIRST) + 1)
    fresh = maintenance_records.add(ctx, record_of(folder, store.name, names, ctx.now().replace(microsecond=0)))
    return _with_stamp(ctx, store, fresh, access)


def _replaced(ctx: Context, store: BackupStore, record: RepositoryRecord, after: datetime) -> RepositoryAccess:
    """Make the repository after that of a record, and return it; raises StoreProblemError or ConflictError.

    What is there already was made by somebody else, perhaps before the moment, and is judged by itself.
    """
    number = record.generation or FIRST
    if not is_replaced_for(record, after) and not _is_there(ctx, store, record, number + 1):
        maintenance_records.update(ctx, record, partial(with_replacement, after=after))
    return ctx.repositories.renew(store, record.namespace_uid, number, namespace=record.namespace)


def _is_there(ctx: Context, store: BackupStore, record: RepositoryRecord, generation: int) -> bool:
    try:
        maintenance_records.opened(ctx, store, record.model_copy(update={"generation": generation}))
    except StoreProblemError as problem:
        if problem.reason != RepositoryNotFoundError.reason:
            raise
        return False
    return True


def renewed(
    ctx: Context, store: BackupStore, namespace_uid: str, access: RepositoryAccess, *, namespace: str
) -> RepositoryAccess:
    """Return the repository that a run writes to: the newest one, or a new one if the store asks for a newer key.

    Raises StoreProblemError: nothing is written under a key that was given up.
    """
    after = asked_after(store, ctx.now())
    if after is None:
        return access
    for _ in range(AT_MOST):
        folder = folder_of(namespace_uid, access.generation)
        record = maintenance_records.read(ctx, record_key(store.name, folder))
        known = record and of_bucket(record, bucket_of(store))
        if made_at(known, access.repository.id, header_time(access)) >= after or _is_made_for(
            ctx, store.name, namespace_uid, access.generation, after
        ):
            return access
        if record is None:
            record = record_of(folder, store.name, {namespace_uid: namespace}, ctx.now().replace(microsecond=0))
        _replace_for_run(ctx, store, record, after)
        access = ctx.repositories.open(store, namespace_uid, namespace=namespace)
    raise StoreProblemError(GenerationConflictError.reason, f"{access.path}: the store lists no newer repository yet")


def _replace_for_run(ctx: Context, store: BackupStore, record: RepositoryRecord, after: datetime) -> None:
    try:
        access = _replaced(ctx, store, maintenance_records.add(ctx, record), after)
    except ConflictError as error:
        raise StoreProblemError(GenerationConflictError.reason, f"a new master key waits: {error}") from error
    log.info("%s: a new master key in BackupStore %s, before a backup: %s", record.namespace, store.name, access.path)


def header_time(access: RepositoryAccess) -> datetime:
    """Return when a repository was made, by the store's clock; raises StoreProblemError."""
    try:
        return access.repository.store.head(HEADER_NAME).modified
    except RepositoryError as error:
        raise problem_of(error) from error
