"""What earlier attempts of an export have uploaded before they ended: packs that no manifest refers to yet.

Their leases name them, and a new attempt that reads the same disk in the same order finds their blocks again. It
names the packs in a lease of its own first, so that they are not condemned meanwhile, and leaves out those that are,
and those of which a random frame is not whole: nobody else has looked at them since they were uploaded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from .codec import decompress
from .crypto import reading_cipher
from .damage import Damage
from .documents import MAX_DOCUMENT_OBJECT, open_document
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import LEASES, MAX_FRAME_PLAIN, PACKS, Kind, pack_name
from .leases import LeaseRecord
from .mark import read_index
from .pages import FrameRef
from .repository import Repository

_WINDOW = 48  # Packs whose ids are in memory at a time: about 2 GiB of a disk, 15 MiB of ids.
_AHEAD = 32  # So many of them lie beyond the newest one in which a block was found.
_MOST_IDS = 100_000  # Packs of small blocks have more ids, and fewer of them are kept: up to 40 MiB.
_PATIENCE = 1024  # Blocks in a row that are not found before the window moves on by a pack.

Index = list[tuple[FrameRef, list[bytes]]]


def packs_in_leases(repository: Repository, disk_key: str) -> list[str]:
    """Return the names of the data packs that writers of a disk say they uploaded, in the order of their uploads.

    Leases that can't be read are left out: nothing depends on them but time.
    """
    names = sorted(info.name for info in repository.store.list(LEASES))
    packs: dict[str, None] = {}
    for record in filter(None, (_record(repository, name) for name in names)):
        if record.disk_key == disk_key:
            packs.update(dict.fromkeys(name for name in record.packs if name.startswith(PACKS)))
    return list(packs)


class UploadedBlocks:
    """Finds blocks in packs of earlier attempts; safe to call from many threads.

    A disk is read in the same order each time: a window of packs around the last find is all that is kept in memory.
    """

    def __init__(
        self,
        repository: Repository,
        packs: Iterable[str],
        condemned: Collection[str] = (),
        damage: Damage | None = None,
    ) -> None:
        """Look into these packs, given by name in the order of upload, but for what is condemned or damaged of them."""
        self._repository, self._damage = repository, damage or Damage()
        self._names = iter([name for name in packs if name not in condemned])
        self._lock = threading.Lock()
        self._blocks: dict[bytes, tuple[FrameRef, int, int]] = {}
        self._window: deque[list[bytes]] = deque()
        self._loaded, self._newest, self._misses, self._held = 0, -1, 0, 0
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="uploaded")
        self._coming: deque[Future[Index]] = deque()

    def __enter__(self) -> UploadedBlocks:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def find(self, block_id: bytes) -> tuple[FrameRef, int] | None:
        """Return frame and slot of an uploaded block, or None."""
        with self._lock:
            self._advance()
            found = self._blocks.get(block_id)
            if found is None:
                self._missed()
                return None
            frame, slot, pack = found
            self._newest, self._misses = max(self._newest, pack), 0
            return frame, slot

    def _missed(self) -> None:
        # What the first packs held may have been overwritten since: the window moves on with the disk all the same.
        self._misses += 1
        if self._misses >= _PATIENCE:
            self._newest, self._misses = min(self._newest + 1, self._loaded), 0

    def _advance(self) -> None:
        while self._has_room() and (index := self._next()) is not None:
            ids = list[bytes]()
            for frame, block_ids in index:
                for slot, block_id in enumerate(block_ids):
                    self._blocks[block_id] = (frame, slot, self._loaded)
                ids += block_ids
            self._window.append(ids)
            self._held += len(ids)
            self._loaded += 1
            while self._is_too_long():
                self._forget(self._window.popleft(), self._loaded - len(self._window))

    def _has_room(self) -> bool:
        """Tell whether a further pack is to be looked into: the one after the newest find is, whatever it holds."""
        after = self._newest + 1
        return self._loaded <= after or (self._loaded < after + _AHEAD and self._held < _MOST_IDS)

    def _is_too_long(self) -> bool:
        oldest = self._loaded - len(self._window)
        return len(self._window) > _WINDOW or (self._held > _MOST_IDS and oldest < self._newest)

    def _forget(self, ids: list[bytes], before: int) -> None:
        self._held -= len(ids)
        for block_id in ids:
            if block_id in self._blocks and self._blocks[block_id][2] < before:
                del self._blocks[block_id]

    def _next(self) -> Index | None:
        while len(self._coming) < max(2, _AHEAD // 4) and (name := next(self._names, None)) is not None:
            self._coming.append(self._pool.submit(self._load, name))
        return self._coming.popleft().result() if self._coming else None

    def _load(self, name: str) -> Index:
        try:
            pack, size = bytes.fromhex(name.rsplit("/", 1)[-1]), self._repository.store.head(name).size
            found = read_index(self._repository, Kind.DATA_PACK, pack, size)
            index = [(at, ids) for at, ids, _ in found if not self._damage.covers(Kind.DATA_PACK, at.pack, at.offset)]
            self._check_one(index)
            return index
        except (ObjectNotFoundError, DamagedError, UnsupportedFormatError, ValueError):
            return []  # Removed since, never whole, or rotten: its blocks are stored again.

    def _check_one(self, index: Index) -> None:
        """Read a random frame, as no verification looks at packs that no manifest names. DamagedError if it is bad."""
        if not index:
            return
        keys = self._repository.keys
        at, ids = index[int.from_bytes(self._repository.random(8), "big") % len(index)]
        sealed = self._repository.store.get_range(pack_name(Kind.DATA_PACK, at.pack), at.offset, at.length)
        payload, length, codec = reading_cipher(keys, Kind.DATA_PACK, at.pack).open(sealed, at.offset)
        if not ids or length > MAX_FRAME_PLAIN or length % len(ids):
            raise DamagedError(f"a frame of {length} bytes can not have {len(ids)} blocks")
        plain, size = memoryview(decompress(payload, codec, length)), length // len(ids)
        if any(keys.block_id(plain[n * size : (n + 1) * size]) != block_id for n, block_id in enumerate(ids)):
            raise DamagedError("a frame has other blocks than its pack's index says")


def _record(repository: Repository, name: str) -> LeaseRecord | None:
    try:
        data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
        return open_document(repository.keys, Kind.LEASE, data, LeaseRecord)[1]
    except (ObjectNotFoundError, DamagedError, UnsupportedFormatError):
        return None
