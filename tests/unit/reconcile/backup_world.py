"""A small cluster with a virtual machine of three disks, policies and a real repository, for the tests of backups."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from longboat.api import BackupStore, DiskBackup
from longboat.kube.kinds import (
    BACKUP_POLICY,
    BACKUP_STORE,
    CUSTOM_RESOURCE_DEFINITION,
    DISK_BACKUP,
    JOB,
    NAMESPACE,
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.kube.port import ConflictError, Object
from longboat.mover import ExportJob
from longboat.mover.export_disk import run_export
from longboat.mover.jobs import merge
from longboat.mover.results import failure_of, message_bytes
from longboat.plan.conditions import find
from longboat.plan.generations import FIRST, folder_of
from longboat.reconcile import disk_backup
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, required
from longboat.reconcile.store_access import problem_of
from longboat.repository import (
    ObjectStore,
    Repository,
    RepositoryError,
    StoreSettings,
    open_or_create_repository,
    open_repository,
    open_store,
)
from longboat.repository.closing import Accepted
from tests.fakes.cluster import KillAt, Killed
from tests.fakes.snapshots import SnapshotStorage
from tests.unit.reconcile.disk_world import SHOP, SYSTEM, World
from tests.unit.reconcile.folder_generations import accepted_in, closed_since, found_in, replace_key, rotate

KEY = bytes(range(32))
STATE_FILE = "tpm2-00.permall"
DISKS = {"root": "db-root", "data": "db-data", "logs": "db-logs"}


@dataclass
class FolderRepositories:
    """Opens real repositories in a folder; ``problem`` is raised instead when it is set."""

    folder: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Namespace and purpose of each search, which decide about the credentials."""
    problem: StoreProblemError | None = None

    def place(self) -> ObjectStore:
        return open_store(StoreSettings(type="folder", path=self.folder))

    def repository(self, namespace_uid: str, generation: int = FIRST) -> Repository:
        return open_or_create_repository(self.place(), f"cluster/{folder_of(namespace_uid, generation)}", KEY)

    def rotate(self, namespace_uid: str) -> Repository:
        return rotate(self.place(), namespace_uid, KEY)

    def generations(self, store: BackupStore, namespace_uid: str, **_: Any) -> list[int]:
        if self.problem:
            raise self.problem
        return list(found_in(self.place(), namespace_uid).numbers)

    def renew(self, store: BackupStore, namespace_uid: str, generation: int, **_: Any) -> RepositoryAccess:
        if self.problem:
            raise self.problem
        replace_key(self.place(), namespace_uid, KEY, generation)
        return self.open(store, namespace_uid, generation=generation + 1)

    def closed(self, store: BackupStore, namespace_uid: str, generation: int, **_: Any) -> datetime | None:
        return closed_since(self.place(), namespace_uid, generation, KEY)

    def accepted(self, store: BackupStore, namespace_uid: str, generation: int, **_: Any) -> Accepted:
        return accepted_in(self.place(), namespace_uid, generation, KEY)

    def known_closed(self, store: BackupStore, namespace_uid: str, generation: int, **asked: Any) -> datetime | None:
        return self.closed(store, namespace_uid, generation, **asked)

    def find(
        self, store: BackupStore, namespace_uid: str, repository_id: str | None = None, **asked: Any
    ) -> RepositoryAccess:
        self.asked.append((asked["namespace"], asked.get("purpose", "export")))
        if self.problem:
            raise self.problem
        generation = asked.get("generation", FIRST)
        try:
            open_repository(self.place(), f"cluster/{folder_of(namespace_uid, generation)}", KEY)
        except RepositoryError as error:
            raise problem_of(error) from error
        return required(self.open(store, namespace_uid, generation=generation), repository_id)

    def open(self, store: BackupStore, namespace_uid: str, generation: int | None = None, **_: Any) -> RepositoryAccess:
        if self.problem:
            raise self.problem
        number = generation or found_in(self.place(), namespace_uid).newest or FIRST
        repository = self.repository(namespace_uid, number)
        settings = StoreSettings(type="folder", path=self.folder)
        path = f"cluster/{folder_of(namespace_uid, number)}"
        return RepositoryAccess(repository, settings, path, repository.master_key, repository.key_id, number)


class Grenade(KillAt):
    """Kills the operator at its nth effect, for good: nothing that still runs has any effect afterwards."""

    def strike(self, moment_is_before: bool) -> None:
        if self.nth is not None and moment_is_before and self.effects >= self.nth:
            raise Killed("dead")
        super().strike(moment_is_before)


