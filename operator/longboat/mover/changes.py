"""The port through which an export learns what to read, instead of looking at the whole disk.

A change source speaks of one snapshot, the one that is exported: what of it is allocated, or what of it differs from
an older snapshot of the same volume. It is believed only as far as the export's audit reaches, and whatever it can't
answer costs no more than a full read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pydantic import ConfigDict, Field

from longboat.repository.wire import Wire

from .errors import MoverError


class ChangeTrackingError(MoverError):
    """The change source can't say what to read: the export reads everything and reports `reason` as why."""

    reason = "ChangeTrackingFailed"
    retryable = True


class ChangeTrackingUnavailableError(ChangeTrackingError):
    """The service can't be reached, or the storage has no change information for this volume."""

    reason = "ChangeTrackingUnavailable"


class BaseSnapshotMissingError(ChangeTrackingError):
    """The storage does not know the older snapshot (any more), or it is one of another volume."""

    reason = "BaseSnapshotMissing"


class ChangeSource(Protocol):
    """What is known of the exported snapshot; ranges are (offset, length) in bytes, length > 0.

    Ranges come in ascending order, without overlaps, within the volume, and are streamed: an iterator may raise
    ChangeTrackingError (or a subclass) at any step. They may be larger than what is true (rounded to the storage's
    extents), never smaller.
    """

    def allocated(self) -> Iterator[tuple[int, int]]:
        """Yield what may hold data; everything else reads as zeros."""

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        """Yield what may differ from the snapshot with this CSI handle.

        BaseSnapshotMissingError if that snapshot is not there.
        """


class SnapshotMetadata(Wire):
    """Where a CSI driver's SnapshotMetadata service answers, and for which snapshot.

    `snapshot_metadata.open_snapshot_metadata(settings, size)` makes a ChangeSource of it, `size` being the bytes of
    the source: a service that reports a larger capacity speaks of another volume (ChangeTrackingError), and what the
    source has beyond a smaller one is read.
    """

    model_config = ConfigDict(extra="forbid")

    # host:port of the service's gRPC endpoint, and the CA that its certificate is signed by.
    address: str = Field(min_length=1)
    ca_pem: str = Field(min_length=1)
    # File with a service account token for the service's audience; read anew for each call, as it is rotated.
    token_path: str = Field(min_length=1)
    # The VolumeSnapshot that is exported.
    namespace: str = Field(min_length=1)
    snapshot_name: str = Field(min_length=1)
