"""What the tests of restores share: a backup in a store, a mover that writes it, and ways to look at the outcome."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

from longboat.kube.kinds import (
    DISK_SNAPSHOT,
    JOB,
    NAMESPACE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
    SECRET,
    VIRTUAL_MACHINE,
)
from longboat.kube.port import Object
from longboat.plan.generations import FIRST, folder_of
from longboat.plan.rebind import LOST_BYTES
from longboat.reconcile import disk_snapshot
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.restore import reconcile
from longboat.repository import StoreSettings
from tests.fakes.cluster import KillAt, Killed
from tests.fakes.object_store import MemoryStore
from tests.unit.reconcile.disk_world import SHOP, SYSTEM, World

MANIFEST = "the-manifest"
OBJECT_ID = "the-manifests-object"
OLD = "the old data"
GIB = 1 << 30


class Store:
    """Implements Repositories for one store in a folder; ``error`` is what opening it raises."""

    def __init__(self) -> None:
        self.error: StoreProblemError | None = None
        self.id = "first"
        self.asked: list[tuple[str, str]] = []
        self.closings: dict[int, datetime] = {}
        """Since when repositories are closed."""
        self.accepts: dict[int, frozenset[str]] = {}
        """What is believed there although it came too late."""
        self.store = MemoryStore()

    def find(self, store: Any, namespace_uid: str, repository_id: str | None = None, **asked: Any) -> RepositoryAccess:
        self.asked.append((asked["namespace"], asked["purpose"]))
        if repository_id not in (None, self.id):
            raise StoreProblemError("RepositoryReplaced", f"expected {repository_id}")
        return self.open(store, namespace_uid, generation=asked.get("generation", FIRST))

    def closed(self, store: Any, namespace_uid: str, generation: int, **_: Any) -> datetime | None:
        return self.closings.get(generation)

    def accepted(self, store: Any, namespace_uid: str, generation: int, **_: Any) -> frozenset[str]:
        return self.accepts.get(generation, frozenset())

    def known_closed(self, store: Any, namespace_uid: str, generation: int, **_: Any) -> datetime | None:
        return self.closings.get(generation)

    def open(self, store: Any, namespace_uid: str, generation: int = FIRST, **_: Any) -> RepositoryAccess:
        if self.error:
            raise self.error
        settings = StoreSettings(type="folder", path="/store")
        repository: Any = self
        path = f"cluster/{folder_of(namespace_uid, generation)}"
        return RepositoryAccess(repository, settings, path, b"k" * 32, "key", generation)


class Mover:
    """Runs restore Jobs as the real mover does; ``failures`` are the reports of the next runs."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.failures: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}
        """What the report of a run that ends well says besides."""

    def __call__(self, job: Object, content: str | None) -> tuple[bool, str, str | None]:
        self.jobs.append(job)
        told = self._told(job)
        self.told.append(told)
        if self.failures:
            report = {"ok": False} | self.failures.pop(0)
            return False, json.dumps(report), "half"
        assert (told["manifest"], told["objectId"]) == (MANIFEST, OBJECT_ID)
        result = {"ok": True, "manifest": MANIFEST, "logicalBytes": GIB, "writtenBytes": 9, "readBytes": 5} | self.more
        return True, json.dumps(result), OLD

    def _told(self, job: Object) -> Any:
        name = job["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"]
        secret = self.world.get(SECRET, name, SYSTEM)
        assert "masterKey" not in json.loads(base64.b64decode(secret["data"]["job.json"]))
        assert "masterKey" in json.loads(base64.b64decode(secret["data"]["secret.json"]))
        return json.loads(base64.b64decode(secret["data"]["job.json"]))


def shop(*, running: bool = True) -> World:
    """Return a namespace with a machine of one disk, and a backup of that disk."""
    world = World(repositories=Store())
    world.storage.add_class("late", late=True)
    world.storage.add_class("keeping", policy="Retain")
    world.storage.add_class("foreign", driver="nfs.example.com")
    world.storage.run_job = Mover(world)
    world.storage.add_claim(SHOP, "db-data", "the new data")
    world.add_vm("db", {"data": "db-data"}, running=running)
    spec = {
        "s3": {"endpoint": "https://s3.example.net", "bucket": "backups"},
        "credentialsSecretRef": {"name": "c"},
        "encryption": {"keySecretRef": {"name": "k"}},
    }
    world.cluster.create(head("BackupStore", "offsite") | {"spec": spec})
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    world.cluster.create(definition | {"metadata": {"name": "restores.longboat.dev"}})
    add_backup(world, "nightly", [disk("data")])
    return world


def disk(name: str, phase: str = "Completed", **more: Any) -> dict[str, Any]:
    """Return a disk of a DiskBackup's status."""
    good = {
        "manifest": MANIFEST,
        "objectId": OBJECT_ID,
        "logicalBytes": GIB,
        "volumeMode": "Block",
        "storageClassName": "fast",
    }
    claim = {"name": f"db-{name}", "uid": "u"}
    return {"name": name, "phase": phase, "claim": claim} | (good if phase == "Completed" else {}) | more


