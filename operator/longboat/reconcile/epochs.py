"""Who is in charge of a repository: asked before anything in it is marked for removal, taken over or removed.

The tokens of this operator are noted in the cluster, those of its prunes beside what came of them. An epoch with
another one was written by the operator of a clone of this cluster, or by this one before its etcd was put back: nothing
is done before an administrator has said who goes on.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Collection
from datetime import datetime
from itertools import chain

from longboat.api import BackupStore
from longboat.api.common import format_time
from longboat.kube.kinds import BACKUP_STORE
from longboat.plan.take_over import CONFLICT, approved, whole_seconds
from longboat.reconcile import maintenance_records
from longboat.reconcile.config_maps import Data
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_access import problem_of
from longboat.reconcile.trash_notes import Place, data_of, noted, update
from longboat.repository import Epoch, RepositoryError, advance_epoch, epoch_time, read_epoch

log = logging.getLogger(__name__)

Token = Callable[[], str]
_CONTESTED = "contested"
_REPOSITORY = "repositoryID"


def new_token() -> str:
    """Return a token that nobody else has."""
    return secrets.token_hex(16)


def require_charge(ctx: Context, place: Place, access: RepositoryAccess, token: Token = new_token) -> None:
    """Return if this operator is in charge of a repository, or nobody ever was; StoreProblemError EpochConflict if not.

    It takes over what an administrator has said that it may. Reading is enough otherwise.
    """
    try:
        epoch = read_epoch(access.repository)
        written = epoch_time(access.repository) if epoch else ctx.now()
    except RepositoryError as error:
        raise problem_of(error) from error
    if epoch is None or epoch.token in own_tokens(ctx, place) or _is_adopted(ctx, place, access, epoch):
        _note_contest(ctx, place, None)
        return
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, "", place.store)
    until = approved(store, ctx.now()) if store else None
    if store is None or until is None or written > until:
        _note_contest(ctx, place, whole_seconds(written))
        raise _conflict(place, epoch, written)
    own = ctx.repositories.find(
        store,
        place.namespace_uid,
        access.repository.id,
        namespace=place.namespace,
        purpose="maintenance",
        generation=place.generation,
    )
    fence(ctx, place, own, token(), {epoch.token})
    _note_contest(ctx, place, None)
    log.warning("%s: took over its repository in BackupStore %r (epoch %d)", place.namespace, place.store, epoch.number)


def fence(
    ctx: Context, place: Place, access: RepositoryAccess, token: str, others: Collection[str] = frozenset()
) -> Epoch:
    """Exchange the repository's epoch for one with a token that is noted down before it is used; return it.

    Raises StoreProblemError: EpochConflict if the present token is neither noted nor one of these others.
    """
    known = note_token(ctx, place, token, access.repository.id)
    try:
        epoch = advance_epoch(access.repository, {*known, *others, *own_tokens(ctx, place)}, token)
    except RepositoryError as error:
        raise problem_of(error) from error

    def forgotten(data: Data) -> Data:
        # Whoever has noted one meanwhile knew of this one, and may still write it.
        later = [each for each in tokens_of(data) if each not in known]
        return data | {"tokens": json.dumps([token, *later])}

    update(ctx, place, forgotten)
    return epoch


def note_token(ctx: Context, place: Place, token: str, repository_id: str) -> list[str]:
    """Note down a token before it is written into a repository's epoch; return all that may be in it, with this one.

    Any of them may be the current one, as an attempt that failed may still have written its token.
    """
    known: list[str] = []

    def added(data: Data) -> Data:
        known[:] = [*(each for each in tokens_of(data) if each != token), token]
        return data | {"tokens": json.dumps(known), _REPOSITORY: repository_id}

    update(ctx, place, added)
    return known


def _is_adopted(ctx: Context, place: Place, access: RepositoryAccess, epoch: Epoch) -> bool:
    """Return whether this operator wrote an epoch while the BackupStore had another name; noted under this one then.

    Tokens and the ids of repositories are random: one that was noted for this very repository is nobody else's.
    """
    repository_id = access.repository.id
    records = maintenance_records.all_records(ctx.cluster, ctx.settings.namespace)
    by_prunes = (each.tokens for each in records if each.repository_id == repository_id)
    by_others = (tokens_of(data) for _, data in noted(ctx) if data.get(_REPOSITORY) == repository_id)
    if not any(epoch.token in tokens for tokens in chain(by_prunes, by_others)):
        return False
    note_token(ctx, place, epoch.token, repository_id)
    return True


def own_tokens(ctx: Context, place: Place) -> list[str]:
    """Return all tokens by which this operator knows a repository's epoch as its own, those of its prunes included."""
    return [*tokens_of(data_of(ctx, place)), *maintenance_records.tokens_of(ctx, place.store, place.folder)]


def tokens_of(data: Data) -> list[str]:
    """Return the tokens that this operator has written, or was about to write."""
    return [str(each) for each in json.loads(data.get("tokens", "[]"))]


def contested(ctx: Context, store: str) -> list[datetime]:
    """Return when the epochs of a store's repositories were written that another operator is in charge of."""
    return [
        datetime.fromisoformat(data[_CONTESTED])
        for place, data in noted(ctx)
        if place.store == store and _CONTESTED in data
    ]


def is_contested(data: Data) -> bool:
    """Return whether another operator was in charge of a repository when it was last looked at."""
    return _CONTESTED in data


def _note_contest(ctx: Context, place: Place, written: datetime | None) -> None:
    def changed(data: Data) -> Data:
        rest = {key: text for key, text in data.items() if key != _CONTESTED}
        return rest | ({_CONTESTED: format_time(written)} if written else {})

    update(ctx, place, changed, create=written is not None)


def _conflict(place: Place, epoch: Epoch, written: datetime) -> StoreProblemError:
    return StoreProblemError(
        CONFLICT,
        f"another operator is in charge of the repository of {place.namespace!r} (epoch {epoch.number}, written at"
        f" {format_time(written)}): nothing is marked, taken over or removed; see the condition {CONFLICT} of the"
        " BackupStore",
    )
