"""The repositories of one namespace: a new master key is a new repository beside the old one.

The first one is `<cluster id>/<namespace UID>`, those after it `<cluster id>/<namespace UID>.<n>`, n counting from 2.
The one with the highest n that has a header is written to, and no other; the ones before it are closed. Whatever can't
be listed or opened is an error: no lower one is taken instead of the newest one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from .accepted import read_accepted
from .closing import Closing, ClosingRecord, read_closing, write_closing
from .errors import GenerationConflictError, RepositoryDamagedError, RepositoryNotFoundError
from .layout import CLOSED, HEADER_NAME
from .object_store import ObjectStore, ScopedStore, exists
from .repository import Random, Repository, has_repository, open_or_create_repository, open_repository, repository_id_at

_NAME = re.compile(r"^([A-Za-z0-9_-]+)(?:\.([1-9][0-9]{0,8}))?$")
FIRST, LAST = 1, 10**9 - 1


def generation_name(namespace_uid: str, n: int) -> str:
    """Return the folder of a namespace's nth repository: the UID alone for the first, `<UID>.<n>` from 2 on."""
    if not FIRST <= n <= LAST or not (match := _NAME.fullmatch(namespace_uid)) or match[2]:
        raise ValueError(
            f"repository {n} of namespace {namespace_uid!r}: expected a UID, and a number from 1 to {LAST}"
        )
    return namespace_uid if n == FIRST else f"{namespace_uid}.{n}"


def parse_generation(folder: str) -> tuple[str, int] | None:
    """Return UID and number of a folder that generation_name() gives; None for any other name."""
    match = _NAME.fullmatch(folder)
    if match is None or match[2] == str(FIRST):
        return None
    return match[1], int(match[2] or FIRST)


def generations_in(folders: Iterable[str], namespace_uid: str) -> list[int]:
    """Return the numbers of a namespace's repositories among folders, the lowest first."""
    found = filter(None, map(parse_generation, folders))
    return sorted({n for uid, n in found if uid == namespace_uid})


@dataclass(frozen=True)
class Generations:
    """A namespace's repositories in a store: the numbers of those that have a header, the lowest first."""

    store: ObjectStore
    cluster_id: str
    namespace_uid: str
    numbers: tuple[int, ...]

    @property
    def newest(self) -> int | None:
        """The number of the one that is written to; None if there is none yet."""
        return self.numbers[-1] if self.numbers else None

    def path(self, n: int) -> str:
        """Return the path of the nth one below the store's prefix."""
        return f"{self.cluster_id}/{generation_name(self.namespace_uid, n)}"

    def may_retire(self, n: int, newest: Repository) -> bool:
        """Tell whether the nth one may end when nothing is left in it: the oldest one, closed by the newest key."""
        closing = self.closing(n, newest)
        return n == self.numbers[0] and closing is not None and closing.sealed

    def closing(self, n: int, newest: Repository) -> Closing | None:
        """Return since when the nth one is closed, None for the newest one, which is given open.

        DamagedError or a StoreError if that can't be told.
        """
        following = next((each for each in self.numbers if each > n), None)
        if following is None:
            return None
        path = self.path(n)
        old, repository_id = ScopedStore(self.store, path), repository_id_at(self.store, path)
        sealed = read_closing(old, repository_id, newest)
        stamp = self.store.head(f"{self.path(following)}/{HEADER_NAME}").modified
        # Anybody can wrap a key for the recovery recipient: a false newest one must make no forgery count.
        closed = stamp if sealed is None else min(sealed, stamp)
        return Closing(closed, sealed is not None, read_accepted(old, repository_id, newest))


def find_generations(store: ObjectStore, cluster_id: str, namespace_uid: str) -> Generations:
    """Return which repositories a namespace has, by one listing.

    What was left by a rotation that ended before its header does not count. RepositoryDamagedError if what is newer
    than all that have a header holds data without one, or has one that can't be read.
    """
    listed = generations_in(store.folders(f"{cluster_id}/"), namespace_uid)
    found = Generations(store, cluster_id, namespace_uid, tuple(listed))
    numbers: list[int] = []
    for n in reversed(listed):
        path = found.path(n)
        if exists(store, f"{path}/{HEADER_NAME}") if numbers else has_repository(store, path):
            numbers.append(n)
    return Generations(store, cluster_id, namespace_uid, tuple(reversed(numbers)))


