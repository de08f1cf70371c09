"""The images: KubeVirt's five over one Debian root and one layer of programs, and one with the guest's disk."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

from tests.cluster.kubevirt import debian, guestdisk, oci, parts, programs
from tests.cluster.paths import content_key

ARCHIVE = "kubevirt.tar"
# Numeric, since the kubelet has to see that runAsNonRoot holds; virt-handler and virt-launcher start as root.
USERS = {
    "virt-operator": "1001",
    "virt-api": "1001",
    "virt-controller": "1001",
    "virt-handler": "0",
    "virt-launcher": "0",
}

# Both qemu and libvirt-qemu must exist: libvirt looks up the user it was compiled with before it reads its settings.
_PASSWD = """\
root:x:0:0:root:/root:/bin/bash
qemu:x:107:107:qemu:/home/qemu:/bin/bash
nonroot-user:x:1001:1001:nonroot-user:/home/nonroot-user:/bin/bash
libvirt-qemu:x:64055:107:Libvirt Qemu:/var/lib/libvirt:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = """\
root:x:0:
tty:x:5:
disk:x:6:
kvm:x:36:qemu
qemu:x:107:
libvirt:x:108:
nonroot-user:x:1001:
libvirt-qemu:x:64055:
nogroup:x:65534:
"""
# virt-launcher connects to the socket of the modular daemon; libvirtd serves the same protocol under its own name.
_VIRTQEMUD = """\
#!/bin/bash
mkdir -p /var/run/libvirt
ln -sfn libvirt-sock /var/run/libvirt/virtqemud-sock
ln -sfn libvirt-admin-sock /var/run/libvirt/virtqemud-admin-sock
exec /usr/lib/kubevirt/virtqemud "$@"
"""
# Where the image of the guest's disk has it.
GUEST_DISK = "/guest.img"
_CAP_NET_BIND_SERVICE = 10
_QEMU_UID = 107


def key() -> str:
    """Changes with anything that can change the images."""
    sources = [Path(module).read_bytes() for module in (__file__, oci.__file__)]
    return content_key(*sources, *[key().encode() for key in (programs.key, debian.runtime_root_key, guestdisk.key)])


def guest_disk_image() -> str:
    """The name of the image that holds the guest's disk as GUEST_DISK, and programs to copy it with."""
    return f"localhost/longboat-guest-disk:{guestdisk.key()}"


def names() -> list[str]:
    """The full names of all images."""
    return [*(f"{parts.IMAGE_PREFIX}/{name}:{parts.VERSION}" for name in USERS), guest_disk_image()]


def is_cached(cache: Path) -> bool:
    """Whether the archive is there already."""
    return parts.place(cache, "images", key()).exists()


def archive(cache: Path) -> Path:
    """The OCI archive of all images; about 700 MB, most of which they share."""
    return parts.cached(cache, "images", key(), lambda target: _build(target, cache)) / ARCHIVE


def _build(target: Path, cache: Path) -> None:
    root, overlay, guest = debian.runtime_root(cache), target / "overlay.tar", target / "guest.tar"
    _write_overlay(overlay, programs.programs(cache))
    with tarfile.open(guest, "w") as tar:
        _add_file(tar, GUEST_DISK.strip("/"), guestdisk.image(cache).read_bytes(), 0o644)
    kubevirt = [
        oci.Image(f"{parts.IMAGE_PREFIX}/{name}:{parts.VERSION}", user, (root, overlay)) for name, user in USERS.items()
    ]
    oci.write_archive(target / ARCHIVE, [*kubevirt, oci.Image(guest_disk_image(), "107", (root, guest))])
    overlay.unlink()
    guest.unlink()


def _write_overlay(overlay: Path, built: Path) -> None:
    with tarfile.open(overlay, "w", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("home", "home/qemu", "var/lib/swtpm-localca", "etc/libvirt", "etc/libvirt/hooks"):
            _add_directory(tar, directory, _QEMU_UID if directory == "home/qemu" else 0)
        for name in (*programs.IN_IMAGES, programs.CONTAINER_DISK):
            _add_file(tar, f"usr/bin/{name}", (built / name).read_bytes(), 0o755, _capability(name))
        for place in programs.CONFIGURATION.values():
            mode = 0o644 if place.endswith(".conf") else 0o755
            _add_file(tar, place, (built / "image" / place).read_bytes(), mode)
        _add_file(tar, "etc/passwd", _PASSWD.encode(), 0o644)
        _add_file(tar, "etc/group", _GROUP.encode(), 0o644)
        _add_file(tar, "usr/sbin/virtqemud", _VIRTQEMUD.encode(), 0o755)


def _capability(name: str) -> dict[str, str]:
    """The PAX header that gives virt-launcher-monitor the file capability it has in KubeVirt's own image.

    The value is the kernel's vfs_cap_data, revision 2, effective: five little-endian words of which only the magic and
    the first permitted one are set. All its bytes are ASCII, so that tarfile's UTF-8 keeps them.
    """
    if name != "virt-launcher-monitor":
        return {}
    value = struct.pack("<5I", 0x02000001, 1 << _CAP_NET_BIND_SERVICE, 0, 0, 0)
    return {"SCHILY.xattr.security.capability": value.decode("ascii")}


def _add_directory(tar: tarfile.TarFile, name: str, owner: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, owner, owner
    tar.addfile(entry)


def _add_file(
    tar: tarfile.TarFile, name: str, content: bytes, mode: int, headers: dict[str, str] | None = None
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.pax_headers = len(content), mode, headers or {}
    tar.addfile(entry, io.BytesIO(content))
