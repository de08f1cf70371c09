"""Upkeep of repositories: which run is due where, how it is noted down, and what its end means for the next one.

A repository is one namespace's in one BackupStore, of which there is another one for each new master key. Runs are
spread over their period by the repository's own offset, so that a thousand namespaces don't begin at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from longboat.api import BackupStore
from longboat.api.common import Model, Time, parse_duration
from longboat.mover import Failure, PruneQuestion, PruneResult, VerifyResult
from longboat.plan import maintenance_suspects as suspicion
from longboat.plan.generations import FIRST, folder_of, repository_in
from longboat.plan.maintenance_slots import retry_delay, slot_after
from longboat.plan.names import digest
from longboat.plan.store_locks import locks_of

Work = Literal["prune", "verify"]
WORKS: tuple[Work, ...] = ("prune", "verify")

REQUESTED: Mapping[Work, str] = {
    "prune": "longboat.dev/prune-requested-at",
    "verify": "longboat.dev/verify-requested-at",
}
"""Annotations of a BackupStore: a moment; every repository whose last run began before it has another one."""
CONFIRM_PRUNE = "longboat.dev/confirm-prune"
"""Annotation of a BackupStore: the codes, separated by commas, of what prunes asked about."""
ALL = 100
"""Percent of the data that a requested verification reads."""


class Attempt(Model):
    """A run, noted down before its Job is made, so that whoever goes on makes the same Job."""

    number: int
    started: Time
    bucket: str = ""
    """Where the store led when the run was noted down: see bucket_of."""
    locks: str = ""
    """What it asked for of locks then: see store_locks."""
    job: str | None = None
    """UID of the Job, once it was made."""
    token: str = ""
    """Of a prune: what it writes into the repository's epoch; noted here before anybody can find it there."""
    known_tokens: list[str] = Field(default_factory=list)
    dry_run: bool = False
    allowed: PruneQuestion | None = None
    """Of a prune: what the one before asked about, if somebody has given leave for it."""
    share: int = 0
    phase: int | None = None
    suspects: list[str] = Field(default_factory=list)
    """Of a verification: backups of which it reads all data."""
    read: list[str] = Field(default_factory=list)
    named: dict[str, int] = Field(default_factory=dict)
    """Of their disks those that were read before; and where restores have met damage, which is read first."""


class Failed(Model):
    """The last run failed, as have ``count`` in a row."""

    reason: str
    message: str
    at: Time
    count: int = 1


class Runs(Model):
    """What is known of the runs of a kind: the one under way, the last that ended well, failures since."""

    number: int = 0
    attempt: Attempt | None = None
    begun: Time | None = None
    """When the last run that ended well began."""
    ended: Time | None = None
    failed: Failed | None = None


class PruneRuns(Runs):
    """``question`` is the code of what the last run asked about, if it did."""

    result: PruneResult | None = None
    bucket: str = ""
    """Where the result was found: see bucket_of. Empty: that was not noted yet."""
    locks: str = ""
    question: str | None = None


class VerifyRuns(Runs):
    """``whole`` is when a run that read everything ended, ``suspects`` make the next one due."""

    result: VerifyResult | None = None
    whole: Time | None = None
    suspects: list[suspicion.Suspect] = Field(default_factory=list)
    looks: list[suspicion.Look] = Field(default_factory=list)


class RepositoryRecord(Model):
    """The upkeep of one repository.

    ``namespace`` is the name that the namespace had when the repository was first seen, empty if it was gone by then:
    Jobs are named by it. Another one may have that name by now: see known_by.
    """

    store: str
    namespace: str
    namespace_uid: str
    generation: int | None = None
    """Which of the namespace's repositories it is; None is the first one, of which older versions know, too."""
    repository_id: str | None = None
    """Which repository the runs were of, None if that was not noted yet: the store may lead elsewhere by now."""
    seen: Time
    """When the repository was first seen."""
    made: Time | None = None
    """When it was made, by the store's clock, or first seen, if that was before; noted where new keys are asked for."""
    made_in: str = ""
    """Where the store led when that was noted: see bucket_of."""
    replaced_for: Time | None = None
    """The moment for which the one after it is made: noted while that is not there. See plan.master_keys."""
    missing: Time | None = None
    """Since when the bucket does not list it any more."""
    tokens: list[str] = Field(default_factory=list)
    """Tokens that prunes were given for the epoch: each of them may be the current one."""
    prune: PruneRuns = Field(default_factory=PruneRuns)
    verify: VerifyRuns = Field(default_factory=VerifyRuns)

    @property
    def folder(self) -> str:
        """The repository's folder in that of the cluster: see plan.generations."""
        return folder_of(self.namespace_uid, self.generation or FIRST)

    def runs(self, work: Work) -> PruneRuns | VerifyRuns:
        """Return what is known of the runs of a kind."""
        return self.prune if work == "prune" else self.verify


