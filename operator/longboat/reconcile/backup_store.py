"""BackupStore: tried out when it is made or changed, and every few minutes; the result lands in conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from longboat.api import BackupStore
from longboat.api.backup_store import BackupStoreStatus, CredentialsSecretRef
from longboat.api.common import Condition
from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.plan import kstatus
from longboat.plan.conditions import find, with_condition, without_condition
from longboat.plan.generations import FIRST
from longboat.plan.problem import Problem
from longboat.plan.stored_data import NOT_SEEN, not_seen
from longboat.plan.stores import OF_CREDENTIALS, default_stores, several_defaults
from longboat.plan.take_over import CONFLICT, question
from longboat.reconcile.context import Context
from longboat.reconcile.epochs import contested
from longboat.reconcile.objects import load
from longboat.reconcile.outcome import save
from longboat.reconcile.repositories import Purpose, StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.reconcile.store_choice import stores_of
from longboat.reconcile.store_locks import keep_locks
from longboat.repository import Rights, StoreCheck, StoreSettings, check_store

RETRY = timedelta(seconds=30)
"""A store in trouble is tried out this often, so that a repair is seen soon."""
KEY_NOT_TRIED = "KeyNotTried"
"""Condition of a store that works, of which it is not known whether its key is the right one."""

Check = Callable[[StoreSettings, datetime, Rights], StoreCheck]
Locks = Callable[[Context, BackupStore, BackupStoreStatus], BackupStoreStatus]


@dataclass(frozen=True)
class Result:
    """What trying out a store came to: no reason means that it works."""

    message: str
    reason: str | None = None
    retryable: bool = True
    clock_skew: timedelta | None = None
    writable: bool | None = False
    """None: those who write use credentials that were not tried out."""
    untried: str | None = None
    """Why it is not known whether the key is the right one, though the store works."""


def reconcile(
    ctx: Context, namespace: str, name: str, *, check: Check = check_store, locks: Locks = keep_locks
) -> timedelta | None:
    """Bring the conditions of a store up to date; ``namespace`` is empty, as stores lie in none."""
    store = load(ctx.cluster, BACKUP_STORE, BackupStore, namespace, name)
    if store is None or store.metadata.deletion_timestamp:
        return None
    wait = _until_next_check(ctx, store)
    status = locks(ctx, store, store.status if wait else _checked(ctx, store, check))
    conditions = _standing(ctx, store, status.conditions or [])
    saved = save(ctx, store, status.model_copy(update={"conditions": conditions}))
    return wait or _period(ctx, saved)


def _until_next_check(ctx: Context, store: BackupStore) -> timedelta | None:
    """Return how long the last check still holds, None if it is time for one."""
    last = store.status.last_check_time
    if last is None or store.status.observed_generation != store.metadata.generation:
        return None
    wait = last + _period(ctx, store) - ctx.now()
    # A last check in the future is a clock that was put back.
    return wait if timedelta(0) < wait <= ctx.settings.store_check_period else None


def _period(ctx: Context, store: BackupStore) -> timedelta:
    condition = find(store.status.conditions, "Available")
    works = condition is not None and condition.status == "True"
    return ctx.settings.store_check_period if works else min(RETRY, ctx.settings.store_check_period)


def _checked(ctx: Context, store: BackupStore, check: Check) -> BackupStoreStatus:
    result = _of_namespaces(store, _try_out(ctx, store, check))
    skew = None if result.clock_skew is None else int(result.clock_skew.total_seconds())
    return store.status.model_copy(
        update={
            "last_check_time": ctx.now().replace(microsecond=0),
            "available": result.reason or "Yes",
            "writable": result.writable,
            "url": _url(store),
            "clock_skew_seconds": skew,
            "conditions": _conditions(ctx, store, result),
        }
    )


def _url(store: BackupStore) -> str | None:
    spec = store.spec
    if spec.azure is not None:
        parts = ["azure:/", spec.azure.storage_account, spec.azure.container, spec.azure.prefix]
    elif spec.gcs is not None:
        parts = ["gs:/", spec.gcs.bucket, spec.gcs.prefix]
    else:
        parts = ["s3:/", spec.s3.bucket, spec.s3.prefix] if spec.s3 is not None else []
    return "/".join(parts).rstrip("/") or None


def _try_out(ctx: Context, store: BackupStore, check: Check) -> Result:
    access = StoreAccess(ctx.cluster, ctx.settings)
    try:
        # The key is looked at first: a store that can be reached and not be opened is no good.
        access.store_key(store)
        found = _try_credentials(ctx, store, access, check)
        return found if found.reason else _with_key(ctx, store, found)
    except StoreProblemError as problem:
        return _lacking(problem)


def _try_credentials(ctx: Context, store: BackupStore, access: StoreAccess, check: Check) -> Result:
    """Return what came of the exports' credentials, or of the first others that are not well: backups go on then."""
    first = _found(check(access.settings_of(store), ctx.now(), "create"))
    others: dict[Purpose, CredentialsSecretRef | None] = {
        # If namespaces have to have their own, no restore is made with the store's.
        "restore": None if _asks_for_own(store) else store.spec.restore_credentials_secret_ref,
        "maintenance": store.spec.maintenance_credentials_secret_ref,
    }
    for purpose, ref in others.items():
        if ref is not None and not first.reason:
            found = _try_other(ctx, store, access, check, purpose)
            if found.reason:
                return replace(found, clock_skew=first.clock_skew, writable=True)
    return first


