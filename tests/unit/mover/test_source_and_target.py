"""Sources that are no disks and targets that can't take one are told before anything is read or written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from longboat.mover import restore_disk, source, target
from longboat.mover.errors import (
    DiskTooLargeError,
    NoDiskImageError,
    SourceMissingError,
    SourceReadError,
    TargetExistsError,
    TargetFullError,
    TargetMissingError,
    TargetTooSmallError,
)
from longboat.mover.source import open_source
from longboat.mover.system_calls import AlignedBuffer
from longboat.mover.target import DeviceTarget, open_target
from longboat.repository import StoreError
from tests.fakes.object_store import FaultyStore, MemoryStore

from .disks import BLOCK, export, repository_in, restore_job, write_image


def test_source_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceMissingError, match="expected a block device"):
        open_source(tmp_path / "missing")


def test_volume_without_a_disk_image_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoDiskImageError, match=r"holds no disk\.img"):
        open_source(tmp_path)


def test_a_disk_that_says_it_is_larger_than_the_format_can_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # File systems that would really hold so large an image are rare.
    monkeypatch.setattr(source, "MAX_DISK_SIZE", (4 << 20) - 1)
    folder = write_image(tmp_path, {}, 4 << 20)
    with pytest.raises(DiskTooLargeError, match=r"disk\.img: the disk has 4194304 bytes") as caught:
        open_source(folder)
    assert not caught.value.retryable
    monkeypatch.setattr(source, "MAX_DISK_SIZE", 4 << 20)
    open_source(folder).close()


def test_disk_image_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "disk.img").symlink_to(tmp_path / "secret")
    with pytest.raises(NoDiskImageError):
        open_source(tmp_path)


def test_data_ranges_leave_out_holes(tmp_path: Path) -> None:
    with open_source(write_image(tmp_path, {1 << 20: b"x" * 4096}, 4 << 20)) as source:
        ranges = list(source.data_ranges())
    assert (source.size, source.is_device) == (4 << 20, False)
    assert any(start <= 1 << 20 < end for start, end in ranges)
    assert sum(end - start for start, end in ranges) < 4 << 20


def test_source_that_shrinks_is_an_error_not_zeros(tmp_path: Path) -> None:
    folder = write_image(tmp_path, {0: b"x" * 100_000}, 100_000)
    with open_source(folder) as source:
        os.truncate(folder / "disk.img", 50_000)
        with pytest.raises(SourceReadError, match="expected 100000 bytes"):
            source.read_into(AlignedBuffer(1 << 20).view, 0)


def test_a_refused_direct_read_is_no_error_when_another_thread_has_just_left_direct_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, refusals = os.preadv, ["once"]
    with open_source(write_image(tmp_path, {0: b"x" * 8192}, 8192)) as source:
        source._direct = True

        def refused(handle: int, views: list[memoryview], offset: int) -> int:
            if not refusals:
                return read(handle, views, offset)
            refusals.pop()
            # The other thread was refused as well, and was quicker.
            source._read_through_cache()
            raise OSError(errno.EINVAL, "unaligned")

        monkeypatch.setattr(os, "preadv", refused)
        buffer = AlignedBuffer(8192)
        assert source.read_into(buffer.view, 0) == 8192 and bytes(buffer.view) == b"x" * 8192


def test_a_read_that_fails_without_direct_reading_too_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EINVAL, "unaligned")

    with open_source(write_image(tmp_path, {0: b"x" * 8192}, 8192)) as source:
        monkeypatch.setattr(os, "preadv", refused)
        with pytest.raises(SourceReadError, match="at byte 0 failed"):
            source.read_into(AlignedBuffer(8192).view, 0)


@pytest.mark.parametrize("place", [0, 1, 4095, 4096, 8191])
def test_single_bit_is_not_taken_for_zeros(place: int) -> None:
    buffer = AlignedBuffer(8192)
    assert buffer.is_zero(0, 8192)
    buffer.view[place] = 1
    assert not buffer.is_zero(0, 8192)
    assert buffer.is_zero(4096 if place < 4096 else 0, 4096)


class DeviceFile(DeviceTarget):
    """A file written as a device is: it holds garbage before."""

    def __init__(self, path: Path, size: int) -> None:
        path.write_bytes(b"\xff" * size)
        super().__init__(path, os.open(path, os.O_RDWR), size)


@pytest.fixture(params=["punched", "written"])
def zeroing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero ranges as a device that can punch holes, and as one that can do nothing."""

    def unsupported(*_: object) -> None:
        raise OSError(95, "not supported")

    if request.param == "written":
        monkeypatch.setattr(target, "punch_hole", unsupported)
        monkeypatch.setattr(target, "zero_out", unsupported)


