"""What a driver leaves in the kernel when its node is killed: loop devices, found and detached from outside."""

import json
from pathlib import Path

from tests.cluster.csi import loop, mounts
from tests.cluster.csi.loop import LoopDevice

RECORD = "driver.json"


def record_pool(state: Path, pool: Path) -> None:
    """Notes in the state folder which pool the driver uses, for detach_all."""
    (state / RECORD).write_text(json.dumps({"pool": str(pool.resolve())}) + "\n")


def recorded_pool(state: Path) -> Path | None:
    try:
        return Path(json.loads((state / RECORD).read_text())["pool"])
    except FileNotFoundError:
        return None


def devices_of(pool: Path) -> list[LoopDevice]:
    """The loop device of the pool, then those over files in it, then those over these, as the kubelet makes them.

    They are found by device numbers, for the paths of files in a mount namespace that is gone say nothing; and they
    are found without mounting anything, on the host as well as inside the node.
    """
    everything = list(loop.attached())
    found = [each for each in everything if _is_over(each, pool)]
    for device in found:
        above = [each for each in everything if device.device_number in (each.device, each.target)]
        found.extend(each for each in above if each not in found)
    return found


def _is_over(device: LoopDevice, pool: Path) -> bool:
    if pool.exists():
        status = pool.stat()
        return (device.device, device.inode) == (status.st_dev, status.st_ino)
    backing = loop.SYS / f"loop{device.number}" / "loop" / "backing_file"
    try:
        return backing.read_text().strip() == f"{pool} (deleted)"
    except OSError:
        return False


def detach_all(state: Path, timeout: float = 10.0) -> None:
    """Unmounts (in this mount namespace) and detaches everything of the driver whose state folder this is.

    To be called when the driver has ended and its node's mount namespace is gone. A second call, or one for a driver
    that never ran, does nothing. Raises RuntimeError naming what is still attached after `timeout` seconds.
    """
    pool = recorded_pool(state)
    if not pool:
        return
    found = devices_of(pool)
    for device in reversed(found):
        for mount in reversed(mounts.uses(device)):
            mounts.unmount(mount.point)
        loop.detach(device)
    left = loop.wait_gone(found, timeout)
    if left:
        names = ", ".join(f"/dev/loop{each.number}" for each in left)
        raise RuntimeError(f"{names} of {pool}: still in use after {timeout} s; end the processes of the node first")
