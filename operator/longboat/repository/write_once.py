"""Keeping a write-once bucket: locks of what backups need are extended, what was removed goes when its lock is over.

Both are for maintenance, of one repository at a time, and stop nowhere midway that a repetition would not mend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice

from .errors import ObjectLockedError, StoreSettingsError
from .hidden import MANIFESTS, Removals, hidden_at, manifest_group
from .layout import (
    CONDEMNED,
    EPOCH_NAME,
    HEADER_NAME,
    LEASES,
    MAPS,
    PACKS,
    REMOVING,
    REWRITE,
    TOMBSTONES,
    comes_and_goes,
)
from .object_store import check_name
from .s3_versions import S3Versions, Version
from .settings import StoreSettings

THREADS = 8
HIDDEN_FOR = timedelta(days=7)
"""A removed object is purged no sooner than this: who finds that backups were hidden has as long to say so."""


VOLATILE = (LEASES, TOMBSTONES, REMOVING, EPOCH_NAME, CONDEMNED, REWRITE)
"""Names of what comes and goes: no backup is lost with it, so that its locks are never extended."""


@dataclass
class WriteOnceReport:
    """What was done to a repository's objects.

    `looked` objects were looked at for their locks, `extended` of them were given a new one. `removed` versions, of
    `removed_bytes` bytes, are gone for good; `locked` are hidden objects that have to wait for the end of their lock,
    `hidden` those that backups need, or may need: somebody else has hidden them, or what refers to them, and they stay.
    `unexplained` of the hidden ones are manifests that no removal has hidden; they stay, too.
    `reached` is the last object that was looked at for its lock, None if none comes after it.
    """

    looked: int = 0
    extended: int = 0
    removed: int = 0
    removed_bytes: int = 0
    locked: int = 0
    hidden: int = 0
    unexplained: int = 0
    reached: str | None = None


def _never() -> bool:
    return False


def keep_write_once(
    settings: StoreSettings,
    path: str,
    now: datetime,
    after: str = "",
    enough: Callable[[], bool] = _never,
    needed: Callable[[str], bool] | None = None,
    moves: bool = False,
) -> WriteOnceReport:
    """Extend locks and purge what was hidden, in the repository at `path`, as far as the settings ask for either.

    For maintenance, after each prune and at least twice in a lock's period; `now` is the store's time. Only a prune can
    tell which hidden objects are still `needed`: without that nothing is purged. Where prunes are not told to move
    blocks (`moves`), what looks like a manifest that one has moved explains nothing that is hidden. Nothing is done on
    stores other than S3. It ends when it was `enough`; the report's `reached` is what to begin `after` then.
    """
    report = WriteOnceReport()
    if settings.type == "s3" and settings.lock_mode is not None:
        extend_locks(settings, path, now, report, after, enough)
    if settings.type == "s3" and settings.delete_versions and needed is not None and report.reached is None:
        purge_hidden(settings, path, now, report, needed, moves)
    return report


def is_write_once(settings: StoreSettings, path: str) -> bool:
    """Tell whether the objects of the repository at `path` are locked, by the settings, the bucket or its header.

    AccessDeniedError if the credentials may not see it.
    """
    if settings.type != "s3":
        return False
    return settings.lock_mode is not None or _versions(settings, path).locks(HEADER_NAME)


def extend_locks(
    settings: StoreSettings,
    path: str,
    now: datetime,
    report: WriteOnceReport,
    after: str = "",
    enough: Callable[[], bool] = _never,
) -> None:
    """Lock whatever can be seen, and is not volatile, for at least half the lock's period from `now` on.

    What has less than half the period left is locked for a whole one. The oldest version is, the one that its writer
    made, and the newest: a name that was removed and created again counts by that one. Prune hides what no backup
    needs, so that its lock runs out.
    """
    mode = settings.lock_mode
    if mode is None or settings.lock_days <= 0:
        raise StoreSettingsError(f"{settings.describe()}: it has no objectLock, so that no lock can be extended")
    versions, period = _versions(settings, path), timedelta(days=settings.lock_days)

    def extend(version: Version) -> bool:
        until = versions.locked_until(version)
        if until is not None and until >= now + period / 2:
            return False
        versions.lock(version, mode, now + period)
        return True

    def extend_all(of_a_name: list[Version]) -> bool:
        return sum(extend(each) for each in of_a_name) > 0

    with ThreadPoolExecutor(THREADS) as threads:
        # Some at a time: a repository may have millions of objects.
        for batch in _batches(_needed(versions, after)):
            extended = list(threads.map(extend_all, batch))
            report.looked += len(extended)
            report.extended += sum(extended)
            if enough():
                report.reached = batch[-1][0].name
                return


def purge_hidden(
    settings: StoreSettings,
    path: str,
    now: datetime,
    report: WriteOnceReport,
    needed: Callable[[str], bool],
    moves: bool = False,
) -> None:
    """Remove the versions of objects that were hidden at least HIDDEN_FOR ago, as far as they are not locked.

    Everything of an object that can be seen stays, and of one that is `needed`: it was not maintenance that hid it.
    So do manifests that no removal has hidden, and packs that were hidden since the first one of these was: prunes may
    have taken them for garbage for want of it. So do the header, keys, and whatever else maintenance never removes.
    """
    versions = _versions(settings, path)
    purging = _Purging(versions, Removals(versions.below(REMOVING), moves), now, report, needed)
    # Manifests come first: the names of their folders sort before those of packs, and of announcements.
    ours = (each for each in versions.below("") if comes_and_goes(each.name))
    for _, group in groupby(ours, key=lambda each: manifest_group(each.name)):
        purging.look_at([[*found] for _, found in groupby(group, key=lambda each: each.name)])


class _Purging:
    """One look at all names; `since` is when the first manifest was hidden of which nobody knows why."""

    def __init__(
        self,
        versions: S3Versions,
        removals: Removals,
        now: datetime,
        report: WriteOnceReport,
        needed: Callable[[str], bool],
    ) -> None:
        self._versions, self._removals, self._now = versions, removals, now
        self._report, self._needed, self._since = report, needed, datetime.max.replace(tzinfo=UTC)

    def look_at(self, names: list[list[Version]]) -> None:
        """Purge what may go of names that are judged together; of each the versions, the newest first."""
        unexplained = self._removals.unexplained(names) if names[0][0].name.startswith(MANIFESTS) else []
        self._report.unexplained += len(unexplained)
        self._since = min([self._since, *filter(None, map(hidden_at, unexplained))])
        for found in names:
            if found[0].marker and found not in unexplained:
                self._look_at(found[0].name, found)

    def _look_at(self, name: str, found: list[Version]) -> None:
        if self._needed(name) or self._may_be_needed(name, found):
            self._report.hidden += 1
        elif name in self._removals.relied_on:
            self._report.locked += 1
        elif max(each.modified for each in found) + HIDDEN_FOR > self._now or not _purge(
            self._versions, found, self._report
        ):
            self._removals.rely_on(found)

    def _may_be_needed(self, name: str, found: list[Version]) -> bool:
        moment = hidden_at(found)
        return name.startswith((PACKS, MAPS)) and moment is not None and moment >= self._since


def _purge(versions: S3Versions, found: Iterable[Version], report: WriteOnceReport) -> bool:
    """Remove all versions of an object; False if one is locked."""
    # Delete markers go last: what they hide must not come into sight again.
    for version in sorted(found, key=lambda each: each.marker):
        try:
            versions.delete(version)
        except ObjectLockedError:
            report.locked += 1
            return False
        report.removed += 1
        report.removed_bytes += version.size
    return True


def _needed(versions: S3Versions, after: str) -> Iterator[list[Version]]:
    """Yield the oldest and the newest version, mostly the same, of each name that can be seen and is not volatile."""
    for name, group in groupby(versions.below("", after), key=lambda each: each.name):
        found = [*group]
        if not found[0].marker and not name.startswith(VOLATILE):
            written = [each for each in found if not each.marker]
            yield [written[0], written[-1]] if len(written) > 1 else written


def _batches(names: Iterator[list[Version]]) -> Iterator[list[list[Version]]]:
    while batch := list(islice(names, 256)):
        yield batch


def _versions(settings: StoreSettings, path: str) -> S3Versions:
    prefix = "/".join(each for each in (settings.prefix, check_name(path)) if each)
    return S3Versions(settings.model_copy(update={"prefix": prefix}))
