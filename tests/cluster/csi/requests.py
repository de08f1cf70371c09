"""What requests ask for, checked: sizes, capabilities, pages. No I/O."""

from collections.abc import Sequence
from typing import Any

import csi_pb2 as csi
import grpc

from tests.cluster.csi.errors import CsiError, invalid
from tests.cluster.csi.mounts import FILE_SYSTEMS, SMALLEST
from tests.cluster.csi.pool import LARGEST_VOLUME, MIB, Snapshot, Volume

DEFAULT_SIZE = 1 << 30
DEFAULT_FILE_SYSTEM = "ext4"
_READERS = (
    csi.VolumeCapability.AccessMode.SINGLE_NODE_READER_ONLY,
    csi.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY,
)


def check_capabilities(capabilities: Sequence[Any]) -> None:
    """Raises INVALID_ARGUMENT for the first capability that cannot be had."""
    if not capabilities:
        raise invalid("volume_capabilities is missing")
    for each in capabilities:
        check_capability(each)


def check_capability(capability: Any) -> None:
    if capability.WhichOneof("access_type") is None:
        raise invalid("volume_capability: expected block or mount")
    if capability.access_mode.mode == csi.VolumeCapability.AccessMode.UNKNOWN:
        raise invalid("volume_capability.access_mode.mode is missing")
    if capability.HasField("mount") and file_system(capability) not in FILE_SYSTEMS:
        raise invalid(f"fsType {capability.mount.fs_type!r}: expected one of {', '.join(FILE_SYSTEMS)}")


def file_system(capability: Any) -> str:
    return str(capability.mount.fs_type or DEFAULT_FILE_SYSTEM)


def reads_only(capability: Any) -> bool:
    return capability.access_mode.mode in _READERS


def smallest(capabilities: Sequence[Any]) -> int:
    """The least bytes that hold the file systems asked for."""
    return max((SMALLEST[file_system(each)] for each in capabilities if each.HasField("mount")), default=MIB)


def size_for(capacity: Any, least: int, default: int = DEFAULT_SIZE) -> int:
    """Bytes for a new volume: what is required, rounded up to a MiB where the limit allows it.

    Raises OUT_OF_RANGE when `least` or the range itself cannot be met.
    """
    required, limit = capacity.required_bytes, capacity.limit_bytes
    check_range(required, limit)
    size = -(-max(required or min(default, limit or default), least) // MIB) * MIB
    if limit and size > limit:
        size = limit // 512 * 512
    if size < max(required, least):
        raise CsiError(grpc.StatusCode.OUT_OF_RANGE, f"limit_bytes {limit}: expected at least {max(required, least)}")
    if size > LARGEST_VOLUME:
        raise CsiError(grpc.StatusCode.OUT_OF_RANGE, f"required_bytes {required}: expected at most {LARGEST_VOLUME}")
    return size


def check_range(required: int, limit: int) -> None:
    if required < 0 or limit < 0 or (limit and required > limit):
        raise invalid(f"capacity_range {required}..{limit}: expected 0 <= required_bytes <= limit_bytes")


def fits(size: int, capacity: Any) -> bool:
    """Whether an existing volume of `size` bytes is what is asked for."""
    return bool(capacity.required_bytes <= size and (not capacity.limit_bytes or size <= capacity.limit_bytes))


def page(records: Sequence[Volume] | Sequence[Snapshot], token: str, entries: int) -> tuple[list[Any], str]:
    """The records after `token`, at most `entries` (0: all), and the token of the next page or "".

    Tokens name the last record of a page by age and id, so that pages stay right while others come and go. Raises
    ABORTED for a token that is none.
    """
    if entries < 0:
        raise invalid(f"max_entries {entries}: expected 0 or more")
    after = _position(token) if token else (-1, "")
    rest = [each for each in records if (each.created, each.id) > after]
    shown = rest[: entries or len(rest)]
    more = len(shown) < len(rest)
    return shown, f"{shown[-1].created}.{shown[-1].id}" if more else ""


def _position(token: str) -> tuple[int, str]:
    created, dot, id_ = token.partition(".")
    if not dot or not created.isdecimal():
        raise CsiError(grpc.StatusCode.ABORTED, f"starting_token {token!r}: expected one from an earlier answer")
    return int(created), id_


def source_of(request: Any) -> str:
    """The id of the snapshot or volume that a new volume shall be a clone of, or ""."""
    source = request.volume_content_source
    kind = source.WhichOneof("type")
    if kind is None:
        return ""
    id_ = source.snapshot.snapshot_id if kind == "snapshot" else source.volume.volume_id
    if not id_:
        raise invalid(f"volume_content_source.{kind}: the id is missing")
    return str(id_)
