"""Which VolumeSnapshotClass a disk's snapshot is made with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from longboat.plan.problem import Problem

Object = dict[str, Any]

DEFAULT_CLASS = "snapshot.storage.kubernetes.io/is-default-class"


def choose_snapshot_class(driver: str | None, classes: Iterable[Object], profile: Object | None) -> str | Problem:
    """Return the name of the VolumeSnapshotClass for volumes of a CSI driver, or the problem if none can be chosen.

    Args:
        driver: name of the volume's CSI driver; None for a volume that no CSI driver made.
        classes: all VolumeSnapshotClasses of the cluster.
        profile: CDI's StorageProfile of the volume's StorageClass, if there is one.

    The profile's class wins, then the driver's only class, then the driver's default class.
    """
    if not driver:
        return Problem(
            "NoSnapshotSupport",
            "the volume was not made by a CSI driver, so it can't be snapshotted; move the disk to CSI storage",
        )
    own: dict[str, Object] = {each["metadata"]["name"]: each for each in classes if each.get("driver") == driver}
    preferred = ((profile or {}).get("status") or {}).get("snapshotClass")
    if preferred in own:
        return str(preferred)
    if len(own) == 1:
        return next(iter(own))
    return _default(driver, own)


def driver_of(volume: Object | None) -> str | None:
    """Return the CSI driver of a PersistentVolume, or None for one that no CSI driver made."""
    driver = (((volume or {}).get("spec") or {}).get("csi") or {}).get("driver")
    return str(driver) if driver else None


def _default(driver: str, own: dict[str, Object]) -> str | Problem:
    defaults = [name for name, each in own.items() if _is_default(each)]
    if len(defaults) == 1:
        return defaults[0]
    if not own:
        return Problem(
            "NoSnapshotClass",
            f"there is no VolumeSnapshotClass for the CSI driver {driver!r}; create one, if the driver can snapshot",
        )
    return Problem(
        "AmbiguousSnapshotClass",
        f"the CSI driver {driver!r} has {len(own)} VolumeSnapshotClasses ({', '.join(sorted(own))}), "
        f"{len(defaults)} of them default; annotate exactly one with {DEFAULT_CLASS}=true",
    )


def _is_default(snapshot_class: Object) -> bool:
    return bool((snapshot_class["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true")
