"""Constants of format version 1 and the names of the objects in a repository."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import IntEnum

FORMAT_VERSION = 1
MAGIC = b"LONGBOAT"
ID_BYTES = 16  # Repository, key, object and block ids.

DEFAULT_BLOCK_SIZE = 64 << 10
MIN_BLOCK_SIZE = 4 << 10
MAX_BLOCK_SIZE = 1 << 20
DEFAULT_PAGE_BLOCKS = 4096  # A page maps 256 MiB of a disk at the default block size.
MAX_PAGE_BLOCKS = 32768
MAX_FRAME_BLOCKS = 255
MAX_FRAME_PLAIN = 16 << 20
FRAME_TARGET = 512 << 10  # Blocks are compressed together up to this many bytes.
PACK_TARGET = 32 << 20
MAX_PACK = 256 << 20
MAX_DOCUMENT = 64 << 20
MAX_DOCUMENT_VALUES = 2 << 20  # Commas and opening brackets: enough for the pages of a disk of 128 TiB.
MAX_DISK_SIZE = 1 << 50

HEADER_NAME = "repository"
EPOCH_NAME = "epoch"
KEYS = "keys/"
PACKS = "packs/"
MAPS = "maps/"
DISKS = "disks/"
BACKUPS = "backups/"
TOMBSTONES = "tombstones/"
REMOVING = "removing/"
LEASES = "leases/"
DAMAGE = "damage/"
CONDEMNED = "condemned/"
REWRITE = "rewrite/"
CLOSED = "closed/"
ACCEPTED = "accepted/"

_HASH = re.compile(r"^[0-9a-f]{32}$")
_TIME = "%Y%m%dT%H%M%SZ"
_DISK_NAME = re.compile(r"^disks/([0-9a-f]{32})/([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{32})$")
_MOVED_NAME = re.compile(r"^(disks/[0-9a-f]{32}/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32})-([0-9a-f]{32})$")
_PACK_NAME = re.compile(r"^(packs|maps)/([0-9a-f]{2})/(\2[0-9a-f]{30})$")
_LEASE_NAME = re.compile(r"^leases/([0-9a-f]{32})/([0-9]{6})$")
_CONDEMNED_NAME = re.compile(r"^condemned/([0-9a-f]{32})$")
_REWRITE_NAME = re.compile(r"^rewrite/([0-9a-f]{32})/([0-9a-f]{32})$")
_CLOSING_NAME = re.compile(r"^closed/([0-9a-f]{32})$")
_ACCEPTED_NAME = re.compile(r"^accepted/([0-9a-f]{32})$")
_BACKUP_NAME = re.compile(r"^backups/([0-9a-f]{32})/([0-9]{6})$")


class Kind(IntEnum):
    """What an object holds; part of its header, of its key and of its associated data."""

    DATA_PACK = 1
    MAP_PACK = 2
    DISK_MANIFEST = 3
    BACKUP_MANIFEST = 4
    TOMBSTONE = 5
    LEASE = 6
    DAMAGE = 7
    CONDEMNED = 8
    REWRITE = 9
    CLOSING = 10
    REMOVAL = 11
    ACCEPTED = 12


_OURS = re.compile(
    r"(packs|maps)/([0-9a-f]{2})/\2[0-9a-f]{30}"
    r"|disks/[0-9a-f]{32}/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{32}(-[0-9a-f]{32})?"
    r"|(backups|leases)/[0-9a-f]{32}/[0-9]{6}"
    r"|(tombstones|removing|condemned|damage)/[0-9a-f]{32}"
    r"|rewrite/[0-9a-f]{32}/[0-9a-f]{32}"
)


def comes_and_goes(name: str) -> bool:
    """Tell whether a name is that of an object which maintenance may remove; any other one is left alone."""
    return _OURS.fullmatch(name) is not None


def hash_below(folder: str, name: str) -> str | None:
    """Return the hash in `<folder><hash>`, the name of a tombstone or an announcement, or None for any other name."""
    found = name.removeprefix(folder)
    return found if name.startswith(folder) and _HASH.fullmatch(found) else None


def pack_name(kind: Kind, object_id: bytes) -> str:
    """Return the name of a pack: `packs/<2 hex>/<32 hex>` or `maps/<2 hex>/<32 hex>`."""
    text = object_id.hex()
    return f"{PACKS if kind is Kind.DATA_PACK else MAPS}{text[:2]}/{text}"


def split_pack_name(name: str) -> tuple[Kind, bytes] | None:
    """Return kind and id of a pack's name, or None if it is not one."""
    match = _PACK_NAME.fullmatch(name)
    return (Kind.DATA_PACK if match[1] == "packs" else Kind.MAP_PACK, bytes.fromhex(match[3])) if match else None


