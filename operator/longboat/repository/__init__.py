"""The backup format: what lies in the object store, and how it is read and written. Knows nothing of Kubernetes.

The bytes are described in docs/reference/repository-format.md. Where things are, from the outside in:

- `settings` (StoreSettings), `open_store`, `check` (check_store): which store, and whether it can be used;
  `object_store` is the port, `bucket_store` (with `bucket_clients`, `bucket_errors`) and `folder_store` implement it.
  `versioned_store`, `write_once` (with `s3_versions`, `s3_requests`): S3 buckets that keep versions and locks.
- `key_text`: keys as text for Secrets and safes. `wrapping`: the master key, wrapped for its recipients.
- `repository`: opening and creating. `backups`: manifests, written and found. `tombstones`: deletion, undo, sweep.
  `leases`, `epoch`: how writers and removers stay out of each other's way. `parents`: what an export builds on.
- `verify` (and `verify_*`): is everything there and whole; `damage`: what is not, remembered; `copies`: healing.
- `prune`: deleting what nothing refers to; `mark` (what manifests refer to), `roots`, `condemned`, `clutter` are its
  parts, `commit` is the writers' side of the agreement.
- `map_builder`: the map of a new backup, page by page. `map_reader`: the pages of an existing one.
- `layout`, `crypto`, `codec`, `documents`, `packs`, `pages`, `manifests`: the format itself.
- `errors`: one family of errors, each with a constant reason.
"""

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
from .epoch import Epoch, advance_epoch, epoch_time, read_epoch
from .errors import RepositoryError, StoreError
from .key_text import (
    RecoveryPair,
    generate_recovery_pair,
    generate_store_key,
    parse_recovery_public,
    parse_recovery_secret,
    parse_store_key,
)
from .layout import DEFAULT_BLOCK_SIZE
from .leases import MIN_GRACE
from .manifests import BackupManifest, DiskIdentity, DiskManifest, DiskReference, DiskStatistics
from .object_store import ObjectInfo, ObjectStore
from .open_store import open_store
from .prune import DEFAULT_GRACE, PruneProgress, PruneReport, Tally, prune
from .repository import (
    Repository,
    add_store_key,
    open_or_create_repository,
    open_repository,
    open_with_master_key,
    open_with_recovery,
)
from .settings import SECRETS, StoreSettings, loopback_host
from .tombstones import (
    SweepReport,
    Tombstone,
    has_tombstone,
    holds_backup,
    read_tombstones,
    remove_tombstone,
    stale_markers,
    sweep_tombstones,
    write_tombstone,
)
from .verify import verify
from .verify_report import VerifyReport
from .write_once import WriteOnceReport, keep_write_once

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "DEFAULT_GRACE",
    "MAX_SKEW",
    "MIN_GRACE",
    "SECRETS",
    "BackupManifest",
    "DiskIdentity",
    "DiskManifest",
    "DiskReference",
    "DiskStatistics",
    "Epoch",
    "ObjectInfo",
    "ObjectStore",
    "Patience",
    "PruneProgress",
    "PruneReport",
    "RecoveryPair",
    "Repository",
    "RepositoryError",
    "Rights",
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
    "find_disk_manifest",
    "generate_recovery_pair",
    "generate_store_key",
    "has_tombstone",
    "holds_backup",
    "keep_write_once",
    "list_backups",
    "list_disk_manifests",
    "loopback_host",
    "open_or_create_repository",
    "open_repository",
    "open_store",
    "open_with_master_key",
    "open_with_recovery",
    "parse_recovery_public",
    "parse_recovery_secret",
    "parse_store_key",
    "prune",
    "read_disk_manifest",
    "read_epoch",
    "read_tombstones",
    "reference_to",
    "remove_tombstone",
    "stale_markers",
    "sweep_tombstones",
    "update_backup_expiry",
    "verify",
    "write_backup_manifest",
    "write_tombstone",
]
