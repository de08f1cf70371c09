"""From settings to a store."""

from __future__ import annotations

from .bucket_clients import Patience
from .bucket_store import BucketStore
from .folder_store import FolderStore
from .object_store import ObjectStore
from .settings import StoreSettings
from .versioned_store import OldestStore, RemovingStore


def open_store(settings: StoreSettings, patience: Patience | None = None) -> ObjectStore:
    """Return the store that the settings describe; nothing is sent yet. StoreSettingsError if they can't be used."""
    if settings.type == "folder":
        return FolderStore(settings)
    if settings.type == "s3" and (settings.delete_versions or settings.read_versions == "Oldest"):
        return (OldestStore if settings.read_versions == "Oldest" else RemovingStore)(settings, patience)
    return BucketStore(settings, patience)
