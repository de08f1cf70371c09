"""Real, unmodified KubeVirt for the local cluster, and a real guest: built from its Go module and Debian packages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.kubevirt import debian, guestdisk, images, parts, programs
from tests.cluster.kubevirt.install import install as _install
from tests.cluster.paths import cache_dir

__all__ = ["ensure_built", "guest_image", "image_archives", "install"]


def ensure_built(cache: Path) -> None:
    """Have programs, images, manifest and guest in the cache; minutes when cold, at once when they are there.

    Raises ClusterError naming what is missing on the host, or the step that failed.
    """
    if guestdisk.is_cached(cache) and images.is_cached(cache) and programs.is_cached(cache):
        return
    parts.ensure_host_packages()
    with ThreadPoolExecutor(2) as pool:
        # Packages come over the network and from the disk while Go keeps the processors busy.
        roots = pool.submit(lambda: (debian.runtime_root(cache), guestdisk.image(cache)))
        programs.programs(cache)
        roots.result()
    images.archive(cache)


def image_archives(cache: Path) -> list[Path]:
    """The OCI archives that containerd has to import before `install`; built if needed."""
    ensure_built(cache)
    return [images.archive(cache)]


def guest_image(cache: Path) -> Path:
    """The raw disk image of the guest, to be copied onto a root disk; built if needed."""
    ensure_built(cache)
    return guestdisk.image(cache)


def install(cluster: Cluster) -> None:
    """Deploy KubeVirt in a running cluster and wait until machines can be started; harmless when repeated."""
    ensure_built(cache_dir())
    _install(cluster, cache_dir())
