"""`longboat repo verify`: are backups whole, and can they be read?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, TextIO

from longboat.cli.repo_generations import TOO_LATE
from longboat.cli.repo_progress import Bar
from longboat.plan.quantities import size_text
from longboat.repository import Repository, VerifyReport, find_backup, verify
from longboat.repository.errors import BackupNotFoundError

Opened = Sequence[tuple[str, Repository]]


def verify_all(
    arguments: argparse.Namespace, opened: Opened, err: TextIO, clock: Callable[[], float], now: datetime
) -> list[tuple[str, VerifyReport]]:
    """Verify the repositories, or the backups named in them; return their reports by path. Raises RepositoryError."""
    return [
        (path, _verify(arguments, path, repository, names, err, clock, now))
        for path, repository, names in _chosen(opened, arguments.backups)
    ]


def report_json(path: str, report: VerifyReport) -> dict[str, Any]:
    """Return a report as JSON."""
    return {"repository": path, **report.model_dump(mode="json", by_alias=True)}


def print_report(path: str, report: VerifyReport, late: Sequence[str], out: TextIO) -> None:
    """Write a report for people: what is damaged, whom it hurts, what came too late, what was looked at."""
    print(f"Repository {path}: {report.state}", file=out)
    for name in late:
        print(f"  LATE  {name}: {TOO_LATE}", file=out)
    for damage in report.damage:
        place = f", frame at {damage.frame_offset}" if damage.frame_offset is not None else ""
        print(f"  {damage.problem.upper()}  {damage.object}{place}: {damage.detail}", file=out)
    for backup in report.backups:
        if backup.state == "damaged":
            print(f"  backup {backup.name} is damaged{' (it is deleted)' if backup.deleted else ''}", file=out)
        for disk in backup.disks:
            lost = sum(each.damaged_bytes - each.recoverable_bytes for each in disk.damage)
            if disk.state == "damaged":
                places = ", ".join(str(offset) for each in disk.damage for offset, _ in each.ranges[:3])
                where = f" from byte {places} on" if places else ""
                print(f"    disk {disk.disk}: {size_text(lost)} can't be read{where}", file=out)
    read = f"{report.packs} packs listed, {report.pages} pages of maps and {size_text(report.bytes_read)} of data read"
    print(f"  {len(report.backups)} backups, {read}", file=out)
    if report.note:
        print(f"  {report.note}", file=out)


def _verify(
    arguments: argparse.Namespace,
    path: str,
    repository: Repository,
    names: list[str] | None,
    err: TextIO,
    clock: Callable[[], float],
    now: datetime,
) -> VerifyReport:
    bar = Bar(f"verify {path}", err, clock)
    with closing(bar):
        return verify(
            repository,
            share=arguments.share,
            now=now,
            backups=names,
            record=arguments.record,
            tell=lambda total, done, _: bar.show(done, total),
        )


def _chosen(opened: Opened, wanted: Sequence[str]) -> list[tuple[str, Repository, list[str] | None]]:
    if not wanted:
        return [(path, repository, None) for path, repository in opened]
    found = [(path, each, [name for name in wanted if find_backup(each, name)]) for path, each in opened]
    missing = set(wanted) - {name for _, _, names in found for name in names}
    if missing:
        raise BackupNotFoundError(f"no backup {', '.join(sorted(missing))}; see longboat repo list")
    return [(path, repository, names) for path, repository, names in found if names]
