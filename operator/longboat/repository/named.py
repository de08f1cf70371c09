"""What backups name must be among what prune has read: a manifest that is out of sight is no manifest that is gone.

Delete markers over a bucket's folder and a copy that lags behind hide disk manifests without a trace. Those of backups
that nobody has deleted are expected to be there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .backups import all_revisions, newest_revisions, read_backup_manifest, removing_hashes, tombstoned_hashes
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import BACKUPS, split_backup_manifest_name, split_disk_manifest_name
from .listing import ListedDisk
from .manifests import BackupManifest
from .parallel import in_batches
from .repository import Repository

_BATCH = 256


@dataclass(frozen=True)
class NamedDisk:
    """A disk manifest and its object's id, as the manifest (an object name) of a backup says."""

    disk: str
    object_id: str
    backup: str
    place: str


def named_disks(repository: Repository, threads: int) -> list[NamedDisk]:
    """Return which disk manifests are named by the backups that are neither deleted nor being removed.

    DamagedError or UnsupportedFormatError names the first backup manifest that can't be read.
    """
    gone = _deleted(repository)
    places = [place for hashed, place in newest_revisions(repository).items() if hashed not in gone]
    found = in_batches(threads, _BATCH, lambda place: (place, _read(repository, place)), places)
    return [
        NamedDisk(disk.manifest, disk.object_id, manifest.name, place)
        for place, manifest in found
        if manifest is not None
        for disk in manifest.disks
    ]


def require_named(repository: Repository, named: Collection[NamedDisk], read: Collection[tuple[str, str]]) -> None:
    """Check that all that `named_disks` returned before are among the disk manifests read (names and object ids).

    DamagedError names the first one that is not, unless its backup was deleted meanwhile.
    """
    missing = [each for each in named if (each.disk, each.object_id) not in read]
    if not missing:
        return
    gone = _deleted(repository)
    # A removal takes the backup's manifest before its marks, so that this look comes after the one at the marks.
    for each in missing:
        if _hash(each.place) not in gone and _read(repository, each.place) is not None:
            raise DamagedError(
                f"{repository.store.describe()}: backup {each.backup!r} ({each.place}) has the disk manifest"
                f" {each.disk}, object {each.object_id}, and it is not there: nothing is deleted. If it is hidden in"
                " the bucket, bring it back; if a prune has moved it (disks/…-<object id>), say that prunes do:"
                " maintenance.prune.repack, or --repack; if it is lost for good, delete the backup"
            )


def lasting_disks(repository: Repository, disks: Iterable[ListedDisk], threads: int) -> set[str]:
    """Return which of these disk manifests (names) backups name of which none is deleted: no removal takes them soon.

    One that no backup names may be that of an export at work, or of a removal. DamagedError or UnsupportedFormatError
    names the first backup manifest that can't be read.
    """
    gone = _deleted(repository)
    places = newest_revisions(repository).items()
    found = in_batches(threads, _BATCH, lambda each: (each[0] in gone, _read(repository, each[1])), places)
    named: dict[bool, set[str]] = {False: set(), True: set()}
    for deleted, manifest in found:
        named[deleted].update(disk.manifest for disk in (manifest.disks if manifest else ()))
    live = named[False] - named[True]
    return {disk.name for disk in disks if disk.name in live and disk.backup_hash not in gone}


def being_removed(repository: Repository, names: Iterable[str]) -> set[str]:
    """Return which of these disk manifests (names) a removal that is announced now may yet take.

    A removal takes what was made for its backup, and what that backup's manifest names. Where this can't be read it may
    take anything. One whose backup has no manifest any more has taken its disks before: who asks here has to look
    afterwards whether they are there.
    """
    wanted = set(names)
    # First the announcements: a removal that is announced later lists what it takes after this look.
    announced = removing_hashes(repository) if wanted else set()
    found = {name for name in wanted if (parts := split_disk_manifest_name(name)) and parts[2] in announced}
    for hashed in sorted(announced):
        try:
            found |= wanted & _named_by(repository, hashed)
        except (DamagedError, UnsupportedFormatError):
            return wanted
    return found


def _named_by(repository: Repository, backup_hash: str) -> set[str]:
    for place in all_revisions(repository, f"{BACKUPS}{backup_hash}/").get(backup_hash, ())[:1]:
        manifest = _read(repository, place)
        return {disk.manifest for disk in manifest.disks} if manifest else set()
    return set()


def _hash(place: str) -> str:
    parts = split_backup_manifest_name(place)
    return parts[0] if parts else ""


def _deleted(repository: Repository) -> set[str]:
    return tombstoned_hashes(repository) | removing_hashes(repository)


def _read(repository: Repository, place: str) -> BackupManifest | None:
    try:
        return read_backup_manifest(repository, place)
    except ObjectNotFoundError:
        return None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"backup manifest {place}: {error}") from None
