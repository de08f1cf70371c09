"""A snapshot must be one moment of a volume, whatever is being written to it."""

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.csi.driver import MIB, Driver, mount

BLOCK, SLOTS, STRIDE = 4096, 61, MIB


class Writer:
    """Writes the numbers 1, 2, 3, … each to the next of SLOTS places, O_DIRECT and O_SYNC, one after the other.

    So what is on the device at any moment is known from the highest number on it alone.
    """

    def __init__(self, device: Path) -> None:
        self.issued = self.acknowledged = 0
        self._stop = threading.Event()
        self._fd = os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_SYNC)
        self._buffer = mmap.mmap(-1, BLOCK)
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._stop.is_set():
            number = self.issued + 1
            self._buffer[:] = struct.pack("<Q", number) * (BLOCK // 8)
            self.issued = number
            os.pwrite(self._fd, self._buffer, number % SLOTS * STRIDE)
            self.acknowledged = number

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._fd)


@contextmanager
def writing(device: Path) -> Iterator[Writer]:
    writer = Writer(device)
    try:
        yield writer
    finally:
        writer.close()


def numbers(image: Path) -> dict[int, int]:
    """What each slot of an image holds; a block with two numbers in it was torn."""
    found = {}
    with image.open("rb") as file:
        for slot in range(SLOTS):
            words = set(struct.unpack(f"<{BLOCK // 8}Q", os.pread(file.fileno(), BLOCK, slot * STRIDE)))
            assert len(words) == 1, f"slot {slot} is torn: {words}"
            found[slot] = words.pop()
    return found


def expected(last: int) -> dict[int, int]:
    """What each slot holds after the numbers 1 to `last`."""
    latest = {slot: last - (last - slot) % SLOTS for slot in range(SLOTS)}
    return {slot: number if number > 0 else 0 for slot, number in latest.items()}


def test_a_snapshot_under_writes_holds_all_that_was_acknowledged_and_nothing_later(driver: Driver) -> None:
    volume = driver.create_volume()
    device = driver.path(driver.publish(volume))
    seen = []
    with writing(device) as writer:
        for _ in range(15):
            time.sleep(0.05)
            acknowledged = writer.acknowledged
            snapshot = driver.snapshot(volume)
            issued = writer.issued
            seen.append((acknowledged, snapshot.snapshot_id, issued))
    assert seen[-1][0] > 3 * SLOTS, "the writer was too slow for this test to mean anything"
    for acknowledged, snapshot, issued in seen:
        held = numbers(driver.image(snapshot))
        assert held == expected(max(held.values()))
        assert acknowledged <= max(held.values()) <= issued
    driver.unpublish(volume)
    driver.delete(volume, *(snapshot for _, snapshot, _ in seen))


def test_a_snapshot_holds_what_lies_in_the_page_cache_of_a_block_device(driver: Driver) -> None:
    volume = driver.create_volume()
    device = driver.path(driver.publish(volume))
    fd = os.open(device, os.O_WRONLY)
    try:
        os.pwrite(fd, b"x" * MIB, 5 * MIB)
        snapshot = driver.snapshot(volume).snapshot_id
    finally:
        os.close(fd)
    with driver.image(snapshot).open("rb") as file:
        assert os.pread(file.fileno(), MIB, 5 * MIB) == b"x" * MIB
    driver.unpublish(volume)
    driver.delete(volume, snapshot)


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_a_snapshot_of_a_mounted_file_system_holds_files_that_nobody_has_synced(driver: Driver, fs_type: str) -> None:
    size = 320 * MIB
    volume = driver.create_volume(size=size)
    point = driver.publish(volume, mount(fs_type))
    (driver.path(point) / "file").write_bytes(b"y" * MIB)
    snapshot = driver.snapshot(volume).snapshot_id
    (driver.path(point) / "later").touch()
    clone = driver.create_volume(size=size, snapshot=snapshot)
    # Both are mounted at once here, with one UUID.
    cloned = driver.path(driver.publish(clone, mount(fs_type)))
    assert (cloned / "file").read_bytes() == b"y" * MIB
    assert not (cloned / "later").exists()
    for each in (volume, clone):
        driver.unpublish(each)
    driver.delete(snapshot, volume, clone)


def test_the_creation_time_is_the_moment_of_the_cut_and_not_that_of_the_answer(driver: Driver) -> None:
    volume = driver.create_volume()
    driver.faults.inject("slow-answer", operation="CreateSnapshot", phase="after", delay=1.0)
    start = time.time()
    snapshot = driver.snapshot(volume)
    cut = snapshot.creation_time.seconds + snapshot.creation_time.nanos / 1e9
    assert time.time() - start > 1.0
    assert start - 0.1 < cut < start + 0.7
    driver.delete(snapshot.snapshot_id, volume)


def test_a_snapshot_costs_no_space_and_outlives_its_volume(driver: Driver) -> None:
    volume = driver.create_volume(size=256 * MIB)
    with driver.image(volume).open("r+b") as file:
        file.write(os.urandom(64 * MIB))
        os.fsync(file.fileno())
    status = os.statvfs(driver.path(driver.state / "pool"))
    snapshot = driver.snapshot(volume).snapshot_id
    after = os.statvfs(driver.path(driver.state / "pool"))
    assert (status.f_bfree - after.f_bfree) * status.f_frsize < 4 * MIB
    content = driver.image(volume).read_bytes()
    driver.delete(volume)
    clone = driver.create_volume(size=256 * MIB, snapshot=snapshot)
    driver.delete(snapshot)
    assert driver.image(clone).read_bytes() == content
    driver.delete(clone)
