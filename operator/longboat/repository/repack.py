"""Repacking: moving what is alive of packs that are mostly dead, for disks that are gone, and others if asked to.

The next backup of a disk stores such blocks anew from what it reads (`rewrite`). Where there is no next backup, or the
packs are to go before the last old one has expired, a prune downloads the blocks within a budget, checks the id of
each, and writes them into new packs, with new pages of the map and, for each backup of the disk that referred to them,
a manifest in the place of the one before. Nothing goes by that: a later prune deletes the one before if it finds the
new one sound (`settle`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

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
MAX_USES = 1 << 21  # Uses of packs by the pages of one disk's backups that are held in memory: some 200 MiB.
_BATCH = 64
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


@dataclass
class RepackPlan:
    """Which packs of a disk are repacked, with their sizes, and which pages refer to them (map pack and place in it).

    Packs of which less than `share` of the blocks is referred to. `cost` is the most that is downloaded of the packs,
    `all_packs` are those that the disk refers to, these included.
    """

    disks: list[StoredDisk]
    share: float
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
        found = [read_disk_at(self._repository, each.name, each.current.name) for each in disk.listed]
        plan = RepackPlan(found, disk.share)
        tables = self._all_tables(plan.disks)
        live = _referenced(plan.disks, tables)
        freed = self._choose(plan, live, sizes)
        plan.pages = {place for place, table in tables.items() if not plan.packs.keys().isdisjoint(table)}
        plan.all_packs = set(live)
        # A page that is written anew is as large as the one before, of which other backups may keep the map pack.
        if not plan.packs or freed <= PAYS * sum(place[1] & 0xFFFFFFFF for place in plan.pages):
            return None
        self.budget -= plan.cost
        return plan

    def _choose(self, plan: RepackPlan, live: Counter[bytes], sizes: dict[bytes, int]) -> int:
        """Choose packs, the emptiest first; return how many bytes are freed of them."""
        block = plan.disks[-1].manifest.block_size
        freed = 0
        wanted = [pack for pack in live.keys() & sizes.keys() if 0 < live[pack] < UNKNOWN]
        wanted = [pack for pack in wanted if not self._damage.has(Kind.DATA_PACK, pack)]
        wanted.sort(key=lambda pack: (live[pack] / max(1, sizes[pack]), pack))
        for pack in wanted:
            # Each live block costs the download of its frame at the most.
            cost = min(sizes[pack], live[pack] * (max(block, FRAME_TARGET) + FRAME_OVERHEAD))
            if self._looks <= 0 or plan.cost + cost > self.budget:
                break
            self._looks -= 1
            blocks = self._blocks(pack, sizes[pack])
            if live[pack] < plan.share * blocks:
                plan.packs[pack] = sizes[pack]
                plan.cost += cost
                freed += sizes[pack] * (blocks - live[pack]) // blocks
        return freed

    def _all_tables(self, disks: list[StoredDisk]) -> dict[Place, dict[bytes, int]]:
        tables, uses = dict[Place, dict[bytes, int]](), 0
        for place, table in self._tables(disks):
            tables[place] = table
            uses += len(table)
            if uses > MAX_USES:
                raise RepositoryError(f"the pages of its backups refer to packs more than {MAX_USES} times")
        return tables

    def _tables(self, disks: list[StoredDisk]) -> Iterator[tuple[tuple[bytes, int], dict[bytes, int]]]:
        """Yield for each page of these manifests, by map pack and place in it, the blocks in each data pack."""
        pages: dict[bytes, set[int]] = {}
        for disk in disks:
            for pack, found in pages_of(disk.manifest).items():
                pages.setdefault(pack, set()).update(found)
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


def _places(disk: StoredDisk) -> set[Place]:
    return {(pack, page) for pack, pages in pages_of(disk.manifest).items() for page in pages}


def _referenced(disks: Iterable[StoredDisk], tables: Mapping[Place, Mapping[bytes, int]]) -> Counter[bytes]:
    """Return how many blocks of each pack these backups, the oldest first, refer to.

    That is the most that any one of them does: what a backup has of a pack its next one has, too, or less of it.
    """
    most, count, before = Counter[bytes](), Counter[bytes](), set[Place]()
    for disk in disks:
        now = _places(disk)
        for place in before - now:
            count.subtract(tables[place])
        changed = set[bytes]()
        for place in now - before:
            count.update(tables[place])
            changed |= tables[place].keys()
        for pack in changed:
            most[pack] = max(most[pack], count[pack])
        before = now
    return most


def place_of(manifest: DiskManifest, number: int) -> tuple[bytes, int] | None:
    """Return map pack and place in it of a page, None being a page of holes."""
    ref = manifest.pages[number]
    return (bytes.fromhex(manifest.map_packs[ref[0]]), page_key(ref[1], ref[2])) if ref else None
