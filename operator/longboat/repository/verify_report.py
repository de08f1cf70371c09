"""What a verification reports: JSON-able, in bytes and names that its reader can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import AwareDatetime

from .documents import Document
from .errors import DamagedError, ObjectNotFoundError

State = Literal["ok", "damaged"]
Problem = Literal["Missing", "Damaged"]
MAX_RANGES = 200  # Ranges of a disk that are listed for one damaged object; the sums count all.


@dataclass(frozen=True)
class Fault:
    """Why something can't be read."""

    problem: Problem
    detail: str


def fault_of(error: DamagedError | ObjectNotFoundError) -> Fault:
    """Return what an error means for the object that was read."""
    return Fault("Missing" if isinstance(error, ObjectNotFoundError) else "Damaged", str(error))


class DamagedObject(Document):
    """An object of the repository, or one frame of it, that can't be read, and the names of the backups it hurts.

    `frame_offset` is null if the object is damaged as a whole.
    """

    object: str
    frame_offset: int | None
    problem: Problem
    detail: str
    backups: tuple[str, ...] = ()


class DiskDamage(Document):
    """What of a disk lies in a damaged object: `ranges` are (offset, length) in bytes of the disk, the first few.

    Of `damaged_bytes`, `recoverable_bytes` are found whole in other backups: restores take them from there.
    """

    object: str
    frame_offset: int | None
    ranges: tuple[tuple[int, int], ...]
    damaged_bytes: int
    recoverable_bytes: int = 0


class DiskHealth(Document):
    """A disk of a backup, called `disk` in the machine."""

    disk: str
    manifest: str
    state: State
    damage: tuple[DiskDamage, ...] = ()

    @property
    def lost(self) -> bool:
        """Tell whether data is damaged that no other backup has."""
        return any(each.damaged_bytes > each.recoverable_bytes for each in self.damage)


class BackupHealth(Document):
    """A backup. `deleted`: it has a tombstone. `complete`: its own manifest is there and can be read."""

    name: str
    created: AwareDatetime | None
    deleted: bool
    complete: bool
    state: State
    disks: tuple[DiskHealth, ...]

    @property
    def hurt_disks(self) -> list[str]:
        """The names of the disks that are damaged."""
        return [each.disk for each in self.disks if each.state == "damaged"]

    @property
    def lost(self) -> bool:
        """Tell whether it can't be restored whole, not even with what other backups have."""
        return self.state == "damaged" and (not self.hurt_disks or any(each.lost for each in self.disks))


class VerifyReport(Document):
    """The outcome. `share` is in percent; a run that begins with `next_phase` goes on where this one has ended.

    `pages` and `frames` were read and checked, `bytes_read` came from data packs. `recorded` are the documents of
    damage that were written, `note` says why there are none if there should be.
    """

    repository_id: str
    state: State
    share: float
    phase: int
    next_phase: int
    backups: tuple[BackupHealth, ...]
    damage: tuple[DamagedObject, ...]
    packs: int
    pages: int
    frames: int
    bytes_read: int
    recorded: tuple[str, ...] = ()
    note: str = ""

    def damaged_backups(self) -> list[str]:
        """Return the names of the backups that are hurt."""
        return [backup.name for backup in self.backups if backup.state == "damaged"]
