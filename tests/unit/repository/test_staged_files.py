"""What a killed process leaves half-written in a folder is removed by a prune, and nothing that is being written."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from longboat.repository import (
    StoreSettings,
    advance_epoch,
    open_or_create_repository,
    open_store,
    prune,
)
from longboat.repository.clutter import STAGED_FOR, remove_staged
from tests.fakes.object_store import MemoryStore


def test_prune_removes_old_half_written_files_of_a_folder_and_tells(tmp_path: Path) -> None:
    store = open_store(StoreSettings(type="folder", path=str(tmp_path), prefix="prod"))
    repository = open_or_create_repository(store, "cluster/uid", b"s" * 32)
    staging = tmp_path / ".longboat-staging"
    (staging / "lock").touch()
    old, young = time.time() - STAGED_FOR.total_seconds() - 60, time.time() - 3600
    for name, moment in (("tmpold", old), ("tmpyoung", young), ("foreign", old), ("lock", old)):
        (staging / name).write_bytes(b"half")
        os.utime(staging / name, (moment, moment))
    now, grace = datetime.now(UTC), timedelta(hours=1)
    dry = prune(repository, now=now, grace=grace, epoch=None, dry_run=True)
    assert dry.removed["StagedFile"].bytes == 4 and (staging / "tmpold").exists()
    epoch = advance_epoch(repository, {"t"}, "t")
    report = prune(repository, now=now, grace=grace, epoch=epoch)
    assert (report.removed["StagedFile"].objects, report.freed.bytes) == (1, 4)
    assert sorted(path.name for path in staging.iterdir()) == ["foreign", "lock", "tmpyoung"]
    # What is written meanwhile is written as ever.
    store.put_new("prod-object", b"data")
    assert store.get("prod-object", 9) == b"data"


def test_other_stores_have_no_such_files() -> None:
    assert remove_staged(MemoryStore(), datetime.now(UTC), dry_run=False) == []
