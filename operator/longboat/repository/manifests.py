"""The models of manifests: what one disk, and one machine, looked like at one moment."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, FailFast, Field, JsonValue, StringConstraints, field_validator, model_validator

from .crypto import FRAME_OVERHEAD, HEADER_BYTES
from .documents import Document
from .errors import UnsupportedFormatError
from .layout import (
    FORMAT_VERSION,
    MAX_BLOCK_SIZE,
    MAX_DISK_SIZE,
    MAX_PACK,
    MAX_PAGE_BLOCKS,
    MIN_BLOCK_SIZE,
    split_disk_manifest_name,
)

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Text = Annotated[str, StringConstraints(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=1 << 62)]
# Number of the map pack in the manifest's list, offset and length of the page's frame in it; None is a page of holes.
PageRef = tuple[int, int, int]


class DiskIdentity(Document):
    """Which disk it is, in the caller's words. `disk_key` ties the backups of one disk together."""

    disk_key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    claim_name: Text = ""
    claim_uid: Text = ""
    volume_handle: Text = ""


class DiskStatistics(Document):
    """Sizes and counts of one export; sizes in bytes.

    `allocated_bytes` is the disk's data without holes, `read_bytes` what was read from the source, `stored_bytes` what
    this export added to the store (packs and map packs). `rewritten_blocks` of the `new_blocks` had not changed: they
    lay in packs that are mostly dead.
    """

    allocated_bytes: Count = 0
    read_bytes: Count = 0
    stored_bytes: Count = 0
    new_blocks: Count = 0
    unchanged_blocks: Count = 0
    zero_blocks: Count = 0
    new_packs: Count = 0
    rewritten_blocks: Count = 0


class _Versioned(Document):
    format_version: int
    repository_id: Id
    key_id: Id

    @field_validator("format_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != FORMAT_VERSION:
            raise UnsupportedFormatError(
                f"format version {value} of a manifest is not {FORMAT_VERSION}: update this program"
            )
        return value


class DiskManifest(_Versioned):
    """One disk at one moment: all that a restore or a later export needs to find its blocks."""

    disk: DiskIdentity
    backup_name: Text
    created: AwareDatetime
    expiry: JsonValue = None
    size_bytes: Annotated[int, Field(ge=0, le=MAX_DISK_SIZE)]
    block_size: Annotated[int, Field(ge=MIN_BLOCK_SIZE, le=MAX_BLOCK_SIZE)]
    page_blocks: Annotated[int, Field(ge=1, le=MAX_PAGE_BLOCKS)]
    parent: Text | None = None
    full_reason: Text | None = None
    snapshot_handle: Text = ""
    since_full_read: Count = 0
    compared_with: Text | None = None
    content: Literal["Disk", "Archive"] = "Disk"
    statistics: DiskStatistics = DiskStatistics()
    # When, by the store's clock, the lease was renewed after which the condemned lists were read for the last time.
    checked: AwareDatetime | None = None
    # Written by a prune in the place of an export's, with blocks in other packs: the object id of that one.
    original: Id | None = None
    # One error is enough: a list of false entries would otherwise make as many of them.
    map_packs: Annotated[list[Id], FailFast()]
    pages: Annotated[list[PageRef | None], FailFast()]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.block_size & (self.block_size - 1) or self.page_blocks & (self.page_blocks - 1):
            raise ValueError("blockSize and pageBlocks are powers of two")
        if len(self.pages) != -(-self.size_bytes // self.page_bytes):
            raise ValueError(f"{len(self.pages)} pages do not map a disk of {self.size_bytes} bytes")
        if not all(page is None or _fits(page, len(self.map_packs)) for page in self.pages):
            raise ValueError("a page reference is out of bounds")
        return self

    @property
    def page_bytes(self) -> int:
        """Bytes of the disk that one page maps."""
        return self.block_size * self.page_blocks


class DiskReference(Document):
    """A disk in a backup: where its manifest is, and that it is this very one."""

    disk: Text
    disk_key: Text
    manifest: Text
    object_id: Id
    size_bytes: Count
    stored_bytes: Count = 0

    @field_validator("manifest")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if split_disk_manifest_name(value) is None:
            raise ValueError("not the name of a disk manifest")
        return value


class BackupManifest(_Versioned):
    """A backup: its disks and whatever the operator wants to know of it again (`metadata`, opaque JSON)."""

    kind: Literal["Backup"] = "Backup"
    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    revision: Annotated[int, Field(ge=1, le=999_999)] = 1
    created: AwareDatetime
    disks: Annotated[list[DiskReference], FailFast()]
    expiry: JsonValue = None
    metadata: JsonValue = None


def _fits(page: PageRef, map_packs: int) -> bool:
    pack, offset, length = page
    return 0 <= pack < map_packs and offset >= HEADER_BYTES and length >= FRAME_OVERHEAD and offset + length <= MAX_PACK
