"""A second manifest of what one export has stored: two backups whose disk was captured at one moment, and read once.

Who writes it is a writer like an export that finds every block unchanged: a lease, the condemned lists, then the
manifest it builds on, the lists again, and its own. So the second backup depends on the first one no more than on any
parent, and each may be deleted whenever somebody likes. It stores no blocks: what can't be referred to (damaged or
condemned since) is for an export to store anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from .avoid import avoid
from .backups import StoredDisk, find_disk_manifest
from .commit import commit_disk_manifest, read_sound_manifest, require_sound
from .damage import read_damage
from .errors import BackupNotFoundError, DamagedError, ManifestConflictError, ObjectNotFoundError
from .hurt import require_undamaged
from .leases import Lease
from .manifests import DiskIdentity, DiskManifest, DiskStatistics
from .repository import Repository


@dataclass(frozen=True)
class SecondBackup:
    """The backup that gets a manifest of its own: its name, whose disk it is, the moment it holds, its expiry rule."""

    name: str
    disk: DiskIdentity
    created: datetime
    expiry: JsonValue = None


def write_second_manifest(repository: Repository, first: str, second: SecondBackup) -> StoredDisk:
    """Store the manifest that a second backup has of what the disk manifest `first` (an object name) holds.

    Idempotent: one that is there already is returned. Nothing is written, and an export of its own is needed, if the
    first one is gone (BackupNotFoundError), is of another disk or moment (ManifestConflictError), or refers to what no
    new manifest may refer to (DamagedError, LeaseLostError).
    """
    finished = find_disk_manifest(repository, second.disk.disk_key, second.name, second.created)
    if finished is not None:
        require_sound(repository, finished)
        require_undamaged(repository, finished)
        return finished
    with Lease(repository, second.disk.disk_key, second.name) as lease:
        lease.name_parent(first)
        # Only now: with this lease as a root, nothing more of it is condemned.
        source = read_sound_manifest(repository, first)
        _require_same(source, second)
        _require_usable(repository, source.manifest, lease)
        return commit_disk_manifest(repository, lease, _second(source, second))


def _require_same(source: StoredDisk, second: SecondBackup) -> None:
    its = source.manifest
    if (its.disk.disk_key, its.created) != (second.disk.disk_key, second.created):
        raise ManifestConflictError(
            f"{source.name}: it holds disk {its.disk.claim_name!r} of {its.created}, expected"
            f" {second.disk.claim_name!r} of {second.created}"
        )


def _require_usable(repository: Repository, manifest: DiskManifest, lease: Lease) -> None:
    try:
        avoided = avoid(repository, manifest, read_damage(repository), lease.condemned)
    except ObjectNotFoundError as error:
        raise BackupNotFoundError(str(error)) from None
    if avoided.pages:
        raise DamagedError(f"{len(avoided.pages)} pages of its map refer to packs that are damaged or condemned by now")


def _second(source: StoredDisk, second: SecondBackup) -> DiskManifest:
    return source.manifest.model_copy(
        update={
            "disk": second.disk,
            "backup_name": second.name,
            "expiry": second.expiry,
            "parent": source.name,
            "full_reason": None,
            "compared_with": None,
            "statistics": _unchanged(source.manifest.statistics),
            "checked": None,
            "original": None,
        }
    )


def _unchanged(counts: DiskStatistics) -> DiskStatistics:
    """Return the counts of a backup that has read and stored nothing."""
    return DiskStatistics(
        allocated_bytes=counts.allocated_bytes,
        unchanged_blocks=counts.new_blocks + counts.unchanged_blocks,
        zero_blocks=counts.zero_blocks,
    )
