"""Repacking: moving what is alive of packs that are mostly dead, for disks that are gone, and others if asked to.

The next backup of a disk stores such blocks anew from what it reads (`rewrite`). Where there is no next backup, or the
packs are to go before the last old one has expired, a prune downloads the blocks within a budget, checks the id of
each, and writes them into new packs, with new pages of the map and, for each backup of the disk that referred to them,
a manifest in the place of the one before. Nothing goes by that: a later prune deletes the one before if it finds the
new one sound (`settle`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, groupby
from typing import NamedTuple

from .backups import StoredDisk, read_disk_at
from .crypto import FRAME_OVERHEAD
from .damage import Damage
from .errors import DamagedError, ObjectNotFoundError, RepositoryError, UnsupportedFormatError
from .layout import FRAME_TARGET, Kind, moment_in_name
from .listing import ListedDisk
from .manifests import DiskManifest
from .mark import UNKNOWN, page_key, pages_of, read_index, read_tables
from .parallel import in_batches
from .repository import Repository

GONE_AFTER = timedelta(days=45)
"""A disk without a new backup for so long is taken for gone: longer than a month, as some are backed up monthly."""
BUDGET = 1 << 30
"""Bytes of data packs that one prune downloads at most."""
MOST_ALIVE = 1 / 4
"""A pack of which a smaller share of blocks is alive is repacked."""
PAYS = 2
"""So many times the bytes of the pages that are written anew have to be freed, or a disk is left as it is."""
MAX_LOOKED = 512  # Packs whose index one prune reads to see how full they were.
MAX_READ = 128 << 20  # Bytes of manifests, as they are stored, that are read for one disk.
MAX_PAGES = 1 << 18  # Pages of one disk's backups that are held in memory with what they refer to,
MAX_USES = 1 << 23  # and packs that all of these refer to, together: some 200 MiB.
MAX_MOVED = 1 << 18  # Blocks that are moved for one disk in a run: where each of them is now is held, some 150 MiB.
_BATCH = 16
Place = tuple[bytes, int]  # A map pack, and a page's place in it.


@dataclass(frozen=True)
class RepackRules:
    """Up to how many bytes of data packs are downloaded, and for how long a disk that is gone has had no backup.

    `living` is the share of blocks that backups refer to below which packs of other disks are repacked; 0: none are.
    """

    budget: int = BUDGET
    gone_after: timedelta = GONE_AFTER
    living: float = 0


@dataclass
class RepackReport:
    """What was repacked: packs and their bytes, of how many disks; bytes downloaded and written for it.

    `manifests` were written; `settled` were deleted, as those of earlier runs have taken their place. `note` says what
    was in the way.
    """

    disks: int = 0
    packs: int = 0
    bytes: int = 0
    downloaded: int = 0
    written: int = 0
    manifests: int = 0
    settled: int = 0
    note: str = ""


class Source(NamedTuple):
    """A disk manifest that was read: its name, the very object, and the export's object id."""

    name: str
    place: str
    object_id: str


@dataclass
class RepackPlan:
    """Which packs of a disk are repacked, with their sizes, and which pages refer to them (map pack and place in it).

    Packs of which less than `share` of the blocks is referred to; for these manifests, the oldest first. `cost` is the
    most that is downloaded of the packs, `all_packs` are those that the disk refers to, these included.
    """

    share: float
    disks: list[Source] = field(default_factory=list)
    disk_key: str = ""
    block_size: int = 0
    packs: dict[bytes, int] = field(default_factory=dict)
    pages: set[tuple[bytes, int]] = field(default_factory=set)
    cost: int = 0
    all_packs: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Movable:
    """The manifests of a disk that may move, and below which share of blocks packs are repacked for it."""

    listed: list[ListedDisk]
    share: float

    @property
    def disk_hash(self) -> str:
        """Return the hash of the disk's key."""
        return self.listed[0].disk_hash


