"""The end of a closed repository in which nothing is left: its keys and its header go, and with them the old key's use.

The header goes first: from then on there is no repository, and what a crash leaves behind it are a few small objects
that nothing refers to. Only the oldest repository of a namespace goes: the headers of those between say when the ones
before them were closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import chain

from .epoch import Epoch, require_epoch
from .generations import Generations, generations_in
from .layout import (
    ACCEPTED,
    BACKUPS,
    CLOSED,
    CONDEMNED,
    DAMAGE,
    DISKS,
    EPOCH_NAME,
    HEADER_NAME,
    KEYS,
    LEASES,
    MAPS,
    PACKS,
    REMOVING,
    REWRITE,
    TOMBSTONES,
)
from .object_store import ObjectStore, ScopedStore, has_versions
from .repository import Repository

CLOSED_FOR = timedelta(days=7)
"""A closed repository stays at least this long, so that no export of before can still be at work in it."""
_DATA = (BACKUPS, DISKS, PACKS, MAPS, TOMBSTONES, REMOVING)
_HEX = "[0-9a-f]{32}"
_UPKEEP = re.compile(rf"leases/{_HEX}/[0-9]{{6}}|(condemned|damage)/{_HEX}|rewrite/{_HEX}/{_HEX}")
_LAST = re.compile(rf"keys/{_HEX}/{_HEX}|(closed|accepted)/{_HEX}")


def is_finished(repository: Repository, closed: datetime, now: datetime) -> bool:
    """Tell whether a repository that is closed since then holds nothing any more, hidden versions included.

    `now` is the store's time. A StoreError if something can't be listed.
    """
    if closed + CLOSED_FOR > now or any(has_versions(repository.store, folder) for folder in _DATA):
        return False
    return all(info.modified + CLOSED_FOR <= now for info in repository.store.list(LEASES))


def retire(repository: Repository, closed: datetime, now: datetime, epoch: Epoch | None) -> bool:
    """Remove header and keys of the oldest repository of a namespace if nothing is left in it; tell whether it was so.

    `epoch` is what advance_epoch() returned, None in a dry run, which removes nothing. Objects of other names stay.
    """
    if not is_finished(repository, closed, now):
        return False
    if epoch is not None:
        require_epoch(repository, epoch)
        _remove(repository.store, _UPKEEP, (LEASES, CONDEMNED, DAMAGE, REWRITE))
        require_epoch(repository, epoch)
        repository.store.delete(HEADER_NAME)
        _clear(repository.store)
    return True


def clear_remains(found: Generations) -> list[int]:
    """Remove what crashes have left of older repositories of a namespace that have ended; return their numbers."""
    listed = generations_in(found.store.folders(f"{found.cluster_id}/"), found.namespace_uid)
    ended = []
    for n in (n for n in listed if n not in found.numbers and n < (found.newest or 0)):
        store = ScopedStore(found.store, found.path(n))
        if not any(has_versions(store, folder) for folder in _DATA):
            _clear(store)
            ended.append(n)
    return ended


def _clear(store: ObjectStore) -> None:
    _remove(store, _LAST, (KEYS, CLOSED, ACCEPTED))
    store.delete(EPOCH_NAME)


def _remove(store: ObjectStore, names: re.Pattern[str], folders: Iterable[str]) -> None:
    found = chain.from_iterable(map(store.list, folders))
    for name in [info.name for info in found if names.fullmatch(info.name)]:
        store.delete(name)
