"""Writing a disk manifest: the moment at which packs become referred to, so that no prune may delete them any more.

A pack that a manifest refers to must not be condemned at that moment, or a prune that has seen no reference to it
deletes it later. So the lists are read right before, and the store's clock says afterwards if that was soon enough.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from datetime import timedelta

from .backups import StoredDisk, write_disk_manifest
from .condemned import CondemnedPacks
from .errors import BackupNotFoundError, DamagedError, LeaseLostError, ObjectNotFoundError, StoreError
from .layout import PACKS, Kind, pack_name, split_pack_name
from .leases import Lease
from .manifests import DiskManifest
from .mark import Marks, map_pack_sizes, references
from .moved import disks_to_build_on
from .repository import Repository

COMMIT_WITHIN = timedelta(minutes=20)  # Well within MIN_GRACE; a put is retried for a few minutes.
_PLACES = 3  # Another object may take a manifest's place between two looks at it; seldom, and never often.


def commit_disk_manifest(
    repository: Repository, lease: Lease, manifest: DiskManifest, unread_lists: Collection[str] = ()
) -> StoredDisk:
    """Store a disk manifest unless it refers to condemned packs; another attempt's is returned if that was first.

    `unread_lists` are the condemned lists that could not be read before the first pack was uploaded: without a parent
    they are no hindrance. LeaseLostError if the export has to be run again; nothing is committed then.
    """
    marks = references(repository, manifest) if lease.condemned else None
    lease.assure()
    if lease.condemned and marks is None:
        marks = references(repository, manifest)
        lease.assure()
    _refuse_condemned(lease.condemned, marks or Marks(), unread_lists)
    stored = write_disk_manifest(repository, manifest.model_copy(update={"checked": lease.modified}))
    try:
        require_sound(repository, stored)
    except DamagedError as error:
        if not is_own(stored, manifest):
            raise
        _withdraw(repository, stored)
        raise LeaseLostError(f"{error}; run it again") from None
    return stored


def read_sound_manifest(repository: Repository, name: str) -> StoredDisk:
    """Return a disk manifest whose packs may be built upon; DamagedError if it came too late to keep its packs."""
    for _ in range(_PLACES):
        with contextlib.suppress(BackupNotFoundError, ObjectNotFoundError):
            return _soundest(repository, disks_to_build_on(repository, name))
    raise BackupNotFoundError(f"{repository.store.describe()}: there is no disk manifest {name}")


def _soundest(repository: Repository, found: list[StoredDisk]) -> StoredDisk:
    for moved in found[:-1]:
        with contextlib.suppress(DamagedError, ObjectNotFoundError):
            require_sound(repository, moved)
            return moved
    require_sound(repository, found[-1])
    return found[-1]


def is_own(stored: StoredDisk, manifest: DiskManifest) -> bool:
    """Tell whether the stored manifest is the one that was to be written, and not another attempt's."""
    # A copy with other fields changed shares the list; one that was read from the store does not.
    return stored.manifest.pages is manifest.pages


def require_sound(repository: Repository, stored: StoredDisk) -> None:
    """Check the packs of a manifest that was written too long after the condemned lists had been read.

    DamagedError if one is missing or condemned. A manifest that was written in time needs no check.
    """
    if stored.manifest.checked is None or not _late(repository, stored):
        return
    condemned = CondemnedPacks(repository)
    condemned.refresh()
    if condemned.unreadable:
        raise DamagedError(f"disk manifest {stored.name} was written late: {next(iter(condemned.unreadable.values()))}")
    marks = references(repository, stored.manifest)
    problem = _condemned_pack(condemned, marks) or _missing_pack(repository, marks)
    if problem:
        raise DamagedError(f"disk manifest {stored.name} was written late, and {problem}")


def _refuse_condemned(condemned: CondemnedPacks, marks: Marks, unread_lists: Collection[str]) -> None:
    unknown = [why for name, why in condemned.unreadable.items() if name not in unread_lists]
    problem = unknown[0] if unknown else _condemned_pack(condemned, marks)
    if problem:
        raise LeaseLostError(f"{problem}; run it again")


def _condemned_pack(condemned: CondemnedPacks, marks: Marks) -> str | None:
    for kind, pack in _condemned_among(condemned, marks):
        return f"pack {pack_name(kind, pack)}, which it refers to, was condemned meanwhile"
    return None


def _condemned_among(condemned: CondemnedPacks, marks: Marks) -> list[tuple[Kind, bytes]]:
    found = ((Kind.MAP_PACK, marks.pages), (Kind.DATA_PACK, marks.data))
    return [(kind, pack) for kind, packs in found for pack in condemned.among(kind, packs)]


def _missing_pack(repository: Repository, marks: Marks) -> str | None:
    missing = set(marks.data)
    for info in repository.store.list(PACKS):
        parts = split_pack_name(info.name)
        missing.discard(parts[1] if parts else b"")
    # Map packs were read just now; one that went since is in no list any more.
    maps = marks.pages.keys() - map_pack_sizes(repository, marks.pages).keys()
    names = [pack_name(Kind.DATA_PACK, each) for each in missing] + [pack_name(Kind.MAP_PACK, each) for each in maps]
    return f"pack {names[0]}, which it refers to, is missing" if names else None


def _late(repository: Repository, stored: StoredDisk) -> bool:
    assert stored.manifest.checked is not None
    return repository.store.head(stored.place).modified - stored.manifest.checked > COMMIT_WITHIN


def _withdraw(repository: Repository, stored: StoredDisk) -> None:
    # Credentials that may not delete leave it: every later attempt checks it again and says so.
    with contextlib.suppress(StoreError):
        repository.store.delete(stored.name)
