"""Restoring the files of a small volume: the archive is read as a whole, checked, and unpacked."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from longboat.repository import Repository, StoredDisk
from longboat.repository.damage import Damage as FrameSet
from longboat.repository.errors import DamagedError
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import Kind
from longboat.repository.pages import FrameRef, Page

from .archive import MAX_ARCHIVE, OURS_TO_LEAVE, unpack
from .errors import ArchiveDamagedError, TargetExistsError, TargetMissingError
from .jobs import RestoreJob
from .restore_damage import Damage, DamageHandler, Rescue, Salvage, naming_hurt, refuse, unreadable, unrecorded
from .results import RestoreResult

_LISTED = 8  # Files, ranges and backups that a result names.


def restore_archive(job: RestoreJob, repository: Repository, stored: StoredDisk, salvage: Salvage) -> RestoreResult:
    """Write the files of an archive into the directory of an empty volume; a retry does it all again.

    Nothing is written before all of the archive was read and checked. Damaged blocks are taken from other backups of
    the volume; with `job.salvage`, files of which some are lost for good are left out. RepositoryError and MoverError
    say what is wrong.
    """
    folder = Path(job.target_path)
    if not folder.is_dir():
        raise TargetMissingError(f"{folder}: expected the directory of a filesystem volume")
    if not job.replace_existing and {entry.name for entry in folder.iterdir()} - OURS_TO_LEAVE:
        raise TargetExistsError(f"{folder}: there are files already; restore into a new volume")
    archive, manifest = Archive(repository, stored, salvage if job.salvage else refuse), stored.manifest
    with naming_hurt(repository, manifest.disk.disk_key):
        data = archive.read()
    lost = salvage.merged()
    left_out = unpack(data, folder, lost)
    return RestoreResult(
        manifest=job.manifest,
        logical_bytes=manifest.size_bytes,
        written_bytes=len(data),
        read_bytes=manifest.statistics.allocated_bytes,
        healed_bytes=archive.healed_bytes,
        lost_bytes=salvage.lost_bytes,
        lost_ranges=tuple(lost[:_LISTED]),
        hurt=tuple(salvage.hurt(repository, manifest.disk.disk_key)[:_LISTED]),
        unrecorded=unrecorded(repository, archive.damaged_frames | salvage.frames),
        note=_note(left_out, archive.healed_bytes),
    )


class Archive:
    """A small disk that is read as a whole."""

    def __init__(self, repository: Repository, stored: StoredDisk, on_damage: DamageHandler) -> None:
        """Read nothing yet; `on_damage` is told what is lost, which is zeros then."""
        self._reader = FollowingMapReader(repository, stored)
        self._rescue = Rescue(repository, self._reader)
        self._manifest, self._size, self._on_damage = stored.manifest, stored.manifest.block_size, on_damage

    @property
    def healed_bytes(self) -> int:
        """Bytes that were taken from other backups."""
        return self._rescue.healed_bytes

    @property
    def damaged_frames(self) -> FrameSet:
        """The frames whose blocks were looked for in other backups."""
        return self._rescue.frames

    def read(self) -> bytes:
        """Return all bytes, each block checked; ArchiveDamagedError, or what `on_damage` raises."""
        manifest = self._manifest
        if manifest.size_bytes > MAX_ARCHIVE:
            raise ArchiveDamagedError(f"an archive of {manifest.size_bytes} bytes is too large: expected {MAX_ARCHIVE}")
        out = bytearray(-(-manifest.size_bytes // self._size) * self._size)
        for number in range(self._reader.pages):
            page = self._page(number)
            for frame, wanted in _frames(page, number * manifest.page_blocks).items() if page else ():
                rescued = self._rescue.blocks(frame, wanted)
                for block, content in rescued.found.items():
                    out[block * self._size : (block + 1) * self._size] = content
                for place, lost in rescued.lost.items():
                    self._tell(sorted(lost), unreadable(place), (Kind.DATA_PACK, place.pack, place.offset))
        return bytes(out[: manifest.size_bytes])

    def _page(self, number: int) -> Page | None:
        try:
            return self._reader.page(number)
        except DamagedError as error:
            first = number * self._manifest.page_blocks
            blocks = list(range(first, first + self._reader.page_blocks(number)))
            self._tell(blocks, str(error), (Kind.MAP_PACK, *self._reader.place(number)))
            return None

    def _tell(self, blocks: list[int], cause: str, frame: tuple[Kind, bytes, int]) -> None:
        end = self._manifest.size_bytes
        ranges = tuple((at * self._size, min(self._size, end - at * self._size)) for at in blocks)
        self._on_damage(Damage(ranges, cause, frame))


def _frames(page: Page, first: int) -> dict[FrameRef, dict[int, tuple[int, bytes]]]:
    frames: dict[FrameRef, dict[int, tuple[int, bytes]]] = defaultdict(dict)
    for index in range(page.blocks):
        place = page.place(index)
        if place:
            frames[place[0]][first + index] = place[1], page.block_id(index)
    return frames


def _note(left_out: list[str], healed: int) -> str:
    more = f" and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
    parts = [f"left out, as their data is lost: {', '.join(left_out[:_LISTED])}{more}"] if left_out else []
    parts += [f"{healed} bytes were taken from other backups"] if healed else []
    return "; ".join(parts)