@dataclass(frozen=True)
class Rules:
    """What a store asks for a kind of work: None is never, but for requests."""

    every: timedelta | None
    requested: datetime | None = None
    confirmed: frozenset[str] = frozenset()


@dataclass(frozen=True, order=True)
class Due:
    """A run that is due since a moment."""

    since: datetime
    folder: str
    work: Work


def rules_of(store: BackupStore, work: Work) -> Rules:
    """Return what a store asks for a kind of work; an annotation that is no moment counts as none."""
    asked = store.spec.maintenance.prune if work == "prune" else store.spec.maintenance.verify
    if work == "prune" and removals_held(store):
        # A request or a leave from before must not end what somebody needs the time for.
        return Rules(None)
    every = None if asked.suspend else parse_duration(asked.every)
    codes = store.metadata.annotations.get(CONFIRM_PRUNE, "")
    confirmed = frozenset(filter(None, (code.strip() for code in codes.split(","))))
    return Rules(every, requested_at(store, work), confirmed)


def removals_held(store: BackupStore) -> str:
    """Return the field by which a store asks that nothing be removed from it for good, an empty text if none does.

    Who reads the oldest versions of objects is about to repair what somebody has done to the bucket.
    """
    if store.spec.maintenance.prune.suspend:
        return "spec.maintenance.prune.suspend"
    s3 = store.spec.s3
    return "spec.s3.readVersions: Oldest" if s3 is not None and s3.read_versions == "Oldest" else ""


def bucket_of(store: BackupStore) -> str:
    """Return where a store leads by its spec: what was found elsewhere says nothing of what is there."""
    bucket = store.spec.s3 or store.spec.gcs or store.spec.azure
    fields = ("endpoint", "storage_account", "bucket", "container", "prefix")
    return " ".join([store.bucket_field, *(str(getattr(bucket, each, None) or "") for each in fields)])


def known_by(record: RepositoryRecord, names: Mapping[str, str]) -> RepositoryRecord:
    """Return the record as it is told of, given the living namespaces' names by UID: one that is gone has none."""
    return record.model_copy(update={"namespace": names.get(record.namespace_uid, "")})


def repositories_in(folders: Iterable[str]) -> frozenset[str]:
    """Return those of a cluster's folders that may be repositories: they bear the UID of a namespace, and a number."""
    return frozenset(name for name in folders if repository_in(name) is not None)


def record_of(folder: str, store: str, names: Mapping[str, str], seen: datetime) -> RepositoryRecord:
    """Return the record of a repository that was not seen before, given the living namespaces' names by UID."""
    found = repository_in(folder)
    assert found is not None
    uid, generation = found
    number = None if generation == FIRST else generation
    name = names.get(uid, "")
    return RepositoryRecord(store=store, namespace=name, namespace_uid=uid, generation=number, seen=seen)


def requested_at(store: BackupStore, work: Work) -> datetime | None:
    """Return the moment that the store's annotation asks for, None if there is none or it can't be read."""
    try:
        found = datetime.fromisoformat(store.metadata.annotations.get(REQUESTED[work], ""))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def misread(store: BackupStore) -> str:
    """Return what is wrong with the annotations that ask for runs, nothing if all is well."""
    for work, name in REQUESTED.items():
        if name in store.metadata.annotations and requested_at(store, work) is None:
            text = store.metadata.annotations[name][:40]
            return f"annotation {name}: {text!r} is no moment; write one such as 2026-11-23T20:00:00Z"
    return ""


