"""A restored device holds the backup and nothing else, whatever it held before and whatever it can or can't do."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from pathlib import Path
from random import Random

import pytest

from longboat.mover import target
from longboat.mover.errors import MoverError, TargetBusyError, TargetFullError, TargetTooSmallError, TargetWriteError
from longboat.mover.restore_disk import run_restore
from longboat.mover.results import RestoreResult
from longboat.mover.target import open_device, open_image
from longboat.repository import ObjectStore
from longboat.repository.errors import StoreFailureError
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.unit.mover.disks import BLOCK, export, repository_in, restore_job, write_image

from .conftest import MakeDevice

MIB = 1 << 20
SIZE = 16 * MIB + 512  # As large as a device can be that ends between two blocks.
LARGER = 24 * MIB


class World:
    """A backup of a disk with data and holes of many lengths."""

    def __init__(self, folder: Path) -> None:
        noise = Random(3)
        content = {at * BLOCK: noise.randbytes(noise.randint(1, 9 * BLOCK)) for at in range(0, 4000, 21)}
        content[SIZE - 50] = b"the end"
        source = write_image(
            folder / "source", {at: data for at, data in content.items() if at < SIZE - 9 * BLOCK}, SIZE
        )
        self.store = MemoryStore()
        self.key = repository_in(self.store).master_key
        self.image = (source / "disk.img").read_bytes()
        self.manifest = export(self.store, self.key, source, "one").manifest

    def restore(self, path: Path, store: ObjectStore | None = None, **more: object) -> RestoreResult:
        return run_restore(restore_job(self.key, self.manifest, path, **more), store or self.store, lambda _: None)

    def holds(self, path: Path) -> bool:
        """Tell whether a device holds the backup, and zeros after it; read from the medium."""
        dumped = subprocess.run(
            ["dd", f"if={path}", "iflag=direct", "bs=1M", "status=none"], capture_output=True, check=True
        )
        return dumped.stdout == self.image + bytes(len(dumped.stdout) - len(self.image))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def _refusing(code: int) -> object:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.fixture(params=["punched", "zeroed-out", "written", "failing"])
def zeroing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Devices that can punch holes, that can only zero out, that can do neither, and whose attempts fail."""
    code = errno.EIO if request.param == "failing" else errno.EOPNOTSUPP
    if request.param != "punched":
        monkeypatch.setattr(target, "punch_hole", _refusing(code))
    if request.param in {"written", "failing"}:
        monkeypatch.setattr(target, "zero_out", _refusing(code))
    return str(request.param)


@pytest.mark.usefixtures("zeroing")
@pytest.mark.parametrize("size", [SIZE, LARGER])
def test_a_used_device_holds_the_backup_and_zeros_after_it(world: World, make_device: MakeDevice, size: int) -> None:
    device = make_device(size)
    world.restore(device)
    assert world.holds(device)


@pytest.mark.usefixtures("zeroing")
def test_a_thin_volume_stays_thin(world: World, make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(1 << 30, thin=True)
    world.restore(device)
    assert world.holds(device)
    assert (tmp_path / "device-0").stat().st_blocks * 512 < 2 * len(world.image)


def test_an_interrupted_restore_of_a_device_goes_on(
    world: World, make_device: MakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longboat.mover.restore_plan.MAX_RANGE", 0)
    # One after the other: what was fetched before the failure is written, whatever the threads do.
    monkeypatch.setattr("longboat.mover.restore_pipeline.FETCHES", 1)
    device, counter = make_device(LARGER), FaultyStore(world.store)
    whole = world.restore(make_device(LARGER), counter)
    with pytest.raises(StoreFailureError):
        world.restore(device, FaultyStore(world.store, "fails", counter.operations - 2))
    rest = world.restore(device)
    assert rest.kept_bytes > 0 and rest.written_bytes < whole.written_bytes
    assert world.holds(device)


def test_a_complete_device_is_read_but_not_written(world: World, make_device: MakeDevice) -> None:
    device = make_device(LARGER)
    world.restore(device)
    again = world.restore(device)
    assert (again.written_bytes, again.read_bytes) == (0, 0)
    assert world.holds(device)


def test_what_came_only_into_the_page_cache_is_not_taken_for_written(world: World, make_device: MakeDevice) -> None:
    device = make_device(SIZE)
    backing = Path(f"/sys/block/{device.name}/loop/backing_file").read_text().strip()
    world.restore(device)
    # The page cache keeps the restored bytes, as it does after a failed write; the medium has others.
    with device.open("rb") as opened, mmap.mmap(opened.fileno(), SIZE, prot=mmap.PROT_READ) as cached:
        assert cached[:] == world.image
        with Path(backing).open("r+b") as medium:
            medium.seek(8 * MIB)
            medium.write(b"\xff" * 4 * MIB)
            os.fsync(medium.fileno())
        assert cached[:] == world.image
        world.restore(device)
    assert world.holds(device)


def test_a_device_that_is_too_small_is_left_alone(world: World, make_device: MakeDevice) -> None:
    device = make_device(15 * MIB)
    with pytest.raises(TargetTooSmallError, match=str(SIZE)):
        world.restore(device)
    assert device.read_bytes() == b"\xff" * 15 * MIB


def test_a_device_in_use_is_refused_if_that_is_asked_for(make_device: MakeDevice, tmp_path: Path) -> None:
    device = make_device(64 * MIB, thin=True)
    subprocess.run(["mkfs.ext4", "-q", str(device)], check=True)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", str(device), str(mounted)], check=True)
    try:
        with pytest.raises(TargetBusyError, match="is in use"):
            open_device(device, MIB, exclusive=True)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    open_device(device, MIB, exclusive=True).close()


def test_a_thin_device_whose_pool_is_full_fails_the_restore(
    world: World, make_device: MakeDevice, small_volume: Path
) -> None:
    (small_volume / "other").write_bytes(b"x" * 7 * MIB)
    device = make_device(LARGER, thin=True, folder=small_volume)
    with pytest.raises(MoverError) as caught:
        world.restore(device)
    assert isinstance(caught.value, TargetWriteError | TargetFullError)
    assert str(device) in str(caught.value)


def test_a_file_system_that_fills_up_leaves_no_image(world: World, small_volume: Path) -> None:
    opened = open_image(small_volume / "disk.img", 6 * MIB, 0, False)
    with pytest.raises(TargetFullError, match="more space"):
        for at in range(0, 9 * MIB, MIB):
            opened.write(at, memoryview(b"x" * MIB))
    opened.close()
    with pytest.raises(TargetTooSmallError):
        world.restore(small_volume)
    assert not (small_volume / "disk.img").exists()
