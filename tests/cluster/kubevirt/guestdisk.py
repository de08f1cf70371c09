"""The guest's disk image: busybox, Debian's cloud kernel and qemu-guest-agent, without mounts or loop devices."""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path

from tests.cluster.kubevirt import debian, parts
from tests.cluster.paths import content_key

IMAGE = "guest.img"
SIZE_MIB = 64
_BOOT_MIB = 24  # A FAT file system that syslinux starts the kernel from, after one MiB of partition table.
_MIB = 2**20
_SECTOR = 512
_SOURCES = parts.HERE / "guest"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "lib64/ld-linux-x86-64.so.2"
_PROGRAMS = ("qemu-ga", "mke2fs", "e2fsck", "resize2fs", "tune2fs", "dumpe2fs")
_LINKS = {"mkfs.ext4": "mke2fs", "fsck.ext4": "e2fsck", "shutdown": "down"}
_INITRD_DRIVERS = ("virtio_pci", "virtio_blk", "ext4")
# Disks on a SCSI bus, the power button, and what KubeVirt gives each machine.
_ROOT_DRIVERS = ("virtio_scsi", "sd_mod", "virtio_console", "evdev", "button", "virtio_balloon", "virtio_rng")


def key() -> str:
    """Changes with anything that can change the image."""
    files = [path for path in sorted(_SOURCES.rglob("*")) if path.is_file()]
    named = [str(path.relative_to(_SOURCES)).encode() + b"\0" + path.read_bytes() for path in files]
    return content_key(debian.guest_root_key().encode(), Path(__file__).read_bytes(), *named)


def is_cached(cache: Path) -> bool:
    """Whether the image is there already."""
    return parts.place(cache, "guest", key()).exists()


def image(cache: Path) -> Path:
    """The raw disk image (sparse, SIZE_MIB long)."""
    return parts.cached(cache, "guest", key(), lambda target: _build(target, debian.guest_root(cache))) / IMAGE


def _build(target: Path, tar: Path) -> None:
    debian_root, root, initrd = (target / name for name in ("debian", "root", "initrd"))
    debian_root.mkdir()
    parts.run(["tar", "-C", debian_root, "-xf", tar])
    release = next((debian_root / "usr/lib/modules").iterdir()).name
    # No maintainer script ran, so that the kernel package has not listed its modules yet.
    parts.run(["depmod", "-b", debian_root, release])
    shutil.copytree(_SOURCES / "root", root)
    _fill_root(root, debian_root, release)
    shutil.copytree(_SOURCES / "initrd", initrd)
    _fill_initrd(initrd, debian_root, release)
    _write_disk(target, debian_root / f"boot/vmlinuz-{release}")
    for directory in (debian_root, root, initrd):
        shutil.rmtree(directory)


def _fill_root(root: Path, debian_root: Path, release: str) -> None:
    for name in ("proc", "sys", "dev", "run", "tmp", "mnt", "root", "var", "lib64", "lib", _LIBRARIES):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "lib/x86_64-linux-gnu").symlink_to(f"../{_LIBRARIES}")
    (root / "var/run").symlink_to("/run")
    shutil.copy(debian_root / "etc/mke2fs.conf", root / "etc/mke2fs.conf")
    shutil.copy(debian_root / "usr/lib/os-release", root / "etc/os-release")
    _install_busybox(root, debian_root)
    _install_programs(root, debian_root)
    _install_drivers(root / "lib/modules", debian_root, release, _ROOT_DRIVERS)


def _install_busybox(root: Path, debian_root: Path) -> None:
    busybox = debian_root / "usr/bin/busybox"
    shutil.copy(busybox, root / "bin/busybox")
    for applet in parts.run([busybox, "--list"]).decode().split():
        taken = applet in _PROGRAMS or any((root / place / applet).exists() for place in ("bin", "sbin"))
        if not taken:
            (root / "bin" / applet).symlink_to("busybox")


