"""Packs: objects of tens of MiB made of sealed frames, an index of them, and a footer.

    header | frame | frame | … | index frame | u64 offset of the index frame | magic

Data packs hold blocks, map packs hold pages. The index lists offset and length of each frame and, in data packs, number
and ids of its blocks, in map packs, number, ids and use of the data packs that the page refers to. No restore needs it;
it serves resuming, pruning, verifying and salvaging.
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from .codec import RAW, decompress
from .crypto import FRAME_OVERHEAD, HEADER_BYTES, ObjectCipher, RepositoryKeys, parse_header, reading_cipher
from .errors import DamagedError
from .layout import ID_BYTES, MAX_FRAME_PLAIN, MAX_PACK, PACK_TARGET, Kind, pack_name
from .object_store import Data, ObjectStore, put_fresh
from .pages import FrameRef

FOOTER = struct.Struct("<Q8s")
FOOTER_MAGIC = b"LBPKEND1"
MIN_PACK_TAIL = FRAME_OVERHEAD + FOOTER.size  # What follows the last frame at the least: the index and the footer.
_INDEX_ENTRY = struct.Struct("<IIH")
_USE_BYTES = 2  # Beside the id of each pack that a page refers to: how many of the page's blocks lie there.


class Sink(Protocol):
    """Where finished packs go."""

    def take_buffer(self) -> memoryview:
        """Return a buffer for a pack."""

    def submit(self, name: str, buffer: memoryview, length: int) -> None:
        """Upload the first `length` bytes of a buffer and take the buffer back."""


class PackSink:
    """Uploads finished packs in the background, with a bound on buffers and so on memory.

    `buffers` packs exist at a time: those being filled and those in flight. The first failure is raised by the next
    call, and by close().
    """

    def __init__(self, store: ObjectStore, capacity: int = PACK_TARGET, uploads: int = 2, buffers: int = 3) -> None:
        """Make a sink for packs of at most `capacity` bytes."""
        self.capacity = capacity
        self.uploaded: list[str] = []
        self.stored_bytes = 0
        self._store = store
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(uploads, thread_name_prefix="upload")
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        for _ in range(buffers):
            self._free.put(None)

    def take_buffer(self) -> memoryview:
        """Return a buffer of `capacity` bytes, waiting until one is free."""
        buffer = self._free.get()
        self.raise_failure()
        return _memory(self.capacity) if buffer is None else buffer

    def submit(self, name: str, buffer: memoryview, length: int) -> None:
        """Upload the first `length` bytes of a buffer and take the buffer back."""
        self._pool.submit(self._upload, name, buffer, length)

    def raise_failure(self) -> None:
        """Raise the first failed upload's error, if there is one."""
        if self._failure is not None:
            self._free.put(None)
            raise self._failure

    def close(self) -> None:
        """Wait for every upload; raise the first failure."""
        self._pool.shutdown(wait=True)
        self.raise_failure()

    def abandon(self) -> None:
        """Give up: drop what has not begun to upload and wait for the rest."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def uploaded_since(self, count: int) -> list[str]:
        """Return the names of the packs whose upload ended after the first `count`."""
        with self._lock:
            return self.uploaded[count:]

    def _upload(self, name: str, buffer: memoryview, length: int) -> None:
        try:
            if self._failure is None:
                put_fresh(self._store, name, buffer[:length])
                with self._lock:
                    self.uploaded.append(name)
                    self.stored_bytes += length
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            self._free.put(buffer)


def _memory(size: int) -> memoryview:
    """Return memory that is taken as it is written to, in huge pages where there are some."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


class _Pack:
    """A pack in the making: frames get their places one after the other and are sealed side by side.

    It is complete when all have let go of it: each who seals a frame, and the writer, who adds no more.
    """

    def __init__(self, cipher: ObjectCipher, buffer: memoryview) -> None:
        self.cipher, self.buffer = cipher, buffer
        self.buffer[:HEADER_BYTES] = cipher.header
        self._used, self._index = HEADER_BYTES, bytearray()
        self._holders, self._lock = 1, threading.Lock()

    def has_room(self, length: int, ids: int) -> bool:
        # Blocks that compress to next to nothing fill the index sooner than the pack, and readers bound an index, too.
        index = len(self._index) + _INDEX_ENTRY.size + ids
        return index <= MAX_FRAME_PLAIN and self._used + length + index + MIN_PACK_TAIL <= len(self.buffer)

    def reserve(self, length: int, blocks: int, ids: bytes) -> int:
        at = self._used
        self._used += length
        self._index += _INDEX_ENTRY.pack(at, length, blocks) + ids
        with self._lock:
            self._holders += 1
        return at

    def let_go(self) -> bool:
        with self._lock:
            self._holders -= 1
            return not self._holders

    def complete(self) -> int:
        """Add index and footer; return the length in bytes."""
        at = self._used
        end = at + self.cipher.seal_into(self.buffer[at:], at, bytes(self._index), len(self._index), RAW)
        FOOTER.pack_into(self.buffer, end, at, FOOTER_MAGIC)
        return end + FOOTER.size


