"""From settings to a store."""

from __future__ import annotations

from .folder_store import FolderStore
from .object_store import ObjectStore
from .s3_store import Patience, S3Store
from .settings import StoreSettings


def open_store(settings: StoreSettings, patience: Patience | None = None) -> ObjectStore:
    """Return the store that the settings describe; nothing is sent yet. StoreSettingsError if they can't be used."""
    return S3Store(settings, patience) if settings.type == "s3" else FolderStore(settings)