def next_run(record: RepositoryRecord, work: Work, rules: Rules, now: datetime) -> datetime | None:
    """Return when the next run is, or was, due; None if it never is. A run under way is no concern of this."""
    runs = record.runs(work)
    moments = [*_scheduled(record, work, rules.every, now), *_asked(runs, rules)]
    if not moments:
        return None
    due = min(moments)
    if runs.failed is None or _renewed(runs.failed, rules):
        return due
    return max(due, runs.failed.at + retry_delay(runs.failed.count))


def _scheduled(record: RepositoryRecord, work: Work, every: timedelta | None, now: datetime) -> Iterable[datetime]:
    if every is not None:
        # A run in the future is a clock that was put back.
        yield slot_after(min(record.runs(work).begun or record.seen, now), every, work, record.folder)


def _asked(runs: PruneRuns | VerifyRuns, rules: Rules) -> Iterable[datetime]:
    if rules.requested is not None and (runs.begun is None or runs.begun < rules.requested):
        yield rules.requested
    if isinstance(runs, VerifyRuns):
        yield from (each.due or each.since for each in runs.suspects)
    if isinstance(runs, PruneRuns) and runs.question in rules.confirmed and runs.ended is not None:
        yield runs.ended


def _renewed(failed: Failed, rules: Rules) -> bool:
    return rules.requested is not None and failed.at < rules.requested


def due_runs(records: Iterable[RepositoryRecord], store: BackupStore, now: datetime) -> list[Due]:
    """Return the runs that are under way or due, the oldest first."""
    found = [
        Due(since, record.folder, work)
        for work in WORKS
        for rules in [rules_of(store, work)]
        for record in records
        if (since := _since(record, work, rules, now)) is not None and since <= now
    ]
    return sorted(found)


def _since(record: RepositoryRecord, work: Work, rules: Rules, now: datetime) -> datetime | None:
    attempt = record.runs(work).attempt
    return attempt.started if attempt is not None else next_run(record, work, rules, now)


def begin(
    record: RepositoryRecord, work: Work, store: BackupStore, now: datetime, token: str, others: Sequence[str] = ()
) -> RepositoryRecord:
    """Return the record with the next run noted down; ``others`` are tokens of this operator that others have noted."""
    runs = record.runs(work)
    attempt = Attempt(number=runs.number + 1, started=now, bucket=bucket_of(store), locks=locks_of(store))
    if work == "prune":
        attempt, record = _prune_attempt(attempt, record, store, token, others)
    else:
        attempt = _verify_attempt(attempt, record.verify, store)
    return _with(record, work, number=attempt.number, attempt=attempt)


def of_repository(record: RepositoryRecord, repository_id: str, now: datetime) -> RepositoryRecord:
    """Return the record as it is of a repository: what was found in another one says nothing of it.

    The numbers of runs go on, as Jobs are named by them, and tokens stay: the store may be led back.
    """
    if record.repository_id not in (None, repository_id):
        prune = PruneRuns(number=record.prune.number, attempt=record.prune.attempt)
        verify = VerifyRuns(number=record.verify.number, attempt=record.verify.attempt)
        seen = {"seen": now.replace(microsecond=0), "made": None, "replaced_for": None}
        record = record.model_copy(update={"prune": prune, "verify": verify, **seen})
    return record.model_copy(update={"repository_id": repository_id})


def _prune_attempt(
    attempt: Attempt, record: RepositoryRecord, store: BackupStore, token: str, others: Sequence[str]
) -> tuple[Attempt, RepositoryRecord]:
    confirmed = rules_of(store, "prune").confirmed
    before = record.prune.result
    told: dict[str, object] = {"allowed": before.asked if before and record.prune.question in confirmed else None}
    if store.spec.maintenance.prune.dry_run:
        return attempt.model_copy(update=told | {"dry_run": True}), record
    told |= {"token": token, "known_tokens": sorted({*record.tokens, *others})}
    return attempt.model_copy(update=told), record.model_copy(update={"tokens": [*record.tokens, token]})


def _verify_attempt(attempt: Attempt, runs: VerifyRuns, store: BackupStore) -> Attempt:
    requested = requested_at(store, "verify")
    asked = requested is not None and requested <= attempt.started and (runs.begun is None or runs.begun < requested)
    share = ALL if asked else store.spec.maintenance.verify.share
    phase = runs.result.next_phase if runs.result else None
    told = suspicion.told_of(runs.suspects if share >= ALL else suspicion.due_at(runs.suspects, attempt.started))
    return attempt.model_copy(update={"share": share, "phase": phase} | told)


