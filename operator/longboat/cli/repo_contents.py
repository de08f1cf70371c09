"""What lies in a repository, read for people: damage of one object hides none of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from longboat.repository import BackupManifest, Repository, RepositoryError, StoredDisk, Tombstone, read_disk_manifest
from longboat.repository.backups import newest_revisions, read_backup_manifest
from longboat.repository.documents import MAX_DOCUMENT_OBJECT, open_document
from longboat.repository.layout import TOMBSTONES, Kind, hash_below

T = TypeVar("T")
R = TypeVar("R")
_READS = 16


@dataclass(frozen=True)
class Backup:
    """A backup's manifest, and its tombstone if it is deleted."""

    manifest: BackupManifest
    tombstone: Tombstone | None = None

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
    """A repository's backups, the oldest first, what could not be read of it, and since when it is closed, if it is."""

    path: str
    repository_id: str = ""
    key_id: str = ""
    backups: list[Backup] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    closed: datetime | None = None

    @property
    def namespaces(self) -> list[str]:
        """Names that the namespace has had."""
        return sorted({backup.namespace for backup in self.backups if backup.namespace})


def read_contents(path: str, repository: Repository) -> Contents:
    """Read all backups of a repository; a StoreError that concerns all of it is raised."""
    contents = Contents(path, repository.id, repository.key_id)
    stones = dict(_each(_tombstone(repository), _hashes(repository), contents))
    names = newest_revisions(repository).values()
    found = _each(lambda name: read_backup_manifest(repository, name), names, contents)
    contents.backups = [Backup(manifest, stones.get(f"{TOMBSTONES}{name.split('/')[1]}")) for name, manifest in found]
    contents.backups.sort(key=lambda backup: (backup.manifest.created, backup.manifest.name))
    return contents


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
