"""Opens repositories with the Secrets of the operator's namespace, read anew each time: a rotated one works at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from longboat.api import BackupStore
from longboat.kube.kinds import SECRET
from longboat.kube.port import Cluster
from longboat.plan.generations import FIRST, folder_of
from longboat.plan.maintenance import bucket_of
from longboat.reconcile.context import Settings
from longboat.reconcile.listings import UNANSWERED, Listings
from longboat.reconcile.repositories import Purpose, RepositoryAccess, StoreProblemError, required
from longboat.reconcile.store_settings import SettingsReader, decoded
from longboat.repository import (
    Closing,
    ObjectStore,
    Patience,
    Repository,
    RepositoryError,
    StoreSettings,
    open_or_create_repository,
    open_repository,
    open_store,
    parse_recovery_public,
    parse_store_key,
)
from longboat.repository.closing import NOTHING, Accepted
from longboat.repository.generations import (
    find_generations,
    generations_in,
    is_closed,
    open_newest,
    require_not_closed,
    rotate_master_key,
)
from longboat.repository.layout import HEADER_NAME
from longboat.repository.object_store import exists

PATIENCE = Patience(connect=5, request=30, retries=2, retry_for=30)
"""Far less than that of movers: what the operator reads is small, and a worker that waits keeps others waiting."""

T = TypeVar("T")
Reach = Callable[[ObjectStore, str, bytes], Repository]
"""Opens the repository at a path with the store's key."""


