"""The programs that are compared: how each makes a repository, backs up the image, restores the newest backup, and
removes all others.

All of them encrypt, compress with zstd (borg at level 1 as the mover, restic at its only one) and look at the whole
image each time, as nothing tells them whether a disk has changed.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from longboat.repository import (
    DEFAULT_BLOCK_SIZE,
    StoredDisk,
    StoreSettings,
    find_disk_manifest,
    open_or_create_repository,
    open_store,
    reference_to,
    write_backup_manifest,
)
from tests.bench.image import Ranges, data_ranges
from tests.cluster.paths import CHECKOUT

KEY = b"k" * 32
REPOSITORY = "bench/bench"
DISK = "bench"
PASSWORD = "only the benchmark's"


@dataclass(frozen=True)
class Command:
    """A program with its arguments, what is added to its environment, and the folder it runs in."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


class Tool(Protocol):
    """A program that is measured; `stored` is the folder in which everything that it stores ends."""

    name: str
    stored: Path

    def prepare(self) -> None:
        """Make the repository."""

    def backup(self, number: int, changed: Ranges) -> Command:
        """How the disk is backed up for the nth time, from 0 on; `changed` is what was written since the last time."""

    def restore(self, target: Path) -> Command:
        """How the newest backup is restored into an empty folder, as disk.img in it or below it."""

    def prune(self) -> Command | None:
        """How all backups but the newest are removed, and what they alone needed; None: another tool does just that."""

    def counts(self) -> dict[str, int]:
        """What the program itself knows of its last run: `puts`, `gets`, `bytes_read`."""


class Longboat:
    """Our mover, as its Jobs start it; reads the image, or a device with the same bytes, with or without tracking."""

    def __init__(self, name: str, image: Path, source: Path, work: Path, settings: StoreSettings, stored: Path) -> None:
        self.name, self.stored, self.device = name, stored, source if source.is_block_device() else None
        self._image, self._work, self._settings = image, work, settings
        self._source = source
        self._backups: dict[str, datetime] = {}
        self.tracked = False
        self.block_size, self.cores = DEFAULT_BLOCK_SIZE, 0
        # In an image everything is compiled beforehand; a checkout must not pay for that in each run.
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(work.parent / "compiled")}
        self._environment = {"PYTHONPATH": f"{CHECKOUT / 'operator'}:{CHECKOUT}", **compiled}

    def with_tracking(self) -> Longboat:
        """Tell the mover what is allocated and what has changed."""
        self.tracked = True
        return self

    def with_cores(self, cores: int) -> Longboat:
        """Let the mover use so many CPUs, whatever the other programs may."""
        self.cores = cores
        return self

    def prepare(self) -> None:
        for folder in (self._work, self.stored):
            folder.mkdir(parents=True, exist_ok=True)
        self._repository = open_or_create_repository(open_store(self._settings), REPOSITORY, KEY)
        store = type(open_store(self._settings)).__module__
        modules = f"tests.bench.mover, tests.bench.prune_jobs, {store}, urllib3, asyncio"
        run(Command((sys.executable, "-c", f"import {modules}"), self._environment, self._work))

    def backup(self, number: int, changed: Ranges) -> Command:
        name = f"backup-{number}"
        self._backups[name] = created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
        job: dict[str, object] = {"sourcePath": str(self._source), "disk": {"diskKey": DISK}, "backupName": name}
        job |= {"created": created.isoformat(), "snapshotHandle": f"snapshot-{number}", "blockSize": self.block_size}
        if not self.tracked:
            return self._command("export", job)
        known = self._work / "changes.json"
        known.write_text(json.dumps({"allocated": data_ranges(self._image), "delta": changed}))
        return self._command("export", job, str(known))

    def restore(self, target: Path) -> Command:
        found = self._disk_of(list(self._backups)[-1])
        return self._command("restore", {"manifest": found.name, "targetPath": str(target)})

    def prune(self) -> Command | None:
        if self.device or self.cores or self.block_size != DEFAULT_BLOCK_SIZE:
            return None
        for name, created in self._backups.items():
            # As the operator does at a backup's end.
            write_backup_manifest(self._repository, name, created, [reference_to(self._disk_of(name), "bench")])
        # Two Jobs, the second one a day later.
        older = list(self._backups)[:-1]
        condemn = self._command("prune", {"token": "first"}, "1", *older)
        delete = self._command("prune", {"token": "second", "knownTokens": ["first"]}, "2", job_name="delete")
        return chained(condemn, delete)

    def _disk_of(self, backup: str) -> StoredDisk:
        found = find_disk_manifest(self._repository, DISK, backup, self._backups[backup])
        assert found, f"backup {backup} has left no manifest"
        return found

    def counts(self) -> dict[str, int]:
        return dict(json.loads((self._work / "counts.json").read_text()))

    def _command(self, role: str, job: Mapping[str, object], *more: str, job_name: str = "") -> Command:
        common = {
            "store": json.loads(self._settings.model_dump_json(by_alias=True)),
            "repositoryPath": REPOSITORY,
            "masterKey": base64.b64encode(self._repository.master_key).decode(),
            "terminationPath": str(self._work / "result.json"),
        }
        file, counts = self._work / f"{job_name or role}.json", self._work / "counts.json"
        file.write_text(json.dumps(common | dict(job)))
        counts.unlink(missing_ok=True)
        program = (sys.executable, "-m", "tests.bench.mover", role, str(file), str(counts), *more)
        return Command(program, self._environment, self._work)


