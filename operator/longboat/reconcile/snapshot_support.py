"""Looks up what storage a disk lies on, and how it is snapshotted."""

from __future__ import annotations

from dataclasses import dataclass

from longboat.kube.kinds import (
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    STORAGE_PROFILE,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT_CLASS,
)
from longboat.kube.port import Cluster, Object
from longboat.plan.names import MAX_NAME
from longboat.plan.problem import Problem
from longboat.plan.snapshot_class import choose_snapshot_class, driver_of
from longboat.plan.state import STATE_LABEL, legacy_name, may_hold_state


@dataclass(frozen=True)
class Machine:
    """A virtual machine and its running instance, as far as they exist."""

    vm: Object | None = None
    vmi: Object | None = None


def machine(cluster: Cluster, namespace: str, name: str | None) -> Machine:
    """Return the virtual machine of this name; an empty Machine if no name is given or there is none."""
    vm = cluster.get(VIRTUAL_MACHINE, name, namespace) if name else None
    if vm is None or name is None:
        return Machine()
    return Machine(vm, cluster.get(VIRTUAL_MACHINE_INSTANCE, name, namespace))


def state_claims(cluster: Cluster, vm: Object) -> list[Object]:
    """Return the PersistentVolumeClaims that may hold the TPM and EFI state of a virtual machine."""
    namespace, name = vm["metadata"]["namespace"], vm["metadata"]["name"]
    # A longer name is no value of a label, and KubeVirt starts no machine of such a name.
    labels = {STATE_LABEL: name}
    found = list(cluster.list(PERSISTENT_VOLUME_CLAIM, namespace, labels)) if len(name) <= MAX_NAME else []
    of_old = cluster.get(PERSISTENT_VOLUME_CLAIM, legacy_name(name), namespace)
    return [claim for claim in [*found, *([of_old] if of_old else [])] if may_hold_state(claim, name)]


def snapshot_class_of(cluster: Cluster, claim: Object) -> str | Problem:
    """Return the VolumeSnapshotClass for a bound PersistentVolumeClaim, or why there is none."""
    volume_name = claim["spec"].get("volumeName")
    volume = cluster.get(PERSISTENT_VOLUME, volume_name) if volume_name else None
    storage_class = claim["spec"].get("storageClassName")
    profile = cluster.get(STORAGE_PROFILE, storage_class) if storage_class else None
    return choose_snapshot_class(driver_of(volume), cluster.list(VOLUME_SNAPSHOT_CLASS), profile)
