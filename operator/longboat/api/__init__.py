"""The custom resources of longboat.dev, as pydantic models: the single source of crds/*.yaml.

One file per kind, ``common`` for what they share, ``crd`` for the generator. Layers above read and write these models;
nothing here does I/O.
"""

from longboat.api.backup_policy import BackupPolicy
from longboat.api.backup_store import BackupStore
from longboat.api.disk_backup import DiskBackup
from longboat.api.disk_snapshot import DiskSnapshot
from longboat.api.restore import Restore

KINDS = (BackupPolicy, DiskBackup, DiskSnapshot, Restore, BackupStore)

__all__ = ["KINDS", "BackupPolicy", "BackupStore", "DiskBackup", "DiskSnapshot", "Restore"]
