"""A restore goes on where an interrupted one has ended, and notices a volume that does not keep what it is given."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from longboat.mover import restore_disk, restore_sample, target
from longboat.mover.errors import (
    MoverError,
    TargetBusyError,
    TargetFullError,
    TargetMismatchError,
    TargetReadError,
    TargetWriteError,
)
from longboat.mover.progress import Progress
from longboat.mover.restore_damage import Damage
from longboat.mover.restore_disk import run_restore, write_disk
from longboat.mover.restore_sample import Expected, Reservoir
from longboat.mover.system_calls import AlignedBuffer
from longboat.mover.target import DeviceTarget, Write, open_image, partial_path
from longboat.repository import read_disk_manifest
from longboat.repository.errors import DamagedError, StoreFailureError
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import PACKS
from longboat.repository.object_store import Data
from tests.fakes.object_store import FaultyStore, MemoryStore

from .disks import BLOCK, export, repository_in, restore_job, write_image

BLOCKS = 600
SIZE = BLOCKS * BLOCK + 700


class CountingStore(MemoryStore):
    """Counts the bytes of packs that are read."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self.objects, self.pack_bytes = store.objects, 0

    def get_range(self, name: str, offset: int, length: int) -> Data:
        if PACKS in name:
            self.pack_bytes += length
        return super().get_range(name, offset, length)


class World:
    """A backup of a disk with data that does not compress, holes, and an end that is no multiple of anything."""

    def __init__(self, folder: Path) -> None:
        noise = Random(7)
        content = {i * BLOCK: noise.randbytes(BLOCK) for i in range(BLOCKS) if i % 40 < 30}
        content[SIZE - 100] = b"the end"
        self.folder, self.store = folder, MemoryStore()
        self.repository = repository_in(self.store)
        self.key = self.repository.master_key
        source = write_image(folder / "source", content, SIZE)
        self.image = (source / "disk.img").read_bytes()
        self.manifest = export(self.store, self.key, source, "one").manifest
        self.target = folder / "target"
        self.target.mkdir()
        self.partial = partial_path(self.target / "disk.img")

    def restore(self, store: MemoryStore | FaultyStore | None = None, **more: object) -> restore_disk.RestoreResult:
        job = restore_job(self.key, self.manifest, self.target, **more)
        return run_restore(job, store or self.store, lambda _: None)

    def restored(self) -> bytes:
        return (self.target / "disk.img").read_bytes()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # One frame for each fetch, so that an interruption finds some of them done.
    monkeypatch.setattr("longboat.mover.restore_plan.MAX_RANGE", 0)
    monkeypatch.setattr("longboat.mover.export_frames.FRAME_TARGET", 8 * BLOCK)
    return World(tmp_path)


def test_nothing_that_is_there_already_is_fetched_or_written_again(world: World) -> None:
    whole = world.restore()
    (world.target / "disk.img").rename(world.partial)
    store = CountingStore(world.store)
    again = world.restore(store)
    assert world.restored() == world.image
    assert (again.written_bytes, again.read_bytes, store.pack_bytes) == (0, 0, 0)
    assert again.kept_bytes >= whole.written_bytes > 0


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_interrupted_restore_goes_on_with_what_is_missing(world: World, share: float) -> None:
    counter = FaultyStore(world.store)
    whole = world.restore(counter)
    (world.target / "disk.img").unlink()
    with pytest.raises(StoreFailureError):
        world.restore(FaultyStore(world.store, "fails", int(counter.operations * share)))
    assert world.partial.exists() and not (world.target / "disk.img").exists()
    rest = world.restore()
    assert world.restored() == world.image
    assert rest.kept_bytes > 0 and rest.written_bytes < whole.written_bytes
    assert not world.partial.exists()


@pytest.mark.parametrize("left", [b"", b"\xff" * 100, b"\xff" * (2 * SIZE)])
def test_a_partial_image_of_any_content_and_length_ends_as_the_backup(world: World, left: bytes) -> None:
    world.partial.write_bytes(left)
    world.restore()
    assert world.restored() == world.image


@pytest.mark.parametrize("punching", [True, False])
def test_what_an_earlier_attempt_left_where_holes_belong_is_gone(
    world: World, punching: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not punching:
        monkeypatch.setattr(target, "punch_hole", _unsupported)
    world.partial.write_bytes(world.image[: 32 * BLOCK] + b"\xee" * (SIZE - 32 * BLOCK))
    world.restore(targetSize=SIZE + 5 * BLOCK)
    assert world.restored() == world.image + bytes(5 * BLOCK)


def test_a_partial_image_that_is_a_link_leads_nowhere(world: World) -> None:
    (world.folder / "precious").write_bytes(b"precious")
    world.partial.symlink_to(world.folder / "precious")
    world.restore()
    assert world.restored() == world.image
    os.link(world.folder / "precious", world.partial)
    world.restore(replaceExisting=True)
    assert (world.folder / "precious").read_bytes() == b"precious"


def test_two_restores_never_write_one_image(world: World) -> None:
    with world.partial.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TargetBusyError, match="another restore"):
            world.restore()
    world.restore()
    assert world.restored() == world.image


def test_an_image_that_was_finished_meanwhile_is_not_written_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def finished(handle: int, how: int) -> None:
        world.partial.rename(world.target / "disk.img")
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", finished)
    with pytest.raises(MoverError):
        open_image(world.target / "disk.img", SIZE, 0, False)
    assert (world.target / "disk.img").stat().st_size == 0


def _unsupported(*_: object) -> None:
    raise OSError(95, "not supported")


