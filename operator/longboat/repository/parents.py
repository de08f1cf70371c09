"""Choosing the parent of an export: the newest readable manifest of the same disk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .backups import StoredDisk, disk_manifest_names, tombstoned_hashes
from .commit import read_sound_manifest
from .errors import BackupNotFoundError, DamagedError, UnsupportedFormatError
from .layout import split_disk_manifest_name
from .manifests import DiskIdentity, DiskManifest
from .repository import Repository

NO_PARENT = "NoParent"
REQUESTED = "Requested"
BLOCK_SIZE_CHANGED = "BlockSizeChanged"
VOLUME_CHANGED = "VolumeChanged"
PARENT_UNREADABLE = "ParentUnreadable"
PARENT_TOMBSTONED = "ParentTombstoned"
DAMAGE_UNREADABLE = "DamageUnreadable"
CONDEMNED_UNREADABLE = "CondemnedUnreadable"
MAX_CANDIDATES = 8


@dataclass(frozen=True)
class ParentChoice:
    """The parent, or why there is none (a constant), and in words what was passed over.

    `similar` is a backup of another disk that the first one of this disk is compared with.
    """

    parent: StoredDisk | None
    full_reason: str | None
    note: str = ""
    similar: StoredDisk | None = None

    @property
    def compared(self) -> StoredDisk | None:
        """The backup whose blocks may be referred to."""
        return self.parent or self.similar


def choose_parent(
    repository: Repository, disk: DiskIdentity, block_size: int, page_blocks: int, excluded: Collection[str] = ()
) -> ParentChoice:
    """Return the newest manifest of the disk that can serve as parent, of any backup and policy.

    Manifests in `excluded` (found unreadable), damaged, deleted, or of another volume or block size are passed over,
    at most MAX_CANDIDATES of them. Only failures of the store itself are raised.
    """
    deleted = tombstoned_hashes(repository)
    passed: list[tuple[str, str]] = []
    for name in disk_manifest_names(repository, disk.disk_key)[:MAX_CANDIDATES]:
        found, problem = _candidate(repository, name, deleted, excluded)
        if found is not None:
            problem = _misfit(found.manifest, disk, block_size, page_blocks)
        if problem is None:
            return ParentChoice(found, None, _note(passed))
        passed.append((name, problem))
    return ParentChoice(None, passed[0][1] if passed else NO_PARENT, _note(passed))


def _candidate(
    repository: Repository, name: str, deleted: set[str], excluded: Collection[str]
) -> tuple[StoredDisk | None, str | None]:
    parts = split_disk_manifest_name(name)
    if name in excluded:
        return None, PARENT_UNREADABLE
    if parts is None or parts[2] in deleted:
        return None, PARENT_TOMBSTONED
    try:
        return read_sound_manifest(repository, name), None
    except (DamagedError, UnsupportedFormatError, BackupNotFoundError):
        return None, PARENT_UNREADABLE


def _misfit(manifest: DiskManifest, disk: DiskIdentity, block_size: int, page_blocks: int) -> str | None:
    if manifest.block_size != block_size or manifest.page_blocks != page_blocks:
        return BLOCK_SIZE_CHANGED
    return None if manifest.disk.volume_handle == disk.volume_handle else VOLUME_CHANGED


def _note(passed: list[tuple[str, str]]) -> str:
    return "; ".join(f"{name} passed over: {why}" for name, why in passed)
