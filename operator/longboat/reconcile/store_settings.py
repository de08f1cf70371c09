"""From a BackupStore and the Secrets of the operator's namespace to the settings with which a store is reached."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from longboat.api import BackupStore
from longboat.api.backup_store import CABundleRef
from longboat.kube.kinds import CONFIG_MAP, SECRET, Kind
from longboat.kube.port import Cluster, Object, RefusedError
from longboat.reconcile.repositories import Purpose, StoreProblemError
from longboat.repository import StoreSettings, loopback_host

_S3_KEYS = {"accessKeyID": "access_key_id", "secretAccessKey": "secret_access_key"}
_GCS_KEYS = {"serviceAccountKey": "service_account_key"}
_PRINCIPAL_KEYS = {"tenantID": "tenant_id", "clientID": "client_id", "clientSecret": "client_secret"}
_AZURE_KEYS = {"accountKey": "account_key", "sasToken": "sas_token", **_PRINCIPAL_KEYS}
_PEM = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class SettingsReader:
    """Reads Secrets and ConfigMaps anew each time: what is rotated works at once. Nothing of them is kept."""

    cluster: Cluster
    system: str
    """The operator's namespace."""

    def settings_of(self, store: BackupStore, purpose: Purpose = "export", namespace: str = "") -> StoreSettings:
        """Return how to reach the store for a purpose, with the credentials of a namespace if it has some of its own.

        Raises StoreProblemError: CredentialsNotFound, CredentialsIncomplete, CABundleNotFound, CABundleInvalid,
        InvalidSettings.
        """
        field = store.bucket_field
        place = _place(store) | _versions(store, purpose)
        if loopback_host(_host(place["endpoint"])):
            shown = f"{field}.endpoint: {place['endpoint']!r}"
            message = f"{shown} is loopback, the operator's own pod; give the store's address"
            raise StoreProblemError("InvalidSettings", message, retryable=False)
        credentials = self._credentials(store, purpose, namespace)
        try:
            return StoreSettings.model_validate(place | {"ca_pem": self._ca(store)} | credentials)
        except ValidationError as error:
            raise StoreProblemError("InvalidSettings", f"{field}: {_first(error)}", retryable=False) from None

    def has_own(self, store: BackupStore, namespace: str) -> bool:
        """Return whether exports of a namespace use other credentials than the store's, or are refused.

        Raises StoreProblemError: CredentialsNotFound, if that can't be told.
        """
        if store.spec.namespace_credentials != "Optional":
            return store.spec.namespace_credentials == "Required"
        return self._own(_own_name(_secret_for(store, "export")[1], namespace)) is not None

    def read(self, kind: Kind, name: str, reason: str, field: str) -> Object:
        """Return an object of the operator's namespace; StoreProblemError of that reason if it can't be had."""
        found = self._find(kind, name, reason, field)
        if found is None:
            where = self._where(kind, name)
            raise StoreProblemError(reason, f"{field}: there is no {where}; create it there or correct the name")
        return found

    def lacks(self, field: str, name: str, key: str, found: Object) -> str:
        """Return in words that an object has no such key."""
        # The names of the keys are no secret, and a misspelt one is the usual cause.
        has = ", ".join(sorted(found.get("data") or {})) or "none"
        return (
            f"{field}: {found['kind']} {name!r} in the operator's namespace {self.system!r} has no key"
            f" {key!r}; add it. Its keys: {has}"
        )

    def _credentials(self, store: BackupStore, purpose: Purpose, namespace: str) -> dict[str, str]:
        field, name = _secret_for(store, purpose)
        secret, name = self._secret(store, purpose, namespace, field, name)
        if store.spec.azure is not None:
            return self._azure_credentials(field, name, secret)
        keys = _S3_KEYS if store.spec.s3 is not None else _GCS_KEYS
        return {setting: self._credential(field, name, secret, key) for key, setting in keys.items()}

    def _secret(
        self, store: BackupStore, purpose: Purpose, namespace: str, field: str, name: str
    ) -> tuple[Object, str]:
        """Return the Secret and its name: the namespace's own if it is wanted, and there or required."""
        wanted = store.spec.namespace_credentials
        if wanted != "Ignored" and namespace and purpose != "maintenance":
            own = _own_name(name, namespace)
            found = self._own(own)
            if found is not None:
                return found, own
            if wanted == "Required":
                where = f"spec.namespaceCredentials is Required, but there is no {self._where(SECRET, own)}"
                raise StoreProblemError("CredentialsNotFound", f"{where}; make it for namespace {namespace!r}")
        return self.read(SECRET, name, "CredentialsNotFound", f"{field}.name"), name

    def _own(self, name: str) -> Object | None:
        return self._find(SECRET, name, "CredentialsNotFound", "spec.namespaceCredentials")

    def _azure_credentials(self, field: str, name: str, secret: Object) -> dict[str, str]:
        given = {setting: _text(secret, key) for key, setting in _AZURE_KEYS.items()}
        principal = any(given[setting] for setting in _PRINCIPAL_KEYS.values())
        if not principal and not given["account_key"] and not given["sas_token"]:
            raise StoreProblemError("CredentialsIncomplete", self.lacks(field, name, "sasToken", secret))
        if principal:
            given |= {setting: self._credential(field, name, secret, key) for key, setting in _PRINCIPAL_KEYS.items()}
        return given

    def _credential(self, field: str, name: str, secret: Object, key: str) -> str:
        text = _text(secret, key)
        if not text:
            raise StoreProblemError("CredentialsIncomplete", self.lacks(field, name, key, secret))
        return text

    def _ca(self, store: BackupStore) -> str:
        spec = store.spec
        bucket = spec.s3 or spec.gcs or spec.azure
        ref: CABundleRef | None = bucket.ca_bundle_ref if bucket else None
        if ref is None:
            return ""
        field = f"{store.bucket_field}.caBundleRef"
        found = self.read(CONFIG_MAP, ref.name, "CABundleNotFound", f"{field}.name")
        pem = (found.get("data") or {}).get(ref.key)
        if pem is None:
            raise StoreProblemError("CABundleNotFound", self.lacks(f"{field}.key", ref.name, ref.key, found))
        if _PEM not in pem:
            message = (
                f"{field}: key {ref.key!r} of ConfigMap {ref.name!r} holds no certificate; expected PEM ({_PEM} …)"
            )
            raise StoreProblemError("CABundleInvalid", message, retryable=False)
        return str(pem)

    def _find(self, kind: Kind, name: str, reason: str, field: str) -> Object | None:
        try:
            return self.cluster.get(kind, name, self.system)
        except RefusedError as error:
            where = self._where(kind, name)
            raise StoreProblemError(reason, f"{field}: the operator may not read {where}: {error}") from error

    def _where(self, kind: Kind, name: str) -> str:
        return f"{kind.name} {name!r} in the operator's namespace {self.system!r}"


