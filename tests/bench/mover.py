"""The mover as its Jobs run it, with its requests counted and, if asked, told what has changed.

    python -m tests.bench.mover export|restore JOB COUNTS [CHANGES]

COUNTS is written: {"puts", "gets", "bytes_read"}. CHANGES is read: {"allocated": [[offset, length], …], "delta": …}.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

gc.disable()  # As the roles of the image are loaded.

from longboat.mover.export_disk import run_export  # noqa: E402
from longboat.mover.jobs import ExportJob, RestoreJob, load_job  # noqa: E402
from longboat.mover.restore_disk import run_restore  # noqa: E402
from longboat.repository import ObjectStore, open_store  # noqa: E402


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
    gc.freeze()
    gc.enable()
    role, job_file, counts_file, *rest = sys.argv[1:]
    store: CountingStore
    if role == "export":
        job = load_job(ExportJob, Path(job_file), None)
        store = CountingStore(open_store(job.store))
        read = run_export(job, store, changes=KnownChanges(Path(rest[0])) if rest else None).read_bytes
    else:
        restore = load_job(RestoreJob, Path(job_file), None)
        store = CountingStore(open_store(restore.store))
        read = run_restore(restore, store).read_bytes
    counts = {"puts": store.puts, "gets": store.gets, "bytes_read": read}
    Path(counts_file).write_text(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
