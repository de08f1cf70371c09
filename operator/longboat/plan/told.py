"""What the users of a namespace are told of a store: what it means for them, and no names of buckets, paths or Secrets.

Messages of the repository name the place where something happened, which is the administrator's. They are told in full
in the operator's log, and by the store's own check in the conditions of the BackupStore.
"""

from __future__ import annotations

_SETTINGS = "its settings or Secrets, or those of this namespace, have to be put right"
_SILENT = "it does not answer, or fails; it is tried again"
_PHRASES = {
    **dict.fromkeys(("StoreUnreachable", "Unreachable", "StoreFailure", "StoreError"), _SILENT),
    **dict.fromkeys(
        (
            "AccessDenied",
            "BucketNotFound",
            "CABundleInvalid",
            "CABundleNotFound",
            "ConditionalWriteUnsupported",
            "CreateOnlyUnsupported",
            "CredentialsIncomplete",
            "CredentialsNotFound",
            "InvalidKey",
            "InvalidSettings",
            "InvalidStoreSettings",
            "KeyInvalid",
            "KeyNotFound",
            "ObjectLocked",
            "PreconditionFailed",
            "RecoveryRecipientInvalid",
            "StoreUnsupported",
            "TLSFailure",
            "WrongCredentials",
            "WrongKey",
        ),
        _SETTINGS,
    ),
    "BackupBeingRemoved": "the trash period of this backup is over and its removal has begun",
    "BackupNotFound": "it does not hold this backup, or not all of it",
    "ClockSkew": "its clock and this cluster's differ",
    "Damaged": "what it holds can not all be read; other backups may be whole",
    "EpochConflict": "another cluster may be in charge of this namespace's backups: none is removed or taken over",
    "GenerationConflict": "this namespace is given a new master key at this moment; it is tried again",
    "LateManifest": "a backup in it was written after its key had been given up, and is not believed",
    "LeaseLost": "what was written is not safe, as it was interrupted for too long; it is done again",
    "ManifestConflict": "it holds another backup of this name; choose another name",
    "ObjectExists": "something that was to be written is there already",
    "ObjectNotFound": "something that a backup refers to is not there",
    "ParentUnreadable": "the backup before this one can not be read",
    "RepositoryDamaged": "what it holds of this namespace is damaged; nothing is written over it",
    "RepositoryError": "what it holds of this namespace can not be used",
    "RepositoryNotFound": "it holds nothing of this namespace",
    "RepositoryReplaced": "it holds other backups than before: it was emptied, or leads elsewhere",
    "UnsupportedFormat": "what it holds was written by a newer version of Longboat",
}
_FAULT = "InternalError"


def told(store: str, reason: str) -> str | None:
    """Return what is told of a problem with a store, by its reason; None if the message itself can be told."""
    if reason == _FAULT:
        return "a fault of Longboat; ask an administrator, who finds it in the operator's log"
    if reason not in _PHRASES:
        return None
    return (
        f"BackupStore {store!r}: {_PHRASES[reason]}; ask an administrator, who finds more in its conditions and in the"
        " operator's log"
    )
