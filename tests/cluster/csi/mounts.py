"""Mounts and file systems of the node, by the system's own programs."""

import ctypes
import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.cluster.csi.errors import CsiError
from tests.cluster.csi.loop import LoopDevice

FILE_SYSTEMS = ("ext4", "xfs")
# mkfs.xfs refuses anything smaller.
SMALLEST = {"ext4": 8 << 20, "xfs": 300 << 20}
_MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
}
# A clone has the UUID of its source, and both may be mounted at once.
_OPTIONS = {"ext4": (), "xfs": ("nouuid",)}
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo: `device` is st_dev of the file system, `root` the folder or file of it."""

    device: int
    root: str
    point: Path
    options: frozenset[str]
    type: str


def run(*command: str | Path) -> str:
    """Runs a program and answers its output; CsiError(INTERNAL) holds its complaint."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CsiError(grpc.StatusCode.INTERNAL, f"{command[0]} is missing on this machine") from error
    if done.returncode:
        text = (done.stderr or done.stdout).strip()
        raise CsiError(grpc.StatusCode.INTERNAL, f"{' '.join(map(str, command))}: exit {done.returncode}: {text}")
    return done.stdout


def _unescape(text: str) -> str:
    return text.encode().decode("unicode_escape").encode("latin-1").decode()


def _parse(line: str) -> Mount:
    left, right = line.split(" - ", 1)
    _, _, device, root, point, options, *_ = left.split(" ")
    major, minor = device.split(":")
    type_ = right.split(" ", 1)[0]
    number = os.makedev(int(major), int(minor))
    return Mount(number, _unescape(root), Path(_unescape(point)), frozenset(options.split(",")), type_)


def mounts() -> list[Mount]:
    """The mounts of this namespace, in the order they were made."""
    return [_parse(line) for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def mount_at(point: Path) -> Mount | None:
    """The topmost mount exactly at `point`."""
    point = point.resolve()
    return next((each for each in reversed(mounts()) if each.point == point), None)


def uses(device: LoopDevice) -> list[Mount]:
    """Where the device is mounted as a file system or bound as a device node, in this namespace."""
    return [each for each in mounts() if each.device == device.device_number or _is_node(each, device)]


def _is_node(mount: Mount, device: LoopDevice) -> bool:
    if Path(mount.root).name != device.path.name:
        return False
    try:
        return mount.point.stat().st_rdev == device.device_number
    except OSError:
        return False


def bind(source: Path, target: Path, read_only: bool = False, options: tuple[str, ...] = ()) -> None:
    run("mount", "--bind", source, target)
    if read_only or options:
        extra = ",".join(("remount", "bind", *(("ro",) if read_only else ()), *options))
        try:
            run("mount", "-o", extra, target)
        except CsiError:
            run("umount", target)
            raise


def mount(device: Path, point: Path, fs_type: str, options: tuple[str, ...] = ()) -> None:
    chosen = (*_OPTIONS.get(fs_type, ()), *options)
    run("mount", "-t", fs_type, *(("-o", ",".join(chosen)) if chosen else ()), device, point)


def unmount(point: Path) -> None:
    """Unmounts everything stacked at `point`; nothing mounted there is fine."""
    while mount_at(point):
        run("umount", point)


def probe(device: Path) -> str:
    """The type of what is on the device ("ext4", "dos", …), "" if blkid finds nothing."""
    command = ["blkid", "-p", "-o", "export", str(device)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise CsiError(grpc.StatusCode.INTERNAL, f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    facts = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return facts.get("TYPE") or facts.get("PTTYPE", "")


def make_file_system(device: Path, fs_type: str) -> None:
    """Puts a file system on an empty device; one that holds something else is never overwritten."""
    found = probe(device)
    if found and found != fs_type:
        wanted = f"{device} holds {found}, not {fs_type}; mount it with the fsType it was made with"
        raise CsiError(grpc.StatusCode.FAILED_PRECONDITION, wanted)
    if not found:
        run(*_MKFS[fs_type], device)


def grow_unmounted(device: Path, fs_type: str) -> None:
    """Grows a file system to the size of its device before it is mounted, where the type allows that."""
    if fs_type != "ext4":
        return
    # Replays the journal of a clone and repairs what is safe to repair; exit 1 says that it did.
    check = subprocess.run(["e2fsck", "-p", str(device)], capture_output=True, text=True, check=False)
    if check.returncode > 1:
        raise CsiError(grpc.StatusCode.INTERNAL, f"e2fsck -p {device}: exit {check.returncode}: {check.stdout.strip()}")
    run("resize2fs", "-f", device)


def grow_mounted(device: Path, point: Path, fs_type: str) -> None:
    """Grows a mounted file system to the size of its device; nothing happens if it fills it already.

    Raises FAILED_PRECONDITION where the machine withholds CAP_SYS_RESOURCE, which ext4 asks for: Kubernetes then waits
    for the volume to be mounted anew, and grow_unmounted does it.
    """
    if fs_type == "xfs":
        run("xfs_growfs", point)
    if fs_type == "ext4":
        try:
            run("resize2fs", device)
        except CsiError as error:
            if "Permission denied" not in str(error):
                raise
            later = f"ext4 at {point} cannot grow while mounted, without CAP_SYS_RESOURCE; it grows at the next mount"
            raise CsiError(grpc.StatusCode.FAILED_PRECONDITION, later) from error


def sync(point: Path) -> None:
    """Writes everything of the file system at `point` to its device (syncfs)."""
    fd = os.open(point, os.O_RDONLY)
    try:
        if _libc.syncfs(fd):
            raise OSError(ctypes.get_errno() or errno.EIO, "syncfs failed", str(point))
    finally:
        os.close(fd)
