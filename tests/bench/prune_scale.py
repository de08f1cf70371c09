"""`python -m tests.bench.prune_scale`: what a prune takes for a disk of 2 TiB in 1,000 backups.

The repository is synthetic: manifests and the indexes of map packs are real, the pages in between are cut short, and
data packs are names only, as a prune reads neither. It prints and writes build/bench/prune.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from longboat.repository import DiskIdentity, StoreSettings, open_or_create_repository, open_store, prune
from longboat.repository.backups import write_disk_manifest
from longboat.repository.folder_store import FolderStore
from longboat.repository.layout import DEFAULT_BLOCK_SIZE, DEFAULT_PAGE_BLOCKS, FORMAT_VERSION, PACK_TARGET, PACKS, Kind
from longboat.repository.manifests import DiskManifest, PageRef
from longboat.repository.object_store import Data, ObjectInfo
from longboat.repository.packs import PackSink, PackWriter
from tests.cluster.paths import CHECKOUT

PATH, KEY = "bench/bench", b"k" * 32
PAGE_PAYLOAD = 200  # Bytes in the place of a page's 80 KiB.
PAGES_PER_MAP_PACK = 50  # As many as fit into 4 MiB when they are whole.
PACKS_PER_PAGE = 8  # 256 MiB of a disk that compress to half, and 32 MiB a pack, twice over for what has changed.
NOW = datetime(2026, 11, 20, tzinfo=UTC)


class CountingStore(FolderStore):
    """A folder that also lists data packs of which only the names exist, and counts what is read."""

    reads = read_bytes = lists = 0

    def get(self, name: str, max_size: int) -> bytes:
        data = super().get(name, max_size)
        self.reads, self.read_bytes = self.reads + 1, self.read_bytes + len(data)
        return data

    def get_range(self, name: str, offset: int, length: int) -> Data:
        data = super().get_range(name, offset, length)
        self.reads, self.read_bytes = self.reads + 1, self.read_bytes + len(data)
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if not prefix.endswith(PACKS):
            yield from super().list(prefix)
            return
        for line in (self._root / "packs.txt").open():
            yield ObjectInfo(f"{prefix}{line[:2]}/{line.strip()}", PACK_TARGET, NOW - timedelta(days=9), "")


class Builder:
    """Writes the manifests and map packs of one disk's backups."""

    def __init__(self, folder: Path, pages: int) -> None:
        self._repository = open_or_create_repository(open_store(settings(folder)), PATH, KEY)
        self._refs: list[tuple[str, int, int]] = []
        self._packs = (folder / "packs.txt").open("w")
        self._random, self._pages = random.Random(1), pages

    def backup(self, number: int, changed: list[int]) -> None:
        """Write one more backup in which these pages have changed."""
        sink = PackSink(self._repository.store, capacity=PAGES_PER_MAP_PACK * (PAGE_PAYLOAD + 190) + 1000)
        writer = PackWriter(self._repository.keys, Kind.MAP_PACK, sink, os.urandom)
        fresh = [os.urandom(16) for _ in range(max(1, len(changed) * 4))]
        self._packs.writelines(f"{pack.hex()}\n" for pack in fresh)
        for at, page in enumerate(changed):
            ids = self._random.choices(fresh[at * 4 : at * 4 + 4], k=PACKS_PER_PAGE)
            table = b"".join(ids) + bytes(2 * len(ids))
            frame = writer.append(os.urandom(PAGE_PAYLOAD), PAGE_PAYLOAD, 0, len(ids), table)
            ref = frame.pack.hex(), frame.offset, frame.length
            self._refs[page : page + 1] = [ref]
        writer.finish()
        sink.close()
        write_disk_manifest(self._repository, self._manifest(number))

    def close(self) -> None:
        """End the list of data packs."""
        self._packs.writelines(f"{os.urandom(16).hex()}\n" for _ in range(5000))
        self._packs.close()

    def _manifest(self, number: int) -> DiskManifest:
        maps: dict[str, int] = {}
        pages: list[PageRef | None] = [(maps.setdefault(pack, len(maps)), at, size) for pack, at, size in self._refs]
        return DiskManifest(
            format_version=FORMAT_VERSION,
            repository_id=self._repository.id,
            key_id=self._repository.key_id,
            disk=DiskIdentity(disk_key="disk"),
            backup_name=f"backup-{number}",
            created=datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=number),
            size_bytes=self._pages * DEFAULT_PAGE_BLOCKS * DEFAULT_BLOCK_SIZE,
            block_size=DEFAULT_BLOCK_SIZE,
            page_blocks=DEFAULT_PAGE_BLOCKS,
            map_packs=list(maps),
            pages=pages,
        )


def settings(folder: Path) -> StoreSettings:
    """Return the settings of a folder store."""
    return StoreSettings(type="folder", path=str(folder))


def build(folder: Path, pages: int, backups: int, share: float) -> None:
    """Write a full backup and increments that change this share of the pages each."""
    builder = Builder(folder, pages)
    builder.backup(0, list(range(pages)))
    for number in range(1, backups):
        builder.backup(number, random.Random(number).sample(range(pages), int(pages * share)))
    builder.close()


def measure(folder: Path) -> dict[str, float]:
    """Prune (dry) in this process and return what it took; nothing else may have happened in it."""
    store = CountingStore(settings(folder))
    repository = open_or_create_repository(store, PATH, KEY)
    begun, cpu = time.monotonic(), time.process_time()
    report = prune(repository, now=NOW + timedelta(days=99), dry_run=True)
    return {
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "wall_seconds": round(time.monotonic() - begun, 2),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "gets": store.reads,
        "bytes_read": store.read_bytes,
        "manifests": report.manifests,
        "live_packs": report.live.objects,
        "condemned": report.condemned.objects,
    }


def main() -> int:
    """Build, measure in a process of its own, print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prune_scale", description=__doc__)
    parser.add_argument("--pages", type=int, default=8192, help="pages of 4096 blocks (default: 8192, 2 TiB)")
    parser.add_argument("--backups", type=int, default=1000, help="backups of the disk (default: 1000)")
    parser.add_argument("--share", type=float, default=0.01, help="share of pages that each changes (default: 0.01)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), arguments.pages, arguments.backups, arguments.share)
        command = [sys.executable, "-m", "tests.bench.prune_scale", "--measure", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found |= {"pages": arguments.pages, "backups": arguments.backups, "changed_share": arguments.share}
    print(json.dumps(found, indent=2))
    result = CHECKOUT / "build" / "bench" / "prune.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps([{"case": "prune", **found}], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
