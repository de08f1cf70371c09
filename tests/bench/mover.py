"""The mover as its Jobs run it, with its requests counted and, if asked, told what has changed.

    python -m tests.bench.mover export JOB COUNTS [CHANGES]
    python -m tests.bench.mover restore JOB COUNTS
    python -m tests.bench.mover prune JOB COUNTS STEPS [BACKUP…]

COUNTS is written: {"puts", "gets", "bytes_read"}; what it holds already is added to. CHANGES is read:
{"allocated": [[offset, length], …], "delta": …}. A prune removes the backups that are named first, and runs by a clock
that is some STEPS of `prune_jobs` ahead.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

gc.disable()  # As the roles of the image are loaded.

from longboat.mover.export_disk import run_export  # noqa: E402
from longboat.mover.jobs import ExportJob, PruneJob, RestoreJob, load_job  # noqa: E402
from longboat.mover.restore_disk import run_restore  # noqa: E402
from longboat.repository import ObjectStore, open_store  # noqa: E402


class CountingStore:
    """Passes everything on; counts creations and reads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._lock = store, threading.Lock()
        self.puts = self.gets = 0

    def __getattr__(self, name: str) -> Any:
        # First, as stores are asked for what only some of them can do.
        found = getattr(self._store, name)
        with self._lock:
            self.puts += name.startswith("put")
            self.gets += name.startswith("get")
        return found


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
    run = {"export": _export, "restore": _restore, "prune": _prune}[role]
    if role == "prune":
        # Only here: the others' start would else be spent on what they never use.
        import tests.bench.prune_jobs  # noqa: F401
    gc.freeze()
    gc.enable()
    store, read = run(Path(job_file), rest)
    counts = Counter(puts=store.puts, gets=store.gets, bytes_read=read)
    if (file := Path(counts_file)).exists():
        counts.update(json.loads(file.read_text()))
    file.write_text(json.dumps(counts))
    return 0


def _export(file: Path, rest: Sequence[str]) -> tuple[CountingStore, int]:
    job = load_job(ExportJob, file, None)
    store = CountingStore(open_store(job.store))
    return store, run_export(job, store, changes=KnownChanges(Path(rest[0])) if rest else None).read_bytes


def _restore(file: Path, rest: Sequence[str]) -> tuple[CountingStore, int]:
    job = load_job(RestoreJob, file, None)
    store = CountingStore(open_store(job.store))
    return store, run_restore(job, store).read_bytes


def _prune(file: Path, rest: Sequence[str]) -> tuple[CountingStore, int]:
    from tests.bench.prune_jobs import STEP, AheadStore, clock, prune_ahead, remove_backups

    job, ahead = load_job(PruneJob, file, None), int(rest[0]) * STEP
    counting = CountingStore(open_store(job.store))
    store = AheadStore(counting, ahead)
    if names := rest[1:]:
        remove_backups(job, store, names, clock(ahead))
    prune_ahead(job, store, clock(ahead))
    return counting, store.read_bytes


if __name__ == "__main__":
    sys.exit(main())