def split_lease_name(name: str) -> tuple[str, int] | None:
    """Return lease id and number of a lease object's name, or None if it is not one."""
    match = _LEASE_NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def condemned_name(object_id: bytes) -> str:
    """Return `condemned/<32 hex>`, the name of a condemned list."""
    return f"{CONDEMNED}{object_id.hex()}"


def split_condemned_name(name: str) -> bytes | None:
    """Return the id of a condemned list's name, or None if it is not one."""
    match = _CONDEMNED_NAME.fullmatch(name)
    return bytes.fromhex(match[1]) if match else None


def rewrite_name(disk_hash: str, object_id: bytes) -> str:
    """Return `rewrite/<hash of the disk key>/<32 hex>`, the name of a rewrite list."""
    return f"{REWRITE}{disk_hash}/{object_id.hex()}"


def split_rewrite_name(name: str) -> tuple[str, bytes] | None:
    """Return disk hash and object id of a rewrite list's name, or None if it is not one."""
    match = _REWRITE_NAME.fullmatch(name)
    return (match[1], bytes.fromhex(match[2])) if match else None


def closing_name(object_id: bytes) -> str:
    """Return `closed/<32 hex>`, the name of an object that closes a repository."""
    return f"{CLOSED}{object_id.hex()}"


def split_closing_name(name: str) -> bytes | None:
    """Return the id of a closing's name, or None if it is not one."""
    match = _CLOSING_NAME.fullmatch(name)
    return bytes.fromhex(match[1]) if match else None


def accepted_name(object_id: bytes) -> str:
    """Return `accepted/<32 hex>`, the name of a list of what is accepted although it came too late."""
    return f"{ACCEPTED}{object_id.hex()}"


def split_accepted_name(name: str) -> bytes | None:
    """Return the id of such a list's name, or None if it is not one."""
    match = _ACCEPTED_NAME.fullmatch(name)
    return bytes.fromhex(match[1]) if match else None


def disk_manifest_name(disk_hash: str, created: datetime, backup_hash: str) -> str:
    """Return `disks/<hash of the disk key>/<UTC time>-<hash of the backup's name>`, which sorts by time."""
    return f"{DISKS}{disk_hash}/{created.astimezone(UTC).strftime(_TIME)}-{backup_hash}"


def moment_in_name(disk_manifest: str) -> datetime:
    """Return the moment in the name of a disk manifest."""
    return datetime.strptime(disk_manifest.split("/")[2].split("-")[0], _TIME).replace(tzinfo=UTC)


def split_disk_manifest_name(name: str) -> tuple[str, str, str] | None:
    """Return disk hash, time and backup hash of a disk manifest's name, or None if it is not one."""
    match = _DISK_NAME.fullmatch(name)
    return (match[1], match[2], match[3]) if match else None


def moved_name(name: str, object_id: bytes) -> str:
    """Return the name of a disk manifest that a prune writes in the place of the one of that name."""
    return f"{name}-{object_id.hex()}"


def split_moved_name(name: str) -> tuple[str, str] | None:
    """Return the name of the manifest in the place of which this one was written, and its own object id, or None."""
    match = _MOVED_NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def backup_manifest_name(backup_hash: str, revision: int) -> str:
    """Return `backups/<hash of the backup's name>/<6 digits>`."""
    return f"{BACKUPS}{backup_hash}/{revision:06d}"


def split_backup_manifest_name(name: str) -> tuple[str, int] | None:
    """Return backup hash and revision of a backup manifest's name, or None if it is not one."""
    match = _BACKUP_NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None