@pytest.mark.parametrize(("offset", "length"), [(0, 8192), (512, 1024), (100, 5000), (700, 30), (511, 2), (3, 0)])
@pytest.mark.usefixtures("zeroing")
def test_zeroed_range_of_a_device_is_zero_and_nothing_else(tmp_path: Path, offset: int, length: int) -> None:
    device = DeviceFile(tmp_path / "device", 8192)
    device.zero(offset, length)
    device.sync()
    device.close()
    expected = b"\xff" * offset + bytes(length) + b"\xff" * (8192 - offset - length)
    assert (tmp_path / "device").read_bytes() == expected


@pytest.mark.usefixtures("zeroing")
def test_restore_into_a_used_larger_device_leaves_nothing_of_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, size = MemoryStore(), 20 * BLOCK + 100
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {3 * BLOCK: b"data" * 2000, size - 50: b"end"}, size)
    manifest = export(store, key, folder, "one").manifest
    path = tmp_path / "device"
    monkeypatch.setattr(restore_disk, "open_target", lambda *_: DeviceFile(path, 30 * BLOCK))
    restore_disk.run_restore(restore_job(key, manifest, path), store, lambda _: None)
    assert path.read_bytes() == (folder / "disk.img").read_bytes() + bytes(30 * BLOCK - size)


def _open(path: Path, size: int = BLOCK, data: int = 0, image_size: int | None = None, replace: bool = False) -> int:
    opened = open_target(path, size, data, image_size, replace, None)
    opened.sync()
    opened.finish()
    opened.close()
    return opened.size


def test_target_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for missing in ("missing", "file"):
        with pytest.raises(TargetMissingError):
            _open(tmp_path / missing)


def test_too_small_and_full_volumes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TargetTooSmallError, match="claim of at least that size"):
        _open(tmp_path, 1 << 60)
    volume = os.statvfs(tmp_path)
    if volume.f_bavail < volume.f_blocks:
        with pytest.raises(TargetFullError, match="enlarge"):
            _open(tmp_path, BLOCK, volume.f_blocks * volume.f_frsize)
    assert not list(tmp_path.iterdir())


def test_existing_image_is_only_replaced_if_the_job_says_so(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"precious")
    with pytest.raises(TargetExistsError):
        _open(tmp_path)
    assert (tmp_path / "disk.img").read_bytes() == b"precious"
    assert _open(tmp_path, replace=True) == BLOCK
    assert (tmp_path / "disk.img").read_bytes() == bytes(BLOCK)


def test_image_is_made_as_large_as_asked_but_never_smaller_than_the_backup(tmp_path: Path) -> None:
    assert _open(tmp_path, 2 * BLOCK, image_size=5 * BLOCK) == 5 * BLOCK
    assert _open(tmp_path, 2 * BLOCK, image_size=BLOCK, replace=True) == 2 * BLOCK


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Path]:
    """A volume on which a restore was cut off, leaving its partial image."""
    (tmp_path / ".disk.img.longboat-partial").write_bytes(b"left over")
    yield tmp_path


def test_restore_starts_anew_over_what_an_interrupted_one_left(interrupted: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    source = write_image(interrupted / "source", {0: b"data"}, 3 * BLOCK)
    manifest = export(store, key, source, "one").manifest
    with pytest.raises(StoreError):
        restore_disk.run_restore(
            restore_job(key, manifest, interrupted), FaultyStore(store, "fails", 3), lambda _: None
        )
    assert not (interrupted / "disk.img").exists()
    restore_disk.run_restore(restore_job(key, manifest, interrupted), store, lambda _: None)
    assert (interrupted / "disk.img").read_bytes() == (source / "disk.img").read_bytes()
    assert not (interrupted / ".disk.img.longboat-partial").exists()