def _install_programs(root: Path, debian_root: Path) -> None:
    """Copy programs with the libraries that the dynamic loader names for them."""
    shutil.copy(debian_root / "usr" / _LOADER, root / _LOADER)
    for program in _PROGRAMS:
        shutil.copy(debian_root / "usr/sbin" / program, root / "sbin" / program)
        listing = parts.run(["chroot", debian_root, f"/{_LOADER}", "--list", f"/usr/sbin/{program}"]).decode()
        for line in listing.splitlines():
            _, arrow, found = line.strip().partition(" => ")
            if arrow and "ld-linux" not in found:
                library = Path(found.split(" ")[0])
                shutil.copy(debian_root / library.relative_to("/"), root / _LIBRARIES / library.name)
    for name, program in _LINKS.items():
        (root / "sbin" / name).symlink_to(program)


def _install_drivers(target: Path, debian_root: Path, release: str, drivers: tuple[str, ...]) -> None:
    """Unpack modules with what they depend on, and list them in `order` as they must be loaded; skip built-in ones."""
    target.mkdir(parents=True)
    order: list[str] = []
    for driver in drivers:
        listing = parts.run(["modprobe", "-d", debian_root, "-S", release, "--show-depends", driver]).decode()
        for words in map(str.split, listing.splitlines()):
            name = Path(words[-1]).name.removesuffix(".xz")
            if words[0] == "insmod" and name not in order:
                order.append(name)
                _unpack_module(Path(words[1]), target / name)
    (target / "order").write_text("".join(f"{name}\n" for name in order))


def _unpack_module(source: Path, target: Path) -> None:
    content = source.read_bytes()
    target.write_bytes(lzma.decompress(content) if source.suffix == ".xz" else content)


def _fill_initrd(initrd: Path, debian_root: Path, release: str) -> None:
    for name in ("bin", "dev", "new"):
        (initrd / name).mkdir()
    shutil.copy(debian_root / "usr/bin/busybox", initrd / "bin/busybox")
    _install_drivers(initrd / "modules", debian_root, release, _INITRD_DRIVERS)


def _write_disk(target: Path, kernel: Path) -> None:
    boot, root, disk = target / "boot.fat", target / "root.ext4", target / IMAGE
    _write_boot(boot, kernel, _pack_initrd(target / "initrd"))
    _allocate(root, SIZE_MIB - _BOOT_MIB - 2)
    parts.run(["mkfs.ext4", "-q", "-F", "-L", "guest", "-E", "lazy_itable_init=0", "-d", target / "root", root])
    _allocate(disk, SIZE_MIB)
    sectors = _MIB // _SECTOR
    second = (1 + _BOOT_MIB) * sectors
    table = f"label: dos\nstart={sectors},size={_BOOT_MIB * sectors},type=e,bootable\nstart={second},type=83\n"
    parts.run(["sfdisk", "-q", disk], stdin=table.encode())
    _place(boot, disk, 1)
    _place(root, disk, 1 + _BOOT_MIB)
    with disk.open("r+b") as stream:
        stream.write(Path("/usr/lib/syslinux/mbr/mbr.bin").read_bytes()[:440])
    parts.run(["syslinux", "--install", "--offset", str(_MIB), disk])
    boot.unlink()
    root.unlink()


def _write_boot(boot: Path, kernel: Path, initrd: bytes) -> None:
    _allocate(boot, _BOOT_MIB)
    parts.run(["mkfs.vfat", "-n", "BOOT", boot])
    parts.run(["mcopy", "-i", boot, kernel, "::/vmlinuz"])
    parts.run(["mcopy", "-i", boot, _SOURCES / "syslinux.cfg", "::/syslinux.cfg"])
    parts.run(["mcopy", "-i", boot, "-", "::/initrd"], stdin=initrd)


def _pack_initrd(directory: Path) -> bytes:
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
    packed = parts.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=directory, stdin="\n".join(names).encode())
    return gzip.compress(packed, compresslevel=1)


def _allocate(path: Path, mebibytes: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(mebibytes * _MIB)


def _place(part: Path, disk: Path, at_mebibyte: int) -> None:
    options = ["bs=1M", f"seek={at_mebibyte}", "conv=notrunc,sparse", "status=none"]
    parts.run(["dd", f"if={part}", f"of={disk}", *options])
