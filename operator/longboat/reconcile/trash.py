"""Tombstones: written when a backup is deleted or expires, swept when the trash period is over.

A ConfigMap per repository in the operator's namespace notes which repositories have been deleted from, the tokens that
fence other operators from sweeping, and when users deleted. Losing it stops the sweep: the data stays.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from longboat.api import BackupStore, DiskBackup
from longboat.api.common import format_time
from longboat.kube.kinds import BACKUP_STORE, CONFIG_MAP, DISK_BACKUP, NAMESPACE
from longboat.kube.port import AlreadyExistsError, ConflictError, Object
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND, digest
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.repository import (
    MAX_SKEW,
    Epoch,
    RepositoryError,
    SweepReport,
    Tombstone,
    advance_epoch,
    epoch_time,
    holds_backup,
    read_tombstones,
    remove_tombstone,
    stale_markers,
    sweep_tombstones,
    write_tombstone,
)
from longboat.repository.errors import BackupBeingRemovedError

log = logging.getLogger(__name__)

LABELS = {MANAGED_BY: MANAGER, OWNER_KIND: "Trash"}
HOUR = timedelta(hours=1)
_TRIES = 5

Data = dict[str, str]


@dataclass(frozen=True)
class Place:
    """A namespace's repository in a store, as it is noted in its ConfigMap."""

    store: str
    namespace: str
    namespace_uid: str

    @property
    def name(self) -> str:
        """Name of the ConfigMap."""
        return f"longboat-trash-{digest(self.store, self.namespace_uid, length=16)}"


def bury(ctx: Context, backup: DiskBackup, by: str) -> None:
    """Mark a backup's data for removal after the trash period. Raises StoreProblemError; can be repeated.

    A mark from before this deletion (the object's deletionTimestamp, else status.tombstonedAt) is replaced.
    """
    place = place_of(ctx, backup)
    access = own_repository(ctx, backup)
    _require_data(access, backup)
    # Noted first: a tombstone that nobody knows of would never be swept.
    _update(ctx, place, lambda data: data)
    try:
        since = backup.metadata.deletion_timestamp or backup.status.tombstoned_at
        write_tombstone(access.repository, backup.name, ctx.now(), by, since=since)
    except RepositoryError as error:
        raise problem_of(error) from error


def dig_out(ctx: Context, backup: DiskBackup) -> None:
    """Take the mark off a backup's data: it is kept after all. Raises StoreProblemError; can be repeated."""
    access = own_repository(ctx, backup)
    try:
        remove_tombstone(access.repository, backup.name)
    except RepositoryError as error:
        raise problem_of(error) from error


def place_of(ctx: Context, backup: DiskBackup) -> Place:
    """Return where a backup's data is; raises StoreProblemError if that is not known."""
    namespace = ctx.cluster.get(NAMESPACE, backup.namespace)
    if backup.status.store is None or namespace is None:
        raise StoreProblemError("StoreUnknown", "status.store: it is not recorded where the backup is", retryable=False)
    return Place(backup.status.store.name, backup.namespace, namespace["metadata"]["uid"])


def note_deletion(ctx: Context, backup: DiskBackup) -> None:
    """Remember that a user deleted a backup now, for an hour."""

    def noted(data: Data) -> Data:
        return data | {"deletions": json.dumps([format_time(each) for each in [*_recent(data, ctx.now()), ctx.now()]])}

    _update(ctx, place_of(ctx, backup), noted)


def recent_deletions(ctx: Context, namespace: str) -> int:
    """Return how many backups users deleted in a namespace within the last hour."""
    return sum(len(_recent(data, ctx.now())) for place, data in _noted(ctx) if place.namespace == namespace)


def places(ctx: Context) -> list[Place]:
    """Return the repositories that may hold tombstones."""
    return [place for place, _ in _noted(ctx)]


def sweep(ctx: Context, place: Place, token: Callable[[], str] = lambda: secrets.token_hex(16)) -> SweepReport:
    """Remove what was deleted longer ago than the trash period, by the store's clock. Raises StoreProblemError."""
    access = _open(ctx, place)
    period = ctx.settings.trash_period
    try:
        stones = read_tombstones(access.repository)
        _put_off(ctx, place, access, [stone for stone in stones if stone.deleted + period / 2 <= ctx.now()])
        if not any(stone.deleted + period <= ctx.now() for stone in stones) and not stale_markers(access.repository):
            return SweepReport()
        epoch = _fence(ctx, place, access, token())
        now = _store_time(ctx, access)
        # Looked at again, after the tombstones were read: what was applied again meanwhile stays, too.
        back = _applied_again(ctx, place, (stone.backup_name for stone in stones))
        report = sweep_tombstones(access.repository, now, period, keep=back, epoch=epoch)
    except RepositoryError as error:
        raise problem_of(error) from error
    if back:
        log.warning("%s: DiskBackups %s exist again: their data stays", place.namespace, sorted(back))
    log.info("%s: removed %s from store %s", place.namespace, ", ".join(report.removed_backups), place.store)
    return report


