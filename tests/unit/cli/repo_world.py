"""A store in a folder with two repositories that `longboat repo` reads, for the tests of its commands."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from longboat.cli import repo
from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob
from longboat.repository import (
    DiskIdentity,
    StoreSettings,
    generate_recovery_pair,
    generate_store_key,
    open_or_create_repository,
    open_store,
    parse_recovery_public,
    parse_store_key,
    read_disk_manifest,
    reference_to,
    write_backup_manifest,
)
from tests.unit.mover.disks import BLOCK, write_image

SHOP, BLOG = "cluster-1/aaaa-shop", "cluster-1/bbbb-blog"
SIZE = 40 * BLOCK
WHEN = datetime(2026, 11, 22, 3, 30, tzinfo=UTC)
STATE = "tpm-efi.state"


class World:
    """A store in a folder with two namespaces' repositories; that of the shop has a backup of two disks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "store").mkdir()
        self.settings = StoreSettings(type="folder", path=str(folder / "store"), prefix="prod")
        self.key, self.pair = generate_store_key(), generate_recovery_pair()
        self.key_file = self.write("key", self.key)
        self.shop = self.repository(SHOP)
        self.blog = self.repository(BLOG)
        self.claim = ""  # What all claims are called, if not by their disks.
        self.images: dict[str, bytes] = {}
        self.backup(self.shop, SHOP, "db-1", "data", "root")
        self.backup(self.blog, BLOG, "web-1", "data")

    def repository(self, path: str) -> Any:
        recovery = parse_recovery_public(self.pair.public)
        return open_or_create_repository(open_store(self.settings), path, parse_store_key(self.key), recovery)

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text)
        return self.folder / name

    def backup(self, repository: Any, path: str, name: str, *disks: str) -> None:
        references = []
        for disk in disks:
            content = {0: f"{name} {disk}".encode() * 3000, 30 * BLOCK: b"end"}
            source = write_image(self.folder / "source", content, SIZE)
            self.images[f"{name} {disk}"] = (source / "disk.img").read_bytes()
            job = ExportJob(
                store=self.settings,
                repository_path=path,
                master_key=base64.b64encode(repository.master_key).decode(),
                source_path=str(source),
                disk=DiskIdentity(disk_key=f"{name}-{disk}", claim_name=self.claim or f"claim-{disk}"),
                backup_name=name,
                created=WHEN,
                block_size=BLOCK,
                workers=1,
                content="Archive" if disk == STATE else "Disk",
            )
            result = run_export(job, emit=lambda _: None)
            references.append(reference_to(read_disk_manifest(repository, result.manifest), disk))
        metadata = {
            "diskBackup": {"namespace": path.split("-")[-1].split(".")[0], "spec": {"policyRef": {"name": "daily"}}},
            "status": {"consistency": "Application", "sameMoment": True, "virtualMachine": "db"},
        }
        expiry = {"retention": {"keepFor": "30d", "keepLast": 3}, "hold": False}
        write_backup_manifest(repository, name, WHEN, references, expiry, metadata)

    def __call__(self, *arguments: object, key: Path | None = None) -> int:
        store = ["--folder", str(self.folder / "store"), "--prefix", "prod", "--key-file", str(key or self.key_file)]
        return repo.main([*map(str, arguments), *store])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


Capture = pytest.CaptureFixture[str]