def open_newest(found: Generations, store_key: bytes, random: Random = os.urandom) -> Repository:
    """Open the newest repository of a namespace; RepositoryNotFoundError or WrongKeyError, never an older one."""
    return open_repository(found.store, found.path(_newest(found)), store_key, random)


def open_or_create_newest(
    found: Generations, store_key: bytes, recovery: bytes | None = None, random: Random = os.urandom
) -> Repository:
    """Open the newest repository of a namespace, making the first one if there is none; see open_or_create_repository.

    Errors leave the store as it was; RepositoryDamagedError if it was closed for one that is gone.
    """
    if found.newest is not None:
        require_not_closed(found, found.newest)
    return open_or_create_repository(found.store, found.path(found.newest or FIRST), store_key, recovery, random)


def rotate_master_key(
    found: Generations,
    store_key: bytes,
    current: int,
    recovery: bytes | None = None,
    random: Random = os.urandom,
    *,
    replaces_lost: bool = False,
) -> Repository:
    """Make the repository after the `current` one, with a key of its own, and close those before; return it.

    Safe to repeat: with the same `current` nothing is made twice, and what an interrupted rotation has left undone is
    done. Of two at once both return the same one. The header, by which the new one begins to exist, is written after
    its wrapped keys, create-only, and the old ones are closed after that.

    GenerationConflictError if the newest one is neither the current one nor the one after it; WrongKeyError if the key
    opens no newest one; RepositoryDamagedError if the current one was closed for one that is gone, unless
    `replaces_lost` says that another one shall take its place.
    """
    _require_newest(found, current, current + 1)
    if current >= LAST:
        raise GenerationConflictError(
            f"{found.store.describe()}: {found.path(current)} has the highest number there is"
        )
    if found.newest == current and not replaces_lost:
        require_not_closed(found, current)
    open_newest(found, store_key, random)
    made = open_or_create_repository(found.store, found.path(current + 1), store_key, recovery, random)
    now = find_generations(found.store, found.cluster_id, found.namespace_uid)
    _require_newest(now, current + 1)
    close_older(now, made)
    return made


def is_closed(store: ObjectStore, path: str) -> bool:
    """Tell whether anything says that a repository is closed, whoever wrote it; one listing."""
    return next(iter(ScopedStore(store, path).list(CLOSED)), None) is not None


def require_not_closed(found: Generations, newest: int) -> None:
    """Check that the newest repository was not closed for one that is gone: its key may have leaked.

    RepositoryDamagedError if so. Nothing is asked but one listing, unless it was closed.
    """
    if not is_closed(found.store, found.path(newest)):
        return
    # It may have been closed a moment ago, for one that was made since it was looked for.
    now = find_generations(found.store, found.cluster_id, found.namespace_uid)
    if now.newest is None or now.newest <= newest:
        raise RepositoryDamagedError(
            f"{found.store.describe()}: {found.path(newest)} was closed for a newer repository (its folder {CLOSED!r}"
            f" says so), but that one is gone: {found.path(newest + 1)}/{HEADER_NAME}, or one with a higher number."
            " Nothing is written under the old key, which may have leaked; put that object back from a copy or another"
            " version of it, or, if there is none, make another repository with `longboat repo key rotate --new-master"
            f" --repository {found.path(FIRST)} --from {newest}`"
        )


def close_older(found: Generations, newest: Repository) -> list[int]:
    """Close all repositories but the newest one, which is given open; return the numbers of those that were not yet."""
    closed = []
    for n, _ in pairwise(found.numbers):
        closing = found.closing(n, newest)
        if closing is not None and not closing.sealed:
            record = ClosingRecord(repository_id=repository_id_at(found.store, found.path(n)), closed=closing.closed)
            write_closing(ScopedStore(found.store, found.path(n)), record, newest)
            closed.append(n)
    return closed


def _require_newest(found: Generations, *expected: int) -> None:
    if _newest(found) not in expected:
        raise GenerationConflictError(
            f"{found.store.describe()}: the newest repository of namespace {found.namespace_uid} is number"
            f" {found.newest}, expected {' or '.join(map(str, expected))}: somebody else rotates its key; look again"
        )


def _newest(found: Generations) -> int:
    if found.newest is None:
        place = f"{found.store.describe()}: {found.path(FIRST)}"
        raise RepositoryNotFoundError(f"{place}: no repository of this namespace here; check bucket, prefix and path")
    return found.newest
