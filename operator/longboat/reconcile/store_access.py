"""Opens repositories with the Secrets of the operator's namespace, read anew each time: a rotated one works at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longboat.api import BackupStore
from longboat.kube.kinds import SECRET
from longboat.kube.port import Cluster
from longboat.reconcile.context import Settings
from longboat.reconcile.repositories import Purpose, RepositoryAccess, StoreProblemError, required
from longboat.reconcile.store_settings import SettingsReader, decoded
from longboat.repository import (
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

PATIENCE = Patience(connect=5, request=30, retries=2, retry_for=30)
"""Far less than that of movers: what the operator reads is small, and a worker that waits keeps others waiting."""

Reach = Callable[[ObjectStore, str, bytes], Repository]
"""Opens the repository at a path with the store's key."""


@dataclass(frozen=True)
class StoreAccess:
    """Implements Repositories. What is read from Secrets is handed on and not kept."""

    cluster: Cluster
    settings: Settings

    def open(self, store: BackupStore, namespace_uid: str, *, namespace: str = "") -> RepositoryAccess:
        """Return the repository of a namespace, made at first use; raises StoreProblemError."""
        recovery = recovery_of(store)
        settings = self.settings_of(store, "export", namespace)
        return self._reach(
            store,
            namespace_uid,
            settings,
            lambda place, path, key: open_or_create_repository(place, path, key, recovery),
        )

    def find(
        self,
        store: BackupStore,
        namespace_uid: str,
        repository_id: str | None = None,
        *,
        namespace: str = "",
        purpose: Purpose = "export",
    ) -> RepositoryAccess:
        """Return the repository that a namespace has; raises StoreProblemError, also if it has another id."""
        settings = self.settings_of(store, purpose, namespace)
        return required(self._reach(store, namespace_uid, settings, open_repository), repository_id)

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

    def _reach(self, store: BackupStore, namespace_uid: str, settings: StoreSettings, reach: Reach) -> RepositoryAccess:
        if not self.settings.cluster_id or not namespace_uid:
            raise StoreProblemError("ClusterUnknown", "the UID of the namespace kube-system could not be read yet")
        key = self.store_key(store)
        path = f"{self.settings.cluster_id}/{namespace_uid}"
        try:
            repository = reach(open_store(settings, PATIENCE), path, key)
        except RepositoryError as error:
            raise problem_of(error) from error
        return RepositoryAccess(repository, settings, path, repository.master_key, repository.key_id)

    def _reader(self) -> SettingsReader:
        return SettingsReader(self.cluster, self.settings.namespace)


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