class PackWriter:
    """Fills packs of one kind with frames; safe to call from many threads, which seal at the same time."""

    def __init__(self, keys: RepositoryKeys, kind: Kind, sink: Sink, random: Callable[[int], bytes]) -> None:
        """Write packs of `kind` into the sink; `random` gives their ids."""
        self._keys, self._kind, self._sink, self._random = keys, kind, sink, random
        self._lock = threading.Lock()
        self._pack: _Pack | None = None

    def append(self, payload: Data, plain_length: int, codec: int, blocks: int, ids: bytes = b"") -> FrameRef:
        """Seal a frame into the current pack and return where it will be found."""
        length = len(payload) + FRAME_OVERHEAD
        with self._lock:
            pack = self._with_room(length, len(ids))
            at = pack.reserve(length, blocks, ids)
        # A pack of which a frame could not be sealed is let go of by too few, so that it is never uploaded.
        pack.cipher.seal_into(pack.buffer[at:], at, payload, plain_length, codec)
        self._let_go(pack)
        return FrameRef(pack.cipher.object_id, at, length, blocks)

    def finish(self) -> None:
        """Upload the pack begun last, if there is one."""
        with self._lock:
            self._finish()

    def _with_room(self, length: int, ids: int) -> _Pack:
        if self._pack is not None and not self._pack.has_room(length, ids):
            self._finish()
        if self._pack is None:
            cipher = ObjectCipher(self._keys, self._kind, self._random(ID_BYTES))
            pack = _Pack(cipher, self._sink.take_buffer())
            if not pack.has_room(length, ids):
                raise ValueError(f"a frame of {length} bytes does not fit into a pack of {len(pack.buffer)}")
            self._pack = pack
        return self._pack

    def _finish(self) -> None:
        pack, self._pack = self._pack, None
        if pack is not None:
            self._let_go(pack)

    def _let_go(self, pack: _Pack) -> None:
        if pack.let_go():
            self._sink.submit(pack_name(self._kind, pack.cipher.object_id), pack.buffer, pack.complete())


def open_frame(keys: RepositoryKeys, kind: Kind, ref: FrameRef, frame: Data, plain_length: int) -> bytes:
    """Return the plain bytes of a frame read from a pack; they have to be plain_length (or at most that for pages).

    DamagedError names the pack.
    """
    try:
        payload, length, codec = reading_cipher(keys, kind, ref.pack).open(frame, ref.offset)
        if length > plain_length or (kind is Kind.DATA_PACK and length != plain_length):
            raise DamagedError(f"the frame at offset {ref.offset} holds {length} bytes, expected {plain_length}")
        return decompress(payload, codec, length)
    except DamagedError as error:
        raise DamagedError(f"pack {pack_name(kind, ref.pack)}: {error}") from None


class IndexEntry(NamedTuple):
    """A frame of a pack and the ids beside it; `uses` are the blocks in each of a page's packs (map packs only)."""

    frame: FrameRef
    ids: list[bytes]
    uses: tuple[int, ...] = ()


def read_pack_index(keys: RepositoryKeys, kind: Kind, data: bytes) -> list[tuple[FrameRef, list[bytes]]]:
    """Return each frame of a whole pack with the ids in its index; DamagedError if it is damaged.

    They are those of the frame's blocks in a data pack, those of the packs that the page refers to in a map pack.
    """
    object_id = parse_header(data, kind, keys)
    at = index_offset(data[-FOOTER.size :], len(data))
    index = open_index(keys, kind, object_id, at, memoryview(data)[at : -FOOTER.size])
    return [(entry.frame, entry.ids) for entry in index]


def index_offset(footer: bytes, size: int) -> int:
    """Return where the index frame of a pack of `size` bytes begins; DamagedError if its last bytes are no footer."""
    if not HEADER_BYTES + MIN_PACK_TAIL <= size <= MAX_PACK:
        raise DamagedError(f"a pack of {size} bytes is out of bounds")
    at, magic = FOOTER.unpack(footer)
    if magic != FOOTER_MAGIC or not HEADER_BYTES <= at < size - FOOTER.size:
        raise DamagedError("a pack does not end in a footer")
    return int(at)


def open_index(keys: RepositoryKeys, kind: Kind, object_id: bytes, at: int, sealed: Data) -> list[IndexEntry]:
    """Return what a pack's index frame says, which begins at `at`; DamagedError if it is damaged.

    It opens only if it is the index of this very pack, of this kind and version.
    """
    payload, length, codec = reading_cipher(keys, kind, object_id).open(sealed, at)
    if length > MAX_FRAME_PLAIN:
        raise DamagedError("the index of a pack is too large")
    return list(_parse_index(object_id, at, decompress(payload, codec, length), kind))


def _parse_index(pack: bytes, end: int, index: bytes, kind: Kind) -> Iterator[IndexEntry]:
    at, beside = 0, ID_BYTES if kind is Kind.DATA_PACK else ID_BYTES + _USE_BYTES
    while at < len(index):
        if at + _INDEX_ENTRY.size > len(index):
            raise DamagedError("the index of a pack is cut short")
        offset, length, count = _INDEX_ENTRY.unpack_from(index, at)
        at += _INDEX_ENTRY.size
        if at + count * beside > len(index) or offset + length > end:
            raise DamagedError("the index of a pack is out of bounds")
        ids = [index[i : i + ID_BYTES] for i in range(at, at + count * ID_BYTES, ID_BYTES)]
        uses = () if kind is Kind.DATA_PACK else struct.unpack_from(f"<{count}H", index, at + count * ID_BYTES)
        yield IndexEntry(FrameRef(pack, offset, length, count), ids, uses)
        at += count * beside
