"""The prune program: delete what no backup in a repository refers to, as `--job FILE [--secret FILE]` says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from longboat.repository import (
    Asked,
    PruneProgress,
    PruneReport,
    RepackRules,
    Repository,
    Tally,
    WriteOnceReport,
    advance_epoch,
    epoch_time,
    keep_write_once,
    open_store,
    open_with_master_key,
    prune,
)
from longboat.repository.epoch import Epoch
from longboat.repository.object_store import ObjectStore

from .jobs import PruneJob
from .program import run_program
from .progress import INTERVAL, print_line
from .results import PruneCount, PruneQuestion, PruneRepack, PruneResult

ROOM_FOR_CLAIMS = 2000
"""Bytes of a termination message, of 4096, for what each claim's backups need."""


def main(argv: list[str]) -> int:
    """Run the prune that the arguments name; return the exit code."""
    return run_program("prune", PruneJob, run_prune, argv)


def run_prune(
    job: PruneJob,
    store: ObjectStore | None = None,
    random: Callable[[int], bytes] = os.urandom,
    emit: Callable[[str], None] = print_line,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    clock: Callable[[], float] = time.monotonic,
) -> PruneResult:
    """Prune a repository and return what was deleted and condemned, or in a dry run would be.

    RepositoryError and MoverError say what kept it from coming to its end; running it again is always safe.
    """
    repository = open_with_master_key(
        store or open_store(job.store), job.repository_path, job.master_key_bytes(), random
    )
    report = prune(
        repository,
        now=now(),
        grace=timedelta(seconds=job.grace_seconds),
        epoch=None if job.dry_run else _epoch(repository, job),
        dry_run=job.dry_run,
        allow_most=_allowed(job.allowed) if job.allowed else False,
        closed=job.closed,
        accepted=frozenset(job.accepted),
        threads=job.workers or 8,
        progress=_Lines(emit, clock).tell,
        repack=repack_rules(job),
    )
    if job.dry_run:
        return _result(report, WriteOnceReport())
    kept = keep_write_once(
        *(job.store, job.repository_path, epoch_time(repository)),
        needed=report.needed,
        moves=repack_rules(job) is not None,
    )
    return _result(report, kept)


def repack_rules(job: PruneJob) -> RepackRules | None:
    """Return what a job may move, None if nothing."""
    # Who reads the oldest versions of a locked bucket, after an attack, is to find the manifests of exports whole.
    if not job.repack_bytes or job.store.lock_mode is not None:
        return None
    return RepackRules(job.repack_bytes, timedelta(seconds=job.gone_after_seconds), job.repack_living_percent / 100)


def _epoch(repository: Repository, job: PruneJob) -> Epoch:
    return advance_epoch(repository, {*job.known_tokens, job.token}, job.token)


class _Lines:
    """Prints how far it is, at most every INTERVAL seconds."""

    def __init__(self, emit: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._emit, self._clock, self._last = emit, clock, clock()

    def tell(self, progress: PruneProgress) -> None:
        if self._clock() - self._last >= INTERVAL:
            self._last = self._clock()
            counts = {"step": progress.step, "objectsDone": progress.done, "objectsTotal": progress.total}
            self._emit(json.dumps({"progress": counts}))


def _result(report: PruneReport, kept: WriteOnceReport) -> PruneResult:
    return PruneResult(
        dry_run=report.dry_run,
        manifests=report.manifests,
        leases=report.leases,
        removed={reason: _count(tally) for reason, tally in report.removed.items()},
        freed=_count(report.freed),
        condemned=_count(report.condemned),
        waiting=_count(report.waiting),
        later=_count(report.later),
        leased=_count(report.leased),
        live=_count(report.live),
        to_rewrite=_count(report.to_rewrite),
        repacked=_repacked(report),
        live_by_claim=largest(report.live_by_claim),
        unknown=report.unknown,
        note="; ".join(filter(None, (report.postponed, _hidden(kept)))),
        asked=_question(report.asked) if report.asked else None,
        locks_extended=kept.extended,
        purged=PruneCount(objects=kept.removed, bytes=kept.removed_bytes),
        locked=kept.locked,
    )


def _repacked(report: PruneReport) -> PruneRepack:
    found = report.repacked
    return PruneRepack(
        packs=PruneCount(objects=found.packs, bytes=found.bytes),
        downloaded_bytes=found.downloaded,
        written_bytes=found.written,
        manifests=found.manifests,
        settled=found.settled,
        note=found.note[:500],
    )


def largest(bytes_by_claim: Mapping[str, int], room: int = ROOM_FOR_CLAIMS) -> dict[str, int]:
    """Return the largest ones, as many as there is room for in bytes of JSON; the others are added to "".

    >>> largest({"a": 5, "b": 70, "": 1}, room=8)
    {'b': 70, '': 6}
    """
    told, rest = dict[str, int](), 0
    for name, size in sorted(bytes_by_claim.items(), key=lambda each: (-each[1], each[0])):
        room -= len(f'"{name}":{size},') if name else 0
        if name and room >= 0:
            told[name] = size
        else:
            rest += size
    return told | {"": rest} if bytes_by_claim else told


def _hidden(kept: WriteOnceReport) -> str:
    packs = (
        f"{kept.hidden} packs that backups need, or may need, are hidden by delete markers, which are not ours:"
        " remove the markers"
    )
    manifests = (
        f"{kept.unexplained} manifests are hidden, and no removal of them is known: remove the delete markers"
        " over them (or read the oldest versions) if their backups are needed, or their versions if they are not"
    )
    return "; ".join([manifests] * bool(kept.unexplained) + [packs] * bool(kept.hidden))


def _question(asked: Asked) -> PruneQuestion:
    return PruneQuestion(condemned=_count(asked.condemned), unneeded=_count(asked.unneeded))


def _allowed(question: PruneQuestion) -> Asked:
    return Asked(*(Tally(each.objects, each.bytes) for each in (question.condemned, question.unneeded)))


def _count(tally: Tally) -> PruneCount:
    return PruneCount(objects=tally.objects, bytes=tally.bytes)
