"""A small world of policies, stores and backups, for the tests of policies, retention and stores."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from longboat.api import BackupPolicy, BackupStore, DiskBackup
from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, DISK_BACKUP, VIRTUAL_MACHINE
from longboat.kube.port import Object
from longboat.plan.generations import FIRST, folder_of
from longboat.reconcile import backup_policy
from longboat.reconcile.context import Context, Settings
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError, required
from longboat.reconcile.store_access import problem_of
from longboat.repository import (
    Repository,
    RepositoryError,
    StoreSettings,
    open_or_create_repository,
    open_repository,
)
from longboat.repository.closing import Accepted
from longboat.repository.folder_store import FolderStore
from longboat.repository.object_store import Data
from tests.fakes.cluster import FakeCluster, FakeVirtualMachines, KillAt
from tests.unit.reconcile.folder_generations import accepted_in, closed_since, found_in, replace_key, rotate

SYSTEM = "longboat-system"
SHOP = "shop"
KEY = bytes(range(32))


@dataclass
class Clock:
    """The time of a world."""

    time: datetime = datetime(2026, 1, 7, 10, 17, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def to(self, text: str) -> None:
        self.time = datetime.fromisoformat(text + "+00:00")

    def by(self, **parts: float) -> None:
        self.time += timedelta(**parts)


class ClockedStore(FolderStore):
    """A folder whose files are dated by a world's clock, if there is one."""

    def __init__(self, settings: StoreSettings, clock: Clock | None) -> None:
        super().__init__(settings)
        self.clock = clock

    def put_new(self, name: str, data: Data) -> str:
        return self._dated(name, super().put_new(name, data))

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        return self._dated(name, super().put_if_match(name, data, etag))

    def _dated(self, name: str, etag: str) -> str:
        if self.clock is None:
            return etag
        os.utime(self._path(name), (self.clock.time.timestamp(),) * 2)
        return self.head(name).etag


