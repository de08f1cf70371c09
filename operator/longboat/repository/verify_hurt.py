"""Whom damage hurts: which parts of which disks lie in damaged frames, and what of that other backups still have."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

from .backups import StoredDisk
from .copies import CopyFinder, DiskNames, Wanted
from .damage import WHOLE
from .layout import Kind, pack_name
from .manifests import DiskManifest
from .map_reader import MapReader
from .pages import FrameRef, Page
from .repository import Repository
from .verify_frames import Findings, FrameSet
from .verify_report import MAX_RANGES, DiskDamage, Fault
from .verify_scan import add_page_fault, read_pages, windows

Key = tuple[Kind, bytes, int]
_MAX_COPIES = 32768  # Blocks that are looked for elsewhere, in each disk; beyond them none counts as recoverable.


@dataclass
class Hit:
    """Blocks of a page (numbers within it) that lie in one damaged frame.

    Of these `whole` can be read nevertheless; `missing` (numbers on the disk) are to be looked for elsewhere.
    """

    key: Key
    frame: FrameRef
    blocks: array[int]
    whole: int = 0
    missing: Wanted = field(default_factory=dict)


@dataclass
class _Sum:
    ranges: list[list[int]] = field(default_factory=list)
    damaged: int = 0
    recoverable: int = 0

    def add(self, offset: int, length: int) -> None:
        self.damaged += length
        if self.ranges and sum(self.ranges[-1]) == offset:
            self.ranges[-1][1] += length
        elif len(self.ranges) < MAX_RANGES:
            self.ranges.append([offset, length])


class _Elsewhere:
    """How much of what is damaged a restore of one disk's backups finds in others: each question is asked once."""

    def __init__(self, repository: Repository, manifest: DiskManifest, names: DiskNames) -> None:
        self._copies, self._of = CopyFinder(repository, manifest, names), _identity(manifest)
        self._found: dict[int, int] = {}

    def is_of(self, manifest: DiskManifest) -> bool:
        return self._of == _identity(manifest)

    def count(self, hit: Hit) -> int:
        if hit.missing and id(hit) not in self._found:
            self._found[id(hit)] = len(self._copies.elsewhere(hit.frame, hit.missing))
        return self._found.get(id(hit), 0)


class Attribution:
    """Looks at the maps of all disks again, each page once, for what refers to damaged frames."""

    def __init__(self, repository: Repository, pool: Executor, findings: Findings) -> None:
        """Ask about these findings; pages that turn out to be damaged meanwhile are added to them."""
        self._repository, self._pool, self._findings = repository, pool, findings
        self._damage = findings.damage()
        self._hits: dict[tuple[bytes, int], list[Hit]] = {}
        self._seen = FrameSet()
        self._copies, self._names = _MAX_COPIES, DiskNames(repository)
        self._elsewhere: _Elsewhere | None = None

    def disk(self, stored: StoredDisk) -> dict[Key, DiskDamage]:
        """Return what of a disk is damaged, by the damaged frame or pack; its backups follow each other best."""
        reader = MapReader(self._repository, stored.manifest)
        self._look_at_pages(reader)
        if self._elsewhere is None or not self._elsewhere.is_of(stored.manifest):
            self._elsewhere = _Elsewhere(self._repository, stored.manifest, self._names)
        sums: dict[Key, _Sum] = {}
        for number, ref in enumerate(stored.manifest.pages):
            if ref is not None:
                self._add_page(reader, number, sums, self._elsewhere)
        return {key: _disk_damage(key, found) for key, found in sums.items()}

    def _look_at_pages(self, reader: MapReader) -> None:
        copies = CopyFinder(self._repository, reader.manifest, self._names)
        for window in windows(reader, self._unseen(reader)):
            for number, page in read_pages(self._repository, self._pool, reader, window):
                if isinstance(page, Fault):
                    add_page_fault(self._findings, reader, number, page)
                    self._damage = self._findings.damage()
                elif hits := list(self._hits_of(page, number * reader.manifest.page_blocks, copies)):
                    self._hits[reader.place(number)] = hits

    def _unseen(self, reader: MapReader) -> Iterator[int]:
        for number, ref in enumerate(reader.manifest.pages):
            if ref is None or self._damage.covers(Kind.MAP_PACK, *reader.place(number)):
                continue
            if self._seen.add(*reader.place(number)):
                yield number

    def _hits_of(self, page: Page, first: int, copies: CopyFinder) -> Iterator[Hit]:
        bad = {n: f for n, f in enumerate(page.frames, 1) if self._damage.covers(Kind.DATA_PACK, f.pack, f.offset)}
        if not bad:
            return
        blocks: dict[int, list[int]] = {number: [] for number in bad}
        for index, number in enumerate(page.frame_of):
            if number in blocks:
                blocks[number].append(index)
        for number, frame in bad.items():
            members = array("H", blocks[number])
            hit = Hit(self._damage.key(Kind.DATA_PACK, frame.pack, frame.offset), frame, members)
            self._copies -= len(members)
            if self._copies >= 0:
                wanted = {first + i: (page.slot_of[i], page.block_id(i)) for i in members}
                # A pack with much damage counts as damaged as a whole: some of its frames can be read all the same.
                found = copies.again(frame, wanted)
                hit.whole = len(found)
                hit.missing = {block: place for block, place in wanted.items() if block not in found}
            yield hit

    def _add_page(self, reader: MapReader, number: int, sums: dict[Key, _Sum], elsewhere: _Elsewhere) -> None:
        manifest, place = reader.manifest, reader.place(number)
        start = number * manifest.page_bytes
        if self._damage.covers(Kind.MAP_PACK, *place):
            length = min(manifest.page_bytes, manifest.size_bytes - start)
            sums.setdefault(self._damage.key(Kind.MAP_PACK, *place), _Sum()).add(start, length)
        for hit in self._hits.get(place, ()):
            found = sums.setdefault(hit.key, _Sum())
            found.recoverable += (hit.whole + elsewhere.count(hit)) * manifest.block_size
            for index in hit.blocks:
                offset = start + index * manifest.block_size
                found.add(offset, min(manifest.block_size, manifest.size_bytes - offset))


def _identity(manifest: DiskManifest) -> tuple[str, int, int]:
    return manifest.disk.disk_key, manifest.block_size, manifest.page_blocks


def _disk_damage(key: Key, found: _Sum) -> DiskDamage:
    return DiskDamage(
        object=pack_name(key[0], key[1]),
        frame_offset=None if key[2] == WHOLE else key[2],
        ranges=tuple((offset, length) for offset, length in found.ranges),
        damaged_bytes=found.damaged,
        recoverable_bytes=min(found.recoverable, found.damaged),
    )
