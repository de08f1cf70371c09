"""Opens repositories with the Secrets of the operator's namespace, read anew each time: a rotated one works at once."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import ValidationError

from longboat.api import BackupStore
from longboat.kube.kinds import CONFIG_MAP, SECRET, Kind
from longboat.kube.port import Cluster, Object, RefusedError
from longboat.reconcile.context import Settings
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, required
from longboat.repository import (
    ObjectStore,
    Repository,
    RepositoryError,
    StoreSettings,
    loopback_host,
    open_or_create_repository,
    open_repository,
    open_store,
    parse_recovery_public,
    parse_store_key,
)

ACCESS_KEY = "accessKeyID"
SECRET_KEY = "secretAccessKey"
Reach = Callable[[ObjectStore, str, bytes], Repository]
"""Opens the repository at a path with the store's key."""
_PEM = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class StoreAccess:
    """Implements Repositories. What is read from Secrets is handed on and not kept."""

    cluster: Cluster
    settings: Settings

    def open(self, store: BackupStore, namespace_uid: str) -> RepositoryAccess:
        """Return the repository of a namespace, made at first use; raises StoreProblemError."""
        recovery = recovery_of(store)
        return self._reach(
            store, namespace_uid, lambda place, path, key: open_or_create_repository(place, path, key, recovery)
        )

    def find(self, store: BackupStore, namespace_uid: str, repository_id: str | None = None) -> RepositoryAccess:
        """Return the repository that a namespace has; raises StoreProblemError, also if it has another id."""
        return required(self._reach(store, namespace_uid, open_repository), repository_id)

    def _reach(self, store: BackupStore, namespace_uid: str, reach: Reach) -> RepositoryAccess:
        if not self.settings.cluster_id or not namespace_uid:
            raise StoreProblemError("ClusterUnknown", "the UID of the namespace kube-system could not be read yet")
        settings = self.settings_of(store)
        key = self.store_key(store)
        path = f"{self.settings.cluster_id}/{namespace_uid}"
        try:
            repository = reach(open_store(settings), path, key)
        except RepositoryError as error:
            raise problem_of(error) from error
        return RepositoryAccess(repository, settings, path, repository.master_key, repository.key_id)

    def settings_of(self, store: BackupStore) -> StoreSettings:
        """Return how to reach the store.

        Raises StoreProblemError: CredentialsNotFound, CredentialsIncomplete, CABundleNotFound, CABundleInvalid,
        InvalidSettings.
        """
        s3 = store.spec.s3
        if loopback_host(_host(s3.endpoint)):
            message = f"spec.s3.endpoint: {s3.endpoint!r} is loopback, the operator's own pod; give the store's address"
            raise StoreProblemError("InvalidSettings", message, retryable=False)
        name = store.spec.credentials_secret_ref.name
        secret = self._read(SECRET, name, "CredentialsNotFound", "spec.credentialsSecretRef.name")
        try:
            return StoreSettings(
                type="s3",
                endpoint=s3.endpoint,
                region=s3.region,
                bucket=s3.bucket,
                prefix=s3.prefix,
                ca_pem=self._ca(store),
                access_key_id=self._credential(secret, name, ACCESS_KEY),
                secret_access_key=self._credential(secret, name, SECRET_KEY),
            )
        except ValidationError as error:
            raise StoreProblemError("InvalidSettings", f"spec.s3: {_first(error)}", retryable=False) from None

    def store_key(self, store: BackupStore) -> bytes:
        """Return the store's key, 32 bytes. Raises StoreProblemError: KeyNotFound, KeyInvalid."""
        ref = store.spec.encryption.key_secret_ref
        field = "spec.encryption.keySecretRef"
        secret = self._read(SECRET, ref.name, "KeyNotFound", f"{field}.name")
        text = _decoded(secret, ref.key)
        if text is None:
            raise StoreProblemError("KeyNotFound", self._lacks(f"{field}.key", ref.name, ref.key, secret))
        try:
            return parse_store_key(text)
        except RepositoryError as error:
            message = f"{field}: key {ref.key!r} of Secret {ref.name!r}: {error}"
            raise StoreProblemError("KeyInvalid", message, retryable=False) from None

    def _credential(self, secret: Object, name: str, key: str) -> str:
        text = (_decoded(secret, key) or "").strip()
        if not text:
            message = self._lacks("spec.credentialsSecretRef", name, key, secret)
            raise StoreProblemError("CredentialsIncomplete", message)
        return text

    def _ca(self, store: BackupStore) -> str:
        ref = store.spec.s3.ca_bundle_ref
        if ref is None:
            return ""
        field = "spec.s3.caBundleRef"
        found = self._read(CONFIG_MAP, ref.name, "CABundleNotFound", f"{field}.name")
        pem = (found.get("data") or {}).get(ref.key)
        if pem is None:
            raise StoreProblemError("CABundleNotFound", self._lacks(f"{field}.key", ref.name, ref.key, found))
        if _PEM not in pem:
            message = (
                f"{field}: key {ref.key!r} of ConfigMap {ref.name!r} holds no certificate; expected PEM ({_PEM} …)"
            )
            raise StoreProblemError("CABundleInvalid", message, retryable=False)
        return str(pem)

    def _read(self, kind: Kind, name: str, reason: str, field: str) -> Object:
        where = f"{kind.name} {name!r} in the operator's namespace {self.settings.namespace!r}"
        try:
            found = self.cluster.get(kind, name, self.settings.namespace)
        except RefusedError as error:
            raise StoreProblemError(reason, f"{field}: the operator may not read {where}: {error}") from error
        if found is None:
            raise StoreProblemError(reason, f"{field}: there is no {where}; create it there or correct the name")
        return found

    def _lacks(self, field: str, name: str, key: str, found: Object) -> str:
        # The names of the keys are no secret, and a misspelt one is the usual cause.
        has = ", ".join(sorted(found.get("data") or {})) or "none"
        return (
            f"{field}: {found['kind']} {name!r} in the operator's namespace {self.settings.namespace!r} has no key"
            f" {key!r}; add it. Its keys: {has}"
        )


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


def _decoded(secret: Object, key: str) -> str | None:
    data = (secret.get("data") or {}).get(key)
    if data is None:
        return None
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _host(endpoint: str) -> str:
    # What is no URL at all is refused with the other settings.
    with contextlib.suppress(ValueError):
        return urlsplit(endpoint).hostname or ""
    return ""


def _first(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
