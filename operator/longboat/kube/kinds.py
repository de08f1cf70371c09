"""The kinds of objects that the operator reads or writes."""

from __future__ import annotations

from dataclasses import dataclass

from longboat.api import KINDS
from longboat.api.common import API_VERSION


@dataclass(frozen=True)
class Kind:
    """How a kind is addressed: its API version, name and plural, and whether it lies in namespaces."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path of a collection (no name), an object or a subresource."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (self.plural, name, subresource) if part)
        return f"{root}{scope}{tail}"


_OURS = {kind.model_fields["kind"].default: kind for kind in KINDS}


def _ours(name: str) -> Kind:
    model = _OURS[name]
    return Kind(API_VERSION, name, model.plural, namespaced=model.scope == "Namespaced")


BACKUP_POLICY = _ours("BackupPolicy")
DISK_BACKUP = _ours("DiskBackup")
DISK_SNAPSHOT = _ours("DiskSnapshot")
RESTORE = _ours("Restore")
BACKUP_STORE = _ours("BackupStore")

CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
EVENT = Kind("v1", "Event", "events")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
NODE = Kind("v1", "Node", "nodes", namespaced=False)
PERSISTENT_VOLUME = Kind("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD = Kind("v1", "Pod", "pods")
SECRET = Kind("v1", "Secret", "secrets")
JOB = Kind("batch/v1", "Job", "jobs")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
STORAGE_CLASS = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
CSI_DRIVER = Kind("storage.k8s.io/v1", "CSIDriver", "csidrivers", namespaced=False)
CUSTOM_RESOURCE_DEFINITION = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
VOLUME_SNAPSHOT = Kind("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "volumesnapshots")
VOLUME_SNAPSHOT_CONTENT = Kind(
    "snapshot.storage.k8s.io/v1", "VolumeSnapshotContent", "volumesnapshotcontents", namespaced=False
)
VOLUME_SNAPSHOT_CLASS = Kind(
    "snapshot.storage.k8s.io/v1", "VolumeSnapshotClass", "volumesnapshotclasses", namespaced=False
)
SNAPSHOT_METADATA_SERVICE = Kind(
    "cbt.storage.k8s.io/v1beta1", "SnapshotMetadataService", "snapshotmetadataservices", namespaced=False
)
VIRTUAL_MACHINE = Kind("kubevirt.io/v1", "VirtualMachine", "virtualmachines")
VIRTUAL_MACHINE_INSTANCE = Kind("kubevirt.io/v1", "VirtualMachineInstance", "virtualmachineinstances")
KUBEVIRT = Kind("kubevirt.io/v1", "KubeVirt", "kubevirts")
STORAGE_PROFILE = Kind("cdi.kubevirt.io/v1beta1", "StorageProfile", "storageprofiles", namespaced=False)

_ALL = [value for value in vars().values() if isinstance(value, Kind)]
_BY_NAME = {(kind.api_version, kind.name): kind for kind in _ALL}


def kind_of(obj: dict[str, object]) -> Kind:
    """Return the Kind of an object by its apiVersion and kind; raise KeyError for an unknown one."""
    return _BY_NAME[str(obj["apiVersion"]), str(obj["kind"])]
