"""Errors of the repository: one family, each with a constant reason and whether a retry can help."""

from __future__ import annotations

from typing import ClassVar


class RepositoryError(Exception):
    """Base of every expected failure of the repository and of the stores under it."""

    reason: ClassVar[str] = "RepositoryError"
    retryable: ClassVar[bool] = False


class StoreError(RepositoryError):
    """The object store refused or failed an operation."""

    reason = "StoreError"


class ObjectNotFoundError(StoreError):
    """The named object is not in the bucket, as the store itself said."""

    reason = "ObjectNotFound"


class ObjectExistsError(StoreError):
    """A create-only write found an object of that name."""

    reason = "ObjectExists"


class PreconditionError(StoreError):
    """A conditional write found another version of the object than was expected."""

    reason = "PreconditionFailed"


class AccessDeniedError(StoreError):
    """The credentials are known but may not do this."""

    reason = "AccessDenied"


class ObjectLockedError(AccessDeniedError):
    """The object is under a retention lock or hold that has not run out: nobody may remove it yet."""

    reason = "ObjectLocked"


class CredentialsError(StoreError):
    """The store does not accept the credentials."""

    reason = "WrongCredentials"


class BucketNotFoundError(StoreError):
    """The bucket (or the folder) of the store does not exist."""

    reason = "BucketNotFound"


class TlsError(StoreError):
    """The endpoint's certificate is not trusted, or no TLS is spoken there."""

    reason = "TLSFailure"


class ClockSkewError(StoreError):
    """The store refused a request because this machine's clock is too far off."""

    reason = "ClockSkew"


class UnreachableError(StoreError):
    """No connection to the endpoint could be made."""

    reason = "StoreUnreachable"
    retryable = True


class NoAnswerError(UnreachableError):
    """A request was given up as its answer did not come in time."""


class StoreFailureError(StoreError):
    """The store answered with a fault of its own, too slowly, or with too few bytes."""

    reason = "StoreFailure"
    retryable = True


class StoreUnsupportedError(StoreError):
    """The store lacks an operation that the format needs."""

    reason = "StoreUnsupported"


class StoreSettingsError(StoreError):
    """The settings can not describe a usable store."""

    reason = "InvalidStoreSettings"


class DamagedError(RepositoryError):
    """An object is truncated, altered, in the wrong place or breaks the format's bounds."""

    reason = "Damaged"


class UnsupportedFormatError(RepositoryError):
    """An object was written by a newer version of the format than this program knows."""

    reason = "UnsupportedFormat"


class WrongKeyError(RepositoryError):
    """The repository exists, but none of its keys can be opened with the key at hand."""

    reason = "WrongKey"


class KeyTextError(RepositoryError):
    """A key in text form is misspelt, cut short or of another kind."""

    reason = "InvalidKey"


class RepositoryNotFoundError(RepositoryError):
    """There is no repository at this path."""

    reason = "RepositoryNotFound"


class RepositoryDamagedError(RepositoryError):
    """The repository's header is missing or unreadable although the repository holds data."""

    reason = "RepositoryDamaged"


class BackupNotFoundError(RepositoryError):
    """No backup of that name, or no such disk manifest, is in the repository."""

    reason = "BackupNotFound"


class ManifestConflictError(RepositoryError):
    """A manifest of that name exists with other content; it is never overwritten."""

    reason = "ManifestConflict"


class BackupBeingRemovedError(RepositoryError):
    """The trash period is over and the removal of the backup has begun: it can not be undone."""

    reason = "BackupBeingRemoved"


class EpochConflictError(RepositoryError):
    """Another operator has taken over the repository's expiry."""

    reason = "EpochConflict"


class LeaseLostError(RepositoryError):
    """A writer could not renew its lease in time, so that its packs may have been removed."""

    reason = "LeaseLost"
    retryable = True


class GenerationConflictError(RepositoryError):
    """A namespace's newest repository is another one than was expected: somebody else has rotated its key."""

    reason = "GenerationConflict"
    retryable = True


class LateManifestError(RepositoryError):
    """A manifest was written after its repository had been closed: forged with a leaked key, or by a late export."""

    reason = "LateManifest"
