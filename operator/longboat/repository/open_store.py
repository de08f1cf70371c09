"""From settings to a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .object_store import ObjectStore
from .settings import StoreSettings

if TYPE_CHECKING:
    from .bucket_clients import Patience


def open_store(settings: StoreSettings, patience: Patience | None = None) -> ObjectStore:
    """Return the store that the settings describe; nothing is sent yet. StoreSettingsError if they can't be used."""
    # Each kind of store is loaded where it is used: the clients take a tenth of a second, and tens of MiB.
    if settings.type == "folder":
        from .folder_store import FolderStore

        return FolderStore(settings)
    if settings.type == "s3" and (settings.delete_versions or settings.read_versions == "Oldest"):
        from .versioned_store import OldestStore, RemovingStore

        return (OldestStore if settings.read_versions == "Oldest" else RemovingStore)(settings, patience)
    from .bucket_store import BucketStore

    return BucketStore(settings, patience)
