"""Settling: a disk manifest that a prune wrote takes the place of the one that says the same, which goes.

What it refers to is kept from the moment that it is written. If all its packs are there then and none of them is
condemned, they stay for as long as it does itself, so that the older one may go at any time after that look. Until then
everybody restores by the older one. docs/explanation/prune.md has the argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from .backups import StoredDisk, read_disk_at
from .condemned import CondemnedPacks
from .errors import BackupNotFoundError, DamagedError, ObjectNotFoundError
from .layout import PACKS, Kind, pack_name, split_pack_name
from .listing import ListedDisk, list_disks
from .map_reader import MapReader
from .mark import Marks, map_pack_sizes, mark_pages
from .moved import require_same_disk
from .named import lasting_disks
from .object_store import ObjectInfo
from .pages import FrameRef, Page
from .repack import place_of
from .repository import Repository
from .verify_frames import check_frame


@dataclass
class Settled:
    """What a look found: manifests in whose place another one is now, to be deleted, and why others wait."""

    replaced: list[ObjectInfo] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def settle(repository: Repository, before: datetime, busy: Collection[str], threads: int) -> Settled:
    """Look at manifests that prunes wrote at `before` or earlier, in the place of others that are still there.

    Left alone are those of disks (by hash) that are `busy`, and of backups that are deleted or not there.
    DamagedError or UnsupportedFormatError names one that can't be read.
    """
    settled = Settled()
    found = [each for each in list_disks(repository).values() if len(each.objects) > 1]
    if not found:
        return settled
    lasting = lasting_disks(repository, found, threads)
    # In this order: they are there, then the condemned lists are read, then the packs are seen to be there.
    condemned = CondemnedPacks(repository)
    condemned.refresh()
    look = _Look(repository, condemned, _data_packs(repository), map_pack_sizes(repository), threads)
    for disk in found:
        if disk.disk_hash not in busy and disk.name in lasting:
            try:
                _settle(look, disk, before, settled)
            except BackupNotFoundError:
                continue  # Another prune, or the backup's removal, was quicker.
    return settled


def _settle(look: _Look, disk: ListedDisk, before: datetime, settled: Settled) -> None:
    ordered = disk.ordered
    current = look.read(disk.name, ordered[0].name)
    for number in range(len(ordered) - 1, 0, -1):
        info = ordered[number]
        if info.modified > before:
            continue
        try:
            stored = look.read(disk.name, info.name)
            look.require_packs(stored)
            look.compare(current, stored)
        except (DamagedError, ObjectNotFoundError) as error:
            # Another prune may have found it sound before: it stays, and with it all that it refers to.
            settled.waiting.append(f"{info.name} does not take the place of {ordered[0].name}: {error}")
            continue
        settled.replaced += ordered[:number]
        return


def _data_packs(repository: Repository) -> set[bytes]:
    found = (split_pack_name(info.name) for info in repository.store.list(PACKS))
    return {parts[1] for parts in found if parts}


class _Look:
    """Looks at manifests, with what is known of all packs."""

    def __init__(
        self,
        repository: Repository,
        condemned: CondemnedPacks,
        data: set[bytes],
        maps: dict[bytes, int],
        threads: int,
    ) -> None:
        self._repository, self._condemned, self._data, self._maps = repository, condemned, data, maps
        self._threads = threads
        self._compared: set[tuple[tuple[bytes, int] | None, tuple[bytes, int] | None, int]] = set()

    def read(self, name: str, place: str) -> StoredDisk:
        """Return one of the objects of a disk manifest."""
        return read_disk_at(self._repository, name, place)

    def require_packs(self, moved: StoredDisk) -> None:
        """Check that all packs of a manifest are there and none is condemned; DamagedError if not, or not known."""
        if self._condemned.unreadable:
            raise DamagedError(next(iter(self._condemned.unreadable.values())))
        marks = Marks()
        marks.add_manifest(moved.manifest)
        mark_pages(self._repository, marks, self._maps, self._threads)
        for kind, packs, there in (
            (Kind.MAP_PACK, set(marks.pages), self._maps.keys()),
            (Kind.DATA_PACK, set(marks.data), self._data),
        ):
            if packs - there:
                raise DamagedError(f"pack {pack_name(kind, min(packs - there))} is missing")
            if condemned := self._condemned.among(kind, packs):
                raise DamagedError(f"pack {pack_name(kind, min(condemned))} is condemned")

    def compare(self, before: StoredDisk, moved: StoredDisk) -> None:
        """Check that both are the same blocks, reading those that were moved; DamagedError if they are not."""
        require_same_disk(before, moved)
        if len(before.manifest.pages) != len(moved.manifest.pages):
            raise DamagedError("it has another number of pages")
        old, new = MapReader(self._repository, before.manifest), MapReader(self._repository, moved.manifest)
        for number, refs in enumerate(zip(before.manifest.pages, moved.manifest.pages, strict=True)):
            if (refs[0] is None) != (refs[1] is None):
                raise DamagedError(f"its page {number} is of holes, or that which it is to replace")
            if refs[0] is not None:
                self._compare_page(old, new, number)

    def _compare_page(self, old: MapReader, new: MapReader, number: int) -> None:
        # Offset and length of each: the same bytes say the same, and nothing else does unseen.
        key = place_of(old.manifest, number), place_of(new.manifest, number), new.page_blocks(number)
        if key[0] == key[1] or key in self._compared:
            return
        before, after = old.page(number), new.page(number)
        if before is None or after is None or before.ids != after.ids or _holes(before) != _holes(after):
            raise DamagedError(f"its page {number} has other blocks than that which it is to replace")
        for frame, ids in _moved(before, after):
            sealed = self._repository.store.get_range(pack_name(Kind.DATA_PACK, frame.pack), frame.offset, frame.length)
            check_frame(self._repository.keys, frame, sealed, ids, new.manifest.block_size)
        self._compared.add(key)


def _holes(page: Page) -> list[bool]:
    return [number == 0 for number in page.frame_of]


def _moved(before: Page, after: Page) -> Iterator[tuple[FrameRef, dict[int, bytes]]]:
    """Yield the frames to which blocks were moved, with the ids of these by slot."""
    frames: dict[FrameRef, dict[int, bytes]] = {}
    for index in range(after.blocks):
        place = after.place(index)
        if place is not None and place != before.place(index):
            frames.setdefault(place[0], {})[place[1]] = after.block_id(index)
    yield from frames.items()
