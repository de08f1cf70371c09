"""What a restore does about data that it can't read back from the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from longboat.repository.errors import DamagedError


@dataclass(frozen=True)
class Damage:
    """Parts of a disk that can't be restored, (offset, length) in bytes; `cause` names the object and its fault."""

    ranges: tuple[tuple[int, int], ...]
    cause: str

    @property
    def first(self) -> int:
        """Offset of the first byte that is lost."""
        return min(offset for offset, _ in self.ranges)


DamageHandler = Callable[[Damage], None]
"""Raises to end the restore, or returns to have the ranges zeroed; called from many threads at once."""


def refuse(damage: Damage) -> None:
    """End the restore at the first damage: a disk with silent gaps is worse than none."""
    raise DamagedError(f"the disk can't be restored from byte {damage.first} on: {damage.cause}")
