"""The verify program: is a repository whole? As `--job FILE [--secret FILE]` says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from longboat.repository import VerifyReport, open_store, open_with_master_key, verify
from longboat.repository.object_store import ObjectStore
from longboat.repository.verify_report import BackupHealth

from .errors import JobError
from .jobs import VerifyJob
from .program import run_program
from .progress import Progress, print_line
from .results import VerifyResult

_NAMED = 10  # Backups that the result names; the log has all of them.


def main(argv: list[str]) -> int:
    """Run the verification that the arguments name; return the exit code, which is 0 also if damage was found."""
    return run_program("verify", VerifyJob, run_verify, argv)


def run_verify(
    job: VerifyJob,
    store: ObjectStore | None = None,
    random: Callable[[int], bytes] = os.urandom,
    emit: Callable[[str], None] = print_line,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> VerifyResult:
    """Verify a repository; emit a line for each damaged object and each backup, and a short one for each hurt one.

    RepositoryError and MoverError say what kept it from coming to its end; damage is no error.
    """
    repository = open_with_master_key(
        store or open_store(job.store), job.repository_path, job.master_key_bytes(), random
    )
    progress = Progress(0, emit)

    def tell(total: int, done: int, read: int) -> None:
        progress.total = total
        progress.add(done - progress.done, read - progress.read)

    def proven(backup: str, disk: str) -> None:
        # Who reads this has the next run, should this one not come to its end, go on behind it.
        emit(json.dumps({"read": {"backup": backup, "disk": disk}}))

    report = verify(
        repository,
        share=job.share,
        now=now(),
        random=random,
        phase=job.phase,
        backups=job.backups,
        suspects=job.suspects,
        already_read=job.already_read,
        named=job.named,
        proven=proven,
        record=job.record,
        tell=tell,
        believes_moved=job.believes_moved,
    )
    progress.finish()
    _publish(report, job.report_path, emit)
    return _result(report)


def _publish(report: VerifyReport, path: str | None, emit: Callable[[str], None]) -> None:
    for damage in report.damage:
        emit('{"damage": ' + damage.model_dump_json(by_alias=True) + "}")
    for backup in report.backups:
        emit('{"backup": ' + backup.model_dump_json(by_alias=True) + "}")
    if path is not None:
        try:
            Path(path).write_text(report.model_dump_json(by_alias=True))
        except OSError as error:
            raise JobError(f"reportPath {path}: can not be written: {error.strerror}") from None
    # Last and short: who reads the end of the log has them all.
    for backup in _hurt(report):
        emit(json.dumps({"hurt": {"backup": backup.name, "lost": backup.lost, "disks": backup.hurt_disks}}))


def _hurt(report: VerifyReport) -> list[BackupHealth]:
    """Return the damaged backups, those first that lack data for good."""
    return sorted((each for each in report.backups if each.state == "damaged"), key=lambda each: not each.lost)


def _result(report: VerifyReport) -> VerifyResult:
    hurt = _hurt(report)
    return VerifyResult(
        state=report.state,
        share=report.share,
        next_phase=report.next_phase,
        backups=len(report.backups),
        damaged=len(hurt),
        lost=sum(each.lost and not each.deleted for each in hurt),
        lost_in_trash=sum(each.lost and each.deleted for each in hurt),
        hurt=tuple(each.name for each in hurt[:_NAMED]),
        damaged_objects=len(report.damage),
        pages=report.pages,
        frames=report.frames,
        read_bytes=report.bytes_read,
        recorded=len(report.recorded),
        note=report.note,
    )
