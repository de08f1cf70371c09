"""What a backup's manifest says beside its disks, so that it is complete without the cluster it was made in."""

from __future__ import annotations

from typing import Any

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskBackupStatus

Object = dict[str, Any]

_NOT_SAVED = ("conditions", "observedGeneration", "cleanedUp", "adopted", "keptBecause", "policyGoneAt", "tombstonedAt")
_KEPT = ("name", "namespace", "uid", "labels", "annotations", "creationTimestamp")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def manifest_metadata(backup: DiskBackup, status: DiskBackupStatus, vm: Object | None) -> dict[str, Any]:
    """Return the metadata of a backup's manifest, as JSON.

    ``status`` is the DiskBackup's as it is when it has ended: from it the object can be made again. The virtual
    machine's own definition is added if it still exists; it refers to Secrets by name and never holds their contents.
    """
    saved = {key: value for key, value in status.wire().items() if key not in _NOT_SAVED}
    about = {"name": backup.name, "namespace": backup.namespace, "uid": backup.uid, "spec": backup.spec.wire()}
    return {"version": 1, "diskBackup": about, "status": saved, "virtualMachine": _definition(vm)}


def _definition(vm: Object | None) -> Object | None:
    if vm is None:
        return None
    meta = {key: vm["metadata"][key] for key in _KEPT if key in vm["metadata"]}
    if "annotations" in meta:
        meta["annotations"] = {key: value for key, value in meta["annotations"].items() if key != _LAST_APPLIED}
    return {"apiVersion": vm["apiVersion"], "kind": vm["kind"], "metadata": meta, "spec": vm.get("spec")}
