"""A look at a disk's beginning, to tell from which image it was made."""

from __future__ import annotations

from longboat.repository.crypto import RepositoryKeys

from .source import SourceLike
from .system_calls import AlignedBuffer

_PLACES, _RUN = 32, 2  # Runs of blocks, spread evenly over the first page.


def sample_blocks(source: SourceLike, keys: RepositoryKeys, block_size: int, page_blocks: int) -> dict[int, bytes]:
    """Return the ids of some blocks of the first page by number, holes left out."""
    found: dict[int, bytes] = {}
    buffer = AlignedBuffer(block_size)
    blocks = min(page_blocks, source.size // block_size)
    for number in _chosen(blocks):
        source.read_into(buffer.view, number * block_size)
        if not buffer.is_zero(0, block_size):
            found[number] = keys.block_id(buffer.view)
    return found


def _chosen(blocks: int) -> list[int]:
    step = max(_RUN, blocks // _PLACES)
    return [at + i for at in range(0, blocks, step) for i in range(_RUN) if at + i < blocks]
