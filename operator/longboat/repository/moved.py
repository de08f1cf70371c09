"""Disk manifests that a prune has written beside others: when they say the same, and who may build on them."""

from __future__ import annotations

import contextlib

from .backups import StoredDisk, read_disk_at, read_moved
from .errors import BackupNotFoundError, DamagedError, UnsupportedFormatError
from .listing import list_disks
from .repository import Repository

MAY_DIFFER = {"map_packs", "pages", "checked", "original"}
"""Fields of a disk manifest that are others where blocks were moved: all that readers go by is the same."""


def require_same_disk(before: StoredDisk, moved: StoredDisk) -> None:
    """Check that a manifest that was written in the place of another one says the same but where blocks lie.

    DamagedError if not. What its pages say is not looked at.
    """
    if before.object_id != moved.object_id:
        raise DamagedError("it was written in the place of another one")
    one, other = (each.manifest.model_dump(exclude=MAY_DIFFER) for each in (before, moved))
    if different := sorted(name for name in one if one[name] != other[name]):
        raise DamagedError(f"it says something else of {', '.join(different)}")


def disks_to_build_on(repository: Repository, name: str) -> list[StoredDisk]:
    """Return what an export may take for the disk manifest of that name; the last one is the one that counts.

    What a prune has written in its place comes before it: what moves is to be referred to by no further backup. It says
    the same; whoever could put something else there could as well put a newer backup there. Errors as
    read_disk_manifest().
    """
    listed = list_disks(repository, name.rsplit("/", 1)[0] + "/").get(name)
    places = [info.name for info in listed.ordered] if listed else [name]
    current, found = read_disk_at(repository, name, places[0]), list[StoredDisk]()
    for place in reversed(places[1:]):
        with contextlib.suppress(BackupNotFoundError, DamagedError, UnsupportedFormatError):
            moved = read_moved(repository, name, place)
            require_same_disk(current, moved)
            found.append(moved)
    return [*found, current]
