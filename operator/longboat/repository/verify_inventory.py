"""What there is to verify: backups, their disks, and the sizes of all packs, from listings and small documents."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from .backups import newest_revisions, read_backup_manifest, tombstoned_hashes
from .errors import DamagedError, ObjectNotFoundError
from .layout import (
    ID_BYTES,
    KEYS,
    MAPS,
    PACKS,
    Kind,
    split_disk_manifest_name,
)
from .listing import list_disks
from .object_store import persistently
from .repository import Repository
from .verify_report import Fault, fault_of
from .wrapping import MAX_WRAP, WrappedKey


@dataclass
class BackupEntry:
    """A backup: `disks` are names in the machine, names of disk manifests, and bytes (0 if not known).

    `objects` are the ids of the objects that have to lie under those names, as far as the backup says so. `fault` says
    why the backup's own manifest can't be read.
    """

    name: str
    manifest: str = ""
    created: datetime | None = None
    deleted: bool = False
    disks: list[tuple[str, str, int]] = field(default_factory=list)
    fault: str = ""
    objects: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Tell whether the backup's own manifest is there and can be read."""
        return self.created is not None


@dataclass
class Inventory:
    """The repository's backups, and the names of all disk manifests, in no backup (yet) or missing ones included.

    `places` are the objects in which those that were listed were to be found.
    """

    backups: list[BackupEntry]
    disks: list[str]
    places: dict[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """Bytes of all disks of all backups."""
        return sum(size for entry in self.backups for _, _, size in entry.disks)

    @property
    def objects(self) -> dict[str, str]:
        """Ids of the objects that backups name, by the names of the disk manifests."""
        return {name: object_id for entry in self.backups for name, object_id in entry.objects.items()}

    def disks_of(self, names: set[str] | None) -> set[str]:
        """Return the disk manifests of the backups called so, or all."""
        if names is None:
            return set(self.disks)
        return {manifest for entry in self.backups if entry.name in names for _, manifest, _ in entry.disks}


def take_inventory(repository: Repository, pool: Executor, believes_moved: bool) -> Inventory:
    """List and read all backup manifests; those that are damaged become entries with a fault.

    Without `believes_moved` a disk manifest that only objects of prunes stand for is not there.
    """
    revisions = sorted(newest_revisions(repository).items())
    deleted = tombstoned_hashes(repository)
    found = pool.map(lambda item: _entry(repository, *item), revisions)
    entries = {hashed: entry for (hashed, _), entry in zip(revisions, found, strict=True) if entry is not None}
    # Disks are listed after the backups: all that a backup names have been there by then.
    disks = list_disks(repository)
    places = {name: disk.current.name for name, disk in disks.items() if believes_moved or disk.has_own}
    listed = set(places)
    named = {manifest for entry in entries.values() for _, manifest, _ in entry.disks}
    _add_unnamed(entries, sorted(listed - named))
    for hashed, entry in entries.items():
        entry.deleted = hashed in deleted
    return Inventory(list(entries.values()), sorted(named | listed), places)


def pack_sizes(repository: Repository) -> dict[tuple[Kind, bytes], int]:
    """Return the bytes of every pack; to be asked after the manifests were listed."""
    return dict(_sizes(repository))


def key_faults(repository: Repository) -> dict[str, Fault]:
    """Return what is wrong with the wrapped copies of the master key, without which nothing can be read, by object."""
    folder = f"{KEYS}{repository.key_id}/"
    names = [info.name for info in repository.store.list(folder)]
    if not names:
        return {folder: Fault("Missing", "no copy of the master key is left: add one while this program still has it")}
    return {name: fault for name in names if (fault := _key_fault(repository, name))}


def _key_fault(repository: Repository, name: str) -> Fault | None:
    def read() -> None:
        try:
            WrappedKey.model_validate_json(repository.store.get(name, MAX_WRAP))
        except ValidationError:
            raise DamagedError("this copy of the master key can not be read: wrap it anew for its recipient") from None

    try:
        persistently(read)
    except (DamagedError, ObjectNotFoundError) as error:
        return fault_of(error)
    return None


def _entry(repository: Repository, hashed: str, name: str) -> BackupEntry | None:
    try:
        manifest = persistently(lambda: read_backup_manifest(repository, name))
    except ObjectNotFoundError:
        return None  # Removed since the listing.
    except DamagedError as error:
        return BackupEntry(hashed, name, fault=str(error))
    disks = [(disk.disk, disk.manifest, disk.size_bytes) for disk in manifest.disks]
    objects = {disk.manifest: disk.object_id for disk in manifest.disks}
    return BackupEntry(manifest.name, name, manifest.created, disks=disks, objects=objects)


def _add_unnamed(entries: dict[str, BackupEntry], disks: list[str]) -> None:
    """Give disks to the backups whose manifest is damaged or not there (yet), by the hash in the disks' names."""
    for name in disks:
        parts = split_disk_manifest_name(name)
        if parts and not (parts[2] in entries and entries[parts[2]].complete):
            entries.setdefault(parts[2], BackupEntry(parts[2])).disks.append(("", name, 0))


def _sizes(repository: Repository) -> Iterator[tuple[tuple[Kind, bytes], int]]:
    for kind, folder in ((Kind.DATA_PACK, PACKS), (Kind.MAP_PACK, MAPS)):
        for info in repository.store.list(folder):
            text = info.name.rsplit("/", 1)[1]
            if len(text) == 2 * ID_BYTES and set(text) <= set("0123456789abcdef"):
                yield (kind, bytes.fromhex(text)), info.size
