"""Packs that are mostly dead, or small: which of them a disk's next backup should store anew, so that they can go.

Prune sees how many blocks of each pack the newest backup of a disk still has. It puts packs of which that is a small
share, and small ones where there are many, into `rewrite/<disk hash>/<object id>`, and the next export of the disk
stores these blocks anew from what it reads, within a budget. The old packs go once the last older backup that refers to
them has expired. A list is advice: whatever it says, what is wrong with it costs space or time, never data.
docs/explanation/prune.md has the arithmetic.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from random import Random

from pydantic import AwareDatetime

from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import ID_BYTES, REWRITE, Kind, rewrite_name, split_rewrite_name
from .manifests import DiskManifest, Id, Text
from .mark import UNKNOWN, DiskMarks, read_index
from .object_store import ObjectInfo, put_fresh
from .parallel import in_batches
from .repository import Repository

MAX_ADVISED = 4096  # Packs of one list, 128 GiB: more than a backup's budget in all but the largest disks.
MAX_LOOKED = 1024  # Packs whose index one prune reads to see how full they were.
SMALL = 4 << 20  # Packs of fewer bytes cost a restore a request each for little,
MANY_SMALL = 32  # so that this many of one disk are put together.
_LEAST, _MOST = 1 / 8, 2 / 3  # Bounds of the share below which packs are rewritten.
_BATCH = 256
_FLOOR = 256 << 20  # Bytes that every backup may store anew,
_SHARE = 128  # or this part of the disk's data,
# or as much as its parent stored because it had changed: then a backup stores at most about twice what has changed.


class RewriteList(Document):
    """One list: for which disk, when the mark behind it began (store's time), the packs, the deadest first."""

    disk_key: Text
    marked: AwareDatetime
    packs: tuple[Id, ...] = ()


class Candidates:
    """The packs of which too little may be alive; a bounded number is kept: the emptiest, and some others at random.

    `small` are small ones of each disk by number, with their sizes.
    """

    def __init__(self, random: Random) -> None:
        """Begin with none."""
        self._random = random
        self._emptiest: list[tuple[float, int, bytes, int]] = []
        self._others: list[tuple[int, bytes, int]] = []
        self._passed = 0
        self.small: dict[int, list[tuple[bytes, int]]] = {}

    def add(self, disk: int, marks: DiskMarks, pack: bytes, size: int) -> None:
        """Take a pack of `size` bytes that only this disk (by number) refers to."""
        live = marks.live[pack]
        if not 0 < live < UNKNOWN:
            return  # The newest backup has nothing of it, so that it goes by itself; or it is not known how much.
        if size < SMALL and len(self.small.setdefault(disk, [])) < MAX_ADVISED:
            self.small[disk].append((pack, size))
        entry = (-live * marks.block_size / max(1, size), disk, pack, size)
        if len(self._emptiest) >= MAX_LOOKED // 2:
            entry = heapq.heappushpop(self._emptiest, entry)
            self._maybe(entry[1:])
        else:
            heapq.heappush(self._emptiest, entry)

    def __iter__(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield disk, pack and size."""
        yield from (each[1:] for each in sorted(self._emptiest, reverse=True))
        yield from self._others

    def _maybe(self, entry: tuple[int, bytes, int]) -> None:
        self._passed += 1
        if len(self._others) < MAX_LOOKED // 2:
            self._others.append(entry)
        elif (at := self._random.randrange(self._passed)) < MAX_LOOKED // 2:
            self._others[at] = entry


def least_share(changed: float) -> float:
    """Return below which share of live blocks it pays to rewrite a pack.

    `changed` is what the older backups keep alive, as a share of the newest one's blocks. Where every block is as
    likely to change as any other, a pack that is rewritten at the share *t* makes for the least bytes stored if
    changed = 1/t - 1 + ln t.
    """
    low, high = _LEAST, _MOST
    while high - low > 1e-3:
        share = (low + high) / 2
        low, high = (share, high) if 1 / share - 1 + math.log(share) > changed else (low, share)
    return high


def to_rewrite(
    repository: Repository, disks: list[DiskMarks], candidates: Candidates, threads: int, dead: bool = True
) -> dict[int, list[tuple[bytes, int]]]:
    """Return for each disk (by number) the packs to rewrite with their sizes: the deadest first, then many small ones.

    The index of each candidate is read; one that can't be read is left out. Only small ones if not `dead`.
    """
    found: dict[int, list[tuple[float, bytes, int]]] = {}
    shares = {number: least_share(each.changed / max(1, each.blocks)) for number, each in enumerate(disks)}
    emptiest = list(candidates) if dead else []
    looked = in_batches(threads, _BATCH, lambda each: (each, _blocks(repository, each[1], each[2])), emptiest)
    for (disk, pack, size), blocks in looked:
        live = disks[disk].live[pack]
        if live < shares[disk] * blocks:
            found.setdefault(disk, []).append((live / blocks, pack, size))
    most = {disk: {pack: size for _, pack, size in sorted(packs)} for disk, packs in found.items()}
    small = {disk: dict(packs) for disk, packs in candidates.small.items() if len(packs) >= MANY_SMALL}
    both = {disk: most.get(disk, {}) | small.get(disk, {}) for disk in most | small}
    return {disk: list(packs.items())[:MAX_ADVISED] for disk, packs in both.items()}


def write_advice(repository: Repository, disk_hash: str, content: RewriteList) -> str:
    """Store a list under a fresh name and return the name."""
    object_id = repository.random(ID_BYTES)
    name = rewrite_name(disk_hash, object_id)
    put_fresh(repository.store, name, seal_document(repository.keys, Kind.REWRITE, object_id, content))
    return name


def advice_objects(repository: Repository, disk_hash: str = "") -> list[ObjectInfo]:
    """Return the lists of a disk, or all; objects of other names are not ours."""
    folder = f"{REWRITE}{disk_hash}/" if disk_hash else REWRITE
    return [info for info in repository.store.list(folder) if split_rewrite_name(info.name)]


def read_advice(repository: Repository, disk_key: str) -> list[bytes]:
    """Return the packs that the newest list of a disk names, in its order; a list that can't be read names none."""
    lists = advice_objects(repository, repository.keys.name_hash(disk_key))
    newest = max(lists, key=lambda info: (info.modified, info.name), default=None)
    try:
        return [bytes.fromhex(each) for each in _read(repository, newest.name, disk_key).packs] if newest else []
    except (ObjectNotFoundError, DamagedError, UnsupportedFormatError):
        return []


def rewrite_budget(parent: DiskManifest) -> int:
    """Return how many unchanged blocks a backup with this parent may store anew."""
    counts = parent.statistics
    changed = max(0, counts.new_blocks - counts.rewritten_blocks) if parent.parent else 0
    return max(_FLOOR // parent.block_size, (counts.new_blocks + counts.unchanged_blocks) // _SHARE, changed)


def _blocks(repository: Repository, pack: bytes, size: int) -> int:
    try:
        return sum(len(entry.ids) for entry in read_index(repository, Kind.DATA_PACK, pack, size))
    except (ObjectNotFoundError, DamagedError, UnsupportedFormatError):
        return 0


def _read(repository: Repository, name: str, disk_key: str) -> RewriteList:
    data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
    object_id, content = open_document(repository.keys, Kind.REWRITE, data, RewriteList)
    if name != rewrite_name(repository.keys.name_hash(disk_key), object_id) or content.disk_key != disk_key:
        raise DamagedError(f"rewrite list {name}: it belongs under another name")
    return content
