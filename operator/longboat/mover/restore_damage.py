"""What a restore does about data that it can't read back from the store.

Each frame is read again first, also where a prune may have moved its blocks meanwhile: that is no damage. Then they are
looked for in other backups of the repository. What is lost for good ends the restore, unless the job says `salvage`:
then it is zeros on the target, and told.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock

from longboat.repository import Repository
from longboat.repository.copies import CopyFinder, Wanted
from longboat.repository.damage import Damage as FrameSet
from longboat.repository.damage import read_damage
from longboat.repository.errors import DamagedError, RepositoryError, StoreError
from longboat.repository.following import FollowingMapReader
from longboat.repository.hurt import HurtBackups, all_hurt_by
from longboat.repository.layout import Kind, pack_name
from longboat.repository.pages import FrameRef

_RANGES = 1000  # Lost ranges that are kept; the sum counts all.


@dataclass(frozen=True)
class Damage:
    """Parts of a disk that can't be restored, (offset, length) in bytes; `cause` names the object and its fault.

    `frame` is what can't be read: kind and id of its pack, and its offset there.
    """

    ranges: tuple[tuple[int, int], ...]
    cause: str
    frame: tuple[Kind, bytes, int]

    @property
    def first(self) -> int:
        """Offset of the first byte that is lost."""
        return min(offset for offset, _ in self.ranges)


DamageHandler = Callable[[Damage], None]
"""Raises to end the restore, or returns to have the ranges zeroed; called from many threads at once."""


def refuse(damage: Damage) -> None:
    """End the restore at the first damage: a disk with silent gaps is worse than none."""
    raise LostDataError(damage)


class LostDataError(DamagedError):
    """A restore that ends at data that is lost, which hurts the backups `hurt`; `unrecorded`: see RestoreResult."""

    def __init__(self, damage: Damage, hurt: HurtBackups | None = None, unrecorded: int = 1) -> None:
        """Name the place, the cause, the backups that it hurts if that is known, and what can be done."""
        others = f" It hurts the backups {hurt.text()}." if hurt and hurt.names else ""
        another = "one that is not among them" if others else "another backup"
        super().__init__(
            f"the disk can't be restored from byte {damage.first} on: {damage.cause}.{others} Restore {another}, put"
            " the object back, or let the rest be restored with zeros in its place: salvage"
        )
        self.damage, self.hurt, self.unrecorded = damage, hurt or HurtBackups(), unrecorded

    @property
    def more(self) -> dict[str, object]:
        """What a Failure says of it beside the message: see there."""
        return {"lost_from": self.damage.first, "hurt_text": self.hurt.text(), "unrecorded": self.unrecorded}


@contextlib.contextmanager
def naming_hurt(repository: Repository, disk_key: str) -> Iterator[None]:
    """Have a LostDataError that leaves the context name the backups that it hurts, of this disk and others."""
    try:
        yield
    except LostDataError as error:
        frames, hurt = FrameSet(), HurtBackups()
        frames.add(*error.damage.frame)
        # That the store fails just now is no reason to tell less than is known.
        with contextlib.suppress(StoreError):
            hurt = all_hurt_by(repository, disk_key, frames)
        raise LostDataError(error.damage, hurt, unrecorded(repository, frames)) from None


def unrecorded(repository: Repository, frames: FrameSet) -> int:
    """Return how many of these damaged frames no record names, so that new backups may refer to them."""
    if not frames:
        return 0
    # What can't be told counts as new.
    try:
        return len(list(frames.beyond(read_damage(repository))))
    except RepositoryError:
        return len(list(frames))


@dataclass
class Rescued:
    """What came of blocks, by their number on the disk: the content of those that could be had after all, and the rest.

    Those that are `lost` are told by the frame in which they are to be, which is another one than before if a prune has
    moved them.
    """

    found: dict[int, bytes] = field(default_factory=dict)
    lost: dict[FrameRef, list[int]] = field(default_factory=dict)


class Rescue:
    """Finds blocks whose frame could not be read; `frames` are the damaged ones. Safe to use from many threads."""

    def __init__(self, repository: Repository, reader: FollowingMapReader) -> None:
        """Rescue blocks of the reader's disk; nothing is read before the first one is asked for."""
        self._reader, self._copies = reader, CopyFinder(repository, reader.manifest)
        self._block_size, self._lock = reader.manifest.block_size, Lock()
        self.healed_bytes, self.frames = 0, FrameSet()

    def blocks(self, frame: FrameRef, wanted: Wanted) -> Rescued:
        """Look for those blocks, which the map, perhaps before a prune has moved them, says are in that frame.

        Only failures of the store itself are raised.
        """
        rescued = Rescued()
        self._look(frame, wanted, rescued)
        return rescued

    def _look(self, frame: FrameRef, wanted: Wanted, rescued: Rescued) -> None:
        seen = self._reader.stored
        for place, part in self._places(frame, wanted).items():
            rescued.found |= self._copies.again(place, part)
            missing = {block: each for block, each in part.items() if block not in rescued.found}
            if missing and self._reader.follow(seen):
                self._look(place, missing, rescued)
            elif missing:
                self._heal(place, missing, rescued)

    def _places(self, frame: FrameRef, wanted: Wanted) -> dict[FrameRef, Wanted]:
        """Return where the blocks are by the manifest that was read last; what it lacks is where it was."""
        if not self._reader.has_moved:
            return {frame: wanted}
        places = self._copies.places(self._reader, wanted)
        known = {block for part in places.values() for block in part}
        if rest := {block: each for block, each in wanted.items() if block not in known}:
            places[frame] = places.get(frame, {}) | rest
        return places

    def _heal(self, frame: FrameRef, missing: Wanted, rescued: Rescued) -> None:
        healed = self._copies.elsewhere(frame, missing)
        with self._lock:
            self.frames.add(Kind.DATA_PACK, frame.pack, frame.offset)
            self.healed_bytes += len(healed) * self._block_size
        rescued.found |= healed
        if lost := [block for block in missing if block not in healed]:
            rescued.lost.setdefault(frame, []).extend(lost)


def unreadable(frame: FrameRef) -> str:
    """Return in words that a frame can't be read."""
    return f"pack {pack_name(Kind.DATA_PACK, frame.pack)}: the frame at {frame.offset} can't be read"


class Salvage:
    """A handler that goes on without what is lost, and keeps account of it."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        """Emit a line for each damage as it is met."""
        self._emit, self._lock = emit, Lock()
        self.frames = FrameSet()
        self.ranges: list[tuple[int, int]] = []
        self.lost_bytes = 0

    def __call__(self, damage: Damage) -> None:
        """Take note of a damage."""
        with self._lock:
            self.frames.add(*damage.frame)
            self.lost_bytes += sum(length for _, length in damage.ranges)
            self.ranges += damage.ranges[: max(0, _RANGES - len(self.ranges))]
        self._emit(json.dumps({"lost": {"ranges": damage.ranges[:_RANGES], "cause": damage.cause}}))

    def merged(self) -> list[tuple[int, int]]:
        """Return the lost ranges in order, neighbours joined."""
        joined: list[tuple[int, int]] = []
        for offset, length in sorted(self.ranges):
            if joined and sum(joined[-1]) == offset:
                offset, length = joined[-1][0], joined.pop()[1] + length
            joined.append((offset, length))
        return joined

    def hurt(self, repository: Repository, disk_key: str) -> list[str]:
        """Return the names of all backups, of the disk and others, that what was lost here hurts as well."""
        return list(all_hurt_by(repository, disk_key, self.frames).names) if self.frames else []
