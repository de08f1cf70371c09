"""What histories of the movers happen in: a store whose objects rot, and the movers' programs with disks in memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from longboat.mover import export_attempt, export_disk, export_frames, restore_disk, restore_pipeline
from longboat.mover.export_disk import run_export
from longboat.mover.restore_disk import run_restore
from longboat.mover.results import ExportResult, RestoreResult
from longboat.repository import (
    DiskIdentity,
    Repository,
    open_with_master_key,
    packs,
    parallel,
    read_disk_manifest,
    repack,
)
from longboat.repository.backups import read_disk_at
from longboat.repository.damage import read_damage
from longboat.repository.errors import DamagedError, StoreError
from longboat.repository.key_text import STORE_KEY_PREFIX, format_key
from longboat.repository.layout import MAGIC, Kind, pack_name
from longboat.repository.leases import Lease
from longboat.repository.listing import list_disks
from longboat.repository.manifests import DiskManifest
from longboat.repository.map_reader import MapReader
from longboat.repository.object_store import ObjectStore
from longboat.repository.packs import PackSink
from tests.fakes.interleaved import AtOnce
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.independent_reader.reader import Repository as Reader
from tests.unit.mover.disks import BLOCK, PAGE_BLOCKS, PATH, STORE_KEY, export_job, repository_in, restore_job

from .histories import Noted, in_one_thread
from .memory_disks import HonestChanges, MemorySource, MemoryTarget

_EMPTY = MemoryStore()
_KEY = repository_in(_EMPTY).master_key
_VERSION = range(len(MAGIC), len(MAGIC) + 2)  # Where the format's version stands in each object.
_STORE_KEY_TEXT = format_key(STORE_KEY_PREFIX, STORE_KEY)
_NOWHERE = Path("/nowhere")
_FAULTS = ["killed-before", "killed-after", "fails", "acknowledgement-lost"]
# Blocks to a frame and bytes to a pack: many small ones, or one that has it all.
_SHAPES = [(1, 20 << 10), (3, 40 << 10), (128, 1 << 20)]

Ranges = list[tuple[int, int]]


class Snapshot(NamedTuple):
    """What is to be backed up: as which backup, the nth, of which disk, and its content."""

    name: str
    number: int
    disk: int
    content: bytes


class TellingSink(PackSink):
    """Has each pack told of as soon as it is uploaded, as time would do it: whoever dies then leaves it to the next."""

    def __init__(self, store: ObjectStore, capacity: int, tell: Callable[[], None]) -> None:
        super().__init__(store, capacity, uploads=1, buffers=2)
        self._tell = tell

    def submit(self, name: str, buffer: memoryview, length: int) -> None:
        super().submit(name, buffer, length)
        with contextlib.suppress(StoreError):
            self._tell()


class World:
    """A repository in a store whose objects can rot, and the programs that work on it."""

    def __init__(self, chance: Random) -> None:
        self.store = _EMPTY.copy()
        self.noted = Noted(self.store)
        self.random = Random(chance.random())
        self.repository = self.open(self.noted)
        self.dedupe = chance.choice(["Disk", "Namespace"])
        self.shape = chance.choice(_SHAPES)
        self.snapshots: list[dict[str, bytes]] = [{}, {}]
        self.spoiled: set[str] = set()
        self._source = MemorySource(b"", is_device=False)
        self._target = MemoryTarget(0)
        self._lease: Lease | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the programs work on disks in memory and in one thread, with frames and packs of this world's shape."""
        blocks, capacity = self.shape
        with in_one_thread() as patch:
            patch.setattr(export_disk, "open_source", lambda _: self._source)
            patch.setattr(restore_disk, "open_target", lambda *_: self._target)
            patch.setattr(export_frames, "FRAME_TARGET", blocks * BLOCK)
            patch.setattr(export_attempt, "PackSink", lambda store, **_: TellingSink(store, capacity, self._tell))
            patch.setattr(export_attempt, "Lease", self._begin_lease)
            patch.setattr(repack, "MOST_ALIVE", 1000)
            patch.setattr(repack, "PAYS", -1000)
            for user in (import_module("longboat.repository.verify"), packs, parallel, restore_pipeline):
                patch.setattr(user, "ThreadPoolExecutor", AtOnce)
            yield

    def open(self, store: ObjectStore) -> Repository:
        """Open the repository through a store."""
        return open_with_master_key(store, PATH, _KEY, self.random.randbytes)

    @contextmanager
    def at_risk(self, chance: Random) -> Iterator[ObjectStore]:
        """Lend the store; at times one that fails once, or whose user dies there: that ends the context."""
        if chance.random() < 0.7:
            yield self.store
            return
        try:
            yield FaultyStore(self.store, chance.choice(_FAULTS), chance.randrange(1, 60))
        except (KilledError, StoreError):
            return

    def export(self, snapshot: Snapshot, chance: Random, store: ObjectStore) -> ExportResult:
        """Run the export program; the storage may know what has changed."""
        known, tracked = self.snapshots[snapshot.disk], chance.random() < 0.5
        self._source = MemorySource(snapshot.content, is_device=tracked)
        job = export_job(
            _KEY,
            _NOWHERE,
            snapshot.name,
            snapshot.number,
            disk=DiskIdentity(disk_key=f"disk-{snapshot.disk}", volume_handle=f"volume-{snapshot.disk}"),
            dedupe=self.dedupe,
            snapshotHandle=snapshot.name,
            auditShare=chance.choice([0, 0.3, 1]),
            fullReadEvery=chance.choice([0, 3]),
            workers=1,
        )
        changes = HonestChanges(known, snapshot.name) if tracked else None
        return run_export(job, store, self.random.randbytes, lambda _: None, PAGE_BLOCKS, changes)

    def restore(
        self, manifest: str, target: MemoryTarget, store: ObjectStore, salvage: bool = True
    ) -> tuple[RestoreResult, Ranges]:
        """Run the restore program; return its result and which ranges it has told to be lost."""
        self._target, lines = target, list[str]()
        job = restore_job(_KEY, manifest, _NOWHERE, salvage=salvage, replaceExisting=True)
        result = run_restore(job, store, lines.append)
        told = [json.loads(line) for line in lines if line.startswith('{"lost"')]
        return result, [(offset, length) for each in told for offset, length in each["lost"]["ranges"]]

    def spoil(self, chance: Random, folder: str) -> None:
        """Let an object rot: a flipped bit, an end that is missing, or nothing left of it."""
        names = sorted(name for name in self.store.objects if name.startswith(f"{PATH}/{folder}"))
        if not names:
            return
        name = chance.choice(names)
        data, modified, _ = self.store.objects.pop(name)
        at, how = chance.randrange(len(data)), chance.choice(["flipped", "cut", "gone"])
        at = 0 if at in _VERSION else at  # Another version is no damage: who reads it is told to update the program.
        if how != "gone":
            bad = data[:at] if how == "cut" else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            self.store.objects[name] = bad, modified, -1 - len(self.spoiled)
        self.spoiled.add(name.removeprefix(f"{PATH}/"))

    def all_known(self, seen: set[str]) -> bool:
        """Tell whether all objects that were spoiled, and are still there, were `seen` now or noted before."""
        known = seen | {pack_name(kind, pack) for kind, pack, _ in read_damage(self.repository)}
        return all(name in known or f"{PATH}/{name}" not in self.store.objects for name in self.spoiled)

    def is_spoiled(self, manifest: str) -> bool:
        """Tell whether a disk's manifest, or the one that a prune has put in its place, was spoiled."""
        return any(name.startswith(manifest) for name in self.spoiled)

    def hit(self, manifest: str) -> set[int]:
        """Return the blocks of a disk whose own frame, or page of the map, lies in an object that was spoiled."""
        its = read_disk_manifest(self.repository, manifest).manifest
        reader, blocks = MapReader(self.repository, its), set[int]()
        for number in range(reader.pages):
            blocks |= {number * PAGE_BLOCKS + each for each in self._hit_in_page(reader, number)}
        return blocks

    def _begin_lease(self, *what: Any) -> Lease:
        self._lease = Lease(*what)
        return self._lease

    def _tell(self) -> None:
        assert self._lease is not None
        self._lease.renew()

    def _hit_in_page(self, reader: MapReader, number: int) -> Iterator[int]:
        if reader.manifest.pages[number] is None:
            return
        if pack_name(Kind.MAP_PACK, reader.place(number)[0]) in self.spoiled:
            yield from range(reader.page_blocks(number))
        elif (page := reader.page(number)) is not None:
            places = ((block, page.place(block)) for block in range(page.blocks))
            yield from (n for n, at in places if at and pack_name(Kind.DATA_PACK, at[0].pack) in self.spoiled)

    def maps_are_hit(self) -> bool:
        """Tell whether a manifest, or what one in the store refers to as its map, was spoiled."""
        return any(name.startswith("disks/") or name in self._map_packs() for name in self.spoiled)

    def _map_packs(self) -> set[str]:
        return {pack_name(Kind.MAP_PACK, bytes.fromhex(each)) for its in self._manifests() for each in its.map_packs}

    def _manifests(self) -> Iterator[DiskManifest]:
        for disk in list_disks(self.repository).values():
            for each in disk.objects:
                with contextlib.suppress(DamagedError):
                    yield read_disk_at(self.repository, disk.name, each.name).manifest

    @contextmanager
    def reader(self) -> Iterator[tuple[Reader, Path]]:
        """Lend the independent reader of a copy of the store, and a folder to restore into."""
        with TemporaryDirectory() as folder:
            for name, (data, _, _) in self.store.objects.items():
                path = Path(folder) / "store" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            yield Reader(Path(folder) / "store" / PATH, _STORE_KEY_TEXT), Path(folder)