def _try_other(ctx: Context, store: BackupStore, access: StoreAccess, check: Check, purpose: Purpose) -> Result:
    """Return what came of the credentials of a purpose; a Secret that is not there is no more than that, too."""
    try:
        found = _found(check(access.settings_of(store, purpose), ctx.now(), _rights(store, purpose)))
    except StoreProblemError as problem:
        found = _lacking(problem)
    field = f"spec.{purpose}CredentialsSecretRef"
    named = found.message.startswith(field)
    return found if named else replace(found, message=f"{field}: {found.message}")


def _of_namespaces(store: BackupStore, result: Result) -> Result:
    """Return what the failure of credentials means that no backup and no restore is made with."""
    if not _asks_for_own(store) or result.reason not in OF_CREDENTIALS or result.writable:
        return result
    message = (
        "backups and restores are made with the credentials of their namespaces, which are not tried out here"
        " (spec.namespaceCredentials is Required). The store's own do not work, so that its backups are neither"
        f" verified nor pruned: {result.message}"
    )
    return replace(result, message=message, writable=None)


def _asks_for_own(store: BackupStore) -> bool:
    return store.spec.namespace_credentials == "Required"


def _found(found: StoreCheck) -> Result:
    reason = None if found.ok else str(found.problem)
    retryable = found.problem in ("Unreachable", "StoreFailure")
    return Result(found.message, reason, retryable, found.clock_skew, writable=found.ok)


def _lacking(problem: StoreProblemError) -> Result:
    return Result(problem.message, problem.reason, problem.retryable)


def _rights(store: BackupStore, purpose: Purpose) -> Rights:
    """Return what to try out: removing leaves its traces in a bucket with versions, so once for each change."""
    before = find(store.status.conditions, "Available")
    known = store.status.observed_generation == store.metadata.generation
    tried = known and before is not None and before.status == "True"
    return "remove" if purpose == "maintenance" and not tried else "read"


def _with_key(ctx: Context, store: BackupStore, found: Result) -> Result:
    """Try out the key; what is wrong with the repository that this is done with alone holds up nobody else."""
    try:
        _try_key(ctx, store)
    except StoreProblemError as problem:
        if problem.reason not in _OF_ONE_REPOSITORY:
            raise
        message = (
            "whether the key is the right one could not be tried out, as the repository of the operator's own namespace"
            f" can't be opened: {problem.reason}: {problem.message}. It holds no backups: remove its folder from the"
            " bucket, and it is made anew"
        )
        return replace(found, untried=message)
    return found


_OF_ONE_REPOSITORY = frozenset({"Damaged", "RepositoryDamaged", "UnsupportedFormat"})


def _try_key(ctx: Context, store: BackupStore) -> None:
    """Open the repository of the operator's own namespace: made with the first key, it refuses any other one."""
    own = ctx.cluster.get(NAMESPACE, ctx.settings.namespace)
    ctx.repositories.open(store, own["metadata"]["uid"] if own else "", generation=FIRST)


def _conditions(ctx: Context, store: BackupStore, result: Result) -> list[Condition]:
    now, generation = ctx.now(), store.metadata.generation
    reason = result.reason or "Available"
    conditions = with_condition(
        store.status.conditions,
        "Available",
        "True" if not result.reason else "Unknown" if result.writable is None else "False",
        reason,
        result.message,
        now=now,
        generation=generation,
    )
    if result.untried is None:
        conditions = without_condition(conditions, KEY_NOT_TRIED)
    else:
        conditions = with_condition(
            conditions, KEY_NOT_TRIED, "True", KEY_NOT_TRIED, result.untried, now=now, generation=generation
        )
    if not result.reason:
        return kstatus.ready(conditions, reason, result.message, now=now, generation=generation)
    if result.retryable:
        return kstatus.under_way(conditions, reason, result.message, now=now, generation=generation)
    return kstatus.stalled(conditions, Problem(reason, result.message), now=now, generation=generation)


def _standing(ctx: Context, store: BackupStore, conditions: Sequence[Condition]) -> list[Condition]:
    """Return the conditions with the warnings that do not need the store itself."""
    warnings = {
        "SameSite": _same_site(ctx, store),
        "NoRecoveryRecipient": _no_recovery(store),
        "SeveralDefaults": _several_defaults(ctx, store),
        CONFLICT: question(contested(ctx, store.name)),
    }
    if (seen := ctx.not_seen.get(store.name)) is not None:
        # Nothing is known before the first look after a start: then what was said still holds.
        warnings[NOT_SEEN] = not_seen({name: why for name, why in seen.items() if why})
    for type_, message in warnings.items():
        if message is None:
            conditions = without_condition(conditions, type_)
        else:
            conditions = with_condition(
                conditions, type_, "True", type_, message, now=ctx.now(), generation=store.metadata.generation
            )
    return list(conditions)


def _same_site(ctx: Context, store: BackupStore) -> str | None:
    if store.spec.location is None or store.spec.location != ctx.settings.location:
        return None
    return (
        f"spec.location: the store is in {store.spec.location!r}, as is this cluster; what destroys one may destroy"
        " both: use a store in another place, or correct the location"
    )


def _no_recovery(store: BackupStore) -> str | None:
    if store.spec.encryption.recovery_recipient is not None:
        return None
    return (
        "spec.encryption.recoveryRecipient: none is set; if the Secret"
        f" {store.spec.encryption.key_secret_ref.name!r} is lost, so are the backups: make a pair with"
        " `longboat key generate --recovery`, set its public half here and keep the secret half offline"
    )


def _several_defaults(ctx: Context, store: BackupStore) -> str | None:
    if not store.spec.default:
        return None
    defaults = default_stores(stores_of(ctx.cluster))
    return several_defaults(defaults) if len(defaults) > 1 else None