@dataclass
class FolderRepositories:
    """Opens real repositories in a folder; ``problem`` is raised instead when it is set."""

    folder: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Namespace and purpose of each search, which decide about the credentials."""
    problem: StoreProblemError | None = None
    key: bytes = KEY
    clock: Clock | None = None

    def store(self) -> FolderStore:
        return ClockedStore(StoreSettings(type="folder", path=self.folder), self.clock)

    def repository(self, namespace_uid: str, generation: int = FIRST) -> Repository:
        return open_or_create_repository(self.store(), f"cluster/{folder_of(namespace_uid, generation)}", self.key)

    def rotate(self, namespace_uid: str) -> Repository:
        return rotate(self.store(), namespace_uid, self.key)

    def generations(self, store: BackupStore, namespace_uid: str, **_: Any) -> list[int]:
        if self.problem:
            raise self.problem
        return list(found_in(self.store(), namespace_uid).numbers)

    def renew(self, store: BackupStore, namespace_uid: str, generation: int, **_: Any) -> RepositoryAccess:
        if self.problem:
            raise self.problem
        replace_key(self.store(), namespace_uid, self.key, generation)
        return self.open(store, namespace_uid, generation=generation + 1)

    def closed(self, store: BackupStore, namespace_uid: str, generation: int, **_: Any) -> datetime | None:
        return closed_since(self.store(), namespace_uid, generation, self.key)

    def accepted(self, store: BackupStore, namespace_uid: str, generation: int, **_: Any) -> Accepted:
        return accepted_in(self.store(), namespace_uid, generation, self.key)

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
            open_repository(self.store(), f"cluster/{folder_of(namespace_uid, generation)}", self.key)
        except RepositoryError as error:
            raise problem_of(error) from error
        return required(self.open(store, namespace_uid, generation=generation), repository_id)

    def open(self, store: BackupStore, namespace_uid: str, generation: int | None = None, **_: Any) -> RepositoryAccess:
        if self.problem:
            raise self.problem
        number = generation or found_in(self.store(), namespace_uid).newest or FIRST
        try:
            repository = self.repository(namespace_uid, number)
        except RepositoryError as error:
            raise problem_of(error) from error
        settings = StoreSettings(type="folder", path=self.folder)
        path = f"cluster/{folder_of(namespace_uid, number)}"
        return RepositoryAccess(repository, settings, path, repository.master_key, repository.key_id, number)


@dataclass
class World:
    """What a test sets up and looks at; ``context`` is what the operator gets."""

    clock: Clock = field(default_factory=Clock)
    repositories: Any = None
    settings: Settings = field(
        default_factory=lambda: Settings(namespace=SYSTEM, image="longboat:test", cluster_id="cluster")
    )

    def __post_init__(self) -> None:
        self.cluster = FakeCluster(self.clock, [SYSTEM, SHOP])

    def context(self, bomb: KillAt | None = None) -> Context:
        cluster: Any = bomb.wrap(self.cluster) if bomb else self.cluster
        return Context(
            cluster, FakeVirtualMachines(), self.clock, lambda seconds: None, self.settings, self.repositories
        )

    def set(self, **changes: Any) -> None:
        self.settings = replace(self.settings, **changes)

    def add(self, kind: str, name: str, spec: Object, namespace: str = SHOP, **meta: Any) -> Object:
        head = {"apiVersion": "longboat.dev/v1alpha1", "kind": kind, "metadata": {"name": name, **meta}}
        if kind != "BackupStore":
            head["metadata"]["namespace"] = namespace
        return self.cluster.create(head | {"spec": spec})

    def add_vm(self, name: str, *disks: str, labels: dict[str, str] | None = None) -> Object:
        """Add a virtual machine with disks, whose claims are <machine>-<disk>."""
        volumes = [{"name": disk, "persistentVolumeClaim": {"claimName": f"{name}-{disk}"}} for disk in disks]
        meta = {"name": name, "namespace": SHOP, "labels": labels or {}}
        for disk in disks:
            self.add_claim(f"{name}-{disk}")
        spec = {"template": {"spec": {"volumes": volumes, "domain": {"devices": {}}}}}
        return self.cluster.create(_head(VIRTUAL_MACHINE, meta) | {"spec": spec})

    def add_claim(self, name: str, phase: str = "Bound") -> None:
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": SHOP}}
        self.cluster.create(body | {"spec": {"volumeName": f"pv-{name}"}, "status": {"phase": phase}})

    def add_store(self, name: str = "offsite", default: bool = True, **spec: Any) -> None:
        self.add("BackupStore", name, {"default": default, **STORE_SPEC, **spec})

    def add_secret(self, name: str, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM}}
        self.cluster.create(body | {"data": encoded})

    def add_policy(self, name: str = "daily", **spec: Any) -> None:
        spec = {
            "target": {"virtualMachine": {"name": "db"}},
            "schedule": {"daily": {"at": "03:30"}},
            "retention": {"keepFor": "30d"},
            **spec,
        }
        self.add("BackupPolicy", name, spec)

    def edit(self, name: str = "daily", **spec: Any) -> None:
        operations = [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in spec.items()]
        self.cluster.patch(BACKUP_POLICY, name, operations, SHOP)

    def run(self, name: str = "daily", bomb: KillAt | None = None) -> timedelta | None:
        return backup_policy.reconcile(self.context(bomb), SHOP, name)

    def policy(self, name: str = "daily") -> BackupPolicy:
        found = load(self.cluster, BACKUP_POLICY, BackupPolicy, SHOP, name)
        assert found is not None
        return found

    def store(self, name: str = "offsite") -> BackupStore:
        found = load(self.cluster, BACKUP_STORE, BackupStore, "", name)
        assert found is not None
        return found

    def backups(self) -> list[DiskBackup]:
        return [DiskBackup.model_validate(each) for each in self.cluster.list(DISK_BACKUP, SHOP)]

    def backup(self, name: str) -> DiskBackup | None:
        return load(self.cluster, DISK_BACKUP, DiskBackup, SHOP, name)

    def set_status(self, name: str, **status: Any) -> None:
        """Merge fields into the status of a DiskBackup, as its own reconciler would."""
        found = self.cluster.get(DISK_BACKUP, name, SHOP)
        assert found is not None
        self.cluster.update_status(found | {"status": {**found.get("status", {}), **status}})

    def slots(self) -> list[str]:
        return [each.spec.slot.strftime("%dT%H:%M") for each in self.backups() if each.spec.slot]

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.cluster.events]


STORE_SPEC: Object = {
    "s3": {"endpoint": "https://objects.example.net", "bucket": "backups"},
    "credentialsSecretRef": {"name": "offsite-s3"},
    "encryption": {"keySecretRef": {"name": "offsite-key"}},
}


def _head(kind: Any, meta: Object) -> Object:
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta}
