"""What a mounted store shows: `<namespace>/<claim or disk>/<moment>.img` for every readable disk of a backup."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from longboat.cli.repo_contents import Backup, Contents
from longboat.cli.repo_generations import place_of
from longboat.cli.repo_restore import read_disk
from longboat.repository import DiskReference, Repository, RepositoryError

_READS = 16


@dataclass(frozen=True)
class DiskFile:
    """A disk of a backup as a file: what is told of it without its map; sizes in bytes."""

    repository: Repository
    repository_path: str
    namespace: str
    backup: str
    reference: DiskReference
    claim: str
    created: datetime
    size: int
    allocated: int
    archive: bool
    deleted: bool

    @property
    def disk(self) -> str:
        """The disk's name in the machine."""
        return self.reference.disk

    @property
    def home(self) -> tuple[str, str]:
        """Cluster id and namespace UID; further repositories of a namespace have further backups of the same disks."""
        place = place_of(self.repository_path)
        return place.cluster_id, place.namespace_uid


@dataclass
class Tree:
    """Directories by path (`/`, `/shop`, `/shop/db-data`) with the names in them, and files by path.

    `moments` are those of the newest file in each directory.
    """

    folders: dict[str, list[str]] = field(default_factory=lambda: {"/": []})
    moments: dict[str, datetime] = field(default_factory=dict)
    files: dict[str, DiskFile] = field(default_factory=dict)

    def add(self, parts: Sequence[str], file: DiskFile) -> None:
        """Put a file in its place, with the directories on the way."""
        at = ""
        for part in parts:
            names = self.folders.setdefault(at or "/", [])
            self.moments[at or "/"] = max(file.created, self.moments.get(at or "/", file.created))
            if part not in names:
                names.append(part)
            at = f"{at}/{part}"
        self.files[at] = file


def read_files(found: Contents, repository: Repository) -> Iterator[DiskFile]:
    """Yield the disks of a repository's backups; those that can't be read are noted as problems."""
    pairs = [(backup, disk) for backup in found.backups for disk in backup.manifest.disks]

    def read(pair: tuple[Backup, DiskReference]) -> DiskFile | RepositoryError:
        try:
            return _file(found.path, repository, *pair)
        except RepositoryError as error:
            return error

    with ThreadPoolExecutor(_READS, thread_name_prefix="read") as pool:
        for (backup, disk), each in zip(pairs, pool.map(read, pairs), strict=True):
            if isinstance(each, DiskFile):
                yield each
            elif each.retryable:
                raise each
            else:
                found.problems.append(f"backup {backup.manifest.name}, disk {disk.disk}: {each}")


def _file(path: str, repository: Repository, backup: Backup, disk: DiskReference) -> DiskFile:
    # The manifest is read again when the file is opened: the maps of a thousand large disks are too much to keep.
    manifest = read_disk(repository, disk).manifest
    return DiskFile(
        repository=repository,
        repository_path=path,
        namespace=backup.namespace,
        backup=backup.manifest.name,
        reference=disk,
        claim=manifest.disk.claim_name,
        created=backup.manifest.created,
        size=manifest.size_bytes,
        allocated=manifest.statistics.allocated_bytes,
        archive=manifest.content == "Archive",
        deleted=backup.tombstone is not None,
    )


def build_tree(files: Iterable[DiskFile]) -> Tree:
    """Return the tree of these files; names are made longer where they would be the same, so that none is left out."""
    tree, files = Tree(), list(files)
    namespaces = _namespaces(files)
    places = defaultdict[tuple[str, str], list[DiskFile]](list)
    for file in files:
        places[namespaces[file.home, file.namespace], _safe(file.claim or file.disk)].append(file)
    for (namespace, claim), some in sorted(places.items()):
        for name, file in _named(some):
            tree.add((namespace, claim, name), file)
    return tree


def _namespaces(files: list[DiskFile]) -> dict[tuple[tuple[str, str], str], str]:
    """Return the directory of each namespace: its name, with where it was if several have the same one."""
    labels = {(file.home, file.namespace): file.namespace or file.home[1] for file in files}
    uses = Counter(labels.values())
    return {
        (home, namespace): _safe(label if uses[label] == 1 else "-".join((label, *home)))
        for (home, namespace), label in labels.items()
    }


def _named(files: list[DiskFile]) -> Iterator[tuple[str, DiskFile]]:
    """Yield the files of one directory with their names: by moment, where needed with backup, disk and a number."""
    rest, taken = sorted(files, key=lambda file: (file.created, file.backup, file.disk)), set[str]()
    for parts in (1, 2, 3):
        named = [(_name(file, parts), file) for file in rest]
        uses = Counter(name for name, _ in named)
        clear = {name for name, _ in named if uses[name] == 1 and name not in taken}
        yield from (each for each in named if each[0] in clear)
        rest, taken = [file for name, file in named if name not in clear], taken | clear
    # Names that are cut off, or that had characters replaced, may still be the same.
    yield from ((f"{number}.{_name(file, 1)}", file) for number, file in enumerate(rest, 1))


def _name(file: DiskFile, parts: int) -> str:
    # Without colons: QEMU takes what comes before one for a protocol.
    moment = file.created.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    words = (moment, file.backup, file.disk)[:parts]
    return _safe(".".join(words)) + (".tar" if file.archive else ".img")


def _safe(text: str) -> str:
    name = "".join("_" if char == "/" or not char.isprintable() else char for char in text)
    # With room for the ending: file systems have names of up to 255 bytes.
    name = name.encode()[:240].decode(errors="ignore")
    return f"_{name}" if name in {"", ".", ".."} else name


def file_json(path: str, file: DiskFile) -> dict[str, Any]:
    """Return a file as JSON; sizes in bytes."""
    return {
        "path": path,
        "repository": file.repository_path,
        "namespace": file.namespace or None,
        "backup": file.backup,
        "disk": file.disk,
        "claim": file.claim or None,
        "created": file.created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sizeBytes": file.size,
        "allocatedBytes": file.allocated,
        "deleted": file.deleted,
    }