def decoded(secret: Object, key: str) -> str | None:
    """Return the text under a key of a Secret, None if there is no such key; what is no text is empty."""
    data = (secret.get("data") or {}).get(key)
    if data is None:
        return None
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _text(secret: Object, key: str) -> str:
    return (decoded(secret, key) or "").strip()


def _place(store: BackupStore) -> dict[str, Any]:
    """Return where the store is, as fields of StoreSettings."""
    spec = store.spec
    if spec.s3 is not None:
        return {"type": "s3", **spec.s3.model_dump(include={"endpoint", "region", "bucket", "prefix"})}
    if spec.gcs is not None:
        gcs = spec.gcs.model_dump(include={"bucket", "prefix"})
        return {"type": "gcs", "endpoint": spec.gcs.endpoint or "", **gcs}
    if spec.azure is None:
        raise StoreProblemError("InvalidSettings", "spec: exactly one of s3, gcs and azure is needed", retryable=False)
    names: Mapping[str, str] = {"account": spec.azure.storage_account, "bucket": spec.azure.container}
    return {"type": "azure", "endpoint": spec.azure.endpoint or "", "prefix": spec.azure.prefix, **names}


def _versions(store: BackupStore, purpose: Purpose) -> dict[str, Any]:
    """Return what a purpose has to do with versions: exports nothing, so that nobody can make them remove any."""
    s3 = store.spec.s3
    if s3 is None or purpose == "export":
        return {}
    if purpose == "restore":
        return {"read_versions": s3.read_versions}
    lock = {"lock_mode": s3.object_lock.mode, "lock_days": s3.object_lock.days} if s3.object_lock else {}
    return {"delete_versions": s3.delete_versions, **lock}


def _secret_for(store: BackupStore, purpose: Purpose) -> tuple[str, str]:
    """Return the field that names the Secret of a purpose, and the name."""
    spec = store.spec
    own = {
        "restore": ("spec.restoreCredentialsSecretRef", spec.restore_credentials_secret_ref),
        "maintenance": ("spec.maintenanceCredentialsSecretRef", spec.maintenance_credentials_secret_ref),
    }
    field, ref = own.get(purpose, ("", None))
    return (field, ref.name) if ref else ("spec.credentialsSecretRef", spec.credentials_secret_ref.name)


def _own_name(name: str, namespace: str) -> str:
    # Names of namespaces have no dots, so that this one can't be another namespace's.
    return f"{name}.{namespace}"


def _host(endpoint: str) -> str:
    # What is no URL at all is refused with the other settings.
    with contextlib.suppress(ValueError):
        return urlsplit(endpoint).hostname or ""
    return ""


def _first(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