def movable_disks(
    listed: Iterable[ListedDisk], before: datetime, living: float, busy: Collection[str], lasting: Collection[str]
) -> Iterator[Movable]:
    """Yield what may move of each disk that is gone, its newest manifest being from `before`, and of others.

    Left out are disks (by hash) that are `busy`, those of which a manifest waits to take another's place, and manifests
    (by name) that are not among the `lasting` ones: a removal may be about to take them. A disk that is gone waits for
    that. Of others some are always in the trash; what these refer to goes when they do.
    """
    for disk_hash, group in groupby(listed, key=lambda each: each.disk_hash):
        found = list(group)
        if disk_hash in busy or any(len(each.objects) > 1 for each in found):
            continue
        moving = [each for each in found if each.name in lasting]
        if max(map(_written, found)) <= before:
            if moving == found:
                yield Movable(found, MOST_ALIVE)
        elif moving and living:
            yield Movable(moving, living)


def _written(disk: ListedDisk) -> datetime:
    # One that a prune wrote is younger than the backup, which has its moment in its name.
    return disk.current.modified if disk.current.name == disk.name else moment_in_name(disk.name)


class Planner:
    """Chooses what is repacked, within a budget for all disks together."""

    def __init__(
        self, repository: Repository, budget: int, maps: dict[bytes, int], damage: Damage, threads: int
    ) -> None:
        """Know the sizes of all map packs, and what is damaged: that is left where it is."""
        self._repository, self._maps, self._damage, self._threads = repository, maps, damage, threads
        self.budget, self._looks = budget, MAX_LOOKED

    def plan(self, disk: Movable, sizes: dict[bytes, int]) -> RepackPlan | None:
        """Return what to repack of a disk; `sizes` are those of the data packs that only this disk refers to.

        None if there is nothing, or it would not pay: new pages are written for all that refer to a pack.
        """
        if not sizes or self.budget <= 0 or self._looks <= 0:
            return None
        plan, uses = RepackPlan(disk.share), Uses()
        for stored in self._manifests(disk):
            manifest = stored.manifest
            plan.disks.append(Source(stored.name, stored.place, stored.object_id))
            plan.disk_key, plan.block_size = manifest.disk.disk_key, manifest.block_size
            uses.add(pages_of(manifest), self._tables)
        freed = self._choose(plan, uses.most, sizes)
        plan.pages, plan.all_packs = uses.pages_with(plan.packs), set(uses.most)
        # A page that is written anew is as large as the one before, of which other backups may keep the map pack.
        if not plan.packs or freed <= PAYS * sum(place[1] & 0xFFFFFFFF for place in plan.pages):
            return None
        self.budget -= plan.cost
        return plan

    def _manifests(self, disk: Movable) -> Iterator[StoredDisk]:
        """Yield the manifests one by one; RepositoryError if they are too many, before any is read."""
        stored = sum(each.current.size for each in disk.listed)
        if stored > MAX_READ:
            raise RepositoryError(f"its {len(disk.listed)} manifests have {stored} bytes, more than {MAX_READ}")
        yield from (read_disk_at(self._repository, each.name, each.current.name) for each in disk.listed)

    def _choose(self, plan: RepackPlan, live: Counter[bytes], sizes: dict[bytes, int]) -> int:
        """Choose packs, the emptiest first; return how many bytes are freed of them."""
        freed = moved = 0
        wanted = [pack for pack in live.keys() & sizes.keys() if 0 < live[pack] < UNKNOWN]
        wanted = [pack for pack in wanted if not self._damage.has(Kind.DATA_PACK, pack)]
        wanted.sort(key=lambda pack: (live[pack] / max(1, sizes[pack]), pack))
        for pack in wanted:
            # Each live block costs the download of its frame at the most.
            cost = min(sizes[pack], live[pack] * (max(plan.block_size, FRAME_TARGET) + FRAME_OVERHEAD))
            if self._looks <= 0 or plan.cost + cost > self.budget or moved + live[pack] > MAX_MOVED:
                break
            self._looks -= 1
            blocks = self._blocks(pack, sizes[pack])
            if live[pack] < plan.share * blocks:
                plan.packs[pack] = sizes[pack]
                plan.cost, moved = plan.cost + cost, moved + live[pack]
                freed += sizes[pack] * (blocks - live[pack]) // blocks
        return freed

    def _tables(self, pages: Mapping[bytes, Collection[int]]) -> Iterator[tuple[Place, dict[bytes, int]]]:
        """Yield for each of these pages, by map pack and place in it, the blocks in each data pack."""
        read = in_batches(
            self._threads,
            _BATCH,
            lambda item: (item[0], read_tables(self._repository, *item, self._maps.get(item[0]))),
            pages.items(),
        )
        for pack, tables in read:
            yield from (((pack, page), table) for page, table in tables)

    def _blocks(self, pack: bytes, size: int) -> int:
        try:
            return sum(len(entry.ids) for entry in read_index(self._repository, Kind.DATA_PACK, pack, size))
        except (DamagedError, ObjectNotFoundError, UnsupportedFormatError):
            return 0  # It stays as it is, and the others are looked at.


