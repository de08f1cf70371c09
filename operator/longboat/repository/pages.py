"""Map pages: for a stretch of a disk, each block's id and the frame that holds it.

A page in bytes, little-endian, before compression and sealing:

    u16 packs, u16 frames, u32 blocks
    packs  × 16 bytes        ids of data packs
    frames × 12 bytes        u16 pack, u16 blocks in the frame, u32 offset in the pack, u32 length in the pack
    blocks × u16             0: a hole, n: the page's frame n - 1
    blocks × u8              place of the block within its frame
    one 16-byte block id for each block that is no hole, in order
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .crypto import FRAME_OVERHEAD, HEADER_BYTES
from .errors import DamagedError
from .layout import ID_BYTES, MAX_FRAME_BLOCKS, MAX_FRAME_PLAIN, MAX_PACK

_HEAD = struct.Struct("<HHI")
_FRAME = struct.Struct("<HHII")


class FrameRef(NamedTuple):
    """Where a frame is: pack id, offset and length in bytes, and how many blocks it holds."""

    pack: bytes
    offset: int
    length: int
    blocks: int


@dataclass(frozen=True)
class Page:
    """A decoded page: `frame_of[i]` is 0 for a hole or 1 + an index into `frames`; ids are 16 bytes per block."""

    ids: bytes
    frame_of: array[int]
    slot_of: bytes
    frames: list[FrameRef]

    @property
    def blocks(self) -> int:
        """Number of blocks that the page maps."""
        return len(self.frame_of)

    def data_blocks(self) -> int:
        """Return how many blocks are no holes."""
        return self.blocks - self.frame_of.count(0)

    def block_id(self, index: int) -> bytes:
        """Return the id of a block; 16 zeros for a hole."""
        return self.ids[index * ID_BYTES : (index + 1) * ID_BYTES]

    def place(self, index: int) -> tuple[FrameRef, int] | None:
        """Return frame and slot of a block, or None for a hole."""
        number = self.frame_of[index]
        return (self.frames[number - 1], self.slot_of[index]) if number else None


def build_page(ids: bytes, places: Iterable[tuple[FrameRef, int] | None]) -> Page:
    """Make a page from block ids (16 bytes each) and the place of each block, None being a hole."""
    frames: dict[FrameRef, int] = {}
    frame_of, slot_of = array("H"), bytearray()
    for place in places:
        frame_of.append(frames.setdefault(place[0], len(frames) + 1) if place else 0)
        slot_of.append(place[1] if place else 0)
    return Page(bytes(ids), frame_of, bytes(slot_of), list(frames))


def encode_page(page: Page) -> bytes:
    """Return the page's bytes as the module describes them."""
    packs: dict[bytes, int] = {}
    frames = b"".join(
        _FRAME.pack(packs.setdefault(f.pack, len(packs)), f.blocks, f.offset, f.length) for f in page.frames
    )
    ids = b"".join(page.block_id(i) for i, frame in enumerate(page.frame_of) if frame)
    head = _HEAD.pack(len(packs), len(page.frames), page.blocks)
    return b"".join((head, *packs, frames, _little(page.frame_of).tobytes(), page.slot_of, ids))


def decode_page(data: bytes, blocks: int, block_size: int) -> Page:
    """Return the page in data, which has to map this many blocks; DamagedError if it breaks any bound."""
    if len(data) < _HEAD.size:
        raise DamagedError("a page is too short for its header")
    packs, frames, found = _HEAD.unpack_from(data)
    tables = _HEAD.size + packs * ID_BYTES + frames * _FRAME.size
    if found != blocks or len(data) < tables + 3 * blocks:
        raise DamagedError(f"a page of {len(data)} bytes does not hold {blocks} blocks")
    pack_ids = [data[at : at + ID_BYTES] for at in range(_HEAD.size, _HEAD.size + packs * ID_BYTES, ID_BYTES)]
    refs = list(_frames(data[_HEAD.size + packs * ID_BYTES : tables], pack_ids, block_size))
    frame_of = array("H", data[tables : tables + 2 * blocks])
    return _checked(
        _little(frame_of), data[tables + 2 * blocks : tables + 3 * blocks], refs, data[tables + 3 * blocks :]
    )


def max_page_bytes(blocks: int) -> int:
    """Return the largest size of a page of so many blocks: each in a frame and a pack of its own."""
    return _HEAD.size + blocks * (ID_BYTES + _FRAME.size + 3 + ID_BYTES)


def page_packs(data: bytes) -> list[bytes]:
    """Return the ids of the packs that a page's bytes refer to, not of its blocks; DamagedError if they end early."""
    packs = _HEAD.unpack_from(data)[0] if len(data) >= _HEAD.size else 0
    if len(data) < _HEAD.size + packs * ID_BYTES:
        raise DamagedError(f"a page of {len(data)} bytes is too short for its packs")
    return [data[at : at + ID_BYTES] for at in range(_HEAD.size, _HEAD.size + packs * ID_BYTES, ID_BYTES)]


def page_table(page: Page) -> tuple[int, bytes]:
    """Return what a map pack's index says of a page: the number of data packs, their ids, u16 blocks in each."""
    uses, blocks = Counter(page.frame_of), dict[bytes, int]()
    for number, frame in enumerate(page.frames, 1):
        blocks[frame.pack] = blocks.get(frame.pack, 0) + uses[number]
    return len(blocks), b"".join(blocks) + struct.pack(f"<{len(blocks)}H", *blocks.values())


def _frames(table: bytes, packs: list[bytes], block_size: int) -> Iterator[FrameRef]:
    for pack, blocks, offset, length in _FRAME.iter_unpack(table):
        bounded = offset >= HEADER_BYTES and length >= FRAME_OVERHEAD and offset + length <= MAX_PACK
        filled = 0 < blocks <= MAX_FRAME_BLOCKS and blocks * block_size <= MAX_FRAME_PLAIN
        if pack >= len(packs) or not bounded or not filled:
            raise DamagedError("a page refers to a frame that is out of bounds")
        yield FrameRef(packs[pack], offset, length, blocks)


def _checked(frame_of: array[int], slot_of: bytes, frames: list[FrameRef], packed_ids: bytes) -> Page:
    ids, used = bytearray(len(frame_of) * ID_BYTES), 0
    for index, frame in enumerate(frame_of):
        if not frame:
            continue
        if frame > len(frames) or slot_of[index] >= frames[frame - 1].blocks:
            raise DamagedError(f"block {index} of a page refers to no frame")
        ids[index * ID_BYTES : (index + 1) * ID_BYTES] = packed_ids[used : used + ID_BYTES]
        used += ID_BYTES
    if used != len(packed_ids) or len(ids) != len(frame_of) * ID_BYTES:
        raise DamagedError("a page has another number of block ids than blocks")
    return Page(bytes(ids), frame_of, slot_of, frames)


def _little(values: array[int]) -> array[int]:
    if sys.byteorder == "little":
        return values
    swapped = array(values.typecode, values)
    swapped.byteswap()
    return swapped
