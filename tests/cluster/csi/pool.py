"""The pool: an XFS with reflink, and on it a sparse file and a small JSON file for each volume and snapshot."""

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from tests.cluster.csi import loop, mounts

FICLONE = 0x40049409
MIB = 1 << 20
LARGEST_VOLUME = 16 << 40


@dataclass(frozen=True)
class Volume:
    """`size` in bytes, `created` in ns since 1970; `source` is the id of a snapshot or volume, "" for an empty one."""

    id: str
    name: str
    size: int
    created: int
    source: str = ""
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def claim(self) -> str:
        """namespace/name of the PVC, as csi-provisioner --extra-create-metadata tells it; "" if it does not."""
        return _joined(self.parameters, "csi.storage.k8s.io/pvc/")


@dataclass(frozen=True)
class Snapshot:
    """`size` in bytes; `created` is the moment of the cut, in ns since 1970; `volume` the id of its source."""

    id: str
    name: str
    size: int
    created: int
    volume: str
    claim: str = ""
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def object(self) -> str:
        """namespace/name of the VolumeSnapshot, as csi-snapshotter --extra-create-metadata tells it, or ""."""
        return _joined(self.parameters, "csi.storage.k8s.io/volumesnapshot/")


def _joined(parameters: dict[str, str], prefix: str) -> str:
    both = (parameters.get(prefix + "namespace", ""), parameters.get(prefix + "name", ""))
    return "/".join(both) if all(both) else ""


def volume_id(name: str) -> str:
    """The id is made from the name alone, so that a repeated create finds the first one without any index."""
    return "vol-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def snapshot_id(name: str) -> str:
    return "snap-" + hashlib.sha256(name.encode()).hexdigest()[:32]


Record = TypeVar("Record", Volume, Snapshot)


