"""Debian root file systems, extracted without running their maintainer scripts: the runtime of the images, and what the
guest is taken from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.cluster.kubevirt import parts
from tests.cluster.paths import content_key

TAR = "root.tar"
_UNWANTED = ("doc", "man", "locale", "info", "bash-completion")

RUNTIME_PACKAGES = (
    # A base to run shell scripts of KubeVirt's on.
    *("base-files", "base-passwd", "bash", "dash", "coreutils", "libc-bin", "util-linux", "mount", "grep", "sed"),
    *("gawk", "findutils", "procps", "psmisc", "tar", "gzip", "hostname", "diffutils", "debianutils", "jq"),
    # What virt-handler and virt-launcher call.
    *("iproute2", "nftables", "iptables", "kmod", "acl", "attr", "xorriso", "e2fsprogs", "openssl"),
    *("ca-certificates", "netbase"),
    # Libvirt and QEMU.
    *("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-daemon-log", "libvirt-clients"),
    *("qemu-system-x86", "qemu-utils", "seabios"),
    # The TPM of machines that have one.
    *("swtpm", "swtpm-tools"),
)
GUEST_PACKAGES = ("base-files", "linux-image-cloud-amd64", "qemu-guest-agent", "e2fsprogs", "busybox-static")

# What the maintainer scripts would have done, and virtqemud: Debian has the one libvirtd for all drivers, and KubeVirt
# looks for a process of that name, so that a copy of libvirtd bears it.
_RUNTIME_HOOK = """
set -e
cd "$1"
rm -rf var/run var/lock
ln -s /run var/run
ln -s /run/lock var/lock
mkdir -p run/lock
chmod 1777 run/lock
ldconfig -r .
for name in iptables ip6tables iptables-save iptables-restore ip6tables-save ip6tables-restore; do
  [ -e usr/sbin/$name ] || ln -s $name-nft usr/sbin/$name
done
[ -e usr/bin/awk ] || ln -s gawk usr/bin/awk
ln -s qemu-system-x86_64 usr/bin/qemu-kvm
mkdir -p usr/lib/kubevirt
cp usr/sbin/libvirtd usr/lib/kubevirt/virtqemud
rm usr/bin/qemu-system-i386 usr/bin/qemu-system-x86_64-microvm
"""


def runtime_root_key() -> str:
    """Changes with what the runtime root is made of."""
    return content_key(parts.DEBIAN_SUITE.encode(), " ".join(RUNTIME_PACKAGES).encode(), _RUNTIME_HOOK.encode())


def runtime_root(cache: Path) -> Path:
    """The tar of the root file system that all five images of KubeVirt share; about 240 MB."""
    built = parts.cached(
        cache, "runtime-root", runtime_root_key(), lambda to: _extract(to, RUNTIME_PACKAGES, _RUNTIME_HOOK)
    )
    return built / TAR


def guest_root_key() -> str:
    """Changes with what the guest is taken from."""
    return content_key(parts.DEBIAN_SUITE.encode(), " ".join(GUEST_PACKAGES).encode())


def guest_root(cache: Path) -> Path:
    """The tar that holds the guest's kernel, modules and programs; about 100 MB."""
    return parts.cached(cache, "guest-root", guest_root_key(), lambda to: _extract(to, GUEST_PACKAGES, "true")) / TAR


def _extract(target: Path, packages: tuple[str, ...], hook: str) -> None:
    """Extract packages and what they depend on into `target`/root.tar."""
    excludes = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in _UNWANTED]
    command: list[str | Path] = [
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        "--mode=root",
        "--skip=output/dev",
        *excludes,
    ]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".mmdebstrap-") as scratch:
        Path(scratch).chmod(0o755)  # The sandbox user of apt has to get through it.
        wanted: list[str | Path] = [
            f"--include={','.join(packages)}",
            f"--extract-hook={hook}",
            parts.DEBIAN_SUITE,
            target / TAR,
        ]
        parts.run(["env", f"TMPDIR={scratch}", *command, *wanted])
