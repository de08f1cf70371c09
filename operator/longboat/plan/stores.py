"""Which BackupStore a policy's backups go into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from longboat.api import BackupStore
from longboat.plan.problem import Problem

FIELD = "spec.storeRef.name"
OF_CREDENTIALS = frozenset({"CredentialsNotFound", "CredentialsIncomplete", "WrongCredentials", "AccessDenied"})
"""What may be wrong with some credentials of a store while others of it work."""


def choose_store(stores: Iterable[BackupStore], name: str | None, labels: Mapping[str, str]) -> BackupStore | Problem:
    """Return the store of this name, or the default one; or StoreNotFound, NoDefaultStore or SeveralDefaultStores.

    What is told names only the stores that a namespace with these labels may use.
    """
    known = sorted((store for store in stores if not store.metadata.deletion_timestamp), key=lambda store: store.name)
    open_to = [store for store in known if admits(store, labels)]
    if name is not None:
        # One that is closed to a namespace is to it as one that does not exist.
        found = next((store for store in open_to if store.name == name), None)
        return found or Problem("StoreNotFound", _not_found(name, open_to))
    defaults = default_stores(known)
    if len(defaults) == 1 and defaults[0] in open_to:
        return defaults[0]
    if len(default_stores(open_to)) < 2:
        return Problem(
            "NoDefaultStore",
            "spec.storeRef: none is named and no BackupStore is the default of this namespace; name one, or have an"
            f" administrator make one the default, and open it to this namespace. Known stores: {_names(open_to)}",
        )
    return Problem(
        "SeveralDefaultStores",
        "spec.storeRef: none is named and more than one BackupStore has spec.default: true; name one, or have an"
        f" administrator leave it on one of them. Known stores: {_names(open_to)}",
    )


def default_stores(stores: Iterable[BackupStore]) -> list[BackupStore]:
    """Return the stores that are marked as the default."""
    return [store for store in stores if store.spec.default and not store.metadata.deletion_timestamp]


def several_defaults(defaults: Sequence[BackupStore]) -> str:
    """Return what to do about more than one default store."""
    return (
        f"BackupStores {_names(defaults)} all have spec.default: true, so that none is the default; have an"
        " administrator leave it on one of them, or name a store in spec.storeRef"
    )


def admits(store: BackupStore, labels: Mapping[str, str]) -> bool:
    """Return whether a namespace with these labels may use the store."""
    allowed = store.spec.allowed_namespaces
    return allowed is None or all(labels.get(key) == value for key, value in allowed.match_labels.items())


def _not_found(name: str, known: Sequence[BackupStore]) -> str:
    return (
        f"{FIELD}: there is no BackupStore {name!r} that is open to this namespace; correct the name, or have an"
        f" administrator create it, or open it (spec.allowedNamespaces). Known: {_names(known)}"
    )


def _names(stores: Sequence[BackupStore]) -> str:
    return ", ".join(store.name for store in stores) or "none"
