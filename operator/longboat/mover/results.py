"""What a mover reports: a termination message for the operator, and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from longboat.repository.wire import Wire

MAX_MESSAGE_BYTES = 4096  # The kubelet keeps no more of a termination message.
EXIT_OK = 0
EXIT_FAILED = 1  # The termination message says why; trying again will not help.
EXIT_USAGE = 2  # The arguments could not be understood.
EXIT_RETRY = 3  # The termination message says why; trying again may help.


class _Result(Wire):
    """Base of what movers report."""


class ExportResult(_Result):
    """An export that ended well. All sizes are bytes.

    `logical_bytes` is the disk's size, `read_bytes` what was read of it, `stored_bytes` what this export added to
    the store. Mode Full is what was not compared with an earlier backup of the disk, or was read as a whole
    although a change source was given; `full_reason` says why (NoParent, Requested, BlockSizeChanged,
    VolumeChanged, ParentUnreadable, ParentTombstoned, DamageUnreadable, CondemnedUnreadable;
    ChangeTrackingMismatch, ChangeTrackingUnavailable, ChangeTrackingFailed, BaseSnapshotMissing, NoBaseSnapshot,
    VolumeShrank, NotABlockDevice, ScheduledFullRead), `note` in words. `audited_bytes` were read to check the
    change source, `resumed_bytes` of data were found uploaded by an earlier attempt. `reused` says that an earlier
    attempt had finished this manifest. `since_full_read` counts the backups of the disk, up to this one, for which a
    change source was believed since everything was read; 0 if everything was read now. `distrust` is why a change
    source was asked and then not believed, or not asked: `full_reason` may have another reason that comes first.
    """

    ok: Literal[True] = True
    manifest: str
    object_id: str
    parent: str | None
    mode: Literal["Full", "Incremental"]
    full_reason: str | None
    note: str = ""
    logical_bytes: int
    allocated_bytes: int
    read_bytes: int
    stored_bytes: int
    audited_bytes: int = 0
    resumed_bytes: int = 0
    reused: bool = False
    since_full_read: int | None = None
    distrust: str | None = None


class RestoreResult(_Result):
    """A restore that ended well. All sizes are bytes.

    `read_bytes` came from the store, `written_bytes` is data; `kept_bytes` an earlier attempt had written already,
    `checked_bytes` were read back from the target at the end and compared. `healed_bytes` are damaged in this backup
    and were taken from other backups. With `salvage` only: `lost_bytes` could not be read and are zeros,
    the first few of them are `lost_ranges` (offset, length); `hurt` are the first few backups that lack them, too.
    `unrecorded` counts the damaged frames that no record of damage names: a new backup may refer to them.
    """

    ok: Literal[True] = True
    manifest: str
    logical_bytes: int
    written_bytes: int
    read_bytes: int
    kept_bytes: int = 0
    checked_bytes: int = 0
    healed_bytes: int = 0
    lost_bytes: int = 0
    lost_ranges: tuple[tuple[int, int], ...] = ()
    hurt: tuple[str, ...] = ()
    unrecorded: int = 0
    note: str = ""


class VerifyResult(_Result):
    """A verification that came to its end, whatever it found; the log has a line for each backup and each damage.

    `hurt` names the first few damaged backups, `damaged` counts them all. `lost` are those among them that lack data
    which no other backup has, `lost_in_trash` such that are deleted: the others are restored whole.
    `pages` and `frames` were read and checked, `read_bytes` came from data packs. `next_phase` is for the next run's
    job.
    """

    ok: Literal[True] = True
    state: Literal["ok", "damaged"]
    share: float
    next_phase: int
    backups: int
    damaged: int
    lost: int = 0
    lost_in_trash: int = 0
    hurt: tuple[str, ...] = ()
    damaged_objects: int
    pages: int
    frames: int
    read_bytes: int
    recorded: int
    note: str = ""


class PruneCount(_Result):
    """A number of objects and their bytes."""

    objects: int
    bytes: int


class PruneQuestion(_Result):
    """What a prune asks somebody's leave for: what it would have condemned, and all that no backup refers to then."""

    condemned: PruneCount
    unneeded: PruneCount


