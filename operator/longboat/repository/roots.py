"""What a prune must not touch: the packs of all disk manifests, and those that writers at work have announced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .backups import StoredDisk, read_disk_manifest
from .documents import MAX_DOCUMENT_OBJECT, open_document
from .errors import BackupNotFoundError, DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import DISKS, LEASES, Kind, split_disk_manifest_name, split_lease_name, split_pack_name
from .leases import LeaseRecord
from .mark import Marks
from .named import named_disks, require_named
from .object_store import ObjectInfo, exists
from .parallel import in_batches
from .repository import Repository

_NEVER = datetime.max.replace(tzinfo=UTC)
_BATCH = 16  # Manifests that are read at a time; one of a large disk takes some MiB of memory.


@dataclass
class LeasedPacks:
    """What writers at work have announced: `packs` they uploaded, and the manifest each uses as parent.

    `since` is when the oldest of them began to work; `expired` are the objects of leases that ended long ago.
    """

    live: int = 0
    packs: set[tuple[Kind, bytes]] = field(default_factory=set)
    parents: dict[str, str] = field(default_factory=dict)
    expired: list[ObjectInfo] = field(default_factory=list)
    since: datetime = _NEVER

    def add(self, name: str, record: LeaseRecord) -> None:
        """Take a lease's object; DamagedError if it names what can't be named."""
        for pack in record.packs:
            parts = split_pack_name(pack)
            if parts is None:
                raise DamagedError(f"lease {name}: {pack!r} is not the name of a pack")
            self.packs.add(parts)
        if record.parent is not None:
            if split_disk_manifest_name(record.parent) is None:
                raise DamagedError(f"lease {name}: {record.parent!r} is not the name of a disk manifest")
            self.parents[name] = record.parent

    def lost_parent(self, repository: Repository) -> str:
        """Return why what a writer refers to is not known, or an empty text.

        Its parent was deleted for good while it works: it can still use what is not condemned.
        """
        for name, parent in self.parents.items():
            if not exists(repository.store, parent):
                return f"lease {name}: its parent {parent} is gone while the export goes on; a later run condemns packs"
        return ""


def read_leases(repository: Repository, alive_since: datetime, expired_before: datetime) -> LeasedPacks:
    """Read the leases whose newest object is younger than `alive_since`; DamagedError if one can't be read.

    Leases without an object as young as `expired_before` are listed as expired.
    """
    found: dict[str, list[ObjectInfo]] = {}
    for info in repository.store.list(LEASES):
        parts = split_lease_name(info.name)
        if parts is None:
            raise DamagedError(f"{info.name}: not the name of a lease (leases/<32 hex>/<6 digits>); remove it by hand")
        found.setdefault(parts[0], []).append(info)
    leased = LeasedPacks()
    for objects in found.values():
        newest = max(info.modified for info in objects)
        if newest > alive_since:
            leased.live += 1
            leased.since = min(leased.since, *(info.modified for info in objects))
            for info in sorted(objects, key=lambda each: each.name):
                _take(repository, info.name, leased)
        elif newest <= expired_before:
            leased.expired += objects
    return leased


def mark_manifests(repository: Repository, threads: int, count: Callable[[int, int], None]) -> Marks:
    """Return the pages that all disk manifests refer to; `count` is told how many of how many were read.

    DamagedError or UnsupportedFormatError names the first manifest that can't be read, or that is not there although a
    backup names it. One that is removed meanwhile does not count.
    """
    # Before the disk manifests: a backup's own manifest is written after those of its disks.
    named = named_disks(repository, threads)
    names = sorted(info.name for info in repository.store.list(DISKS))
    unknown = next((name for name in names if split_disk_manifest_name(name) is None), None)
    if unknown is not None:
        raise DamagedError(
            f"{unknown}: not the name of a disk manifest (disks/<32 hex>/<time>-<32 hex>): what it refers to"
            " is not known; update this program, or remove the object by hand"
        )
    marks, read = Marks(), set[tuple[str, str]]()
    found = in_batches(threads, _BATCH, lambda name: _manifest(repository, name), names)
    for number, stored in enumerate(found, 1):
        if stored is not None:
            marks.add_manifest(stored.manifest, stored.name.split("/")[1])
            read.add((stored.name, stored.object_id))
        count(number, len(names))
    marks.close()
    require_named(repository, named, read)
    return marks


def _manifest(repository: Repository, name: str) -> StoredDisk | None:
    try:
        return read_disk_manifest(repository, name)
    except BackupNotFoundError:
        return None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"disk manifest {name}: {error}") from None


def _take(repository: Repository, name: str, leased: LeasedPacks) -> None:
    try:
        data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
        leased.add(name, open_document(repository.keys, Kind.LEASE, data, LeaseRecord)[1])
    except ObjectNotFoundError:
        return  # Its writer has ended, and written its manifest or given up.
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"lease {name}: {error}") from None
