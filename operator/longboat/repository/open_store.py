"""From settings to a store."""

from __future__ import annotations

from .bucket_clients import Patience
from .bucket_store import BucketStore
from .folder_store import FolderStore
from .object_store import ObjectStore
from .settings import StoreSettings


def open_store(settings: StoreSettings, patience: Patience | None = None) -> ObjectStore:
    """Return the store that the settings describe; nothing is sent yet. StoreSettingsError if they can't be used."""
    return FolderStore(settings) if settings.type == "folder" else BucketStore(settings, patience)
