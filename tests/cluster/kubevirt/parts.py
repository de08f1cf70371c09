"""What the KubeVirt part is made of: versions, host packages, and a cache whose entries are whole or absent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import host
from tests.cluster.paths import locked
from tests.cluster.progress import ClusterError, say

VERSION = "v1.7.0"
NAMESPACE = "kubevirt"
IMAGE_PREFIX = "localhost/kubevirt"
# Libvirt and QEMU come from this release: its QEMU 10 emulates without the guest panics that 7.2 has.
DEBIAN_SUITE = "trixie"
KEY_LENGTH = 12
_KEPT_VERSIONS = 2
HERE = Path(__file__).resolve().parent

# What building needs on Debian 12, each with a file or command that shows that it is there.
BUILD_PACKAGES = {
    "libvirt-dev": "/usr/include/libvirt/libvirt.h",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "pkg-config": "pkg-config",
    "mmdebstrap": "mmdebstrap",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "syslinux": "syslinux",
    "syslinux-common": "/usr/lib/syslinux/mbr/mbr.bin",
    "mtools": "mcopy",
    "dosfstools": "mkfs.vfat",
    "e2fsprogs": "mkfs.ext4",
    "fdisk": "sfdisk",
    "cpio": "cpio",
    "kmod": "depmod",
}


def ensure_host_packages() -> None:
    """Install what building needs; raise ClusterError with the command when that is not possible."""
    host.ensure_packages(tuple(BUILD_PACKAGES), BUILD_PACKAGES)


def place(cache: Path, name: str, key: str) -> Path:
    """Where a part lies, whether it is there or not."""
    return cache / "kubevirt" / f"{name}-{key}"


def cached(cache: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `name`-`key` under the cache; `build` fills a temporary one, renamed when it is complete."""
    target = place(cache, name, key)
    if target.exists():
        return target
    with locked(f"kubevirt-{name}"):
        if not target.exists():
            _build(target, name, build)
    return target


def _build(target: Path, name: str, build: Callable[[Path], None]) -> None:
    say(f"kubevirt: building {name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{name}.building")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    build(temporary)
    temporary.rename(target)
    say(f"kubevirt: {name} is built")
    _forget_old(target.parent, name)


def _forget_old(folder: Path, name: str) -> None:
    """Keep the newest versions of a part; others are hundreds of megabytes that no checkout is likely to ask for."""
    versions = sorted(folder.glob(f"{name}-{'?' * KEY_LENGTH}"), key=lambda path: path.stat().st_mtime)
    for version in versions[:-_KEPT_VERSIONS]:
        shutil.rmtree(version)


def run(command: Sequence[str | Path], cwd: Path | None = None, stdin: bytes | None = None) -> bytes:
    """Run a host program and return what it prints; raise ClusterError with its error output if it fails."""
    words = [str(word) for word in command]
    environment = os.environ | {"PATH": host.search_path()}
    done = subprocess.run(words, cwd=cwd, input=stdin, capture_output=True, check=False, env=environment)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise ClusterError(f"`{' '.join(words)}` exited with {done.returncode}: {reason}")
    return done.stdout