def suspected(record: RepositoryRecord, backup: str, now: datetime, disk: str = "", at: int = 0) -> RepositoryRecord:
    """Return the record with a backup of which a verification, due at once as a rule, reads all data: see Suspect."""
    met = suspicion.Suspect(backup=backup, since=now.replace(microsecond=0), disk=disk, at=at)
    return _with(record, "verify", suspects=suspicion.with_suspect(record.verify.suspects, record.verify.looks, met))


def having_read(record: RepositoryRecord, disks: Iterable[tuple[str, str]]) -> RepositoryRecord:
    """Return the record with what the verification under way has read of its suspects: see with_read."""
    if (attempt := record.verify.attempt) is None:
        return record
    return _with(record, "verify", suspects=suspicion.with_read(record.verify.suspects, attempt.started, disks))


def is_forbidden(record: RepositoryRecord, work: Work, store: BackupStore) -> bool:
    """Tell whether the store, by what it says now, would not have the run that is noted down: not at all, or dry."""
    attempt = record.runs(work).attempt
    if attempt is None:
        return False
    to_be_dry = work == "prune" and store.spec.maintenance.prune.dry_run and not attempt.dry_run
    return to_be_dry or next_run(record, work, rules_of(store, work), attempt.started) is None


def dropped(record: RepositoryRecord, work: Work) -> RepositoryRecord:
    """Return the record without the run under way; the token that a prune was given stays noted down."""
    return _with(record, work, attempt=None)


def with_job(record: RepositoryRecord, work: Work, uid: str) -> RepositoryRecord:
    """Return the record with the Job of the run under way."""
    attempt = record.runs(work).attempt
    return record if attempt is None else _with(record, work, attempt=attempt.model_copy(update={"job": uid}))


def with_missing(record: RepositoryRecord, since: datetime | None) -> RepositoryRecord:
    """Return the record of a repository that the bucket does not list any more since a moment; None: it does."""
    return record.model_copy(update={"missing": since})


def pruned(record: RepositoryRecord, result: PruneResult, now: datetime) -> RepositoryRecord:
    """Return the record after a prune that ended well."""
    attempt = record.prune.attempt
    assert attempt is not None
    asks = digest(record.folder, str(attempt.number), length=6) if result.asked else None
    question = f"{record.namespace}-{asks}".lstrip("-") if asks else None
    # It is the current one now, or one that was noted down after it is.
    past = set() if attempt.dry_run else set(attempt.known_tokens)
    tokens = [token for token in record.tokens if token not in past]
    record = record.model_copy(update={"tokens": tokens})
    where = {"bucket": attempt.bucket, "locks": attempt.locks}
    return _ended(record, "prune", attempt, now, result=result, question=question, **where)


def verified(record: RepositoryRecord, result: VerifyResult, now: datetime) -> RepositoryRecord:
    """Return the record after a verification that came to its end, whatever it found."""
    attempt = record.verify.attempt
    assert attempt is not None
    whole = now.replace(microsecond=0) if result.share >= ALL else record.verify.whole
    suspects = suspicion.still_suspected(record.verify.suspects, attempt.suspects, attempt.started)
    looks = suspicion.looks_after(record.verify.looks, () if result.recorded else attempt.suspects, now)
    return _ended(record, "verify", attempt, now, result=result, whole=whole, suspects=suspects, looks=looks)


def failed(record: RepositoryRecord, work: Work, failure: Failure, now: datetime) -> RepositoryRecord:
    """Return the record after a run that failed, or could not begin."""
    before = record.runs(work).failed
    count = before.count + 1 if before else 1
    found = Failed(reason=failure.reason, message=failure.message[:1000], at=now.replace(microsecond=0), count=count)
    return _with(record, work, attempt=None, failed=found)


def _ended(record: RepositoryRecord, work: Work, attempt: Attempt, now: datetime, **more: object) -> RepositoryRecord:
    ended = now.replace(microsecond=0)
    return _with(record, work, attempt=None, begun=attempt.started, ended=ended, failed=None, **more)


def _with(record: RepositoryRecord, work: Work, **changes: object) -> RepositoryRecord:
    return record.model_copy(update={work: record.runs(work).model_copy(update=changes)})
