"""The size of a disk's blocks in the store, as its claim asks for it."""

from __future__ import annotations

from typing import Any

from longboat.plan.problem import Problem
from longboat.plan.quantities import bytes_of, quantity_of
from longboat.repository.layout import DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE

BLOCK_SIZE = "longboat.dev/block-size"
"""Annotation of a PersistentVolumeClaim: of the claim, as all policies of a disk share its blocks."""
LEAST = 16 << 10
"""The format knows smaller ones; what these cost in maps and memory was not measured."""


def block_size_of(claim: dict[str, Any]) -> int | Problem | None:
    """Return the bytes of a block that a claim asks for, None if it does not, or BlockSizeInvalid.

    >>> block_size_of({"metadata": {"annotations": {"longboat.dev/block-size": "16Ki"}}})
    16384
    """
    asked = (claim["metadata"].get("annotations") or {}).get(BLOCK_SIZE)
    if asked is None:
        return None
    try:
        size = bytes_of(asked)
    except ValueError:
        size = 0
    if not LEAST <= size <= MAX_BLOCK_SIZE or size & (size - 1):
        least, most, used = quantity_of(LEAST), quantity_of(MAX_BLOCK_SIZE), quantity_of(DEFAULT_BLOCK_SIZE)
        return Problem(
            "BlockSizeInvalid",
            f"PersistentVolumeClaim {claim['metadata']['name']!r}, annotation {BLOCK_SIZE}: {str(asked)[:40]!r} is no"
            f" power of two from {least} to {most}, such as 16Ki; {used} is used",
        )
    return size