class Records(Generic[Record]):
    """A folder of images and their records. A record exists exactly when its JSON file does, which is written last."""

    def __init__(self, folder: Path, kind: type[Record]) -> None:
        self._folder = folder
        self._kind: type[Record] = kind
        folder.mkdir(parents=True, exist_ok=True)

    def image(self, id_: str) -> Path:
        return self._folder / f"{id_}.img"

    def get(self, id_: str) -> Record | None:
        """The record; None for an unknown id, also for one that is no file name."""
        if "/" in id_ or "\0" in id_ or len(id_) > 200:
            return None
        try:
            return self._kind(**json.loads(self._record(id_).read_text()))
        except FileNotFoundError:
            return None

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        found = (self.get(path.stem) for path in self._folder.glob("*.json"))
        return sorted((each for each in found if each), key=lambda each: (each.created, each.id))

    def create(self, id_: str, fill: Callable[[Path], Record]) -> Record:
        """Lets `fill` write the image and answer the record, then makes both visible; if that fails, neither."""
        draft = self._folder / f"{id_}.img.tmp"
        draft.unlink(missing_ok=True)
        try:
            record = fill(draft)
            draft.rename(self.image(id_))
            self.put(record)
        except BaseException:
            draft.unlink(missing_ok=True)
            self.delete(id_)
            raise
        return record

    def put(self, record: Record) -> None:
        draft = self._record(record.id).with_suffix(".json.tmp")
        try:
            draft.write_text(json.dumps(asdict(record), indent=1) + "\n")
            draft.rename(self._record(record.id))
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def delete(self, id_: str) -> None:
        self._record(id_).unlink(missing_ok=True)
        self.image(id_).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what a killed create or delete has left behind; only at start, before any call is served."""
        for path in [*self._folder.glob("*.tmp"), *self._orphans()]:
            loop.detach_over(path)
            path.unlink(missing_ok=True)

    def _orphans(self) -> Iterator[Path]:
        return (image for image in self._folder.glob("*.img") if not self._record(image.stem).exists())

    def _record(self, id_: str) -> Path:
        return self._folder / f"{id_}.json"


class Pool:
    """Volumes and snapshots under `root`, a folder on a file system with reflink."""

    def __init__(self, root: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.root, self._clock = root, clock
        self.volumes = Records(root / "volumes", Volume)
        self.snapshots = Records(root / "snapshots", Snapshot)

    def sweep(self) -> None:
        self.volumes.sweep()
        self.snapshots.sweep()

    def free(self) -> int:
        """Bytes that can still be written. Volumes are thin: their sizes may add up to more than the pool has."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def create_volume(self, name: str, size: int, parameters: dict[str, str], source: str = "") -> Volume:
        """A new volume, empty or a clone of `source` (id of a snapshot or volume) grown to `size` bytes."""

        def fill(draft: Path) -> Volume:
            draft.touch(mode=0o600)
            if source:
                self._clone(source, draft)
            os.truncate(draft, size)
            return Volume(volume_id(name), name, size, self._clock(), source, parameters)

        return self.volumes.create(volume_id(name), fill)

    def _clone(self, source: str, draft: Path) -> None:
        if self.snapshots.get(source):
            reflink(self.snapshots.image(source), draft)
        else:
            self.flush(source)
            reflink(self.volumes.image(source), draft)

    def create_snapshot(self, name: str, volume: Volume, parameters: dict[str, str]) -> Snapshot:
        """Cuts a snapshot: what was acknowledged before its `created` is in, what was issued after the call is not."""
        self.flush(volume.id)

        def fill(draft: Path) -> Snapshot:
            draft.touch(mode=0o600)
            cut = self._clock()
            reflink(self.volumes.image(volume.id), draft)
            size = draft.stat().st_size
            return Snapshot(snapshot_id(name), name, size, cut, volume.id, volume.claim, parameters)

        return self.snapshots.create(snapshot_id(name), fill)

    def flush(self, id_: str) -> None:
        """Brings what was written through the page cache to the volume's file, before a cut.

        Writes with direct I/O are in the file when they are acknowledged. A file system mounted on the node, or a
        program that writes to the device through the page cache, has its newest writes above the loop device, where
        FICLONE cannot see them. What is still below, dirty pages of the file and direct writes under way, FICLONE
        waits for by itself, and it keeps writers out while it runs.
        """
        for device in loop.over(self.volumes.image(id_)):
            for each in mounts.uses(device):
                if each.device == device.device_number:
                    with suppress(FileNotFoundError):
                        mounts.sync(each.point)
                        break
            loop.flush(device)

    def grow_volume(self, volume: Volume, size: int) -> Volume:
        """Makes the volume's file larger; the node grows the loop device and the file system afterwards."""
        os.truncate(self.volumes.image(volume.id), size)
        grown = Volume(**{**asdict(volume), "size": size})
        self.volumes.put(grown)
        return grown


def reflink(source: Path, target: Path) -> None:
    """Makes `target` share all blocks of `source`, in one step of which no writer sees the middle."""
    with source.open("rb") as read, target.open("r+b") as write:
        fcntl.ioctl(write.fileno(), FICLONE, read.fileno())


def open_pool(file: Path, point: Path, size: int) -> Path:
    """Makes the pool file (sparse, `size` bytes) if it is missing and mounts it at `point`, both only if needed."""
    if not file.exists():
        _format(file, size)
    point.mkdir(parents=True, exist_ok=True)
    if not mounts.mount_at(point):
        device = loop.attach(file)
        # Freed blocks go back to the file system below, or the pool file would only ever grow.
        mounts.mount(device.path, point, "xfs", ("noatime", "discard"))
    _check_reflink(point)
    return point


def _format(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".tmp")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    os.truncate(draft, size)
    mounts.run("mkfs.xfs", "-q", "-m", "reflink=1", "-K", draft)
    draft.rename(file)


def _check_reflink(point: Path) -> None:
    one, two = point / ".reflink-1", point / ".reflink-2"
    try:
        one.write_bytes(b"\0" * 4096)
        two.touch()
        reflink(one, two)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY):
            raise OSError(error.errno, "no reflink here; give a --pool file made by this driver", str(point)) from error
        # A full pool must not keep the driver from starting: deleting is what makes space.
        if error.errno != errno.ENOSPC:
            raise
    finally:
        one.unlink(missing_ok=True)
        two.unlink(missing_ok=True)
