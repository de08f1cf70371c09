"""What is noted of each repository that was deleted from: a ConfigMap per repository in the operator's namespace.

It holds the tokens that fence other operators from removing, when users deleted, and which DiskBackups were deleted
before anybody could look for their data. Losing it stops the sweep: the data stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from longboat.api import DiskBackup
from longboat.api.common import format_time
from longboat.kube.kinds import CONFIG_MAP, NAMESPACE
from longboat.plan.generations import FIRST, folder_of, generation_at
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND, digest
from longboat.reconcile.config_maps import Data, change_data
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import StoreProblemError

LABELS = {MANAGED_BY: MANAGER, OWNER_KIND: "Trash"}
HOUR = timedelta(hours=1)
EVERYTHING = "*"
"""Stands for more names than are noted one by one; no object has this name."""
MOST_NAMES = 500
_GENERATION = "generation"


@dataclass(frozen=True)
class Place:
    """A namespace's repository in a store, as it is noted in its ConfigMap."""

    store: str
    namespace: str
    namespace_uid: str
    generation: int = FIRST

    @property
    def folder(self) -> str:
        """The repository's folder in that of the cluster."""
        return folder_of(self.namespace_uid, self.generation)

    @property
    def name(self) -> str:
        """Name of the ConfigMap."""
        return f"longboat-trash-{digest(self.store, self.folder, length=16)}"


def place_of(ctx: Context, backup: DiskBackup) -> Place:
    """Return where a backup's data is; raises StoreProblemError if that is not known."""
    namespace = ctx.cluster.get(NAMESPACE, backup.namespace)
    if backup.status.store is None or namespace is None:
        raise StoreProblemError("StoreUnknown", "status.store: it is not recorded where the backup is", retryable=False)
    store, uid = backup.status.store, namespace["metadata"]["uid"]
    return Place(store.name, backup.namespace, uid, generation_at(store.repository, uid))


def note_deletion(ctx: Context, backup: DiskBackup) -> None:
    """Remember that a user deleted a backup now, for an hour."""

    def added(data: Data) -> Data:
        return data | {"deletions": json.dumps([format_time(each) for each in [*_recent(data, ctx.now()), ctx.now()]])}

    update(ctx, place_of(ctx, backup), added)


def recent_deletions(ctx: Context, namespace: str) -> int:
    """Return how many backups users deleted in a namespace within the last hour."""
    return sum(len(_recent(data, ctx.now())) for place, data in noted(ctx) if place.namespace == namespace)


def places(ctx: Context) -> list[Place]:
    """Return the repositories that may hold tombstones."""
    return [place for place, _ in noted(ctx)]


def note_unseen(ctx: Context, backup: DiskBackup) -> None:
    """Remember that a DiskBackup goes, or may go, before anybody could look for its data in a store.

    It may have been applied again to undo a deletion: what is in the trash under its name stays for another period.
    """
    namespace = ctx.cluster.get(NAMESPACE, backup.namespace)
    uid = namespace["metadata"]["uid"] if namespace else ""
    # Nothing was ever put into the trash of a repository of which nothing is noted.
    for place in (each for each in places(ctx) if each.namespace_uid == uid):
        update(ctx, place, lambda data: _with_unseen(data, unseen(data) | {backup.name: ctx.now()}))


def renew_unseen(ctx: Context, place: Place, exists: Callable[[str], bool]) -> None:
    """Begin the period anew of those that are there, and still were not looked for: they may go unnoticed."""

    def renewed(data: Data) -> Data:
        known = unseen(data)
        # Where everything was noted, those that are there are not known by name any more.
        late = {name for name, when in known.items() if when + HOUR / 2 <= ctx.now()}
        return _with_unseen(data, known | {name: ctx.now() for name in late if name != EVERYTHING and exists(name)})

    update(ctx, place, renewed, create=False)


def forget_unseen(ctx: Context, place: Place, names: Iterable[str]) -> None:
    """Forget those whose data need not be kept for that any more."""
    gone = set(names)

    def forgotten(data: Data) -> Data:
        return _with_unseen(data, {name: when for name, when in unseen(data).items() if name not in gone})

    if gone:
        update(ctx, place, forgotten, create=False)


def data_of(ctx: Context, place: Place) -> Data:
    """Return what is noted of a repository, nothing if it was never deleted from."""
    found = ctx.cluster.get(CONFIG_MAP, place.name, ctx.settings.namespace)
    return dict(found["data"]) if found else {}


def unseen_at(ctx: Context, place: Place) -> dict[str, datetime]:
    """Return which names were noted as unseen (EVERYTHING: more than can be named), and when that was last so."""
    return unseen(data_of(ctx, place))


def unseen(data: Data) -> dict[str, datetime]:
    """Return what is noted as unseen."""
    return {name: datetime.fromisoformat(text) for name, text in json.loads(data.get("unseen", "{}")).items()}


def _with_unseen(data: Data, names: dict[str, datetime]) -> Data:
    if len(names) > MOST_NAMES:
        # A tenant may delete any number of them; what can't be told apart is all kept.
        names = {EVERYTHING: max(names.values())}
    rest = {key: text for key, text in data.items() if key != "unseen"}
    texts = {name: format_time(when) for name, when in sorted(names.items())}
    return rest | ({"unseen": json.dumps(texts)} if texts else {})


def _recent(data: Data, now: datetime) -> list[datetime]:
    times = (datetime.fromisoformat(text) for text in json.loads(data.get("deletions", "[]")))
    return [moment for moment in times if now - HOUR < moment]


def noted(ctx: Context) -> list[tuple[Place, Data]]:
    """Return everything that is noted, by repository."""
    found = ctx.cluster.list(CONFIG_MAP, ctx.settings.namespace, LABELS)
    return [(_place(each["data"]), each["data"]) for each in found]


def _place(data: Any) -> Place:
    return Place(data["store"], data["namespace"], data["namespaceUID"], int(data.get(_GENERATION, FIRST)))


def update(ctx: Context, place: Place, change: Callable[[Data], Data], *, create: bool = True) -> None:
    """Change what is noted of a repository; others that change it at the same moment lose nothing."""

    def decide(data: Data | None) -> Data | None:
        if data is None and not create:
            return None
        return change(_begun(place) if data is None else data)

    change_data(ctx, place.name, LABELS, decide)


def _begun(place: Place) -> Data:
    data = {"store": place.store, "namespace": place.namespace, "namespaceUID": place.namespace_uid}
    if place.generation != FIRST:
        data[_GENERATION] = str(place.generation)
    return data