def add_backup(
    world: World, name: str, disks: list[dict[str, Any]], phase: str = "Completed", folder: str = ""
) -> None:
    """Add a DiskBackup with a status."""
    made = world.cluster.create(head("DiskBackup", name, SHOP) | {"spec": {"policyRef": {"name": "p"}}})
    uid = world.get(NAMESPACE, SHOP, "")["metadata"]["uid"]
    store = {"name": "offsite", "repository": f"cluster/{uid}{folder}", "id": "first"}
    made["status"] = {"phase": phase, "store": store, "disks": disks}
    world.cluster.update_status(made)


def head(kind: str, name: str, namespace: str = "") -> Object:
    """Return the head of one of our objects."""
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "longboat.dev/v1alpha1", "kind": kind, "metadata": meta}


def wish(*, attach: bool = True, snapshot: str = "", backup: str = "nightly", **claim: Any) -> dict[str, Any]:
    """Return the spec of a Restore of the one disk."""
    source = {"diskSnapshot": {"name": snapshot}} if snapshot else {"diskBackup": {"name": backup, "disk": "data"}}
    spec: dict[str, Any] = {"source": source, "claim": {"name": "db-restored"} | claim}
    if attach:
        spec["attach"] = {"virtualMachine": "db", "diskName": "restored", "bus": "scsi"}
    return spec


def snapshot(world: World, name: str = "before") -> None:
    """Let a DiskSnapshot of the disk become ready."""
    world.add_snapshot(name, {"virtualMachine": "db", "name": "data"})
    for _ in range(4):
        disk_snapshot.reconcile(world.context(), SHOP, name)
        world.storage.settle()
    assert world.reason(DISK_SNAPSHOT, name) == "SnapshotReady"


def run(world: World, rounds: int = 12, bomb: KillAt | None = None, name: str = "r") -> None:
    """Let operator and cluster take turns."""
    for _ in range(rounds):
        reconcile(world.context(bomb), SHOP, name)
        world.storage.settle()


def status(world: World, name: str = "r") -> dict[str, Any]:
    """Return the status of a Restore."""
    found: dict[str, Any] = world.get(RESTORE, name).get("status") or {}
    return found


def message(world: World, condition: str = "Ready", name: str = "r") -> str:
    """Return the message of a Restore's condition."""
    return next(each["message"] for each in status(world, name)["conditions"] if each["type"] == condition)


def disks_of(world: World) -> list[tuple[str, str]]:
    """Return (disk, serial) of the machine's spec."""
    spec = world.get(VIRTUAL_MACHINE, "db")["spec"]["template"]["spec"]
    return [(each["name"], each.get("serial", "")) for each in spec["domain"]["devices"]["disks"]]


def leftovers(world: World) -> list[str]:
    """Return what is left of a restore in the operator's namespace, and marks on volumes."""
    kinds = (PERSISTENT_VOLUME_CLAIM, JOB, SECRET)
    found = [f"{kind.name} {each['metadata']['name']}" for kind in kinds for each in world.cluster.list(kind, SYSTEM)]
    volumes = [each["metadata"] for each in world.cluster.list(PERSISTENT_VOLUME)]
    marks = [f"{key} on {meta['name']}" for meta in volumes for key in (meta.get("labels") or {})]
    notes = [f"{key} on {meta['name']}" for meta in volumes for key in (meta.get("annotations") or {})]
    stays = f"{LOST_BYTES} on "
    return found + marks + [each for each in notes if each.startswith("longboat.dev/") and not each.startswith(stays)]


def assert_restored(world: World, policy: str = "Delete") -> None:
    """The one final state: the old data in the user's claim, the policy as it was, nothing left over."""
    assert status(world)["phase"] == "Completed", status(world)
    assert world.storage.content(SHOP, "db-restored") == OLD
    assert world.storage.content(SHOP, "db-data") == "the new data"
    claim = world.storage.claim(SHOP, "db-restored")
    assert claim["metadata"]["uid"] == status(world)["claimUid"]
    assert claim["spec"]["volumeName"] == status(world)["volume"]
    volume = world.get(PERSISTENT_VOLUME, status(world)["volume"], "")
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == policy
    assert leftovers(world) == []


def untouched(world: World) -> None:
    """No claim was made or it is empty, nothing lies in the operator's namespace, the machine is as it was."""
    claim = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    assert claim is None or "volumeName" not in claim["spec"]
    assert leftovers(world) == []
    assert [name for name, _ in disks_of(world)] == ["data"]


def fill_only(world: World) -> None:
    """Run on until the volume is filled, and not a write further."""

    class Stopping(KillAt):
        def strike(self, moment_is_before: bool) -> None:
            if moment_is_before and status(world).get("filledAt"):
                raise Killed

    try:
        reconcile(world.context(Stopping()), SHOP, "r")
    except Killed:
        return


def failing(world: World, *reports: tuple[str, bool]) -> None:
    """Let the next runs of the mover fail: (reason, worth another attempt)."""
    mover: Any = world.storage.run_job
    mover.failures = [{"reason": reason, "message": "m", "retryable": again} for reason, again in reports]
