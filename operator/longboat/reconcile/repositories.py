"""How reconcilers reach the backups of a namespace in a store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

from longboat.api import BackupStore
from longboat.plan.generations import FIRST
from longboat.plan.told import told
from longboat.repository.errors import StoreFailureError, UnreachableError

if TYPE_CHECKING:
    from longboat.repository import Repository, StoreSettings
    from longboat.repository.closing import Accepted


log = logging.getLogger(__name__)

Purpose = Literal["export", "restore", "maintenance"]
"""Whose credentials are used: each purpose may have its own, which can do no more than it needs."""


class StoreProblemError(Exception):
    """A store cannot be used as it is; ``reason`` is a constant for conditions, the message says the remedy."""

    def __init__(self, reason: str, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable


SILENT_AFTER = 3
_OF_STORE = frozenset({"ClusterUnknown", "KeyNotFound", StoreFailureError.reason, UnreachableError.reason})
"""Reasons of problems that the repositories of other namespaces would have, too."""


@dataclass
class Silence:
    """Tells a store that answers nobody from what is one namespace's own problem, where many are looked at in turn."""

    failures: int = 0

    def heard(self, problem: StoreProblemError | None) -> None:
        """Note what the store has answered for a namespace: None is that all is well."""
        if problem is None:
            self.failures = 0
        elif problem.reason in _OF_STORE:
            self.failures += 1

    @property
    def is_total(self) -> bool:
        """Whether it has failed so often in a row that asking for others would be in vain."""
        return self.failures >= SILENT_AFTER


def told_in_namespace(store: str, error: StoreProblemError) -> str:
    """Return what the users of a namespace are told of a problem with a store; the whole of it goes to the log."""
    return for_namespace(store, error.reason, f"BackupStore {store!r}: {error.message}")


def for_namespace(store: str, reason: str, message: str) -> str:
    """Return a message as it is told to the users of a namespace: that of a store only by what it means for them."""
    said = told(store, reason)
    if said is None:
        return message
    log_once(store, reason, message)
    return said


@lru_cache(maxsize=256)
def log_once(store: str, reason: str, message: str) -> None:
    """Tell administrators of a problem that many objects may wait for, and look at again and again."""
    log.warning("BackupStore %r: %s: %s", store, reason, message)


@dataclass(frozen=True)
class RepositoryAccess:
    """The opened repository of one namespace, and what a mover needs to open it too (it is given no more than that)."""

    repository: Repository
    settings: StoreSettings
    path: str
    """Path of the repository under the store's prefix: <cluster id>/<namespace uid>, or <namespace uid>.<number>."""
    master_key: bytes
    """The namespace's master key, 32 bytes; never the store's key."""
    key_id: str
    generation: int = FIRST
    """Which of the namespace's repositories it is: see plan.generations."""


class Repositories(Protocol):
    """Opens repositories; raises StoreProblemError when the store, its credentials or its key do not allow it."""

    def find(
        self,
        store: BackupStore,
        namespace_uid: str,
        repository_id: str | None = None,
        *,
        namespace: str = "",
        purpose: Purpose = "export",
        generation: int = FIRST,
    ) -> RepositoryAccess:
        """Return a repository that a namespace has, for everything but the beginning of a run: none is ever made.

        With the credentials of a purpose, and of the namespace of that name if it has some of its own.
        StoreProblemError RepositoryNotFound if there is none, RepositoryReplaced if it is not the one of that id.
        """

    def open(
        self, store: BackupStore, namespace_uid: str, *, namespace: str = "", generation: int | None = None
    ) -> RepositoryAccess:
        """Return the newest repository of a namespace, made at first use, with the credentials of exports.

        It is keyed by the namespace's UID: a namespace made anew under an old name does not get the old backups. If
        the newest one can't be told or opened, an older one never takes its place: StoreProblemError. A
        ``generation`` that is named is opened without asking which is the newest.
        """

    def generations(
        self, store: BackupStore, namespace_uid: str, *, namespace: str = "", purpose: Purpose = "export"
    ) -> list[int]:
        """Return which repositories a namespace has, the oldest first, as the store listed them a few minutes ago.

        Their folders are there; a header may not be yet.
        """

    def renew(
        self, store: BackupStore, namespace_uid: str, generation: int, *, namespace: str = ""
    ) -> RepositoryAccess:
        """Give a namespace a new master key in place of that of a generation; return its repository, the next one.

        With the credentials of maintenance. Can be repeated: it completes what was begun, and makes no further one.
        """

    def closed(
        self,
        store: BackupStore,
        namespace_uid: str,
        generation: int,
        *,
        namespace: str = "",
        purpose: Purpose = "export",
    ) -> datetime | None:
        """Return since when, by the store's clock, a repository is closed; None: it is the newest of its namespace.

        What was written into it much later is not to be believed: see repository.closing.
        """

    def accepted(
        self,
        store: BackupStore,
        namespace_uid: str,
        generation: int,
        *,
        namespace: str = "",
        purpose: Purpose = "export",
    ) -> Accepted:
        """Return the marks of what is believed of a closed repository, though it came too late.

        As an administrator has accepted it; see closed().
        """

    def known_closed(
        self, store: BackupStore, namespace_uid: str, generation: int, *, namespace: str = ""
    ) -> datetime | None:
        """Return what is known of that already, for who looks often: the store keeps nobody waiting.

        None, too, if nothing is known yet; it is asked for meanwhile, so that a later look knows it.
        """


def required(access: RepositoryAccess, repository_id: str | None) -> RepositoryAccess:
    """Return the repository if it has this id, or none is asked for; raises StoreProblemError RepositoryReplaced.

    Another bucket, service or folder at the same address, or a store that was emptied, has another one.
    """
    if repository_id in (None, access.repository.id):
        return access
    raise StoreProblemError(
        "RepositoryReplaced",
        f"{access.path!r} holds repository {access.repository.id}, expected {repository_id}: the store was emptied, or"
        " the BackupStore leads to another one than before; put the store back",
        retryable=False,
    )