def _fence(ctx: Context, place: Place, access: RepositoryAccess, token: str) -> Epoch:
    """Take over the repository's epoch with a token that is noted down before it is used; return the new epoch."""
    known: list[str] = []

    def noted(data: Data) -> Data:
        # Any of them may be the current one, as an attempt that failed may still have written its token.
        known[:] = [*json.loads(data.get("tokens", "[]")), token]
        return data | {"tokens": json.dumps(known)}

    _update(ctx, place, noted)
    epoch = advance_epoch(access.repository, set(known), token)
    _update(ctx, place, lambda data: data | {"tokens": json.dumps([token])})
    return epoch


def _applied_again(ctx: Context, place: Place, names: Iterable[str]) -> set[str]:
    """Return the names under which there are DiskBackups that nobody is deleting."""
    found = ((name, ctx.cluster.get(DISK_BACKUP, name, place.namespace)) for name in names)
    return {name for name, each in found if each is not None and "deletionTimestamp" not in each["metadata"]}


def _put_off(ctx: Context, place: Place, access: RepositoryAccess, stones: Sequence[Tombstone]) -> None:
    """Begin the trash period of what was applied again anew: should its undo fail, its deletion has to be a new one."""
    back = _applied_again(ctx, place, (stone.backup_name for stone in stones))
    for stone in (each for each in stones if each.backup_name in back):
        with contextlib.suppress(BackupBeingRemovedError):
            write_tombstone(access.repository, stone.backup_name, ctx.now(), stone.deleted_by, since=ctx.now())


def _store_time(ctx: Context, access: RepositoryAccess) -> datetime:
    """Return the store's time, as it has just stamped the epoch with; refuse if one of the two clocks must be wrong.

    A node's clock that jumped ahead would otherwise empty the trash at once.
    """
    now = epoch_time(access.repository)
    if abs(now - ctx.now()) > MAX_SKEW:
        raise StoreProblemError(
            "ClockSkew",
            f"the store's clock says {format_time(now)}, the operator's {format_time(ctx.now())}: nothing is removed"
            " from the trash; set the clock that is wrong",
        )
    return now


def _require_data(access: RepositoryAccess, backup: DiskBackup) -> None:
    """Refuse to mark what is not there: the store is not what it was, and the backup may be elsewhere."""
    status = backup.status
    if status.manifest is None and not any(disk.manifest for disk in status.disks or ()):
        return
    try:
        found = holds_backup(access.repository, backup.name)
    except RepositoryError as error:
        raise problem_of(error) from error
    if not found:
        raise StoreProblemError(
            "BackupNotFound",
            f"the repository {access.path!r} holds nothing of backup {backup.name!r}: nothing is marked there; see"
            f" whether BackupStore {status.store.name if status.store else ''!r} leads where it did",
            retryable=False,
        )


def own_repository(ctx: Context, backup: DiskBackup) -> RepositoryAccess:
    """Return the repository that a backup says it lies in; StoreProblemError if it is not its namespace's own."""
    pinned = backup.status.store
    access = _open(ctx, place_of(ctx, backup), pinned.id if pinned else None)
    if pinned is None or access.path != pinned.repository:
        raise StoreProblemError(
            "ForeignRepository",
            f"status.store.repository is not the repository of this namespace ({access.path}): nothing is done there",
            retryable=False,
        )
    return access


def _open(ctx: Context, place: Place, repository_id: str | None = None) -> RepositoryAccess:
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", place.store)
    if store is None:
        raise StoreProblemError("StoreNotFound", f"there is no BackupStore {place.store!r} any more; make it again")
    return ctx.repositories.find(
        store, place.namespace_uid, repository_id, namespace=place.namespace, purpose="maintenance"
    )


def _recent(data: Data, now: datetime) -> list[datetime]:
    times = (datetime.fromisoformat(text) for text in json.loads(data.get("deletions", "[]")))
    return [moment for moment in times if now - HOUR < moment]


def _noted(ctx: Context) -> list[tuple[Place, Data]]:
    found = ctx.cluster.list(CONFIG_MAP, ctx.settings.namespace, LABELS)
    return [(_place(each["data"]), each["data"]) for each in found]


def _place(data: Any) -> Place:
    return Place(data["store"], data["namespace"], data["namespaceUID"])


def _update(ctx: Context, place: Place, change: Callable[[Data], Data]) -> None:
    """Change what is noted of a repository; others that change it at the same moment lose nothing."""
    for _ in range(_TRIES):
        found = ctx.cluster.get(CONFIG_MAP, place.name, ctx.settings.namespace)
        try:
            if found is None:
                ctx.cluster.create(_config_map(ctx, place, change))
            elif (data := change(found["data"])) != found["data"]:
                version = {
                    "op": "test",
                    "path": "/metadata/resourceVersion",
                    "value": found["metadata"]["resourceVersion"],
                }
                replace = {"op": "replace", "path": "/data", "value": data}
                ctx.cluster.patch(CONFIG_MAP, place.name, [version, replace], ctx.settings.namespace)
            return
        except (AlreadyExistsError, ConflictError):
            continue
    raise ConflictError(f"configmaps {place.name!r} changes all the time")


def _config_map(ctx: Context, place: Place, change: Callable[[Data], Data]) -> Object:
    data = {"store": place.store, "namespace": place.namespace, "namespaceUID": place.namespace_uid}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": place.name, "namespace": ctx.settings.namespace, "labels": LABELS},
        "data": change(data),
    }
