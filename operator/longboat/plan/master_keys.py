"""New master keys after a leak: which namespaces of a store are to have one, and what is said of how far that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from longboat.api import BackupStore
from longboat.api.backup_store import MasterKeysStatus
from longboat.api.common import Condition, format_time
from longboat.plan.conditions import ConditionStatus, with_condition, without_condition
from longboat.plan.generations import FIRST
from longboat.plan.maintenance import RepositoryRecord

RENEWED = "MasterKeysRenewed"
"""The condition of a store that asks for new master keys: True when all are known that are there, and have one."""
NOT_RENEWED = "RenewalFailed"
"""Its reason when a key could not be made: nothing is written for that namespace."""
_CLOCKS = timedelta(seconds=10)
"""How far the two clocks may have been misjudged: the store's is known to the second, as of its last check."""
_NAMED = 5


@dataclass(frozen=True)
class Renewal:
    """How far new master keys are: namespaces with one, and those without, the names of the latter."""

    after: datetime
    renewed: int = 0
    pending: tuple[str, ...] = ()
    problem: str = ""
    """Why one of them has none yet, if that failed."""
    unlisted: str = ""
    """Why it is not known whether these are all."""
    stale: bool = False
    """Whether one of them has other repositories than were listed."""


def asked_after(store: BackupStore, now: datetime) -> datetime | None:
    """Return the moment that each namespace's master key must not be older than; None if that is not asked, or yet.

    It has to be over by both clocks: a key that is made now would else be too old itself, again and again.
    """
    after = store.spec.encryption.new_master_keys_after
    skew = timedelta(seconds=store.status.clock_skew_seconds or 0)
    return after if after is not None and after + _CLOCKS <= min(now, now + skew) else None


def made_at(record: RepositoryRecord | None, repository_id: str, stamp: datetime) -> datetime:
    """Return when a repository was made, given its header's time stamp and what is noted of it, None if nothing is.

    A header may be written again, by somebody who wants a leaked key to look new, or one who repairs it: the stamp is
    not believed where the repository was seen before. What is noted of another repository says nothing.
    """
    if record is None or record.repository_id not in (None, repository_id):
        return stamp
    return min(stamp, record.seen, record.made or stamp)


def with_made(record: RepositoryRecord, bucket: str, repository_id: str, stamp: datetime) -> RepositoryRecord:
    """Return the record of a repository with when it was made, see made_at(), and in which bucket, see bucket_of()."""
    known = of_bucket(record, bucket)
    return known.model_copy(update={"made": made_at(known, repository_id, stamp), "made_in": bucket})


def of_bucket(record: RepositoryRecord, bucket: str) -> RepositoryRecord:
    """Return the record as it is where the store leads now: when another one there was made says nothing."""
    return record if record.made_in == bucket else record.model_copy(update={"made": None})


def with_replacement(record: RepositoryRecord, after: datetime) -> RepositoryRecord:
    """Return the record with the moment for which the repository after it is made.

    It is noted when that moment is over and there is none after it yet: what is found there later is new enough,
    whatever the store's clock says, and is not replaced again for the same moment.
    """
    return record if is_replaced_for(record, after) else record.model_copy(update={"replaced_for": after})


def is_replaced_for(record: RepositoryRecord | None, after: datetime) -> bool:
    """Tell whether the repository after it was made, or is to be, for this moment or a later one."""
    return record is not None and record.replaced_for is not None and after <= record.replaced_for


def newest_of(records: Iterable[RepositoryRecord], names: Mapping[str, str]) -> list[RepositoryRecord]:
    """Return the newest repository of each namespace that is there, given their names by UID."""
    found: dict[str, RepositoryRecord] = {}
    for each in records:
        before = found.get(each.namespace_uid)
        if each.namespace_uid in names and (before is None or _number(before) < _number(each)):
            found[each.namespace_uid] = each
    return [found[uid] for uid in sorted(found)]


def _number(record: RepositoryRecord) -> int:
    return record.generation or FIRST


def status_of(store: BackupStore, renewal: Renewal | None) -> MasterKeysStatus | None:
    """Return the figures of a store's status; None if nothing is asked for."""
    after = store.spec.encryption.new_master_keys_after
    if after is None:
        return None
    if renewal is None or renewal.after != after:
        return MasterKeysStatus(after=after)
    return MasterKeysStatus(after=after, renewed=renewal.renewed, pending=len(renewal.pending))


def with_renewal(
    conditions: Sequence[Condition] | None, store: BackupStore, renewal: Renewal | None, now: datetime
) -> list[Condition]:
    """Return a store's conditions with what is to be said of new master keys."""
    if store.spec.encryption.new_master_keys_after is None:
        return without_condition(conditions, RENEWED)
    status, reason, message = _said(store.spec.encryption.new_master_keys_after, renewal)
    now, generation = now.replace(microsecond=0), store.metadata.generation
    return with_condition(conditions, RENEWED, status, reason, message, now=now, generation=generation)


def _said(after: datetime, renewal: Renewal | None) -> tuple[ConditionStatus, str, str]:
    moment = format_time(after)
    if renewal is None or renewal.after != after:
        return "False", "NotYet", f"master keys older than {moment} are replaced when that moment is over"
    if not renewal.pending and renewal.unlisted:
        message = (
            f"{renewal.renewed} namespaces are known to have master keys made after {moment}, of others is not known"
        )
        return "Unknown", "NotListed", f"{message}: {renewal.unlisted}"
    if not renewal.pending:
        return "True", RENEWED, f"all {renewal.renewed} namespaces have master keys made after {moment}"
    names = ", ".join(renewal.pending[:_NAMED])
    more = f" and {len(renewal.pending) - _NAMED} more" if len(renewal.pending) > _NAMED else ""
    count = f"{len(renewal.pending)} of {renewal.renewed + len(renewal.pending)}"
    message = f"{count} namespaces have no master key made after {moment} yet: {names}{more}"
    if renewal.problem:
        return "False", NOT_RENEWED, f"{message}; nothing is written for them: {renewal.problem}"
    return "False", "Renewing", message
