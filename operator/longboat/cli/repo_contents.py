"""What lies in a repository, read for people: damage of one object hides none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from longboat.cli.repo_incomplete import incomplete_backups, incomplete_text, read_loose_disk, read_revision
from longboat.repository import BackupManifest, Repository, RepositoryError, StoredDisk, Tombstone, read_disk_manifest
from longboat.repository.backups import all_revisions
from longboat.repository.documents import MAX_DOCUMENT_OBJECT, open_document
from longboat.repository.errors import DamagedError, ObjectNotFoundError
from longboat.repository.layout import BACKUPS, TOMBSTONES, Kind, hash_below
from longboat.repository.listing import list_disks

T = TypeVar("T")
R = TypeVar("R")
_READS = 16


@dataclass(frozen=True)
class Backup:
    """A backup's manifest, and its tombstone if it is deleted.

    `problem` says what of its manifest can't be read. It is not `complete` if that is all of it: then these are those
    of its disks that are in the store.
    """

    manifest: BackupManifest
    tombstone: Tombstone | None = None
    problem: str = ""
    complete: bool = True

    @property
    def namespace(self) -> str:
        """The namespace that it was made in, empty if the manifest does not tell."""
        return str(_within(self.manifest.metadata, "diskBackup", "namespace") or "")

    def told(self, *names: str) -> Any:
        """Return what the operator has noted in the manifest's metadata, or None."""
        return _within(self.manifest.metadata, *names)

    @property
    def size_bytes(self) -> int:
        """Size of its disks."""
        return sum(disk.size_bytes for disk in self.manifest.disks)

    @property
    def stored_bytes(self) -> int:
        """What its exports have added to the store."""
        return sum(disk.stored_bytes for disk in self.manifest.disks)


@dataclass
class Contents:
    """A repository's backups, the oldest first, and since when it is closed, if it is.

    `problems` is what could not be read of it, `notes` what else is worth being known of backups.
    """

    path: str
    repository_id: str = ""
    key_id: str = ""
    backups: list[Backup] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    closed: datetime | None = None

    @property
    def namespaces(self) -> list[str]:
        """Names that the namespace has had."""
        return sorted({backup.namespace for backup in self.backups if backup.namespace})


def read_contents(path: str, repository: Repository) -> Contents:
    """Read all backups of a repository; a StoreError that concerns all of it is raised."""
    contents = Contents(path, repository.id, repository.key_id)
    stones = dict(_each(_tombstone(repository), _hashes(repository), contents))
    revisions = {f"{BACKUPS}{hashed}": names for hashed, names in all_revisions(repository).items()}
    found = dict(_each(lambda folder: read_revision(repository, revisions[folder]), revisions, contents))
    contents.backups = [Backup(each.manifest, problem=each.problem) for each in found.values() if each.manifest]
    contents.problems += [each.problem for each in found.values() if each.problem]
    # Those that a newer program has written, say, are in `revisions` alone, and told of as problems.
    known = {folder for folder in revisions if folder not in found or found[folder].manifest}
    _add_incomplete(repository, contents, known, set(revisions))
    contents.backups = [
        replace(each, tombstone=stones.get(f"{TOMBSTONES}{repository.keys.name_hash(each.manifest.name)}"))
        for each in contents.backups
    ]
    contents.backups.sort(key=lambda backup: (backup.manifest.created, backup.manifest.name))
    return contents


def _add_incomplete(repository: Repository, contents: Contents, known: set[str], listed: set[str]) -> None:
    """Add the backups whose manifest is not among the known ones, as far as their disks tell."""
    named = {disk.manifest for backup in contents.backups for disk in backup.manifest.disks}
    disks = [
        name
        for name, disk in list_disks(repository).items()
        if f"{BACKUPS}{disk.backup_hash}" not in known and name not in named
    ]
    loose = (found for _, found in _each(lambda name: read_loose_disk(repository, name), disks, contents))
    for backup in incomplete_backups(repository, loose):
        lost = f"{BACKUPS}{repository.keys.name_hash(backup.name)}" in listed
        why = incomplete_text(backup.name, lost)
        contents.backups.append(Backup(backup, problem=why, complete=False))
        (contents.problems if lost else contents.notes).append(why)


def read_backup(repository: Repository, name: str) -> Backup | None:
    """Return the backup of that name by the newest revision of its manifest that can be read, None if none can be."""
    found = read_revision(repository, _revisions(repository, name))
    return _with_tombstone(repository, Backup(found.manifest, problem=found.problem)) if found.manifest else None


def rebuild_backup(repository: Repository, name: str) -> Backup | None:
    """Return what there is of a backup without its manifest, None if that is nothing.

    DamagedError if a manifest of it or of one of its disks is damaged, and nothing else is there.
    """
    contents, hashed = Contents(""), repository.keys.name_hash(name)
    fault = read_revision(repository, _revisions(repository, name)).problem
    disks = [each for each, disk in list_disks(repository).items() if disk.backup_hash == hashed]
    loose = (found for _, found in _each(lambda each: read_loose_disk(repository, each), disks, contents))
    for manifest in incomplete_backups(repository, loose):
        told = "; ".join([incomplete_text(name, bool(fault)), *filter(None, [fault]), *contents.problems])
        return _with_tombstone(repository, Backup(manifest, problem=told, complete=False))
    if fault or contents.problems:
        raise DamagedError(fault or contents.problems[0])
    return None


def _revisions(repository: Repository, name: str) -> list[str]:
    hashed = repository.keys.name_hash(name)
    return all_revisions(repository, f"{BACKUPS}{hashed}/").get(hashed, [])


def _with_tombstone(repository: Repository, backup: Backup) -> Backup:
    try:
        stone = _tombstone(repository)(f"{TOMBSTONES}{repository.keys.name_hash(backup.manifest.name)}")
    except ObjectNotFoundError:
        return backup
    except DamagedError as error:
        told = f"backup {backup.manifest.name!r} is deleted, and its tombstone can't be read: {error}"
        return replace(backup, problem="; ".join(filter(None, [backup.problem, told])))
    return replace(backup, tombstone=stone)


def read_disks(repository: Repository, backup: Backup) -> list[tuple[str, StoredDisk | str]]:
    """Return for each disk of a backup its manifest, or in words why it can't be read."""
    return [(disk.disk, _disk(repository, disk.manifest)) for disk in backup.manifest.disks]


def _disk(repository: Repository, name: str) -> StoredDisk | str:
    try:
        return read_disk_manifest(repository, name)
    except RepositoryError as error:
        if error.retryable:
            raise
        return str(error)


def _hashes(repository: Repository) -> list[str]:
    return [info.name for info in repository.store.list(TOMBSTONES) if hash_below(TOMBSTONES, info.name)]


def _tombstone(repository: Repository) -> Callable[[str], Tombstone]:
    def read(name: str) -> Tombstone:
        data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
        return open_document(repository.keys, Kind.TOMBSTONE, data, Tombstone)[1]

    return read


def _each(read: Callable[[str], R], names: Iterable[str], contents: Contents) -> Iterator[tuple[str, R]]:
    """Yield what is read under each name; what can't be is noted as a problem."""

    def tried(name: str) -> R | RepositoryError:
        try:
            return read(name)
        except RepositoryError as error:
            return error

    names = list(names)
    with ThreadPoolExecutor(_READS, thread_name_prefix="read") as pool:
        for name, found in zip(names, pool.map(tried, names), strict=True):
            if not isinstance(found, RepositoryError):
                yield name, found
            elif found.retryable:
                raise found
            else:
                contents.problems.append(f"{name}: {found}")


def _within(data: Any, *names: str) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data
