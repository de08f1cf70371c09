"""The backup format: what lies in the object store, and how it is read and written. Knows nothing of Kubernetes.

The bytes are described in docs/reference/repository-format.md. Where things are, from the outside in:

- `settings` (StoreSettings), `open_store`, `check` (check_store): which store, and whether it can be used;
  `object_store` is the port, `bucket_store` (with `bucket_clients`, `bucket_errors`, `event_loop`) and `folder_store`
  implement it.
  `versioned_store`, `write_once` (with `s3_versions`, `s3_requests`): S3 buckets that keep versions and locks.
- `key_text`: keys as text for Secrets and safes. `wrapping`: the master key, wrapped for its recipients.
- `repository`: opening and creating. `generations`: a namespace's repositories, one for each master key; `closing`:
  what is still believed in an old one; `retire`: its end.
- `backups`: manifests, written and found. `tombstones`: deletion, undo, sweep.
  `leases`, `epoch`: how writers and removers stay out of each other's way. `parents`: what an export builds on.
- `verify` (and `verify_*`): is everything there and whole; `damage`: what is not, remembered; `copies`: healing.
- `same_cut`: two backups of what was captured, and is stored, once.
- `prune`: deleting what nothing refers to; `mark` (what manifests refer to), `roots`, `condemned`, `clutter` are its
  parts, `commit` is the writers' side of the agreement. `rewrite`: which packs are mostly dead; `avoid`: what an export
  does not refer to. `repack` (and `repack_*`, `drafts`, `revisions`): the same for disks that are gone, by a prune.
- `map_builder`: the map of a new backup, page by page. `map_reader`: the pages of an existing one.
- `layout`, `crypto`, `codec`, `documents`, `packs`, `pages`, `manifests`: the format itself.
- `errors`: one family of errors, each with a constant reason.

The names of this package are loaded when they are asked for: a mover's start would else be spent on what it never uses.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backups import (
        StoredDisk,
        find_backup,
        find_disk_manifest,
        list_backups,
        list_disk_manifests,
        read_disk_manifest,
        reference_to,
        update_backup_expiry,
        write_backup_manifest,
    )
    from .bucket_clients import Patience
    from .check import MAX_SKEW, Rights, StoreCheck, StoreProblem, check_store
    from .closing import (
        Closing,
        find_backup_in_time,
        late_manifests,
        late_objects,
        require_none_late,
        require_on_time,
    )
    from .epoch import Epoch, advance_epoch, epoch_time, read_epoch
    from .errors import RepositoryError, StoreError
    from .generations import (
        Generations,
        find_generations,
        generation_name,
        generations_in,
        open_newest,
        open_or_create_newest,
        parse_generation,
        rotate_master_key,
    )
    from .key_text import (
        RecoveryPair,
        generate_recovery_pair,
        generate_store_key,
        parse_recovery_public,
        parse_recovery_secret,
        parse_store_key,
    )
    from .layout import DEFAULT_BLOCK_SIZE
    from .leases import DEFAULT_GRACE, MIN_GRACE
    from .manifests import BackupManifest, DiskIdentity, DiskManifest, DiskReference, DiskStatistics
    from .object_store import ObjectInfo, ObjectStore
    from .open_store import open_store
    from .prune import Asked, PruneProgress, PruneReport, Tally, prune
    from .removal import stale_markers
    from .repack import GONE_AFTER, RepackReport, RepackRules
    from .repository import (
        Repository,
        add_store_key,
        open_or_create_repository,
        open_repository,
        open_with_master_key,
        open_with_recovery,
    )
    from .retire import is_finished, retire
    from .same_cut import SecondBackup, write_second_manifest
    from .settings import SECRETS, StoreSettings, loopback_host
    from .tombstones import (
        SweepReport,
        Tombstone,
        has_tombstone,
        holds_backup,
        read_tombstones,
        remove_tombstone,
        sweep_tombstones,
        write_tombstone,
    )
    from .verify import verify
    from .verify_report import VerifyReport
    from .write_once import WriteOnceReport, keep_write_once

_HOMES = {
    "StoredDisk": "backups",
    "find_backup": "backups",
    "find_disk_manifest": "backups",
    "list_backups": "backups",
    "list_disk_manifests": "backups",
    "read_disk_manifest": "backups",
    "reference_to": "backups",
    "update_backup_expiry": "backups",
    "write_backup_manifest": "backups",
    "Patience": "bucket_clients",
    "MAX_SKEW": "check",
    "Rights": "check",
    "StoreCheck": "check",
    "StoreProblem": "check",
    "check_store": "check",
    "Closing": "closing",
    "find_backup_in_time": "closing",
    "late_manifests": "closing",
    "late_objects": "closing",
    "require_none_late": "closing",
    "require_on_time": "closing",
    "Generations": "generations",
    "find_generations": "generations",
    "generation_name": "generations",
    "generations_in": "generations",
    "open_newest": "generations",
    "open_or_create_newest": "generations",
    "parse_generation": "generations",
    "rotate_master_key": "generations",
    "Epoch": "epoch",
    "advance_epoch": "epoch",
    "epoch_time": "epoch",
    "read_epoch": "epoch",
    "RepositoryError": "errors",
    "StoreError": "errors",
    "RecoveryPair": "key_text",
    "generate_recovery_pair": "key_text",
    "generate_store_key": "key_text",
    "parse_recovery_public": "key_text",
    "parse_recovery_secret": "key_text",
    "parse_store_key": "key_text",
    "DEFAULT_BLOCK_SIZE": "layout",
    "MIN_GRACE": "leases",
    "BackupManifest": "manifests",
    "DiskIdentity": "manifests",
    "DiskManifest": "manifests",
    "DiskReference": "manifests",
    "DiskStatistics": "manifests",
    "ObjectInfo": "object_store",
    "ObjectStore": "object_store",
    "open_store": "open_store",
    "DEFAULT_GRACE": "leases",
    "Asked": "prune",
    "PruneProgress": "prune",
    "PruneReport": "prune",
    "Tally": "prune",
    "prune": "prune",
    "GONE_AFTER": "repack",
    "RepackReport": "repack",
    "RepackRules": "repack",
    "Repository": "repository",
    "add_store_key": "repository",
    "open_or_create_repository": "repository",
    "open_repository": "repository",
    "open_with_master_key": "repository",
    "open_with_recovery": "repository",
    "is_finished": "retire",
    "retire": "retire",
    "SecondBackup": "same_cut",
    "write_second_manifest": "same_cut",
    "SECRETS": "settings",
    "StoreSettings": "settings",
    "loopback_host": "settings",
    "SweepReport": "tombstones",
    "Tombstone": "tombstones",
    "has_tombstone": "tombstones",
    "holds_backup": "tombstones",
    "read_tombstones": "tombstones",
    "remove_tombstone": "tombstones",
    "stale_markers": "removal",
    "sweep_tombstones": "tombstones",
    "write_tombstone": "tombstones",
    "verify": "verify",
    "VerifyReport": "verify_report",
    "WriteOnceReport": "write_once",
    "keep_write_once": "write_once",
}

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "DEFAULT_GRACE",
    "GONE_AFTER",
    "MAX_SKEW",
    "MIN_GRACE",
    "SECRETS",
    "Asked",
    "BackupManifest",
    "Closing",
    "DiskIdentity",
    "DiskManifest",
    "DiskReference",
    "DiskStatistics",
    "Epoch",
    "Generations",
    "ObjectInfo",
    "ObjectStore",
    "Patience",
    "PruneProgress",
    "PruneReport",
    "RecoveryPair",
    "RepackReport",
    "RepackRules",
    "Repository",
    "RepositoryError",
    "Rights",
    "SecondBackup",
    "StoreCheck",
    "StoreError",
    "StoreProblem",
    "StoreSettings",
    "StoredDisk",
    "SweepReport",
    "Tally",
    "Tombstone",
    "VerifyReport",
    "WriteOnceReport",
    "add_store_key",
    "advance_epoch",
    "check_store",
    "epoch_time",
    "find_backup",
    "find_backup_in_time",
    "find_disk_manifest",
    "find_generations",
    "generate_recovery_pair",
    "generate_store_key",
    "generation_name",
    "generations_in",
    "has_tombstone",
    "holds_backup",
    "is_finished",
    "keep_write_once",
    "late_manifests",
    "late_objects",
    "list_backups",
    "list_disk_manifests",
    "loopback_host",
    "open_newest",
    "open_or_create_newest",
    "open_or_create_repository",
    "open_repository",
    "open_store",
    "open_with_master_key",
    "open_with_recovery",
    "parse_generation",
    "parse_recovery_public",
    "parse_recovery_secret",
    "parse_store_key",
    "prune",
    "read_disk_manifest",
    "read_epoch",
    "read_tombstones",
    "reference_to",
    "remove_tombstone",
    "require_none_late",
    "require_on_time",
    "retire",
    "rotate_master_key",
    "stale_markers",
    "sweep_tombstones",
    "update_backup_expiry",
    "verify",
    "write_backup_manifest",
    "write_second_manifest",
    "write_tombstone",
]


def __getattr__(name: str) -> object:
    """Load the module that a name of this package lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Loading `prune` or `open_store` would put the module where the function of the same name belongs.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
