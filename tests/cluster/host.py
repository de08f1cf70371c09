"""What the host must have: checked before anything starts, and each missing thing named with the way to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.paths import cache_dir, locked
from tests.cluster.progress import ClusterError, say

# Debian packages of the cluster, with a file that shows that each is there (dpkg is slower, and not on every host).
PACKAGES = {
    "etcd-server": "etcd",
    "util-linux": "setpriv",
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "iproute2": "ip",
    "procps": "sysctl",
    "mount": "mount",
    "xfsprogs": "mkfs.xfs",
    "e2fsprogs": "mkfs.ext4",
    "mmdebstrap": "mmdebstrap",
    "buildah": "buildah",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
}
NEEDED_FILESYSTEMS = ("overlay", "xfs")
NEEDED_NAMESPACES = ("pid", "mnt", "net", "uts")
MEMORY_GIB = 4
DISK_GIB = 15
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def search_path() -> str:
    """PATH with the administrator's directories, which a root shell made by su lacks."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{_SBIN}"


def ensure_packages(names: tuple[str, ...], evidence: Mapping[str, str] = PACKAGES) -> None:
    """Install the Debian packages among `names` that are missing; without root or apt, say how to install them.

    `evidence` gives for each package a command or an absolute path that is there when the package is.
    """
    missing = [name for name in names if not _present(evidence[name])]
    if not missing:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(f"missing on this machine: {', '.join(missing)}. As root on Debian 12: {command}")
    with locked("apt"):
        say(f"installing {', '.join(missing)}")
        _apt_install(missing)
    still = [name for name in missing if not _present(evidence[name])]
    if still:
        raise ClusterError(f"apt installed {', '.join(still)}, but {evidence[still[0]]} is still not there")


def _present(evidence: str) -> bool:
    return Path(evidence).exists() if evidence.startswith("/") else bool(shutil.which(evidence, path=search_path()))


def _apt_install(packages: list[str]) -> None:
    """Install without starting the services that etcd and containerd bring: the cluster runs its own."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"`{' '.join(error.cmd)}` failed; its output is above") from error
    finally:
        if ours:
            policy.unlink()


def check_node_host() -> None:
    """Raise ClusterError naming everything that this machine lacks for a node; installs missing packages."""
    problems = [*_privileges(), *_kernel(), *_room()]
    if problems:
        raise ClusterError("this machine cannot run the local cluster:\n" + "\n".join(f"- {each}" for each in problems))
    ensure_packages(tuple(PACKAGES))


def _privileges() -> list[str]:
    if os.geteuid() != 0:
        return ["root is needed for namespaces, mounts and loop devices: run it with sudo"]
    return []


def _kernel() -> list[str]:
    """Kernel features; a module may still have to be loaded, which modprobe does if the kernel has it."""
    problems = [
        f"no {name} namespaces: the kernel needs CONFIG_{name.upper()}_NS"
        for name in NEEDED_NAMESPACES
        if not Path(f"/proc/self/ns/{name}").exists()
    ]
    problems += [
        f"no {name} file system: load it with `modprobe {name}`, or use a kernel that has it"
        for name in NEEDED_FILESYSTEMS
        if not _has_filesystem(name)
    ]
    if not Path("/dev/loop-control").exists():
        problems.append("no loop devices: `modprobe loop`; in a container, start it privileged with the host's /dev")
    return problems


def _has_filesystem(name: str) -> bool:
    def listed() -> bool:
        return name in Path("/proc/filesystems").read_text().split()

    if not listed() and shutil.which("modprobe", path=search_path()):
        subprocess.run(["modprobe", "-q", name], check=False, env=os.environ | {"PATH": search_path()})
    return listed()


def _room() -> list[str]:
    problems = []
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if pages < MEMORY_GIB * 0.95:
        problems.append(f"{pages:.1f} GiB of memory; {MEMORY_GIB} GiB are needed")
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free / 2**30
    if free < DISK_GIB:
        problems.append(
            f"{free:.1f} GiB free under {cache}; {DISK_GIB} GiB are needed (LONGBOAT_CACHE moves the cache)"
        )
    return problems