@dataclass(frozen=True)
class StoreAccess:
    """Implements Repositories. What is read from Secrets is handed on and not kept."""

    cluster: Cluster
    settings: Settings
    listings: Listings = field(default_factory=Listings)

    def open(
        self, store: BackupStore, namespace_uid: str, *, namespace: str = "", generation: int | None = None
    ) -> RepositoryAccess:
        """Return the newest repository of a namespace, made at first use; raises StoreProblemError."""
        recovery = recovery_of(store)
        settings = self.settings_of(store, "export", namespace)
        if generation is None:
            generation = self._writable(store, namespace_uid, namespace, settings)

        def reach(place: ObjectStore, path: str, key: bytes) -> Repository:
            return open_or_create_repository(place, path, key, recovery)

        return self._reach(store, namespace_uid, settings, reach, generation)

    def generations(
        self, store: BackupStore, namespace_uid: str, *, namespace: str = "", purpose: Purpose = "export"
    ) -> list[int]:
        """Return which repositories a namespace has, as listed a few minutes ago, the oldest first."""
        self._require_known(namespace_uid)
        try:
            folders = self.listings.folders(*self._listing(store, namespace, purpose))
        except StoreProblemError as error:
            return self._unlisted(store, namespace_uid, namespace, purpose, error)
        return generations_in(folders, namespace_uid)

    def renew(
        self, store: BackupStore, namespace_uid: str, generation: int, *, namespace: str = ""
    ) -> RepositoryAccess:
        """Give a namespace a new master key in place of that of a generation; raises StoreProblemError."""
        recovery = recovery_of(store)
        settings = self.settings_of(store, "maintenance", namespace)

        def reach(place: ObjectStore, _: str, key: bytes) -> Repository:
            found = find_generations(place, self.settings.cluster_id, namespace_uid)
            return rotate_master_key(found, key, generation, recovery)

        try:
            return self._reach(store, namespace_uid, settings, reach, generation + 1)
        finally:
            # Also after a failure: the header may be there.
            self.listings.forget()

    def closed(
        self,
        store: BackupStore,
        namespace_uid: str,
        generation: int,
        *,
        namespace: str = "",
        purpose: Purpose = "export",
    ) -> datetime | None:
        """Return since when a repository is closed, None if it is the newest one; raises StoreProblemError."""
        closing = self._closed(store, namespace_uid, generation, namespace, purpose)
        return closing.closed if closing else None

    def accepted(
        self,
        store: BackupStore,
        namespace_uid: str,
        generation: int,
        *,
        namespace: str = "",
        purpose: Purpose = "export",
    ) -> Accepted:
        """Return what is believed of a closed repository though it came too late; raises StoreProblemError."""
        closing = self._closed(store, namespace_uid, generation, namespace, purpose)
        return closing.accepted if closing else NOTHING

    def known_closed(
        self, store: BackupStore, namespace_uid: str, generation: int, *, namespace: str = ""
    ) -> datetime | None:
        """Return what is known of that already, and keep nobody waiting; None, too, if nothing is known."""
        self._require_known(namespace_uid)
        folders = self.listings.known_folders(*self._listing(store, namespace, "export"))
        if generation >= (newest := max(generations_in(folders, namespace_uid), default=FIRST)):
            return None
        known = self.listings.known_closing(
            *self._closing(store, namespace_uid, generation, newest, namespace, "export")
        )
        return known.closed if known else None

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
        """Return a repository that a namespace has; raises StoreProblemError, also if it has another id."""
        settings = self.settings_of(store, purpose, namespace)
        return required(self._reach(store, namespace_uid, settings, open_repository, generation), repository_id)

    def settings_of(self, store: BackupStore, purpose: Purpose = "export", namespace: str = "") -> StoreSettings:
        """Return how to reach the store for a purpose; see SettingsReader."""
        return self._reader().settings_of(store, purpose, namespace)

    def store_key(self, store: BackupStore) -> bytes:
        """Return the store's key, 32 bytes. Raises StoreProblemError: KeyNotFound, KeyInvalid."""
        ref = store.spec.encryption.key_secret_ref
        field = "spec.encryption.keySecretRef"
        reader = self._reader()
        secret = reader.read(SECRET, ref.name, "KeyNotFound", f"{field}.name")
        text = decoded(secret, ref.key)
        if text is None:
            raise StoreProblemError("KeyNotFound", reader.lacks(f"{field}.key", ref.name, ref.key, secret))
        try:
            return parse_store_key(text)
        except RepositoryError as error:
            message = f"{field}: key {ref.key!r} of Secret {ref.name!r}: {error}"
            raise StoreProblemError("KeyInvalid", message, retryable=False) from None

    def _listing(self, store: BackupStore, namespace: str, purpose: Purpose) -> tuple[str, Callable[[], list[str]]]:
        """Return under what the cluster's folders in a store are remembered, and how they are asked for."""
        place = f"{purpose} {store.name} {bucket_of(store)}"
        return place, lambda: self._by_either(store, namespace, purpose, self._folders)

    def _closed(
        self, store: BackupStore, uid: str, generation: int, namespace: str, purpose: Purpose
    ) -> Closing | None:
        numbers = self.generations(store, uid, namespace=namespace, purpose=purpose)
        if generation >= (newest := max(numbers, default=FIRST)):
            return None
        return self.listings.closing(*self._closing(store, uid, generation, newest, namespace, purpose))

    def _closing(
        self, store: BackupStore, uid: str, generation: int, newest: int, namespace: str, purpose: Purpose
    ) -> tuple[str, Callable[[], Closing | None]]:
        """Return under what a closing is remembered, and how it is asked for."""

        def look(settings: StoreSettings) -> Closing | None:
            found = find_generations(open_store(settings, PATIENCE), self.settings.cluster_id, uid)
            return found.closing(generation, open_newest(found, self.store_key(store)))

        def ask() -> Closing | None:
            return self._by_either(store, namespace, purpose, look)

        return f"{purpose} {store.name} {bucket_of(store)} {uid} {generation} {newest}", ask

    def _unlisted(
        self, store: BackupStore, uid: str, namespace: str, purpose: Purpose, error: StoreProblemError
    ) -> list[int]:
        """Return the first repository alone, where no credentials may list, if a namespace's own tell of no second one.

        Raises the error otherwise.
        """
        if error.reason in UNANSWERED or not namespace or not self._reader().has_own(store, namespace):
            raise error
        header = f"{self.settings.cluster_id}/{folder_of(uid, FIRST + 1)}/{HEADER_NAME}"
        try:
            settings = self.settings_of(store, purpose, namespace)
            second = _told(lambda its: exists(open_store(its, PATIENCE), header), settings)
        except StoreProblemError:
            raise error from None
        if second:
            raise error
        return [FIRST]

    def _writable(self, store: BackupStore, uid: str, namespace: str, settings: StoreSettings) -> int:
        """Return the newest generation; raises StoreProblemError if it was closed for one that is gone."""
        newest = self._newest(store, uid, namespace)
        path = f"{self.settings.cluster_id}/{folder_of(uid, newest)}"

        def ask() -> bool:
            return _told(lambda its: is_closed(open_store(its, PATIENCE), path), settings)

        if not self.listings.closed(f"{store.name} {bucket_of(store)} {path}", ask):
            return newest

        def look(its: StoreSettings) -> None:
            found = find_generations(open_store(its, PATIENCE), self.settings.cluster_id, uid)
            require_not_closed(found, newest)

        self._by_either(store, namespace, "export", look)
        # It was closed after the folders had been listed.
        self.listings.forget()
        return self._newest(store, uid, namespace)

    def _newest(self, store: BackupStore, namespace_uid: str, namespace: str) -> int:
        """Return the generation that is written to: the newest one with a header, the first if there is none."""
        if max(self.generations(store, namespace_uid, namespace=namespace), default=FIRST) == FIRST:
            return FIRST

        def look(settings: StoreSettings) -> int:
            store = open_store(settings, PATIENCE)
            return find_generations(store, self.settings.cluster_id, namespace_uid).newest or FIRST

        return self._by_either(store, namespace, "export", look)

    def _by_either(self, store: BackupStore, namespace: str, purpose: Purpose, look: Callable[[StoreSettings], T]) -> T:
        """Look at the cluster's folders; raises StoreProblemError.

        The store's own credentials are used first: those of a namespace may be confined to its folders. Where it has
        some these come next, and then those of maintenance, which are the store's in any case.
        """
        try:
            return _told(look, self.settings_of(store, purpose))
        except StoreProblemError as error:
            # Whoever asks a store that does not answer waits as long for it.
            if error.reason in UNANSWERED or not namespace or not self._reader().has_own(store, namespace):
                raise
            first = error
        for other, its in ((purpose, namespace), ("maintenance", "")):
            with contextlib.suppress(StoreProblemError):
                return _told(look, self.settings_of(store, other, its))
        raise first

    def _require_known(self, namespace_uid: str) -> None:
        if not self.settings.cluster_id or not namespace_uid:
            raise StoreProblemError("ClusterUnknown", "the UID of the namespace kube-system could not be read yet")

    def _reach(
        self, store: BackupStore, namespace_uid: str, settings: StoreSettings, reach: Reach, generation: int
    ) -> RepositoryAccess:
        self._require_known(namespace_uid)
        key = self.store_key(store)
        path = f"{self.settings.cluster_id}/{folder_of(namespace_uid, generation)}"
        try:
            repository = reach(open_store(settings, PATIENCE), path, key)
        except RepositoryError as error:
            raise problem_of(error) from error
        return RepositoryAccess(repository, settings, path, repository.master_key, repository.key_id, generation)

    def _reader(self) -> SettingsReader:
        return SettingsReader(self.cluster, self.settings.namespace)

    def _folders(self, settings: StoreSettings) -> list[str]:
        return folders(settings, f"{self.settings.cluster_id}/")


def folders(settings: StoreSettings, path: str) -> list[str]:
    """Return the names of the folders in a folder of a store; RepositoryError soon if it does not answer."""
    return list(open_store(settings, PATIENCE).folders(path))


def _told(look: Callable[[StoreSettings], T], settings: StoreSettings) -> T:
    try:
        return look(settings)
    except RepositoryError as error:
        raise problem_of(error) from error


def recovery_of(store: BackupStore) -> bytes | None:
    """Return the recovery recipient's public key, 32 bytes. Raises StoreProblemError: RecoveryRecipientInvalid."""
    text = store.spec.encryption.recovery_recipient
    try:
        return None if text is None else parse_recovery_public(text)
    except RepositoryError as error:
        message = f"spec.encryption.recoveryRecipient: {error}"
        raise StoreProblemError("RecoveryRecipientInvalid", message, retryable=False) from None


def problem_of(error: RepositoryError) -> StoreProblemError:
    """Return a failure of the repository as the reconcilers know it."""
    return StoreProblemError(error.reason, str(error), retryable=error.retryable)
