"""`python -m tests.bench.history`: a year of daily backups of which 30 are kept, of a disk that is written at random.

Each day 1 % of the 4 KiB blocks that hold data are rewritten, the disk is backed up, the oldest backup is deleted and
the repository pruned. Then the newest backup is restored, and beside it a fresh full backup of the same disk. The store
is in memory with a clock of its own. It prints and writes build/bench/history.json.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob, RestoreJob
from longboat.mover.restore_disk import run_restore
from longboat.repository import (
    Repository,
    StoreSettings,
    advance_epoch,
    list_disk_manifests,
    open_or_create_repository,
    prune,
)
from longboat.repository.layout import PACKS
from longboat.repository.map_reader import MapReader
from longboat.repository.pages import FrameRef
from tests.bench import image
from tests.bench.mover import CountingStore
from tests.cluster.paths import CHECKOUT, cache_dir
from tests.cluster.progress import say
from tests.fakes.object_store import MemoryStore

MIB = 1 << 20
KEY, DISK = b"k" * 32, "bench"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Restored:
    """What a restore took: seconds of CPU, reads of the store and bytes that they brought."""

    cpu_seconds: float
    gets: int
    bytes_read: int


class Year:
    """The disk, the repository of its daily backups, and what happens each day."""

    def __init__(self, disk: Path, path: str, store: MemoryStore) -> None:
        """Begin with an empty repository."""
        self._disk, self._store, self._path = disk, store, path
        self.repository = open_or_create_repository(store, path, KEY)
        self.kept: list[str] = []

    def back_up(self, day: int) -> None:
        """Make the backup of a day."""
        self._store.now = created = BEGIN + timedelta(days=day)
        job = {"sourcePath": str(self._disk.parent), "disk": {"diskKey": DISK}, "backupName": f"day-{day}"}
        made = ExportJob.model_validate(self._common() | job | {"created": created})
        self.kept.append(run_export(made, self._store, emit=lambda _: None).manifest)

    def expire(self, keep: int) -> None:
        """Delete what is older than the newest `keep` backups, and prune as the scheduled Job does."""
        while len(self.kept) > keep:
            self.repository.store.delete(self.kept.pop(0))
        self._store.now += timedelta(hours=12)
        epoch = advance_epoch(self.repository, {"bench"}, "bench")
        prune(self.repository, now=self._store.now, epoch=epoch)

    def restore(self, target: Path) -> Restored:
        """Restore the newest backup into an empty folder."""
        counting = CountingStore(self._store)
        job = RestoreJob.model_validate(self._common() | {"manifest": self.kept[-1], "targetPath": str(target)})
        began = time.process_time()
        result = run_restore(job, counting, emit=lambda _: None)
        return Restored(round(time.process_time() - began, 3), counting.gets, result.read_bytes)

    def stored(self) -> int:
        """Return the bytes of all data packs."""
        return sum(info.size for info in self.repository.store.list(PACKS))

    def _common(self) -> dict[str, object]:
        key = base64.b64encode(self.repository.master_key).decode()
        store = StoreSettings(type="folder", path="/nowhere")
        return {"store": store, "repositoryPath": self._path, "masterKey": key, "terminationPath": "/dev/null"}


def live(repository: Repository) -> tuple[int, int]:
    """Return the stored bytes of the blocks that any backup refers to, and the packs that the newest refers to."""
    used: dict[FrameRef, set[int]] = {}
    newest = max(list_disk_manifests(repository, DISK), key=lambda each: each.manifest.created)
    packs: set[bytes] = set()
    for stored in list_disk_manifests(repository, DISK):
        reader = MapReader(repository, stored.manifest)
        for page in filter(None, map(reader.page, range(reader.pages))):
            for number, slot in zip(page.frame_of, page.slot_of, strict=True):
                if number:
                    used.setdefault(page.frames[number - 1], set()).add(slot)
            packs |= {frame.pack for frame in page.frames} if stored.name == newest.name else set()
    return sum(frame.length * len(slots) // frame.blocks for frame, slots in used.items()), len(packs)


def measure(folder: Path, size: int, days: int, keep: int) -> dict[str, object]:
    """Let the days pass and return what is found at their end."""
    disk = folder / "disk" / "disk.img"
    disk.parent.mkdir()
    data = image.write_image(disk, size)
    store = MemoryStore()
    year = Year(disk, "bench/year", store)
    began, chance = time.process_time(), random.Random(5)
    for day in range(days):
        if day:
            image.rewrite_scattered(disk, chance)
        year.back_up(day)
        year.expire(keep)
        if day % 30 == 0:
            say(f"day {day}: {year.stored() // MIB} MiB stored")
    spent = time.process_time() - began
    referred, packs = live(year.repository)
    fresh = Year(disk, "bench/fresh", store)
    fresh.back_up(days)
    restored = {}
    # The first restore of a process pays for what is loaded, so that it is not the one that is told.
    for name, each in (("first", fresh), ("newest", year), ("fresh full", fresh)):
        (folder / name).mkdir()
        restored[name] = asdict(each.restore(folder / name))
    del restored["first"]
    stored = year.stored()
    return {
        "case": "history",
        "days": days,
        "kept": keep,
        "data_bytes": data,
        "cpu_seconds": round(spent, 1),
        "stored_bytes": stored,
        "live_bytes": referred,
        "stored_to_live": round(stored / referred, 3),
        "fresh_stored_bytes": fresh.stored(),
        "packs_of_newest": packs,
        "restores": restored,
    }


def main() -> int:
    """Measure, print, write the result; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.history", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=512, help="size of the disk image (default: 512)")
    parser.add_argument("--days", type=int, default=365, help="backups, one a day (default: 365)")
    parser.add_argument("--keep", type=int, default=30, help="backups that are kept (default: 30)")
    arguments = parser.parse_args()
    folder = cache_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        found = measure(Path(name), arguments.size_mib * MIB, arguments.days, arguments.keep)
    print(json.dumps(found, indent=2))
    result = CHECKOUT / "build" / "bench" / "history.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps([found], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
