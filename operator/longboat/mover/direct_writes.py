"""Memory in which writes are put together before they go to a disk past the page cache."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

from .kernel_queue import KernelQueue, Piece
from .system_calls import AlignedBuffer

ALIGNMENT = 4096
"""What O_DIRECT asks of offsets and lengths on every device that there is."""
BATCH, BATCHES = 1 << 20, 16
"""Bytes of each batch, and how many there are: one for each thread of a restore."""
_DEPTH = 64


class Batch:
    """Ranges of one file that are written together; what follows each other in it is one write."""

    def __init__(self, memory: memoryview, address: int) -> None:
        """Use aligned memory at an address; the kernel's queue is made when it is first needed."""
        self._memory, self._address, self._used = memory, address, 0
        self._pieces: list[Piece] = []
        self._queue: KernelQueue | None = None
        self._has_queue = True

    def take(self, offset: int, data: memoryview) -> int:
        """Copy as much as there is room for, offset and length being aligned; return its length, 0 if it is full."""
        length = min(len(data), len(self._memory) - self._used)
        last = self._pieces[-1] if self._pieces else None
        follows = last is not None and last.offset + last.length == offset
        if not length or (not follows and len(self._pieces) == _DEPTH):
            return 0
        self._memory[self._used : self._used + length] = data[:length]
        if last is not None and follows:
            self._pieces[-1] = last._replace(length=last.length + length)
        else:
            self._pieces.append(Piece(self._address + self._used, length, offset))
        self._used += length
        return length

    def write(self, handle: int) -> Iterator[tuple[int, memoryview]]:
        """Write all of it to a file opened with O_DIRECT; yield (offset, bytes) of what was not, and is to be again."""
        # In the order of the disk, neighbours reach it as one request.
        pieces = sorted(self._pieces, key=lambda piece: piece.offset)
        for piece, done in zip(pieces, self._queued(handle, pieces), strict=True):
            # A write that ended within a sector is gone on with at the start of it.
            done = done // ALIGNMENT * ALIGNMENT
            if done < piece.length:
                start = piece.address - self._address
                yield piece.offset + done, self._memory[start + done : start + piece.length]
        self.clear()

    def clear(self) -> None:
        """Forget what was taken."""
        self._pieces, self._used = [], 0

    def _queued(self, handle: int, pieces: list[Piece]) -> list[int]:
        if self._queue is None and self._has_queue:
            try:
                self._queue = KernelQueue(_DEPTH)
            except OSError:
                self._has_queue = False
        # A single write gains nothing by a queue.
        if self._queue is None or len(pieces) < 2:
            return [0] * len(pieces)
        return self._queue.write(handle, pieces)


@contextlib.contextmanager
def borrowed_batch() -> Iterator[Batch | None]:
    """Lend an empty batch; None if all are lent, as who has one already must not wait for another."""
    with _lock:
        if not _batches.maxsize:
            _fill()
    try:
        batch = _batches.get_nowait()
    except queue.Empty:
        yield None
        return
    try:
        yield batch
    finally:
        batch.clear()
        _batches.put(batch)


_batches: queue.LifoQueue[Batch] = queue.LifoQueue()
_lock = threading.Lock()


def _fill() -> None:
    # One allocation, so that they share huge pages, which are cheaper to write from.
    whole, _batches.maxsize = AlignedBuffer(BATCHES * BATCH), BATCHES
    for at in range(0, BATCHES * BATCH, BATCH):
        _batches.put(Batch(whole.view[at : at + BATCH], whole.address + at))
