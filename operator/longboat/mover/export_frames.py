"""Compressing and sealing the blocks that have to be stored."""

from __future__ import annotations

from longboat.repository.codec import compress
from longboat.repository.crypto import RepositoryKeys
from longboat.repository.layout import FRAME_TARGET
from longboat.repository.packs import PackWriter
from longboat.repository.page_build import PageBuild


class FrameBuilder:
    """Blocks of one thread that wait to be compressed together; each knows the page that waits for its place."""

    def __init__(self, keys: RepositoryKeys, block_size: int, writer: PackWriter) -> None:
        """Allocate a frame."""
        self._keys, self._block_size, self._writer = keys, block_size, writer
        self.capacity = max(1, FRAME_TARGET // block_size)
        self._plain = memoryview(bytearray(self.capacity * block_size))
        self._waiting: list[tuple[PageBuild, int]] = []
        self._ids = bytearray()

    def add(self, page: PageBuild, index: int, block_id: bytes, block: memoryview) -> None:
        """Copy a block into the frame; seal the frame if that fills it."""
        at = len(self._waiting) * self._block_size
        self._plain[at : at + self._block_size] = block
        self._waiting.append((page, index))
        self._ids += block_id
        if len(self._waiting) == self.capacity:
            self.flush()

    def seal(self, page: PageBuild, first: int, ids: bytes, blocks: memoryview) -> None:
        """Seal neighbouring blocks, a whole frame of them, straight from where they are."""
        count = len(blocks) // self._block_size
        self._seal([(page, first + i) for i in range(count)], ids, blocks)

    def flush(self) -> None:
        """Seal what is in the frame and tell the pages where their blocks are."""
        if self._waiting:
            waiting, ids = self._waiting, bytes(self._ids)
            self._waiting, self._ids = [], bytearray()
            self._seal(waiting, ids, self._plain[: len(waiting) * self._block_size])

    def _seal(self, waiting: list[tuple[PageBuild, int]], ids: bytes, plain: memoryview) -> None:
        payload, codec = compress(plain)
        frame = self._writer.append(payload, len(plain), codec, len(waiting), ids)
        for slot, (page, index) in enumerate(waiting):
            page.place(index, frame, slot)
