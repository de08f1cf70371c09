"""Disk manifests as a listing shows them: those of exports, and those that prunes wrote in their place.

`disks/<disk hash>/<time>-<backup hash>` is what an export wrote; `…-<object id>` beside it says the same with blocks in
other packs. All of them are whole, and what any of them refers to is kept. Once a later prune has found a younger one
sound and equal, the older ones go, and everybody who looks for them finds that one. docs/explanation/prune.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import DamagedError
from .layout import DISKS, split_disk_manifest_name, split_moved_name
from .object_store import ObjectInfo
from .repository import Repository


@dataclass
class ListedDisk:
    """A disk manifest by its name, and the objects that there are of it: the export's, and those of prunes."""

    name: str
    objects: list[ObjectInfo] = field(default_factory=list)

    @property
    def disk_hash(self) -> str:
        """Return the hash of the disk's key."""
        return self.name.split("/")[1]

    @property
    def backup_hash(self) -> str:
        """Return the hash of the backup's name."""
        return self.name.rsplit("-", 1)[1]

    @property
    def has_own(self) -> bool:
        """Tell whether what the export wrote is there."""
        return any(info.name == self.name for info in self.objects)

    @property
    def ordered(self) -> list[ObjectInfo]:
        """Return the objects, the oldest first."""
        return sorted(self.objects, key=lambda info: (info.modified, info.name))

    @property
    def current(self) -> ObjectInfo:
        """Return the object that counts."""
        return self.ordered[0]


def list_disks(repository: Repository, folder: str = DISKS, strict: bool = False) -> dict[str, ListedDisk]:
    """Return all disk manifests by name, sorted: by disk, the oldest first.

    Objects of unknown names are left out, or DamagedError if `strict`.
    """
    disks: dict[str, ListedDisk] = {}
    for info in sorted(repository.store.list(folder), key=lambda info: info.name):
        moved = split_moved_name(info.name)
        name = moved[0] if moved else info.name
        if split_disk_manifest_name(name):
            disks.setdefault(name, ListedDisk(name)).objects.append(info)
        elif strict:
            raise DamagedError(
                f"{info.name}: not the name of a disk manifest (disks/<32 hex>/<time>-<32 hex>): what it refers to"
                " is not known; update this program, or remove the object by hand"
            )
    return disks
