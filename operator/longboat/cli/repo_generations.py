"""The repositories of a namespace as `longboat repo` names them, and what is believed in those that are closed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from longboat.cli.repo_access import Key, UsageError, open_at
from longboat.cli.repo_contents import Backup, read_backup, rebuild_backup
from longboat.repository import (
    ObjectStore,
    Repository,
    RepositoryError,
    find_generations,
    late_manifests,
    parse_generation,
    require_on_time,
)
from longboat.repository.closing import NOTHING, Accepted, require_backup_in_time
from longboat.repository.errors import BackupNotFoundError, LateManifestError
from longboat.repository.retire import clear_remains

_SOME = 5  # Paths that a message names.
TOO_LATE = "it came too late after the repository had been closed, and is not believed"
ACCEPT_LATE = (
    "--accept-late restores it nevertheless (in a copy of a store all time stamps are those of the copying); `longboat"
    " repo prune --accept-late` accepts it from now on"
)


@dataclass(frozen=True, order=True)
class Place:
    """What a repository's path says: whose it is, and which one of the namespace's it is, from 1."""

    cluster_id: str
    namespace_uid: str
    number: int

    def is_meant_by(self, text: str) -> bool:
        """Tell whether a text names this repository, or all of its namespace; `<UID>.1` is the first one alone."""
        names = self.namespace_uid, f"{self.namespace_uid}.{self.number}"
        return text in {*names, *(f"{self.cluster_id}/{name}" for name in names)}


def place_of(path: str) -> Place:
    """Return what a path says; a folder of another form counts as a namespace of its own."""
    cluster, folder = path.split("/")[:2]
    uid, number = parse_generation(folder) or (folder, 1)
    return Place(cluster, uid, number)


def choose_paths(paths: Iterable[str], wanted: str) -> list[str]:
    """Return the paths that a text names: a namespace's, one of them, or what begins so. Raises UsageError."""
    paths = sorted(paths, key=place_of)
    found = [path for path in paths if place_of(path).is_meant_by(wanted)]
    found = found or [path for path in paths if path.startswith(wanted) or path.split("/")[1].startswith(wanted)]
    if wanted and not found:
        known = ", ".join(paths[:_SOME]) or "none"
        more = " …" if len(paths) > _SOME else ""
        raise UsageError(f"--repository: none begins with {wanted!r}; there are: {known}{more}")
    return found or paths


@dataclass(frozen=True)
class Standing:
    """Since when a repository is closed by a newer one of its namespace, and whether it ends when it is empty.

    `accepted` are the marks of what is believed though it came too late; `newest`, with whose key that can be said, is
    the newest repository of the namespace, None if this is the one.
    """

    closed: datetime | None = None
    may_retire: bool = False
    accepted: Accepted = NOTHING
    newest: Repository | None = None


def standing_of(store: ObjectStore, path: str, key: Key) -> Standing:
    """Return how a repository stands among those of its namespace.

    RepositoryError if that can't be told, as the newest one does not open with the key.
    """
    place = place_of(path)
    if parse_generation(path.split("/")[1]) is None:
        return Standing()
    found = find_generations(store, place.cluster_id, place.namespace_uid)
    if found.newest in (None, place.number):
        return Standing()
    newest = open_at(store, found.path(found.newest or 1), key)
    closing = found.closing(place.number, newest)
    if closing is None:
        return Standing()
    return Standing(closing.closed, found.may_retire(place.number, newest), closing.accepted, newest)


def closed_since(store: ObjectStore, path: str, key: Key) -> datetime | None:
    """Return since when a repository is closed, None for the newest one of its namespace. Raises RepositoryError."""
    return standing_of(store, path, key).closed


def clear_all_remains(store: ObjectStore, paths: Iterable[str]) -> None:
    """Remove what is left of ended repositories of the namespaces that have these. Raises RepositoryError."""
    for cluster, uid in {(place.cluster_id, place.namespace_uid) for place in map(place_of, paths)}:
        if parse_generation(uid):
            clear_remains(find_generations(store, cluster, uid))


def late_in(store: ObjectStore, path: str, repository: Repository, key: Key) -> list[str]:
    """Return the manifests of an open repository that came too late after it was closed. Raises RepositoryError."""
    standing = standing_of(store, path, key)
    return late_manifests(repository, standing.closed, standing.accepted) if standing.closed else []


@dataclass(frozen=True)
class Found:
    """A backup, where it is, and why it is not believed, if so: it came after its repository had been closed."""

    path: str
    repository: Repository
    backup: Backup
    doubt: str = ""


def find_everywhere(store: ObjectStore, opened: Iterable[tuple[str, Repository]], key: Key, name: str) -> list[Found]:
    """Return the backups of that name in all repositories. Raises RepositoryError.

    If none of them has a manifest that can be read, what there is of them without it.
    """
    opened = list(opened)
    for look in (read_backup, rebuild_backup):
        pairs = ((path, repository, look(repository, name)) for path, repository in opened)
        found = [
            Found(path, repository, backup, _doubt(store, path, repository, key, backup))
            for path, repository, backup in pairs
            if backup
        ]
        if found:
            return found
    return []


def choose_one(store: ObjectStore, found: Sequence[Found], name: str, accept: bool, problems: Sequence[str]) -> Found:
    """Return the one that is believed, or the only one if all are accepted. Raises UsageError, RepositoryError.

    `problems` tells of repositories that could not be looked into: the backup may be there.
    """
    good = [each for each in found if not each.doubt]
    chosen = good or found
    if len(chosen) > 1:
        places = ", ".join(each.path for each in chosen)
        raise UsageError(f"--repository: backup {name!r} is in {len(chosen)} repositories, name one: {places}")
    if not chosen:
        raise not_found(f"{store.describe()}: no backup {name!r}", problems)
    if chosen[0].doubt and not accept:
        raise LateManifestError(f"{chosen[0].doubt}; {ACCEPT_LATE}")
    return chosen[0]


def not_found(what: str, problems: Sequence[str]) -> BackupNotFoundError:
    """Return the error for backups that are nowhere, as far as could be looked."""
    return BackupNotFoundError("; ".join([what, *problems, "see longboat repo list"]))


def _doubt(store: ObjectStore, path: str, repository: Repository, key: Key, backup: Backup) -> str:
    try:
        standing = standing_of(store, path, key)
    except RepositoryError as error:
        if error.retryable:
            raise
        return f"it can't be told whether backup {backup.manifest.name!r} came after {path} had been closed: {error}"
    try:
        require_believed(repository, backup, standing)
    except RepositoryError as error:
        if error.retryable:
            raise
        return str(error)
    return ""


def require_believed(repository: Repository, backup: Backup, standing: Standing) -> None:
    """Check that a backup did not come too late after its repository had been closed. Raises RepositoryError."""
    if backup.complete:
        require_backup_in_time(repository, backup.manifest, standing.closed, standing.accepted)
    else:
        disks = (disk.manifest for disk in backup.manifest.disks)
        require_on_time(repository, disks, standing.closed, standing.accepted)