class Restic:
    """restic; it reads files, so it is given the image as one."""

    def __init__(self, name: str, image: Path, work: Path, address: str, stored: Path, *options: str) -> None:
        self.name, self.stored = name, stored
        self._image, self._work, self._options = image, work, options
        self._environment = {"RESTIC_REPOSITORY": address, "RESTIC_PASSWORD": PASSWORD}
        self._environment["RESTIC_CACHE_DIR"] = str(work / "cache")

    def with_keys(self, access_key_id: str, secret_access_key: str) -> Restic:
        """Add the credentials of an S3 service."""
        self._environment |= {"AWS_ACCESS_KEY_ID": access_key_id, "AWS_SECRET_ACCESS_KEY": secret_access_key}
        return self

    def prepare(self) -> None:
        self._work.mkdir(parents=True)
        run(self._command("init", "--repository-version=2"))

    def backup(self, number: int, changed: Ranges) -> Command:
        return self._command("backup", "--force", "--host=bench", self._image.name)

    def restore(self, target: Path) -> Command:
        return self._command("restore", "latest", f"--target={target}")

    def prune(self) -> Command:
        return self._command("forget", "--keep-last=1", "--group-by=host", "--prune")

    def counts(self) -> dict[str, int]:
        return {}

    def _command(self, *arguments: str) -> Command:
        return Command(("restic", *self._options, *arguments), self._environment, self._image.parent)


class Borg:
    """Borg, set as its manual advises for disk images: chunks of a fixed size, holes skipped."""

    def __init__(self, image: Path, work: Path, stored: Path) -> None:
        self.name, self.stored = "borg", stored
        self._image, self._newest = image, ""
        self._environment = {"BORG_REPO": str(stored), "BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(work)}

    def prepare(self) -> None:
        run(Command(("borg", "init", "--encryption=repokey-blake2"), self._environment, self._image.parent))

    def backup(self, number: int, changed: Ranges) -> Command:
        self._newest = f"::backup-{number}"
        options = ("--sparse", "--chunker-params=fixed,4194304", "--compression=zstd,1", "--files-cache=disabled")
        arguments = ("borg", "create", *options, self._newest, self._image.name)
        return Command(arguments, self._environment, self._image.parent)

    def restore(self, target: Path) -> Command:
        return Command(("borg", "extract", "--sparse", self._newest), self._environment, target)

    def prune(self) -> Command:
        prune = Command(("borg", "prune", "--keep-last=1"), self._environment, self._image.parent)
        return chained(prune, Command(("borg", "compact"), self._environment, self._image.parent))

    def counts(self) -> dict[str, int]:
        return {}


class Rustic:
    """rustic, restic's format in Rust; measured if it is installed."""

    def __init__(self, program: str, image: Path, work: Path, stored: Path) -> None:
        self.name, self.stored = "rustic", stored
        self._program, self._image, self._work = program, image, work
        self._environment = {"RUSTIC_REPOSITORY": str(stored), "RUSTIC_PASSWORD": PASSWORD}
        self._environment["RUSTIC_CACHE_DIR"] = str(work / "cache")

    def prepare(self) -> None:
        self._work.mkdir(parents=True)
        run(self._command("init"))

    def backup(self, number: int, changed: Ranges) -> Command:
        return self._command("backup", "--force", "--host=bench", self._image.name)

    def restore(self, target: Path) -> Command:
        return self._command("restore", "latest", str(target))

    def prune(self) -> Command:
        # It would wait for 23 hours otherwise.
        return self._command("forget", "--keep-last=1", "--group-by=host", "--prune", "--instant-delete")

    def counts(self) -> dict[str, int]:
        return {}

    def _command(self, *arguments: str) -> Command:
        return Command((self._program, "--no-progress", *arguments), self._environment, self._image.parent)


def chained(first: Command, second: Command) -> Command:
    """Return a command that runs two, the second in the environment and the folder of the first one."""
    line = f"{shlex.join(first.arguments)} && {shlex.join(second.arguments)}"
    return Command(("sh", "-c", line), first.environment, first.folder)


def run(command: Command) -> None:
    """Run a command that is not measured; raise CalledProcessError if it fails."""
    environment = os.environ | dict(command.environment)
    subprocess.run(command.arguments, env=environment, cwd=command.folder, check=True, capture_output=True)