class Forgetful(DeviceTarget):
    """A file written as a device is; it acknowledges writes from `start` on and forgets them."""

    def __init__(self, path: Path, size: int, start: int) -> None:
        path.write_bytes(bytes(size))
        super().__init__(path, os.open(path, os.O_RDWR), size)
        self._start = start

    @contextlib.contextmanager
    def gather(self) -> Iterator[Write]:
        with super().gather() as write:
            yield lambda offset, data: write(offset, data) if offset + len(data) <= self._start else None


def test_a_volume_that_forgets_what_was_written_is_noticed(world: World) -> None:
    reader = FollowingMapReader(world.repository, read_disk_manifest(world.repository, world.manifest))
    forgetful = Forgetful(world.folder / "device", SIZE, SIZE // 2)
    with pytest.raises(TargetMismatchError, match=r"at byte \d+ what was written"):
        write_disk(world.repository, reader, forgetful, Progress(SIZE, lambda _: None))
    forgetful.close()


def test_a_hole_that_does_not_read_as_zeros_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "punch_hole", lambda *_: None)
    world.partial.write_bytes(b"\xee" * SIZE)
    with pytest.raises(TargetMismatchError):
        world.restore()
    assert not (world.target / "disk.img").exists()


def test_the_sample_is_drawn_from_the_whole_disk() -> None:
    reservoir = Reservoir(50, Random(1))
    for number in range(5000):
        at = reservoir.place()
        if at is not None:
            reservoir.put(at, Expected(number, 1, None))
    numbers = [each.offset for each in reservoir.items]
    assert len(set(numbers)) == 50
    assert min(numbers) < 1000 and max(numbers) > 4000


def test_what_is_read_back_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longboat.mover.restore_pipeline.DATA_SAMPLE", 5)
    monkeypatch.setattr("longboat.mover.restore_pipeline.HOLE_SAMPLE", 2)
    assert 3 * BLOCK < world.restore().checked_bytes <= 7 * BLOCK


@pytest.mark.parametrize(("code", "kind"), [(28, TargetFullError), (122, TargetFullError), (5, TargetWriteError)])
@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_failing_writes_leave_no_disk_image_and_say_why(
    world: World, call: str, code: int, kind: type[MoverError], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def fails(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        patched.setattr(f"longboat.mover.target.os.{call}", fails)
        with pytest.raises(kind, match=r"disk\.img"):
            world.restore()
    assert not (world.target / "disk.img").exists()
    world.restore()
    assert world.restored() == world.image


def test_short_writes_are_gone_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr("longboat.mover.target.os.pwrite", lambda fd, data, at: write(fd, data[:1000], at))
    world.restore()
    assert world.restored() == world.image


def test_blocks_of_the_target_that_cannot_be_read_are_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.partial.write_bytes(world.image)
    read, broken = target.ImageTarget.read, [True]

    def unreadable(self: target.ImageTarget, offset: int, length: int, buffer: AlignedBuffer) -> None:
        if broken[0] and offset < SIZE // 2:
            raise TargetReadError("medium error")
        read(self, offset, length, buffer)

    def back(*arguments: object) -> int:
        broken[0] = False
        return restore_sample.read_back(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(target.ImageTarget, "read", unreadable)
    monkeypatch.setattr(restore_disk, "read_back", back)
    result = world.restore()
    assert result.written_bytes > 0 and result.kept_bytes > 0
    assert world.restored() == world.image


@pytest.mark.parametrize("folder", ["/packs/", "/maps/"])
def test_whoever_takes_damage_gets_the_rest_and_zeros_for_what_is_lost(world: World, folder: str) -> None:
    name = sorted(name for name in world.store.objects if folder in name)[0]
    content, modified, version = world.store.objects[name]
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    world.store.objects[name] = (changed, modified, version)
    reader = FollowingMapReader(world.repository, read_disk_manifest(world.repository, world.manifest))
    found: list[Damage] = []
    opened = open_image(world.target / "disk.img", SIZE, 0, False)
    with contextlib.closing(opened):
        write_disk(world.repository, reader, opened, Progress(SIZE, lambda _: None), found.append)
    lost = bytearray(world.image)
    for damage in found:
        assert folder.strip("/") in damage.cause
        for offset, length in damage.ranges:
            lost[offset : offset + length] = bytes(length)
    assert found and world.restored() == bytes(lost)
    with pytest.raises(DamagedError, match=r"from byte \d+ on"):
        world.restore(replaceExisting=True)


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_cut_pack_costs_only_what_was_in_the_rest(world: World, kept: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longboat.mover.restore_plan.MAX_RANGE", 64 << 20)
    name = next(name for name in world.store.objects if "/packs/" in name)
    content, modified, version = world.store.objects.pop(name)
    if kept:
        world.store.objects[name] = (content[: int(len(content) * kept)], modified, version)
    reader = FollowingMapReader(world.repository, read_disk_manifest(world.repository, world.manifest))
    found: list[Damage] = []
    opened = open_image(world.target / "disk.img", SIZE, 0, False)
    with contextlib.closing(opened):
        write_disk(world.repository, reader, opened, Progress(SIZE, lambda _: None), found.append)
    lost = bytearray(world.image)
    for offset, length in (each for damage in found for each in damage.ranges):
        lost[offset : offset + length] = bytes(length)
    assert found and world.restored() == bytes(lost)
    assert any(lost) == bool(kept)


def test_another_manifest_in_the_place_of_the_backups_own_is_not_restored(tmp_path: Path) -> None:
    world = World(tmp_path)
    job = restore_job(world.key, world.manifest, tmp_path).model_copy(update={"object_id": "0" * 32})
    with pytest.raises(DamagedError, match="it is object"):
        run_restore(job, world.store, lambda _: None)
    assert not (tmp_path / "disk.img").exists()
