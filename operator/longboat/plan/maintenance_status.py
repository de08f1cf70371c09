"""What the upkeep of all repositories of a store comes to, in its status and its conditions Pruned and Verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from longboat.api import BackupStore
from longboat.api.common import Condition, Time, format_time, parse_duration
from longboat.api.maintenance import MaintenanceStatus, PruneStatus, VerifyStatus
from longboat.mover import VerifyResult
from longboat.plan.conditions import ConditionStatus, with_condition, without_condition
from longboat.plan.maintenance import (
    CONFIRM_PRUNE,
    RepositoryRecord,
    Work,
    misread,
    next_run,
    removals_held,
    rules_of,
)
from longboat.plan.quantities import size_text

PRUNED, VERIFIED = "Pruned", "Verified"
_NAMED = 5
"""Namespaces that a message names; the status counts them all."""
_LATE = 3
"""A repository is late if this many periods have passed since it was verified."""

Records = Sequence[RepositoryRecord]


class _Finding(NamedTuple):
    status: ConditionStatus
    reason: str
    message: str


def maintenance_status(store: BackupStore, records: Records, now: datetime, problem: str = "") -> MaintenanceStatus:
    """Return the sums over all repositories; ``problem`` says why it is not known which there are, if so."""
    prune, verify = _prune_status(store, records, now), _verify_status(store, records, now)
    finding = _beside(_verified(store, records, now), problem) if records else _unknown(problem)
    return MaintenanceStatus(
        repositories=len(records),
        freed=size_text(prune.freed_bytes),
        verified=None if finding is None else "Yes" if finding.reason == VERIFIED else finding.reason,
        prune=prune,
        verify=verify,
    )


def with_maintenance(
    conditions: Sequence[Condition] | None, store: BackupStore, records: Records, now: datetime, problem: str = ""
) -> list[Condition]:
    """Return the conditions of a store with what is to be said of its upkeep; ``problem`` as above."""
    found = dict.fromkeys((PRUNED, VERIFIED), _unknown(problem))
    if records:
        known = {PRUNED: _pruned(store, records), VERIFIED: _verified(store, records, now)}
        found = {type_: _beside(finding, problem) for type_, finding in known.items()}
    for type_, finding in found.items():
        if finding is None:
            conditions = without_condition(conditions, type_)
            continue
        message = "; ".join(filter(None, (finding.message, misread(store))))
        conditions = with_condition(
            conditions,
            type_,
            finding.status,
            finding.reason,
            message,
            now=now.replace(microsecond=0),
            generation=store.metadata.generation,
        )
    return list(conditions or ())


def _prune_status(store: BackupStore, records: Records, now: datetime) -> PruneStatus:
    results = [each.prune.result for each in records if each.prune.result is not None]
    return PruneStatus(
        last_run_time=_last(each.prune.ended for each in records),
        next_run_time=_next(store, records, "prune", now),
        freed_bytes=sum(each.freed.bytes for each in results) if results else None,
        waiting_bytes=sum(each.condemned.bytes + each.waiting.bytes for each in results) if results else None,
        postponed=sum(bool(each.note) for each in results),
        failing=sum(each.prune.failed is not None for each in records),
    )


def _verify_status(store: BackupStore, records: Records, now: datetime) -> VerifyStatus:
    results = [each.verify.result for each in records if each.verify.result is not None]
    return VerifyStatus(
        last_run_time=_last(each.verify.ended for each in records),
        oldest_run_time=min((each.verify.ended or each.seen for each in records), default=None),
        next_run_time=_next(store, records, "verify", now),
        read_bytes=sum(each.read_bytes for each in results) if results else None,
        backups=sum(each.backups for each in results) if results else None,
        damaged=sum(each.damaged for each in results) if results else None,
        lost=sum(each.lost for each in results) if results else None,
        failing=sum(each.verify.failed is not None for each in records),
    )


def _last(moments: Iterable[Time | None]) -> datetime | None:
    return max((each for each in moments if each is not None), default=None)


def _next(store: BackupStore, records: Records, work: Work, now: datetime) -> datetime | None:
    rules = rules_of(store, work)
    moments = (next_run(each, work, rules, now) for each in records)
    return min((each for each in moments if each is not None), default=None)


def _unknown(problem: str) -> _Finding | None:
    return _Finding("Unknown", "NotListed", problem) if problem else None


def _beside(finding: _Finding, problem: str) -> _Finding:
    """Return a finding about the known repositories, of which nobody knows whether they are all that there are."""
    if not problem:
        return finding
    message = f"{finding.message}; {problem}"
    if finding.status == "True":
        return _Finding("Unknown", "NotListed", message)
    return finding._replace(message=message)


def _pruned(store: BackupStore, records: Records) -> _Finding:
    if failing := [each for each in records if each.prune.failed is not None]:
        return _Finding("False", "PruneFailed", _failures("pruned", failing, "prune"))
    if asking := [each for each in records if each.prune.question is not None]:
        return _Finding("False", "PruneHeld", _questions(asking))
    if field := removals_held(store):
        return _Finding("False", "Suspended", f"{field}: what nothing refers to, and the trash, stay in the store")
    if missing := [each for each in records if each.prune.ended is None]:
        return _Finding("Unknown", "NotYet", _missing("pruned", missing, records))
    if store.spec.maintenance.prune.dry_run:
        return _Finding("False", "DryRun", "spec.maintenance.prune.dryRun: runs only say what they would free")
    told = "what no backup refers to is removed when its grace period is over"
    if noted := [each for each in records if each.prune.result is not None and each.prune.result.note]:
        first = noted[0].prune.result
        told += f"; but of {_places(noted)}: {first.note if first else ''}"
    return _Finding("True", PRUNED, told)


def _verified(store: BackupStore, records: Records, now: datetime) -> _Finding:
    damaged = [each for each in records if each.verify.result and each.verify.result.state == "damaged"]
    if lost := [each for each in damaged if each.verify.result and not _is_recoverable(each.verify.result)]:
        return _Finding("False", "Damaged", _damage(lost))
    if failing := [each for each in records if each.verify.failed is not None]:
        return _Finding("Unknown", "VerifyFailed", _failures("verified", failing, "verify"))
    if store.spec.maintenance.verify.suspend:
        return _Finding(
            "Unknown", "Suspended", "spec.maintenance.verify.suspend: nobody looks whether backups are whole"
        )
    if missing := [each for each in records if each.verify.ended is None]:
        return _Finding("Unknown", "NotYet", _missing("verified", missing, records))
    if late := [each for each in records if _is_late(each, store, now)]:
        message = f"{_places(late)} should have been verified some time ago; see the verify Jobs, or raise parallelism"
        return _Finding("Unknown", "Late", message)
    if damaged:
        return _Finding("True", "Recoverable", _recoverable(damaged))
    return _Finding("True", VERIFIED, f"the backups in {_repositories(records)} were whole when last looked at")


def _is_late(record: RepositoryRecord, store: BackupStore, now: datetime) -> bool:
    every = parse_duration(store.spec.maintenance.verify.every)
    return record.verify.ended is not None and now - record.verify.ended > _LATE * every


def _is_recoverable(result: VerifyResult) -> bool:
    # What hurts no backup, such as a copy of the key, is no backup's either.
    return result.damaged > 0 and result.lost == 0


def _recoverable(damaged: Records) -> str:
    message = f"what is damaged, of {_places(damaged)}, is whole in other backups, from which restores take it"
    count = sum(each.verify.result.lost_in_trash for each in damaged if each.verify.result)
    return (
        f"{message}; but for {count} deleted ones, which lack data until they have left the trash" if count else message
    )


def _damage(damaged: Records) -> str:
    count = sum(each.verify.result.lost for each in damaged if each.verify.result)
    backups = f"{count} backups are" if count != 1 else "a backup is"
    return (
        f"{backups} damaged, of {_places(damaged)}: back their disks up now, which stores anew"
        " what is damaged; the condition Verified of each DiskBackup says which disks"
    )


def _failures(done: str, failing: Records, work: Work) -> str:
    first = failing[0].runs(work).failed
    assert first is not None
    count = f", {first.count} times in a row" if first.count > 1 else ""
    return f"{_places(failing)} can not be {done}: {first.reason}{count}, at {format_time(first.at)}: {first.message}"


def _questions(asking: Records) -> str:
    first = asking[0].prune
    codes = ",".join(each.prune.question or "" for each in asking[:_NAMED])
    note = first.result.note if first.result else ""
    return (
        f"{_places(asking)}: {note.partition(', then allow')[0]}; if all is as it should be, have the rest removed by"
        f' the annotation {CONFIRM_PRUNE}: "{codes}"'
    )


def _missing(done: str, missing: Records, records: Records) -> str:
    return f"still to be {done}, each in its turn: {_places(missing)} (of {_repositories(records)})"


def _repositories(records: Records) -> str:
    return "1 repository" if len(records) == 1 else f"{len(records)} repositories"


def _places(records: Records) -> str:
    names = [_place(each) for each in records[:_NAMED]]
    more = f" and {len(records) - _NAMED} more" if len(records) > _NAMED else ""
    return ", ".join(names) + more


def _place(record: RepositoryRecord) -> str:
    name = record.namespace or f"a namespace that is gone ({record.namespace_uid})"
    return f"{name} (master key {record.generation})" if record.generation else name
