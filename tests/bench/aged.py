"""`python -m tests.bench.aged`: what a year of daily backups with random writes does to a repository and to a restore.

A disk of which a share of the blocks is overwritten every day is backed up with change tracking, the newest backups are
kept, and the repository is pruned daily. Then what is stored is compared with what is alive, and a restore with one of
a fresh full backup; with and without backups that rewrite packs that are mostly dead, and prunes that move what these
hold. Writes build/bench/aged.json.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

from longboat.mover import export_attempt
from longboat.mover.export_attempt import Export
from longboat.mover.export_disk import run_attempts
from longboat.mover.jobs import ExportJob
from longboat.mover.progress import Progress
from longboat.mover.restore_disk import write_disk
from longboat.mover.target import open_target
from longboat.repository import (
    DiskIdentity,
    RepackRules,
    Repository,
    StoreSettings,
    advance_epoch,
    open_or_create_repository,
    prune,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import DEFAULT_BLOCK_SIZE, DEFAULT_PAGE_BLOCKS
from longboat.repository.map_reader import MapReader
from longboat.repository.object_store import Data
from tests.cluster.paths import CHECKOUT
from tests.fakes.object_store import MemoryStore

PATH, KEY = "bench/bench", b"k" * 32
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
DAY, GRACE = timedelta(days=1), timedelta(hours=20)


class CountingStore(MemoryStore):
    """Counts what is fetched."""

    gets = 0

    def get(self, name: str, max_size: int) -> bytes:
        self.gets += 1
        return super().get(name, max_size)

    def get_range(self, name: str, offset: int, length: int) -> Data:
        self.gets += 1
        return super().get_range(name, offset, length)


class AgeingDisk:
    """A device in memory whose blocks compress to about half; it knows which of them changed since the last backup."""

    is_device = True

    def __init__(self, blocks: int, seed: int = 0) -> None:
        self.size, self._blocks, self._random = blocks * DEFAULT_BLOCK_SIZE, blocks, random.Random(seed)
        self._content = [self._fresh() for _ in range(blocks)]
        self._changed: list[int] = []

    def write(self, share: float) -> None:
        """Overwrite this share of the blocks, anywhere."""
        self._changed = sorted(self._random.sample(range(self._blocks), max(1, int(share * self._blocks))))
        for block in self._changed:
            self._content[block] = self._fresh()

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        yield 0, self.size

    def read_into(self, view: memoryview, offset: int) -> int:
        size = DEFAULT_BLOCK_SIZE
        for at in range(0, len(view), size):
            half = self._content[(offset + at) // size]
            view[at : at + size] = half + bytes(size - len(half))
        return len(view)

    def allocated(self) -> Iterator[tuple[int, int]]:
        yield 0, self.size

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        yield from ((block * DEFAULT_BLOCK_SIZE, DEFAULT_BLOCK_SIZE) for block in self._changed)

    def _fresh(self) -> bytes:
        return self._random.randbytes(DEFAULT_BLOCK_SIZE // 2)


class Year:
    """A repository with the newest backups of one disk."""

    def __init__(self, disk: AgeingDisk, keep: int, moving: float = 0) -> None:
        self.store, self.disk, self._keep = CountingStore(), disk, keep
        self._rules = RepackRules(budget=1 << 40, living=moving) if moving else None
        self.downloaded = 0
        self.store.now = BEGINNING
        self.repository: Repository = open_or_create_repository(self.store, PATH, KEY)
        self.manifests: list[str] = []
        self.written = 0

    def back_up(self) -> None:
        """Back the disk up, remove the backups beyond those that are kept, and prune."""
        number = len(self.manifests)
        created = BEGINNING + number * DAY
        self.store.now = created
        job = ExportJob.model_validate(
            {
                "store": StoreSettings(type="folder", path="/nowhere"),
                "repositoryPath": PATH,
                "masterKey": "a" * 43 + "=",
                "sourcePath": "/nowhere",
                "disk": DiskIdentity(disk_key="disk"),
                "backupName": f"backup-{number}",
                "created": created,
                "snapshotHandle": f"snapshot-{number}",
                "auditShare": 0,
                "fullReadEvery": 0,
            }
        )
        export = Export(job, self.repository, self.disk, lambda _: None, DEFAULT_PAGE_BLOCKS, self.disk)
        result = run_attempts(export)
        self.written += result.stored_bytes
        self.manifests.append(result.manifest)
        stored = read_disk_manifest(self.repository, result.manifest)
        write_backup_manifest(self.repository, job.backup_name, created, [reference_to(stored, "data")])
        if number >= self._keep:
            write_tombstone(self.repository, f"backup-{number - self._keep}", created, "bench")
            sweep_tombstones(self.repository, created, timedelta(0))
        self.prune()

    def prune(self) -> None:
        """Prune as the operator would."""
        self.store.now += timedelta(hours=1)
        epoch = advance_epoch(self.repository, {"t"}, "t")
        report = prune(
            self.repository, now=self.store.now, grace=GRACE, epoch=epoch, threads=2, repack=self._rules
        ).repacked
        self.written, self.downloaded = self.written + report.written, self.downloaded + report.downloaded

    def settle(self) -> None:
        """Let what nothing refers to any more go."""
        for _ in range(3):
            self.store.advance(DAY)
            self.prune()

    def stored(self) -> int:
        """Return the bytes of all data packs."""
        return sum(info.size for info in self.store.list(f"{PATH}/packs/"))

    def live(self) -> int:
        """Return the bytes, as compressed, of all blocks that the backups have, those with the same content once."""
        used: dict[bytes, int] = {}
        for name in self.manifests[-self._keep :]:
            reader = MapReader(self.repository, read_disk_manifest(self.repository, name).manifest)
            for number in range(reader.pages):
                page = reader.page(number)
                for at in range(page.blocks if page else 0):
                    place = page.place(at) if page else None
                    if page and place:
                        used[page.block_id(at)] = place[0].length // place[0].blocks
        return sum(used.values())

    def restore(self, folder: Path) -> Counter[str]:
        """Restore the newest backup and return requests and milliseconds of CPU."""
        reader = FollowingMapReader(self.repository, read_disk_manifest(self.repository, self.manifests[-1]))
        size, gets, cpu = reader.manifest.size_bytes, self.store.gets, time.process_time()
        with closing(open_target(folder, size, size, None, True, None)) as target:
            write_disk(self.repository, reader, target, Progress(size, lambda _: None))
        return Counter(gets=self.store.gets - gets, cpu_ms=int((time.process_time() - cpu) * 1000))


def measure(blocks: int, share: float, days: int, keep: int, rewriting: bool, moving: float = 0) -> dict[str, object]:
    """Let the days pass; return what it comes to. Prunes move below the share `moving` of blocks referred to."""
    disk = AgeingDisk(blocks)
    year = Year(disk, keep, moving)
    advice = mock.patch.object(export_attempt, "read_advice", export_attempt.read_advice if rewriting else _no_advice)
    with advice, tempfile.TemporaryDirectory() as folder:
        for day in range(days):
            if day:
                disk.write(share)
            year.back_up()
        year.settle()
        fresh = Year(disk, keep)
        fresh.back_up()
        aged, new = year.restore(Path(folder)), fresh.restore(Path(folder))
    stored, live = year.stored(), year.live()
    return {
        "case": "aged",
        "rewriting": rewriting,
        "moving_below": moving,
        "changed_share": share,
        "days": days,
        "kept": keep,
        "stored_mib": stored >> 20,
        "live_mib": live >> 20,
        "stored_to_live": round(stored / live, 2),
        "written_mib": year.written >> 20,
        "downloaded_mib": year.downloaded >> 20,
        "restore_gets": aged["gets"],
        "fresh_gets": new["gets"],
        "restore_cpu_ms": aged["cpu_ms"],
        "fresh_cpu_ms": new["cpu_ms"],
    }


def _no_advice(*_: object) -> list[bytes]:
    return []


def main() -> int:
    """Measure each share with and without rewriting, print and write the result; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.aged", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=512, help="size of the disk (default: 512)")
    parser.add_argument("--days", type=int, default=365, help="daily backups (default: 365)")
    parser.add_argument("--keep", type=int, default=30, help="backups that are kept (default: 30)")
    parser.add_argument("--share", type=float, nargs="*", default=[0.001, 0.01], help="of the blocks written each day")
    parser.add_argument("--moving", type=float, default=0.6, help="share below which prunes move (default: 0.6)")
    arguments = parser.parse_args()
    blocks = (arguments.size_mib << 20) // DEFAULT_BLOCK_SIZE
    found = []
    for share in arguments.share:
        for rewriting, moving in ((False, 0), (True, 0), (False, arguments.moving), (True, arguments.moving)):
            found.append(measure(blocks, share, arguments.days, arguments.keep, rewriting, moving))
            print(json.dumps(found[-1]), flush=True)
    result = CHECKOUT / "build" / "bench" / "aged.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
