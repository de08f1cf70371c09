"""A small cluster with storage and a virtual machine, for the tests of snapshots and restores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from longboat.api.common import Status
from longboat.kube.kinds import DISK_SNAPSHOT, RESTORE, VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE
from longboat.kube.port import Object
from longboat.plan.conditions import find
from longboat.reconcile.context import Context, Settings
from tests.fakes.cluster import FakeCluster, FakeVirtualMachines, KillAt
from tests.fakes.storage import Clock, Storage

SYSTEM = "longboat-system"
SHOP = "shop"


class NoRepositories:
    """Snapshots have nothing to do with stores."""

    def find(self, store: Any, namespace_uid: str, repository_id: str | None = None, **_: Any) -> Any:
        raise AssertionError("nobody should look for a repository here")

    def open(self, store: Any, namespace_uid: str, **_: Any) -> Any:
        raise AssertionError("nobody should open a store here")


@dataclass
class World:
    """What a test sets up and looks at; ``ctx`` is what the operator gets."""

    clock: Clock = field(default_factory=Clock)
    repositories: Any = field(default_factory=NoRepositories)
    settings: Settings = field(default_factory=lambda: Settings(namespace=SYSTEM, image="longboat:test"))

    def __post_init__(self) -> None:
        self.cluster = FakeCluster(self.clock, [SYSTEM, SHOP])
        self.storage = Storage(self.cluster)
        self.machines = FakeVirtualMachines()
        self.machines.on_add_volume = self._plug
        self.storage.add_class("fast")
        self.storage.add_snapshot_class("snapshots")

    def context(self, bomb: KillAt | None = None) -> Context:
        """Return what a reconciler gets; its writes go through the bomb if there is one."""
        cluster: Any = bomb.wrap(self.cluster) if bomb else self.cluster
        machines: Any = bomb.wrap(self.machines) if bomb else self.machines
        return Context(cluster, machines, self.clock, lambda seconds: None, self.settings, self.repositories)

    def set(self, **changes: Any) -> None:
        """Change the operator's settings."""
        self.settings = replace(self.settings, **changes)

    def add_vm(self, name: str, disks: dict[str, str], *, running: bool = True, namespace: str = SHOP) -> None:
        """Add a virtual machine with disks (volume name → claim)."""
        volumes = [{"name": disk, "persistentVolumeClaim": {"claimName": claim}} for disk, claim in disks.items()]
        devices = {"disks": [{"name": disk, "disk": {"bus": "virtio"}} for disk in disks]}
        template = {"spec": {"volumes": volumes, "domain": {"devices": devices}}}
        self.cluster.create(_head(VIRTUAL_MACHINE, name, namespace) | {"spec": {"template": template}})
        if running:
            self.start(name, namespace)

    def start(self, name: str, namespace: str = SHOP) -> None:
        """Let a virtual machine run."""
        vm = self.get(VIRTUAL_MACHINE, name, namespace)
        spec = vm["spec"]["template"]["spec"]
        ready = [{"name": each["name"], "phase": "Ready", "target": "vda"} for each in spec["volumes"]]
        status = {"phase": "Running", "nodeName": "node-1", "volumeStatus": ready}
        vmi = _head(VIRTUAL_MACHINE_INSTANCE, name, namespace) | {"spec": spec, "status": status}
        vmi["metadata"]["ownerReferences"] = [{"kind": "VirtualMachine", "name": name, "uid": vm["metadata"]["uid"]}]
        self.cluster.create(vmi)

    def get(self, kind: Any, name: str, namespace: str = SHOP) -> Object:
        """Return an object that must exist."""
        found = self.cluster.get(kind, name, namespace)
        assert found is not None, f"no {kind.name} {namespace}/{name}"
        return found

    def label(self, kind: Any, name: str, labels: dict[str, str], namespace: str = SHOP) -> None:
        """Set an object's labels."""
        path = {"op": "add", "path": "/metadata/labels", "value": labels}
        self.cluster.patch(kind, name, [path], namespace)

    def add_snapshot(self, name: str, disk: dict[str, str], **spec: Any) -> Object:
        """Add a DiskSnapshot."""
        return self.cluster.create(
            _head(DISK_SNAPSHOT, name, SHOP) | {"spec": {"disk": disk, "origin": "AdHoc"} | spec}
        )

    def add_restore(self, name: str, spec: dict[str, Any]) -> Object:
        """Add a Restore."""
        return self.cluster.create(_head(RESTORE, name, SHOP) | {"spec": spec})

    def reason(self, kind: Any, name: str, condition: str = "Ready") -> str:
        """Return the reason of a condition of one of our objects, empty if there is none."""
        found = find_condition(self.get(kind, name), condition)
        return found.reason if found else ""

    def _plug(self, name: str, namespace: str, volume: Object) -> None:
        plugged = {"name": volume["name"]} | volume["volumeSource"]
        plugged["persistentVolumeClaim"] = plugged["persistentVolumeClaim"] | {"hotpluggable": True}
        disk = volume["disk"] | {"name": volume["name"]}
        self._append(VIRTUAL_MACHINE, name, namespace, "/spec/template/spec", plugged, disk)
        self._append(VIRTUAL_MACHINE_INSTANCE, name, namespace, "/spec", plugged, disk)

    def _append(self, kind: Any, name: str, namespace: str, at: str, volume: Object, disk: Object) -> None:
        operations = [
            {"op": "add", "path": f"{at}/volumes/-", "value": volume},
            {"op": "add", "path": f"{at}/domain/devices/disks/-", "value": disk},
        ]
        self.cluster.patch(kind, name, operations, namespace)


def find_condition(obj: Object, type_: str) -> Any:
    """Return a condition of one of our objects, None if there is none."""
    return find(Status.model_validate(obj.get("status") or {}).conditions, type_)


def _head(kind: Any, name: str, namespace: str) -> Object:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {"name": name, "namespace": namespace},
    }
