"""What a prune must not touch: the packs of all disk manifests, and those that writers at work have announced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .backups import StoredDisk, disk_exists, place_of_disk, read_disk_at
from .documents import MAX_DOCUMENT_OBJECT, open_document
from .errors import BackupNotFoundError, DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import LEASES, Kind, split_disk_manifest_name, split_lease_name, split_pack_name
from .leases import LeaseRecord
from .listing import ListedDisk, list_disks
from .mark import Marks
from .named import named_disks, require_named
from .object_store import ObjectInfo
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

    def disks(self) -> set[str]:
        """Return the disks (by hash) of which a writer uses a backup as parent."""
        return {parent.split("/")[1] for parent in self.parents.values()}

    def lost_parent(self, repository: Repository) -> str:
        """Return why what a writer refers to is not known, or an empty text.

        Its parent was deleted for good while it works: it can still use what is not condemned.
        """
        for name, parent in self.parents.items():
            if not disk_exists(repository, parent):
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


def mark_manifests(
    repository: Repository, threads: int, count: Callable[[int, int], None], believes_moved: bool
) -> tuple[Marks, dict[str, ListedDisk]]:
    """Return the pages that all disk manifests refer to, and what was listed; `count` is told how many were read.

    DamagedError or UnsupportedFormatError names the first manifest that can't be read, or that is not there although a
    backup names it. One that is removed meanwhile does not count, nor without `believes_moved` one that only objects
    of prunes stand for: whoever hides the export's could have put them there.
    """
    # Before the disk manifests: a backup's own manifest is written after those of its disks.
    named = named_disks(repository, threads)
    listed = list_disks(repository, strict=True)
    marks, read, total = Marks(), set[tuple[str, str]](), len(listed)
    found = in_batches(threads, _BATCH, lambda each: (each, _manifests(repository, each)), listed.values())
    for number, (each, stored) in enumerate(found, 1):
        for disk in stored[:1]:
            marks.add_manifest(disk.manifest, each.disk_hash)
        for disk in stored[1:]:
            marks.add_further(disk.manifest)
        read |= {(disk.name, disk.object_id) for disk in stored if believes_moved or disk.place in ("", disk.name)}
        count(number, total)
    marks.close()
    require_named(repository, named, read)
    return marks, listed


def _manifests(repository: Repository, listed: ListedDisk) -> list[StoredDisk]:
    """Return what all objects of a disk manifest say that are still there."""
    found = (_manifest(repository, listed.name, info.name) for info in listed.ordered)
    stored = [each for each in found if each is not None]
    # All may be gone because another one has taken their place since the listing, not the backup.
    last = None if stored else _manifest(repository, listed.name, place_of_disk(repository, listed.name))
    return stored or ([last] if last else [])


def _manifest(repository: Repository, name: str, place: str) -> StoredDisk | None:
    try:
        return read_disk_at(repository, name, place)
    except BackupNotFoundError:
        return None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"disk manifest {place}: {error}") from None


def _take(repository: Repository, name: str, leased: LeasedPacks) -> None:
    try:
        data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
        leased.add(name, open_document(repository.keys, Kind.LEASE, data, LeaseRecord)[1])
    except ObjectNotFoundError:
        return  # Its writer has ended, and written its manifest or given up.
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"lease {name}: {error}") from None
