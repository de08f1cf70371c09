"""Where the story is told: a cluster with the operator in it, and what is particular to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests import installation
from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import images

MIB = 1 << 20
LOCAL_NAMESPACE = "shop"
LOCAL_STORAGE_CLASS = "reflink"


class Kubectl(Protocol):
    """A cluster that kubectl reaches."""

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return its output. Raises ClusterError if it fails."""


@dataclass(frozen=True)
class Place:
    """A cluster, the namespace that the story makes, and what its disks are made of.

    `storage_class` makes Block volumes. `guest_image` is a container image that the nodes have or can pull, with the
    guest's disk in it. `bucket` lists what a namespace, given by its UID, has in the store; None if nobody may look.
    """

    cluster: Kubectl
    namespace: str
    storage_class: str
    guest_image: str
    operator_namespace: str
    bucket: Callable[[str], list[str]] | None = None


def local(cluster: Cluster, namespace: str = LOCAL_NAMESPACE) -> Place:
    """The local cluster with the operator and the remote object store as tests.installation makes them."""

    def bucket(uid: str) -> list[str]:
        return listing(cluster.remote.directory / "data", uid)

    image = images.guest_disk_image()
    return Place(cluster, namespace, LOCAL_STORAGE_CLASS, image, installation.NAMESPACE, bucket)


def listing(folder: Path, uid: str) -> list[str]:
    """Number and size of the objects of each sort that a namespace has in a folder of buckets."""
    sorts: dict[str, list[int]] = {}
    for path in folder.glob(f"*/*/{uid}/*/**/*"):
        # <bucket>/<cluster>/<namespace>/<sort>/<object>
        sort = path.relative_to(folder).parts[3]
        if path.is_file():
            sorts.setdefault(sort, []).append(path.stat().st_size)
    return [f"{sort:<12} {len(sorts[sort]):4} objects {sum(sorts[sort]) / MIB:8.2f} MiB" for sort in sorted(sorts)]
