"""The epoch object: fences two operators (a cloned cluster, an etcd from a copy) from both expiring data.

Each run that removes something first replaces the epoch's token, by If-Match, with one that it has noted down before.
An operator that finds a token it never wrote has been overtaken and stops removing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from .documents import Document
from .errors import DamagedError, EpochConflictError, ObjectExistsError, ObjectNotFoundError, PreconditionError
from .layout import EPOCH_NAME
from .manifests import Count, Text
from .repository import Repository

_MAX_EPOCH = 4096


class Epoch(Document):
    """The current epoch: its number, and the token of the operator that wrote it."""

    number: Count
    token: Text


@dataclass(frozen=True)
class _Current:
    epoch: Epoch | None
    etag: str = ""


def read_epoch(repository: Repository) -> Epoch | None:
    """Return the current epoch, or None if nothing was ever expired here."""
    return _current(repository).epoch


def epoch_time(repository: Repository) -> datetime:
    """Return when the epoch was written, by the store's own clock: right after advance_epoch that is its time."""
    return repository.store.head(EPOCH_NAME).modified


def advance_epoch(repository: Repository, known: Collection[str], token: str) -> Epoch:
    """Begin a run that removes data; return the epoch that was written.

    `known` holds the tokens this operator has written or was about to write (it notes `token` down before the call).
    EpochConflictError if the current token is none of these: another operator is at work on this repository.
    """
    current = _current(repository)
    if current.epoch is not None and current.epoch.token not in known:
        raise _conflict(repository, current.epoch)
    epoch = Epoch(number=current.epoch.number + 1 if current.epoch else 1, token=token)
    data = epoch.model_dump_json(by_alias=True).encode()
    try:
        if current.epoch is None:
            repository.store.put_new(EPOCH_NAME, data)
        else:
            repository.store.put_if_match(EPOCH_NAME, data, current.etag)
    except (PreconditionError, ObjectExistsError):
        found = read_epoch(repository)
        if found != epoch:  # The same one: our own write, whose acknowledgement was lost.
            raise _conflict(repository, found) from None
    return epoch


def require_epoch(repository: Repository, epoch: Epoch | None) -> None:
    """Check that the epoch is still the one that this run began with (None: nothing to check); EpochConflictError."""
    if epoch is not None and (found := read_epoch(repository)) != epoch:
        raise EpochConflictError(
            f"{repository.store.describe()}: somebody else began to remove data here (epoch"
            f" {found.number if found else 0}, ours is {epoch.number}); this run ends. A later one goes on"
        )


def _current(repository: Repository) -> _Current:
    try:
        info = repository.store.head(EPOCH_NAME)
        data = repository.store.get(EPOCH_NAME, _MAX_EPOCH)
    except ObjectNotFoundError:
        return _Current(None)
    # The tag is read first: if the object changes in between, the conditional write fails.
    try:
        return _Current(Epoch.model_validate_json(data), info.etag)
    except ValidationError:
        raise DamagedError(f"{repository.store.describe()}: the object {EPOCH_NAME!r} can not be read") from None


def _conflict(repository: Repository, found: Epoch | None) -> EpochConflictError:
    number = found.number if found else 0
    return EpochConflictError(
        f"{repository.store.describe()}: another operator is in charge here (epoch {number}); nothing was"
        " removed. Of two clusters that use one repository only one may go on"
    )
