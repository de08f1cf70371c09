"""A disk of TiB that nobody has room for: its bytes are made when they are read, its packs are thrown away.

    python -m tests.bench.simulated SIZE_GIB DATA_GIB FOLDER full|unchanged|tracked

The map and the manifests are real and lie in FOLDER. What is measured is memory, and CPU without a storage.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from longboat.mover.export_attempt import Export
from longboat.mover.export_disk import run_attempts
from longboat.mover.jobs import ExportJob
from longboat.repository import DiskIdentity, StoreSettings, open_or_create_repository, open_store
from longboat.repository.layout import DEFAULT_BLOCK_SIZE, DEFAULT_PAGE_BLOCKS
from longboat.repository.object_store import Data

CASES = ("full", "unchanged", "tracked")
KEY, REPOSITORY = b"k" * 32, "bench/bench"
GIB = 1 << 30


class PatternDisk:
    """A device whose data is spread evenly over it: in each page the same number of blocks, each another one."""

    is_device = True

    def __init__(self, size: int, data: int) -> None:
        self.size = size
        self._page = DEFAULT_BLOCK_SIZE * DEFAULT_PAGE_BLOCKS
        self._run = data * self._page // size // DEFAULT_BLOCK_SIZE * DEFAULT_BLOCK_SIZE
        self._pattern = (b"a page of a database, as it may be " * 2000)[: DEFAULT_BLOCK_SIZE - 8]

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        return ((at, at + self._run) for at in range(0, self.size, self._page))

    def read_into(self, view: memoryview, offset: int) -> int:
        for at in range(0, len(view), DEFAULT_BLOCK_SIZE):
            block = view[at : at + DEFAULT_BLOCK_SIZE]
            if (offset + at) % self._page < self._run:
                block[:] = struct.pack("<Q", offset + at) + self._pattern
            else:
                block[:] = bytes(len(block))
        return len(view)


class Knowing:
    """Says that one block has changed (it has not: reading it finds the same)."""

    def __init__(self, disk: PatternDisk) -> None:
        self._disk = disk

    def allocated(self) -> Iterator[tuple[int, int]]:
        return ((start, end - start) for start, end in self._disk.data_ranges())

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        return iter([(self._disk.size // 2, 4096)])


class SparseStore:
    """A folder in which packs of data are as long as they should be, but empty."""

    def __init__(self, settings: StoreSettings) -> None:
        self._store, self._root = open_store(settings), Path(settings.path or "")

    def put_new(self, name: str, data: Data) -> str:
        if "/packs/" not in name:
            return self._store.put_new(name, data)
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.truncate(len(data))
        return ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def main() -> int:
    size, data, folder, case = int(sys.argv[1]) * GIB, int(sys.argv[2]) * GIB, Path(sys.argv[3]), sys.argv[4]
    folder.mkdir(parents=True, exist_ok=True)
    store = SparseStore(StoreSettings(type="folder", path=str(folder)))
    repository = open_or_create_repository(store, REPOSITORY, KEY)
    disk, number = PatternDisk(size, data), CASES.index(case)
    job = ExportJob.model_validate(
        {
            "store": StoreSettings(type="folder", path=str(folder)),
            "repositoryPath": REPOSITORY,
            "masterKey": "a" * 43 + "=",
            "sourcePath": "/nowhere",
            "disk": DiskIdentity(disk_key="simulated"),
            "backupName": case,
            "created": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number),
            "snapshotHandle": f"snapshot-{number}",
            "auditShare": 0,
        }
    )
    changes = Knowing(disk) if case == "tracked" else None
    result = run_attempts(Export(job, repository, disk, lambda _: None, DEFAULT_PAGE_BLOCKS, changes))
    print(result.model_dump_json(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
