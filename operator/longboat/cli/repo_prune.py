"""`longboat repo prune`: deleting packs that nothing refers to, by hand."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TextIO

from longboat.api.common import parse_duration
from longboat.cli.repo_accept import accept_late, accepted_json, print_accepted
from longboat.cli.repo_access import Key, Opened, UsageError
from longboat.cli.repo_generations import Standing, place_of, standing_of
from longboat.plan.quantities import bytes_of, size_text
from longboat.repository import (
    ObjectStore,
    PruneReport,
    RepackReport,
    RepackRules,
    Repository,
    RepositoryError,
    StoreSettings,
    Tally,
    advance_epoch,
    prune,
    read_epoch,
)
from longboat.repository.accepted import LateManifest
from longboat.repository.errors import AccessDeniedError
from longboat.repository.layout import EPOCH_NAME
from longboat.repository.leases import MIN_GRACE
from longboat.repository.write_once import is_write_once

_BY_HAND = "by-hand-"


@dataclass(frozen=True)
class Pruned:
    """What a prune did in the repository at a path; without a report `problem` says why it did nothing.

    `note` is what a prune by hand leaves to others. `accepted` came too late into a closed repository, and is believed,
    as `code` says.
    """

    path: str
    report: PruneReport | None = None
    problem: str = ""
    note: str | None = None
    accepted: Sequence[LateManifest] = ()
    code: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing hindered it, nor holds it until somebody says what is meant."""
        return self.report is not None and not self.report.postponed

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        if self.report is None:
            return {"repository": self.path, "problem": self.problem}
        accepted = {"accepted": accepted_json(self.accepted), "acceptCode": self.code or None}
        return report_json(self.path, self.report) | {"note": self.note} | accepted


def require_one(paths: Sequence[str], wanted: str, option: str) -> None:
    """Raise UsageError unless exactly one repository is named in full: who was asked about one means no other."""
    if len(paths) != 1 or not place_of(paths[0]).is_meant_by(wanted):
        known = ", ".join(paths)
        raise UsageError(f"{option}: is for one repository, name it in full with --repository; these are: {known}")


def require_unlocked(
    arguments: argparse.Namespace,
    settings: StoreSettings,
    paths: Sequence[str],
    is_locked: Callable[[StoreSettings, str], bool] = is_write_once,
) -> None:
    """Raise UsageError if blocks are to be moved where objects are locked, or where that can't be seen.

    Who reads the oldest versions of such a bucket, after an attack, is to find the manifests of exports whole.
    """
    for path in paths if repack_of(arguments) else ():
        try:
            locked = is_locked(settings, path)
        except AccessDeniedError as error:
            raise UsageError(
                f"--repack: {error}: whether the objects of {path} are locked can't be seen; use credentials that may"
                " see it (s3:GetBucketObjectLockConfiguration, or s3:GetObjectRetention), or leave --repack out"
            ) from None
        if locked:
            raise UsageError(
                f"--repack: the objects of {path} are locked (Object Lock), and nothing is moved there: who reads their"
                " oldest versions after an attack has to find the manifests of exports; leave --repack out"
            )


def prune_all(arguments: argparse.Namespace, opened: Opened, store: ObjectStore, key: Key) -> Iterator[Pruned]:
    """Prune what opens, one after the other, and yield what became of each. UsageError; RepositoryError if the
    store is away. One that is damaged or does not open hinders none of the others.
    """
    grace_of(arguments)
    repack_of(arguments)
    for path, repository in opened.repositories:
        try:
            accepting = accept_late(arguments, repository, standing_of(store, path, key))
            report = prune_one(arguments, repository, lambda: datetime.now(UTC), accepting.standing)
            note = left_undone(repository, report)
            yield Pruned(path, report, note=note, accepted=accepting.late, code=accepting.code)
        except RepositoryError as error:
            if error.retryable:
                raise
            yield Pruned(path, problem=str(error))
    yield from (Pruned(path, problem=f"unreadable: {error}") for path, error in opened.unreadable.items())


def grace_of(arguments: argparse.Namespace) -> timedelta:
    """Return how long packs are condemned before they go. Raises UsageError."""
    try:
        grace = parse_duration(arguments.grace)
    except ValueError:
        raise UsageError(f"--grace: expected a duration such as 24h, found {arguments.grace!r}") from None
    if grace < MIN_GRACE:
        raise UsageError(f"--grace: expected {MIN_GRACE} or more: writers at work could lose packs")
    return grace


def repack_of(arguments: argparse.Namespace) -> RepackRules | None:
    """Return how much may be moved, and for which disks; None if nothing is. Raises UsageError."""
    try:
        budget = bytes_of(arguments.repack)
    except ValueError:
        raise UsageError(f"--repack: expected a size such as 1Gi, found {arguments.repack!r}") from None
    try:
        gone_after = parse_duration(arguments.gone_after)
    except ValueError:
        raise UsageError(f"--gone-after: expected a duration such as 45d, found {arguments.gone_after!r}") from None
    if gone_after < timedelta(days=1):
        raise UsageError("--gone-after: expected 1d or more: a disk's own backups store such blocks anew")
    return RepackRules(budget, gone_after, arguments.living / 100) if budget else None