class Uses:
    """Which packs the pages of a disk's backups refer to, in a few bytes for each.

    `most` are the blocks of each pack that all backups together refer to. That is the most that any one of them does:
    what a backup has of a pack its next one has, too, or less of it.
    """

    def __init__(self) -> None:
        """Begin without backups."""
        self.most = Counter[bytes]()
        self._count, self._before = Counter[bytes](), set[Place]()
        # Of each page numbers of packs, and after each one how many of its blocks lie there.
        self._tables: dict[Place, array[int]] = {}
        self._uses = 0
        self._packs, self._numbers = list[bytes](), dict[bytes, int]()

    def add(
        self,
        pages: Mapping[bytes, Collection[int]],
        read: Callable[[Mapping[bytes, Collection[int]]], Iterable[tuple[Place, Mapping[bytes, int]]]],
    ) -> None:
        """Take the pages of the next backup, by map pack; `read` says what those refer to that are not known yet.

        RepositoryError if there are more than may be held.
        """
        now = {(pack, page) for pack, found in pages.items() for page in found}
        unknown, new = now - self._tables.keys(), dict[bytes, set[int]]()
        self._require(len(self._tables) + len(unknown), MAX_PAGES, "pages of its backups")
        for pack, page in unknown:
            new.setdefault(pack, set()).add(page)
        for place, table in read(new):
            self._uses += len(table)
            self._require(self._uses, MAX_USES, "uses of packs by its pages")
            self._tables[place] = array("I", chain.from_iterable((self._number(each), n) for each, n in table.items()))
        self._advance(now)

    def pages_with(self, packs: Collection[bytes]) -> set[Place]:
        """Return the pages that refer to any of these packs."""
        numbers = {self._numbers[pack] for pack in packs}
        return {place for place, table in self._tables.items() if not numbers.isdisjoint(table[::2])}

    def _advance(self, now: set[Place]) -> None:
        for place in self._before - now:
            self._count.subtract(self._table(place))
        changed = set[bytes]()
        for place in now - self._before:
            self._count.update(table := self._table(place))
            changed |= table.keys()
        for pack in changed:
            self.most[pack] = max(self.most[pack], self._count[pack])
        self._before = now

    def _table(self, place: Place) -> dict[bytes, int]:
        table = self._tables[place]
        return {self._packs[number]: count for number, count in zip(table[::2], table[1::2], strict=True)}

    def _number(self, pack: bytes) -> int:
        number = self._numbers.setdefault(pack, len(self._packs))
        if number == len(self._packs):
            self._packs.append(pack)
        return number

    def _require(self, found: int, most: int, what: str) -> None:
        if found > most:
            raise RepositoryError(f"there are more than {most} {what}, too many to be held in memory")


def place_of(manifest: DiskManifest, number: int) -> tuple[bytes, int] | None:
    """Return map pack and place in it of a page, None being a page of holes."""
    ref = manifest.pages[number]
    return (bytes.fromhex(manifest.map_packs[ref[0]]), page_key(ref[1], ref[2])) if ref else None