class PruneRepack(_Result):
    """What was moved: `packs` of which little is alive, bytes read and written for it; `manifests` that were written.

    `settled` were deleted, as manifests that an earlier run wrote have taken their place. `note` says what was in the
    way.
    """

    packs: PruneCount = PruneCount(objects=0, bytes=0)
    downloaded_bytes: int = 0
    written_bytes: int = 0
    manifests: int = 0
    settled: int = 0
    note: str = ""


class PruneResult(_Result):
    """A prune that came to its end; in a dry run, what it would have done.

    `removed` says what was deleted by reason (DataPack, MapPack, CondemnedList, ExpiredLease, StaleMarker,
    OldRevision, RewriteList, DamageRecord, DiskManifest, StagedFile), `freed` all of it. Packs that were not:
    `condemned` now, `waiting` since an earlier run, `later` too young or too many, `leased` by exports at work,
    `live` as backups refer to them, and of these `to_rewrite` that the next backups store anew; `repacked` was
    moved for disks that are gone; `live_by_claim` are the bytes of the live ones by the claim whose disk they are
    ("": of several disks, map packs, and the smallest disks if there are too many). `note` says why nothing was
    condemned, if so, and `asked` for what it waits for somebody's leave; `unknown` objects were left alone.
    In a bucket with versions and locks, `locks_extended` objects have a new lock, `purged` versions of what was removed
    before are gone for good, `locked` objects wait for that.
    """

    ok: Literal[True] = True
    dry_run: bool
    manifests: int
    leases: int
    removed: dict[str, PruneCount]
    freed: PruneCount
    condemned: PruneCount
    waiting: PruneCount
    later: PruneCount
    leased: PruneCount
    live: PruneCount
    to_rewrite: PruneCount = PruneCount(objects=0, bytes=0)
    live_by_claim: dict[str, int] = Field(default_factory=dict)
    repacked: PruneRepack = PruneRepack()
    unknown: int = 0
    note: str = ""
    asked: PruneQuestion | None = None
    locks_extended: int = 0
    purged: PruneCount = PruneCount(objects=0, bytes=0)
    locked: int = 0


Result = ExportResult | RestoreResult | VerifyResult | PruneResult


class Failure(_Result):
    """A mover that failed: a constant reason, a message that says the remedy, and whether a retry can help.

    A restore that ended at data that is lost says at which byte of the disk, and names the first few of the backups
    that it hurts, which may be of other disks; `hurt_text` has them for people, and how many others there are. For
    `unrecorded` see RestoreResult.
    """

    ok: Literal[False] = False
    reason: str
    message: str
    retryable: bool
    lost_from: int | None = None
    hurt_text: str = ""
    unrecorded: int = 0


def failure_of(error: BaseException) -> Failure:
    """Return the failure to report for an exception; an unexpected one is InternalError and retryable."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and isinstance(error, Exception):
        failure = Failure(reason=reason, message=str(error), retryable=bool(getattr(error, "retryable", False)))
        return failure.model_copy(update=getattr(error, "more", {}))
    return Failure(reason="InternalError", message=f"{type(error).__name__}: {error}", retryable=True)


def message_bytes(result: Result | Failure) -> bytes:
    """Return the termination message as JSON of at most 4096 bytes, its longest text cut if need be."""
    data = result.model_dump_json(by_alias=True).encode()
    field = "message" if isinstance(result, Failure) else "note"
    text: str = getattr(result, field, "")
    while len(data) > MAX_MESSAGE_BYTES and text:
        text = text[: len(text) * 3 // 4]
        data = result.model_copy(update={field: text + "…"}).model_dump_json(by_alias=True).encode()
    return data


def write_termination(path: Path, result: Result | Failure) -> None:
    """Write the termination message; a path that can't be written (outside a pod) is left alone."""
    try:
        path.write_bytes(message_bytes(result))
    except OSError:
        return
