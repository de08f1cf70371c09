"""Deciding how a disk is read: all of it, what holds data, or what has changed since the parent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from longboat.repository import DiskManifest

from .changes import ChangeSource, ChangeTrackingError
from .source import SourceLike

SCHEDULED = "ScheduledFullRead"
NO_BASE_SNAPSHOT = "NoBaseSnapshot"
VOLUME_SHRANK = "VolumeShrank"
NOT_A_DEVICE = "NotABlockDevice"


class ChangeTrackingMismatchError(ChangeTrackingError):
    """A block reported as unchanged (or as not allocated) is another one than before."""

    reason = "ChangeTrackingMismatch"


@dataclass(frozen=True)
class Reading:
    """Which ranges (start, end) are read, and what is believed of the rest.

    The rest is the parent's if `keep`, else holes; if `audited`, that is the word of a change source and a share of it
    is checked. `full_reason` says why everything is read although there is a change source. `since_full_read` counts
    the backups of the chain up to this one since everything was read.
    """

    ranges: Iterator[tuple[int, int]]
    keep: bool = False
    audited: bool = False
    full_reason: str | None = None
    since_full_read: int = 0


@dataclass(frozen=True)
class Wish:
    """What the job says on reading: the exported snapshot, its moment, and every how many backups all is read."""

    snapshot_handle: str
    created: datetime
    full_read_every: int


def decide_reading(
    source: SourceLike, changes: ChangeSource | None, parent: DiskManifest | None, wish: Wish, distrust: str | None
) -> Reading:
    """Return how to read; `parent` is an earlier backup of this very disk, `distrust` why change sources are not asked.

    The ranges are asked for as they are needed: iterating may raise ChangeTrackingError.
    """
    if changes is None:
        return Reading(source.data_ranges(), full_reason=distrust)
    reason = distrust or (None if source.is_device else NOT_A_DEVICE)
    if reason is None and parent is not None:
        reason = _unfit(source, parent, wish)
    if reason is not None:
        return Reading(source.data_ranges(), full_reason=reason)
    if parent is None:
        return Reading(checked_ranges(changes.allocated(), source.size), audited=True, since_full_read=1)
    since = parent.since_full_read + 1
    return Reading(_changed(source, changes, parent, wish), keep=True, audited=True, since_full_read=since)


def checked_ranges(ranges: Iterator[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) as (start, end); ChangeTrackingError if they are out of order or out of the volume."""
    last = 0
    for offset, length in ranges:
        if offset < last or length <= 0 or offset + length > size:
            raise ChangeTrackingError(
                f"the change source reported {length} bytes at {offset}: expected ascending ranges within {size} bytes"
            )
        last = offset + length
        yield offset, last


def _unfit(source: SourceLike, parent: DiskManifest, wish: Wish) -> str | None:
    if wish.full_read_every and parent.since_full_read + 1 >= wish.full_read_every:
        return SCHEDULED
    if source.size < parent.size_bytes:
        return VOLUME_SHRANK
    # What has changed since a snapshot that is newer than the exported one, no change source is made to say.
    return None if parent.snapshot_handle and parent.created <= wish.created else NO_BASE_SNAPSHOT


def _changed(source: SourceLike, changes: ChangeSource, parent: DiskManifest, wish: Wish) -> Iterator[tuple[int, int]]:
    # Beyond the parent's last whole block nothing is known; the parent's map has its last block completed with zeros.
    known = (
        parent.size_bytes // parent.block_size * parent.block_size if source.size > parent.size_bytes else source.size
    )
    if (parent.snapshot_handle, parent.created) != (wish.snapshot_handle, wish.created):
        for start, end in checked_ranges(changes.delta(parent.snapshot_handle), source.size):
            if start < known:
                yield start, min(end, known)
    if known < source.size:
        yield known, source.size
