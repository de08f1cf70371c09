"""The mover as its Jobs run it, with its requests counted and, if asked, told what has changed.

    python -m tests.bench.mover export|restore JOB COUNTS [CHANGES]

COUNTS is written: {"puts", "gets", "bytes_read"}. CHANGES is read: {"allocated": [[offset, length], …], "delta": …}.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob, RestoreJob, load_job
from longboat.mover.restore_disk import run_restore
from longboat.repository import ObjectStore, open_store


class CountingStore:
    """Passes everything on; counts creations and reads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._lock = store, threading.Lock()
        self.puts = self.gets = 0

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            self.puts += name.startswith("put")
            self.gets += name.startswith("get")
        return getattr(self._store, name)


class KnownChanges:
    """What the benchmark has written itself."""

    def __init__(self, path: Path) -> None:
        self._known = json.loads(path.read_text())

    def allocated(self) -> Iterator[tuple[int, int]]:
        return (tuple(each) for each in self._known["allocated"])

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        return (tuple(each) for each in self._known["delta"])


def main() -> int:
    role, job_file, counts_file, *rest = sys.argv[1:]
    store: CountingStore
    if role == "export":
        job = load_job(ExportJob, Path(job_file), None)
        store = CountingStore(open_store(job.store))
        result = run_export(job, store, changes=KnownChanges(Path(rest[0])) if rest else None)
    else:
        restore = load_job(RestoreJob, Path(job_file), None)
        store = CountingStore(open_store(restore.store))
        result = run_restore(restore, store)
    counts = {"puts": store.puts, "gets": store.gets, "bytes_read": result.read_bytes}
    Path(counts_file).write_text(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