def prune_one(
    arguments: argparse.Namespace,
    repository: Repository,
    clock: Callable[[], datetime],
    standing: Standing,
    random: Callable[[], str] = lambda: secrets.token_hex(16),
) -> PruneReport:
    """Prune a repository, or say what that would free unless --yes was given. Raises RepositoryError."""
    run = partial(
        prune,
        repository,
        grace=grace_of(arguments),
        allow_most=arguments.allow_most,
        closed=standing.closed,
        accepted=standing.accepted,
        may_retire=arguments.retire and standing.may_retire,
        repack=repack_of(arguments),
    )
    if not arguments.yes or arguments.dry_run:
        return run(now=clock(), dry_run=True)
    current = read_epoch(repository)
    # The operator's own token is taken up, so that it still finds itself in charge afterwards.
    token = current.token if current else _BY_HAND + random()
    epoch = advance_epoch(repository, {token}, token)
    try:
        return run(now=clock(), epoch=epoch)
    finally:
        if token.startswith(_BY_HAND) and read_epoch(repository) == epoch:
            # Nobody was in charge before; whoever will be must not find a stranger.
            repository.store.delete(EPOCH_NAME)


def left_undone(repository: Repository, report: PruneReport) -> str | None:
    """Return what a prune by hand leaves to the operator, if the store may have any of it."""
    if report.dry_run or not repository.store.describe().startswith("s3://"):
        return None
    return (
        "If the bucket keeps versions, what was deleted is hidden and still stored; locks were not extended. The"
        " operator does both where the BackupStore says so (s3.deleteVersions, s3.objectLock); without it, use the"
        " service's own lifecycle rules, and extend the locks of what is in use."
    )


def report_json(path: str, report: PruneReport) -> dict[str, Any]:
    """Return a report as JSON."""
    counts = {"live": report.live, "leased": report.leased, "waiting": report.waiting, "condemned": report.condemned}
    return {
        "repository": path,
        "dryRun": report.dry_run,
        "manifests": report.manifests,
        "leases": report.leases,
        "removed": {reason: _tally(tally) for reason, tally in sorted(report.removed.items())},
        **{name: _tally(tally) for name, tally in counts.items()},
        "later": _tally(report.later),
        "toRewrite": _tally(report.to_rewrite),
        "repacked": _repacked(report.repacked),
        "unknownObjects": report.unknown,
        "postponed": report.postponed or None,
        "retired": report.retired,
    }


def print_pruned(done: Pruned, out: TextIO) -> None:
    """Write for people what became of a repository."""
    if done.report is None:
        print(f"Repository {done.path}: {done.problem}", file=out)
    else:
        print_report(done.path, done.report, out)
        print_accepted(done.accepted, done.code, done.report.dry_run, out)


def last_words(done: Sequence[Pruned]) -> str | None:
    """Return what is to be said of all of them together."""
    if note := next((each.note for each in done if each.note), None):
        return note
    dry = any(each.report and each.report.dry_run for each in done)
    return "Nothing was deleted; --yes does it." if dry else None


def print_report(path: str, report: PruneReport, out: TextIO) -> None:
    """Write a report for people."""
    will = "would be " if report.dry_run else ""
    print(f"Repository {path}: {_text(report.freed)} {will}deleted", file=out)
    for reason, tally in sorted(report.removed.items()):
        print(f"  {reason}: {_text(tally)}", file=out)
    print(f"  {_text(report.condemned)} {will}condemned, {_text(report.waiting)} wait for their grace to end", file=out)
    print(f"  {_text(report.live)} are in use, {_text(report.leased)} belong to exports at work", file=out)
    if report.to_rewrite.objects:
        print(
            f"  {_text(report.to_rewrite)} of those in use are mostly dead: the next backups store the rest anew",
            file=out,
        )
    _print_repacked(report.repacked, will, out)
    if report.unknown:
        print(f"  {report.unknown} objects are not Longboat's and are left alone", file=out)
    if report.postponed:
        print(f"  nothing was condemned: {report.postponed}", file=out)
    if report.retired:
        print(
            f"  it is closed and nothing is left in it: its keys and header {'go' if report.dry_run else 'went'}",
            file=out,
        )


def _print_repacked(found: RepackReport, will: str, out: TextIO) -> None:
    if found.packs:
        packs, loaded = _text(Tally(found.packs, found.bytes)), size_text(found.downloaded)
        print(f"  {packs} are mostly dead, and what is not is {will}moved: {loaded}", file=out)
    if found.settled:
        print(f"  {found.settled} disk manifests have given way to those of an earlier run", file=out)
    if found.note:
        print(f"  {found.note}", file=out)


def _repacked(found: RepackReport) -> dict[str, Any]:
    return {
        "packs": {"objects": found.packs, "bytes": found.bytes},
        "downloadedBytes": found.downloaded,
        "writtenBytes": found.written,
        "manifests": found.manifests,
        "settled": found.settled,
        "note": found.note or None,
    }


def _tally(tally: Tally) -> dict[str, int]:
    return {"objects": tally.objects, "bytes": tally.bytes}


def _text(tally: Tally) -> str:
    return f"{tally.objects} objects ({size_text(tally.bytes)})"
