"""`longboat repo verify`: are backups whole, and can they be read?"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TextIO, TypeVar

from longboat.cli.repo_access import Opened
from longboat.cli.repo_generations import TOO_LATE, not_found, place_of
from longboat.cli.repo_progress import Bar
from longboat.plan.quantities import size_text
from longboat.repository import Repository, RepositoryError, VerifyReport, find_backup, verify

R = TypeVar("R")
UNREADABLE = "unreadable"
Late = Callable[[str, Repository], list[str]]
"""Returns the manifests of the repository at a path that came too late after it had been closed."""


@dataclass(frozen=True)
class Verified:
    """What was found in the repository at a path. Without a report it is unreadable, `problem` says why.

    Beside a report `problem` says why it is not known what came too late (`late`).
    """

    path: str
    report: VerifyReport | None = None
    late: Sequence[str] = ()
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return self.report is not None and self.report.state == "ok" and not self.late and not self.problem

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        if self.report is None:
            return {"repository": self.path, "state": UNREADABLE, "problem": self.problem}
        report = self.report.model_dump(mode="json", by_alias=True)
        told = {"repository": self.path, **report, "lateManifests": list(self.late)}
        return told | ({"problem": self.problem} if self.problem else {})


def verify_all(
    arguments: argparse.Namespace, opened: Opened, late: Late, err: TextIO, clock: Callable[[], float], now: datetime
) -> list[Verified]:
    """Verify the repositories, or the backups named in them. RepositoryError if the store is away.

    Repositories that do not open are among the results, unless all backups named were found in others.
    """
    chosen = _chosen(opened, arguments.backups)
    done = [
        _look(path, repository, late, partial(_verify, arguments, path, repository, names, err, clock, now))
        for path, repository, names in chosen
    ]
    if not arguments.backups:
        done += [Verified(path, problem=str(error)) for path, error in opened.unreadable.items()]
    return sorted(done, key=lambda each: place_of(each.path))


def _look(path: str, repository: Repository, late: Late, look: Callable[[], VerifyReport]) -> Verified:
    report, problem = _or_problem(look)
    if report is None:
        return Verified(path, problem=problem)
    names, problem = _or_problem(lambda: late(path, repository))
    return Verified(path, report, names or (), problem)


def _or_problem(call: Callable[[], R]) -> tuple[R | None, str]:
    try:
        return call(), ""
    except RepositoryError as error:
        if error.retryable:
            raise
        return None, str(error)


def print_verified(done: Verified, out: TextIO) -> None:
    """Write for people what was found."""
    if done.report is None:
        print(f"Repository {done.path}: {UNREADABLE}: {done.problem}", file=out)
        return
    print_report(done.path, done.report, done.late, out)
    if done.problem:
        print(f"  what came too late is not known: {done.problem}", file=out)


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
        return [(path, repository, None) for path, repository in opened.repositories]
    found = [(path, each, [name for name in wanted if find_backup(each, name)]) for path, each in opened.repositories]
    missing = set(wanted) - {name for _, _, names in found for name in names}
    if missing:
        raise not_found(f"no backup {', '.join(sorted(missing))}", opened.problems)
    return [(path, repository, names) for path, repository, names in found if names]
