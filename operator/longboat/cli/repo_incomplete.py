"""What people can still get at of backups whose own manifest is damaged or lost.

A backup's manifest is written anew with each change of its expiry, and the revisions differ in nothing else: an earlier
one restores the same disks. The manifests of disks are complete in themselves, and say whose backup they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from longboat.repository import BackupManifest, DiskReference, Repository, read_disk_manifest, reference_to
from longboat.repository.backups import read_backup_manifest
from longboat.repository.errors import DamagedError, ObjectNotFoundError
from longboat.repository.layout import FORMAT_VERSION


@dataclass(frozen=True)
class Revision:
    """The newest revision of a backup's manifest that can be read, if any, and what can't be read of newer ones."""

    manifest: BackupManifest | None = None
    problem: str = ""


@dataclass(frozen=True)
class LooseDisk:
    """A disk whose backup has no readable manifest: the name of that backup, and of when the disk is."""

    backup: str
    created: datetime
    reference: DiskReference


def read_revision(repository: Repository, names: Sequence[str]) -> Revision:
    """Return the first of these revisions (objects, the newest first) that is not damaged. Raises RepositoryError."""
    faults = list[str]()
    for name in names:
        try:
            manifest = read_backup_manifest(repository, name)
        except DamagedError as error:
            faults.append(str(error))
        except ObjectNotFoundError:
            continue  # Removed since the listing.
        else:
            return Revision(manifest, _earlier(manifest, faults))
    return Revision(problem="; ".join(faults))


def _earlier(manifest: BackupManifest, faults: list[str]) -> str:
    if not faults:
        return ""
    return (
        f"backup {manifest.name!r}: {'; '.join(faults)}; revision {manifest.revision} is taken: it has the same disks,"
        " and what it says of expiry was changed later"
    )


def read_loose_disk(repository: Repository, name: str) -> LooseDisk:
    """Return what a disk's manifest says of its backup. Raises RepositoryError."""
    stored = read_disk_manifest(repository, name)
    disk = stored.manifest.disk
    reference = reference_to(stored, disk.claim_name or disk.disk_key)
    return LooseDisk(stored.manifest.backup_name, stored.manifest.created, reference)


def incomplete_backups(repository: Repository, disks: Iterable[LooseDisk]) -> Iterator[BackupManifest]:
    """Yield a manifest for each backup that has some of these disks: they are named by their claims."""
    backups = defaultdict[str, list[LooseDisk]](list)
    for disk in disks:
        backups[disk.backup].append(disk)
    for name, some in sorted(backups.items()):
        yield BackupManifest(
            format_version=FORMAT_VERSION,
            repository_id=repository.id,
            key_id=repository.key_id,
            name=name,
            created=max(disk.created for disk in some),
            disks=sorted(_named(some), key=lambda disk: disk.disk),
        )


def _named(disks: Sequence[LooseDisk]) -> Iterator[DiskReference]:
    """Yield the disks, each under another name: of a claim that was captured twice with the moment and a number."""
    uses = Counter(disk.reference.disk for disk in disks)
    for number, disk in enumerate(
        sorted(disks, key=lambda each: (each.created, each.reference.disk, each.reference.manifest)), 1
    ):
        name = disk.reference.disk
        longer = f"{name}.{disk.created.astimezone(UTC):%Y%m%dT%H%M%SZ}.{number}"
        yield disk.reference.model_copy(update={"disk": name if uses[name] == 1 else longer})


def incomplete_text(name: str, damaged: bool) -> str:
    """Return in words what is known of a backup without a readable manifest."""
    why = "no manifest of it can be read" if damaged else "it has no manifest: it is under way, has failed, or lost it"
    return (
        f"backup {name!r}: {why}. Its disks that are in the store can be restored all the same, under the names of"
        " their claims"
    )
