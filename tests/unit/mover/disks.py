"""Small disks and jobs for the tests of the movers."""

from __future__ import annotations

import base64
import itertools
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from longboat.mover.changes import ChangeSource
from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob, RestoreJob
from longboat.mover.restore_disk import run_restore
from longboat.mover.results import ExportResult, RestoreResult
from longboat.repository import DiskIdentity, ObjectStore, Repository, StoreSettings, open_or_create_repository

BLOCK = 4096
PAGE_BLOCKS = 8
STORE_KEY = b"s" * 32
PATH = "cluster/namespace"
SETTINGS = StoreSettings(type="folder", path="/nowhere")
DISK = DiskIdentity(disk_key="shop/db/data", claim_name="db-data", claim_uid="u1", volume_handle="v1")
_SERIAL = itertools.count()


def repository_in(store: ObjectStore) -> Repository:
    """Return the tests' repository, made if it is missing."""
    return open_or_create_repository(store, PATH, STORE_KEY)


def write_image(folder: Path, content: dict[int, bytes], size: int) -> Path:
    """Write disk.img: `content` by offset, holes elsewhere; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "disk.img").open("wb") as image:
        image.truncate(size)
        for offset, data in content.items():
            image.seek(offset)
            image.write(data)
    return folder


def backup_time(number: int) -> datetime:
    """Return the moment of the nth backup."""
    return datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=number)


def export_job(key: bytes, folder: Path, name: str, number: int = 0, **more: object) -> ExportJob:
    """Return the job that exports a folder's disk.img as backup `name`, the nth by time."""
    return ExportJob.model_validate(
        {
            "store": SETTINGS,
            "repositoryPath": PATH,
            "masterKey": base64.b64encode(key).decode(),
            "sourcePath": str(folder),
            "disk": DISK,
            "backupName": name,
            "created": backup_time(number),
            "blockSize": BLOCK,
            "workers": 2,
            **more,
        }
    )


def export(
    store: ObjectStore,
    key: bytes,
    folder: Path,
    name: str,
    number: int = 0,
    policy: str = "Newest",
    changes: ChangeSource | None = None,
    **more: object,
) -> ExportResult:
    """Export a folder's disk.img as backup `name`, the nth by time."""
    job = export_job(key, folder, name, number, parentPolicy=policy, **more)
    return run_export(job, store, os.urandom, lambda _: None, PAGE_BLOCKS, changes)


def restore_job(key: bytes, manifest: str, folder: Path, **more: object) -> RestoreJob:
    """Return the job that restores a manifest into a folder."""
    return RestoreJob.model_validate(
        {
            "store": SETTINGS,
            "repositoryPath": PATH,
            "masterKey": base64.b64encode(key).decode(),
            "manifest": manifest,
            "targetPath": str(folder),
            **more,
        }
    )


def restore(store: ObjectStore, key: bytes, manifest: str, folder: Path) -> tuple[bytes, RestoreResult]:
    """Restore a manifest below a folder; return the image's bytes and the result."""
    target = folder / f"restored-{next(_SERIAL)}"
    target.mkdir()
    result = run_restore(restore_job(key, manifest, target), store, lambda _: None)
    data = (target / "disk.img").read_bytes()
    (target / "disk.img").unlink()
    return data, result
