"""What a mover is told: job files, with their secret part in a second file (a mounted Secret)."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from longboat.repository import (
    DEFAULT_BLOCK_SIZE,
    DEFAULT_GRACE,
    GONE_AFTER,
    MIN_GRACE,
    DiskIdentity,
    StoreSettings,
)
from longboat.repository.wire import Wire

from .changes import SnapshotMetadata
from .errors import JobError
from .results import PruneQuestion

MAX_JOB_BYTES = 1 << 20


class _Job(Wire):
    model_config = ConfigDict(extra="forbid")

    store: StoreSettings
    repository_path: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
    # The namespace's master key, base64 of 32 bytes: a mover never gets the store key.
    master_key: str = Field(repr=False)
    # Threads that read, hash and compress, or that fetch and write; the number of CPUs decides if absent.
    workers: int | None = Field(default=None, ge=1, le=64)
    termination_path: str = "/dev/termination-log"

    @field_validator("master_key")
    @classmethod
    def _key_is_complete(cls, value: str) -> str:
        try:
            length = len(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != 32:
            raise ValueError("expected base64 of the 32 bytes of the namespace's master key")
        return value

    def master_key_bytes(self) -> bytes:
        """Return the 32 bytes of the master key."""
        return base64.b64decode(self.master_key)


class ExportJob(_Job):
    """Read one disk and store what has changed since its parent.

    `source_path` is a block device or the directory of a filesystem volume that holds disk.img. `disk.disk_key`,
    `backup_name` and `created` name the result: a retried job finds its finished manifest by them.
    """

    source_path: str
    disk: DiskIdentity
    backup_name: str = Field(min_length=1, max_length=253)
    # The moment the disk's data is from; the same for every attempt of a backup.
    created: datetime
    parent_policy: Literal["Newest", "None"] = "Newest"
    expiry: JsonValue = None
    block_size: int = DEFAULT_BLOCK_SIZE
    # CSI handle of the snapshot that is read: kept in the manifest, as later exports may ask what changed since.
    snapshot_handle: str = ""
    # Who knows what of the snapshot is allocated or has changed; without it the whole device is read.
    changes: SnapshotMetadata | None = None
    # Why they are not asked, nor anything of what they said believed: everything is read, for this reason.
    distrust: str | None = Field(default=None, max_length=100)
    # Share of what is reported as unchanged that is read and compared nevertheless, chosen at random.
    audit_share: float = Field(default=0.01, ge=0, le=1)
    # Every so many backups of a disk one reads everything in spite of `changes`; 0: none does.
    full_read_every: int = Field(default=30, ge=0)
    # What a disk without an earlier backup is compared with: nothing, or a disk of the namespace made from one image.
    dedupe: Literal["Disk", "Namespace"] = "Disk"
    # A disk, or the few small files of a volume without a disk.img, such as a machine's TPM and EFI state.
    content: Literal["Disk", "Archive"] = "Disk"
    # Folders at the root of such a volume that are no part of it.
    leave_out: tuple[str, ...] = ()


class FileOwner(Wire):
    """User and group id that a restored disk.img is given when the mover may do so."""

    model_config = ConfigDict(extra="forbid")

    uid: int = Field(ge=0)
    gid: int = Field(ge=0)


class RestoreJob(_Job):
    """Write a backed-up disk into a block device, or as disk.img into the directory of a filesystem volume.

    The files of an Archive are written into the directory itself.
    """

    manifest: str
    # Which object the manifest has to be; any if absent.
    object_id: str | None = None
    # What the manifest has to be of.
    content: Literal["Disk", "Archive"] = "Disk"
    target_path: str
    # A disk.img is made this large in bytes if that is more than the backup's size.
    target_size: int | None = Field(default=None, ge=1)
    # The operator sets this for claims it made itself; without it an existing disk.img is never touched.
    replace_existing: bool = False
    file_owner: FileOwner | None = None
    # Restore what can be read of a damaged backup: the rest is zeros on the target, and the result says where.
    salvage: bool = False


class VerifyJob(_Job):
    """Verify a repository, and read a share of its data.

    `share` is in percent; `backups` says of which backups the data is read (all if absent). `phase` is the `nextPhase`
    of the result before: runs that follow each other so have read everything after 100 / share of them.
    """

    share: float = Field(default=0, ge=0, le=100)
    phase: int | None = Field(default=None, ge=0, lt=1 << 32)
    backups: list[str] | None = None
    # Backups of which all data is read, and first, as a restore has met damage in them; such as are gone do no harm.
    suspects: list[str] = Field(default_factory=list)
    # Disk manifests of these of which an earlier run has read all data, and written down what is damaged.
    already_read: list[str] = Field(default_factory=list)
    # Disk manifests of these in which the damage was met, and from which byte of the disk on: that is read first.
    named: dict[str, int] = Field(default_factory=dict)
    # Write damage down, so that no new backup refers to it; needs the right to create objects.
    record: bool = True
    # Prunes may move blocks here, and manifests with them; where they may not, such a manifest is not believed.
    believes_moved: bool = False
    # The whole report is written here as JSON, beside the log lines.
    report_path: str | None = None


class PruneJob(_Job):
    """Delete what no backup refers to and was condemned `grace_seconds` ago; condemn what none refers to now.

    `token` is a fresh one for the repository's epoch that the operator has noted down before, `known_tokens` are those
    it noted down earlier: a prune that finds another one ends, as another operator expires data here. A dry run needs
    neither, and deletes and writes nothing. Nothing is condemned if more than half would be, unless it is `allowed`:
    what an earlier prune asked about, and somebody has given leave for. If it is notably more by now, it asks again.
    `closed` is since when the repository is closed by a newer one, if it is: the prune ends if it finds a manifest that
    came too late after that. Only who has the newer one's key can tell, and a mover has not. `accepted` are the marks
    of manifests that somebody has accepted nevertheless.
    At most `repack_bytes` of packs are downloaded to move what is alive of mostly dead ones, for disks that have had no
    new backup for `gone_after_seconds`, and out of those of other disks of which backups refer to less than
    `repack_living_percent`, if that is not 0; none in a repository that is closed.
    """

    dry_run: bool = False
    allowed: PruneQuestion | None = None
    grace_seconds: int = Field(default=int(DEFAULT_GRACE.total_seconds()), ge=int(MIN_GRACE.total_seconds()))
    repack_bytes: int = Field(default=0, ge=0)
    repack_living_percent: int = Field(default=0, ge=0, le=90)
    gone_after_seconds: int = Field(default=int(GONE_AFTER.total_seconds()), ge=24 * 3600)
    token: str = Field(default="", max_length=1024)
    known_tokens: tuple[str, ...] = ()
    closed: AwareDatetime | None = None
    accepted: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_token(self) -> Self:
        if not self.dry_run and not self.token:
            raise ValueError("token: expected a fresh token for the epoch, unless dryRun is set")
        return self


Job = TypeVar("Job", ExportJob, RestoreJob, VerifyJob, PruneJob)


def load_job(model: type[Job], job_file: Path, secret_file: Path | None) -> Job:
    """Read a job file, merge its secret part over it and validate it; JobError names file, field and remedy."""
    data = _read(job_file)
    if secret_file is not None:
        data = merge(data, _read(secret_file))
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        # Only places and messages are shown: the input may hold credentials.
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'job'}: {e['msg']}" for e in error.errors())
        raise JobError(f"job file {job_file}: {found}") from None


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return base with over's entries, objects being merged key by key."""
    both = {key: merge(base[key], over[key]) for key in base.keys() & over.keys() if _objects(base[key], over[key])}
    return {**base, **over, **both}


def _objects(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(MAX_JOB_BYTES))
    except (OSError, ValueError) as error:
        raise JobError(f"job file {path}: expected a readable JSON object: {error}") from None
    if not isinstance(data, dict):
        raise JobError(f"job file {path}: expected a JSON object, found {type(data).__name__}")
    return data
