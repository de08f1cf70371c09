"""Which backups a mount shows: all that can be read, and are believed, of the repositories meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from longboat.cli.mount_tree import DiskFile, read_files
from longboat.cli.repo_access import Key, open_at
from longboat.cli.repo_contents import Contents, read_contents
from longboat.cli.repo_generations import require_believed, standing_of
from longboat.repository import ObjectStore, Repository, RepositoryError


@dataclass
class Shown:
    """The files to show, and in words what is left out."""

    files: list[DiskFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(store: ObjectStore, paths: Iterable[str], key: Key, namespace: str | None, accept_late: bool) -> Shown:
    """Return the disks of all backups in these repositories; a StoreError that a retry may help is raised.

    `namespace` leaves those made in the namespace of that name. What came too late after its repository had been
    closed is left out unless it is accepted.
    """
    shown = Shown()
    for path in paths:
        try:
            repository = open_at(store, path, key)
            found = only(read_contents(path, repository), namespace)
            if not accept_late:
                _leave_out_late(store, repository, key, found)
            shown.files += read_files(found, repository)
            shown.problems += found.problems
        except RepositoryError as error:
            if error.retryable:
                raise
            shown.problems.append(f"repository {path}: {error}")
    return shown


def only(contents: Contents, namespace: str | None) -> Contents:
    """Leave the backups made in a namespace, if one is named, and those of its repository that don't say where."""
    if namespace:
        unknown = namespace in contents.namespaces
        contents.backups = [
            backup for backup in contents.backups if backup.namespace == namespace or (unknown and not backup.complete)
        ]
    return contents


def _leave_out_late(store: ObjectStore, repository: Repository, key: Key, found: Contents) -> None:
    # Where that can't be told, the repository is left out as a whole: its error names it.
    standing = standing_of(store, found.path, key)
    believed = []
    for backup in found.backups if standing.closed else []:
        try:
            require_believed(repository, backup, standing)
            believed.append(backup)
        except RepositoryError as error:
            if error.retryable:
                raise
            found.problems.append(f"backup {backup.manifest.name}: {error}; --accept-late shows it nevertheless")
    found.backups = believed if standing.closed else found.backups
