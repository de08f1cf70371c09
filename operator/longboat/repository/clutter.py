"""Small objects that have served their time: revisions of backup manifests, announcements of removals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from .backups import newest_revisions, read_backup_manifest
from .errors import ObjectNotFoundError
from .layout import BACKUPS, REMOVING, split_backup_manifest_name
from .object_store import ObjectInfo, ObjectStore
from .removal import stale_markers
from .repository import Repository

STAGED_FOR = timedelta(days=1)


def old_revisions(repository: Repository, before: datetime) -> Iterator[ObjectInfo]:
    """Yield revisions of backup manifests, written before `before`, that are neither the first nor the newest one.

    The first one stays: a backup is created under its name, so that no other takes its place. The newest one is read:
    DamagedError if that fails, as the one before it may be all that is left.
    """
    revisions: dict[str, list[tuple[int, ObjectInfo]]] = defaultdict(list)
    for info in repository.store.list(BACKUPS):
        parts = split_backup_manifest_name(info.name)
        if parts:
            revisions[parts[0]].append((parts[1], info))
    for found in revisions.values():
        if len(found) > 2:
            found.sort(key=lambda each: each[0])
            newest = found[-1][1]
            between = [info for number, info in found[:-1] if number > 1]
            old = [info for info in between if info.modified <= before and newest.modified <= before]
            if old and _is_readable(repository, newest.name):
                yield from old


def old_markers(repository: Repository, before: datetime) -> Iterator[ObjectInfo]:
    """Yield announcements of removals, written before `before`, that have lost their tombstone.

    Where the backup's manifest is left, the next sweep has to see how far the removal has come.
    """
    written = {info.name: info for info in repository.store.list(REMOVING)}
    left = {f"{REMOVING}{hashed}" for hashed in newest_revisions(repository)}
    stale = (written[name] for name in stale_markers(repository) if name in written and name not in left)
    return (info for info in stale if info.modified <= before)


def remove_staged(store: ObjectStore, now: datetime, dry_run: bool) -> list[ObjectInfo]:
    """Remove what killed processes have left half-written beside a store's objects, of all its repositories.

    Only a folder has such files. None of a process at work is as old as those; a dry run only returns them.
    """
    staged = getattr(store, "staged", None)
    found = [] if staged is None else [info for info in staged() if info.modified < now - STAGED_FOR]
    for info in found if not dry_run else ():
        store.remove_staged(info)  # type: ignore[attr-defined]  # A store that lists such files removes them.
    return found


def _is_readable(repository: Repository, name: str) -> bool:
    try:
        read_backup_manifest(repository, name)
    except ObjectNotFoundError:
        return False
    return True