@dataclass
class BackupWorld(World):
    """See World; ``job_failures`` are exceptions that the next exports of a claim's volume end with."""

    folder: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.folder / "store").mkdir(exist_ok=True)
        self.repositories = FolderRepositories(str(self.folder / "store"))
        self.storage = SnapshotStorage(self.cluster, self._export)
        self.storage.is_frozen = lambda: bool(self.machines.frozen)
        self.job_failures: list[Exception] = []
        self.exports: list[str] = []
        self._create(CUSTOM_RESOURCE_DEFINITION, "diskbackups.longboat.dev", "", {})
        self.add_store("offsite", default=True)
        for disk, claim in DISKS.items():
            self.storage.add_claim(SHOP, claim, f"content of {disk}", size="4Mi")
        self.add_vm("db", DISKS)
        self.set_agent(True)

    def context(self, bomb: KillAt | None = None) -> Context:
        ctx = super().context(bomb)
        return Context(
            ctx.cluster, ctx.virtual_machines, ctx.now, self._sleep, self.settings, ctx.repositories
        )  # Time passes, and the controllers act, while the operator waits.

    def set_agent(self, connected: bool) -> None:
        status = self.get(VIRTUAL_MACHINE_INSTANCE, "db")["status"]
        status["conditions"] = [{"type": "AgentConnected", "status": "True" if connected else "False"}]
        operation = {"op": "add", "path": "/status", "value": status}
        self.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", [operation], SHOP)

    def add_store(self, name: str, *, default: bool = False, **spec: Any) -> None:
        body = {
            "default": default,
            "s3": {"endpoint": "https://s3.example.com", "bucket": "backups"},
            "credentialsSecretRef": {"name": "s3"},
            "encryption": {"keySecretRef": {"name": "key"}},
        }
        self._create(BACKUP_STORE, name, "", {"spec": body | spec})

    def add_policy(self, name: str, target: dict[str, Any] | None = None, **spec: Any) -> None:
        body = {
            "target": target or {"virtualMachine": {"name": "db"}},
            "schedule": {"daily": {"at": "03:30"}},
            "retention": {"keepFor": "30d"},
        }
        self._create(BACKUP_POLICY, name, SHOP, {"spec": body | spec})

    def add_backup(self, name: str = "run", policy: str = "daily", **spec: Any) -> Object:
        return self._create(DISK_BACKUP, name, SHOP, {"spec": {"policyRef": {"name": policy}} | spec})

    def backup(self, name: str = "run") -> DiskBackup:
        return DiskBackup.model_validate(self.get(DISK_BACKUP, name))

    def reconcile(self, name: str = "run", bomb: KillAt | None = None) -> timedelta | None:
        """Look at a backup once; the controllers act afterwards."""
        try:
            return disk_backup.reconcile(self.context(bomb), SHOP, name)
        except ConflictError:
            return timedelta(seconds=1)
        finally:
            self.storage.settle()

    def drive(self, *names: str, bomb: KillAt | None = None, rounds: int = 80) -> None:
        """Look at backups again and again, until each wants to be looked at no more; a killed operator starts anew."""
        waiting = list(names or ("run",))
        for _ in range(rounds):
            delays = []
            for name in list(waiting):
                try:
                    delay = self.reconcile(name, bomb)
                except Killed:
                    bomb, delay = None, timedelta(seconds=1)
                if delay is None:
                    waiting.remove(name)
                else:
                    delays.append(delay)
            if not waiting:
                return
            self.clock.advance(seconds=min(delays).total_seconds() if delays else 1)
        raise AssertionError(f"still waiting: {[self.get(DISK_BACKUP, name).get('status') for name in waiting]}")

    def condition(self, type_: str = "Ready", name: str = "run") -> Any:
        return find(self.backup(name).status.conditions, type_)

    def repository(self) -> Repository:
        return self.repositories.repository(self.get(NAMESPACE, SHOP, "")["metadata"]["uid"])

    def leftovers(self) -> list[str]:
        """Return what is left of the runs, beside the DiskBackups and the store."""
        kinds = [JOB, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT, SECRET]
        left = [f"{kind.name}/{each['metadata']['name']}" for kind in kinds for each in self.cluster.list(kind)]
        claims = self.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM)
        return left + [each["metadata"]["name"] for each in claims] + sorted(self.storage.snapshots())

    def job_file(self, job: Object) -> ExportJob:
        """Return what a Job is told, as its mover reads it from the Secret."""
        name = next(v["secret"]["secretName"] for v in job["spec"]["template"]["spec"]["volumes"] if "secret" in v)
        data = self.get(SECRET, name, SYSTEM)["data"]
        plain, secret = (json.loads(base64.b64decode(data[key])) for key in ("job.json", "secret.json"))
        return ExportJob.model_validate_json(json.dumps(merge(plain, secret)))

    def _export(self, job: Object, content: str | None) -> tuple[bool, str, str | None]:
        told = self.job_file(job)
        archive = told.content == "Archive"
        folder = self.folder / ("state" if archive else "disk")
        folder.mkdir(exist_ok=True)
        data = (content or "").encode()
        (folder / (STATE_FILE if archive else "disk.img")).write_bytes(data if archive else data.ljust(1 << 16, b"\0"))
        try:
            if self.job_failures:
                raise self.job_failures.pop(0)
            result = run_export(told.model_copy(update={"source_path": str(folder), "workers": 1}), emit=lambda _: None)
        except Exception as error:
            return False, message_bytes(failure_of(error)).decode(), None
        self.exports.append(told.disk.claim_name)
        return True, message_bytes(result).decode(), None

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)
        self.storage.settle()

    def _create(self, kind: Any, name: str, namespace: str, body: Object) -> Object:
        meta = {"name": name} | ({"namespace": namespace} if namespace else {})
        return self.cluster.create({"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta} | body)


def disk(world: BackupWorld, name: str, backup: str = "run") -> Any:
    return next(each for each in world.backup(backup).status.disks or () if each.name == name)


def look(world: BackupWorld, *, times: int = 1, name: str = "run") -> None:
    for _ in range(times):
        delay = world.reconcile(name)
        world.clock.advance(seconds=delay.total_seconds() if delay else 1)


def until(world: BackupWorld, holds: Any, name: str = "run") -> None:
    for _ in range(100):
        if holds(world.backup(name).status):
            return
        look(world, name=name)
    raise AssertionError(f"never happened: {world.backup(name).status}")
