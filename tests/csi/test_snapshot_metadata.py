"""What the driver says of allocated and changed blocks must be what a comparison of every byte would say."""

import ctypes
import ctypes.util
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.csi.extents import Extent, differing, joined
from tests.csi.driver import MIB, Driver, csi
from tests.csi.test_faults import status

BLOCK = 4096
BLKDISCARD = 0x1277
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    done = _libc.fallocate(fd, mode | KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length))
    assert done == 0, os.strerror(ctypes.get_errno())


def ranges_of(stream: Iterator[Any], size: int, most: int = 0) -> list[tuple[int, int]]:
    """The (start, end) of a stream, after a check of all that the specification asks of one."""
    found: list[tuple[int, int]] = []
    messages = list(stream)
    assert messages
    for message in messages:
        assert message.block_metadata_type == csi.VARIABLE_LENGTH
        assert message.volume_capacity_bytes == size
        assert not most or len(message.block_metadata) <= most
        found += [(each.byte_offset, each.byte_offset + each.size_bytes) for each in message.block_metadata]
    edges = [0, *(edge for each in found for edge in each), size]
    assert edges == sorted(edges)
    assert all(start < end for start, end in found)
    return found


def allocated(driver: Driver, snapshot: str, begin: int = 0, most: int = 0) -> list[tuple[int, int]]:
    request = csi.GetMetadataAllocatedRequest(snapshot_id=snapshot, starting_offset=begin, max_results=most)
    return ranges_of(driver.metadata.GetMetadataAllocated(request), driver.record(snapshot)["size"], most)


def delta(driver: Driver, base: str, target: str, begin: int = 0, most: int = 0) -> list[tuple[int, int]]:
    request = csi.GetMetadataDeltaRequest(
        base_snapshot_id=base, target_snapshot_id=target, starting_offset=begin, max_results=most
    )
    return ranges_of(driver.metadata.GetMetadataDelta(request), driver.record(target)["size"], most)


def blocks_in(ranges: list[tuple[int, int]]) -> set[int]:
    return {block for start, end in ranges for block in range(start // BLOCK, -(-end // BLOCK))}


def different(before: bytes, after: bytes) -> set[int]:
    """The blocks in which two images differ; what one lacks reads as zeros."""
    before = before.ljust(len(after), b"\0")
    return {at // BLOCK for at in range(0, len(after), BLOCK) if before[at : at + BLOCK] != after[at : at + BLOCK]}


def write(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), data, offset)
        os.fsync(file.fileno())


def punch(image: Path, offset: int, length: int, mode: int = PUNCH_HOLE) -> None:
    with image.open("r+b") as file:
        fallocate(file.fileno(), mode, offset, length)


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "same", "zeros", "punch", "zero-range", "cut", "grow"]),
        st.integers(0, 4 * MIB - 1),
        st.integers(1, 200_000),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations)
def test_any_history_leaves_out_no_changed_block_and_tells_none_that_nobody_wrote(
    driver: Driver, history: list[tuple[str, int, int]]
) -> None:
    volume = driver.create_volume(size=4 * MIB)
    snapshots, touched, image = [driver.snapshot(volume).snapshot_id], [set[int]()], driver.image(volume)
    for number, (operation, offset, length) in enumerate([*history, ("cut", 0, 1)]):
        if operation == "cut":
            snapshots.append(driver.snapshot(volume).snapshot_id)
            touched.append(set())
        elif operation == "grow":
            size = driver.record(volume)["size"] + MIB
            request = csi.ControllerExpandVolumeRequest(volume_id=volume)
            request.capacity_range.required_bytes = size
            driver.controller.ControllerExpandVolume(request)
        else:
            length = min(length, 4 * MIB - offset)
            touched[-1] |= blocks_in([(offset, offset + length)])
            _change(image, operation, offset, length, number)
    contents = {each: driver.image(each).read_bytes() for each in snapshots}
    for older, base in enumerate(snapshots):
        assert_allocated(contents[base], allocated(driver, base))
        for newer in range(older, len(snapshots)):
            told = blocks_in(delta(driver, base, snapshots[newer]))
            assert different(contents[base], contents[snapshots[newer]]) <= told
            assert told <= set().union(*touched[older:newer])
    driver.delete(volume, *snapshots)


def _change(image: Path, operation: str, offset: int, length: int, number: int) -> None:
    match operation:
        case "write":
            write(image, offset, bytes([number + 1]) * length)
        case "same":
            with image.open("rb") as file:
                there = os.pread(file.fileno(), length, offset)
            write(image, offset, there)
        case "zeros":
            write(image, offset, bytes(length))
        case "punch":
            punch(image, offset, length)
        case "zero-range":
            punch(image, offset, length, ZERO_RANGE)


def assert_allocated(content: bytes, told: list[tuple[int, int]]) -> None:
    """What is not told must read as zeros."""
    silent = set(range(len(content) // BLOCK)) - blocks_in(told)
    assert all(content[each * BLOCK : (each + 1) * BLOCK] == bytes(BLOCK) for each in silent)


def test_a_delta_holds_what_a_guest_wrote_and_discarded_through_the_device(driver: Driver) -> None:
    volume = driver.create_volume()
    device = driver.path(driver.publish(volume))
    fd = os.open(device, os.O_RDWR)
    try:
        os.pwrite(fd, b"a" * 4 * MIB, 8 * MIB)
        base = driver.snapshot(volume).snapshot_id
        os.pwrite(fd, b"b" * BLOCK, 9 * MIB)
        os.pwrite(fd, b"c" * BLOCK, 40 * MIB)
        os.fsync(fd)
        fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", 10 * MIB, MIB))
        target = driver.snapshot(volume).snapshot_id
    finally:
        os.close(fd)
    assert delta(driver, base, target) == [
        (9 * MIB, 9 * MIB + BLOCK),
        (10 * MIB, 11 * MIB),
        (40 * MIB, 40 * MIB + BLOCK),
    ]
    assert allocated(driver, target) == [(8 * MIB, 10 * MIB), (11 * MIB, 12 * MIB), (40 * MIB, 40 * MIB + BLOCK)]
    driver.unpublish(volume)
    driver.delete(volume, base, target)


@pytest.fixture
def scattered(driver: Driver) -> Iterator[tuple[str, str]]:
    """Two snapshots of a volume of which 700 separate blocks differ: more than one message and one look hold."""
    volume = driver.create_volume()
    base = driver.snapshot(volume).snapshot_id
    with driver.image(volume).open("r+b") as file:
        for number in range(700):
            os.pwrite(file.fileno(), b"x" * BLOCK, number * 3 * BLOCK)
    target = driver.snapshot(volume).snapshot_id
    yield base, target
    driver.delete(volume, base, target)


def test_a_stream_is_the_same_whatever_the_size_of_its_messages(driver: Driver, scattered: tuple[str, str]) -> None:
    base, target = scattered
    expected = [(number * 3 * BLOCK, (number * 3 + 1) * BLOCK) for number in range(700)]
    for most in (0, 1, 7, 699, 700, 2_000_000_000):
        assert delta(driver, base, target, most=most) == expected
        assert allocated(driver, target, most=most) == expected


@pytest.mark.parametrize("begin", [1, BLOCK - 1, BLOCK, 3 * BLOCK, 699 * 3 * BLOCK + 5, 64 * MIB])
def test_a_stream_that_is_resumed_holds_all_that_ends_after_the_offset(
    driver: Driver, scattered: tuple[str, str], begin: int
) -> None:
    base, target = scattered
    rest = [(max(start, begin), end) for start, end in delta(driver, base, target) if end > begin]
    assert delta(driver, base, target, begin) == rest
    assert allocated(driver, target, begin) == rest


def test_a_delta_needs_two_snapshots_of_one_volume_in_the_right_order(driver: Driver) -> None:
    mine, other = driver.create_volume(), driver.create_volume()
    old, new, foreign = (driver.snapshot(each).snapshot_id for each in (mine, mine, other))
    assert status(lambda: delta(driver, new, old)) == "INVALID_ARGUMENT"
    assert status(lambda: delta(driver, foreign, new)) == "INVALID_ARGUMENT"
    assert status(lambda: delta(driver, "", new)) == "INVALID_ARGUMENT"
    assert status(lambda: delta(driver, old, new, most=-1)) == "INVALID_ARGUMENT"
    assert status(lambda: delta(driver, old, new, begin=-1)) == "OUT_OF_RANGE"
    assert status(lambda: delta(driver, old, new, begin=64 * MIB + 1)) == "OUT_OF_RANGE"
    assert status(lambda: _raw_allocated(driver, "snap-none")) == "NOT_FOUND"
    driver.delete(old)
    assert status(lambda: delta(driver, old, new)) == "NOT_FOUND"
    driver.delete(new, foreign, mine, other)


def _raw_allocated(driver: Driver, snapshot: str) -> None:
    list(driver.metadata.GetMetadataAllocated(csi.GetMetadataAllocatedRequest(snapshot_id=snapshot)))


def test_a_stream_breaks_where_a_fault_says_and_what_was_told_before_arrives(
    driver: Driver, scattered: tuple[str, str]
) -> None:
    base, target = scattered
    whole = delta(driver, base, target)
    driver.faults.inject(
        "broken", operation="GetMetadataDelta", phase="midway", code="UNAVAILABLE", ranges=600, times=1
    )
    found: list[tuple[int, int]] = []
    with pytest.raises(grpc.RpcError) as caught:
        for message in driver.metadata.GetMetadataDelta(
            csi.GetMetadataDeltaRequest(base_snapshot_id=base, target_snapshot_id=target)
        ):
            found += [(each.byte_offset, each.byte_offset + each.size_bytes) for each in message.block_metadata]
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert found == whole[:600]
    assert delta(driver, base, target, begin=found[-1][1]) == whole[600:]


@pytest.mark.parametrize(("lie", "told"), [("omit", 350), ("nothing", 0)])
def test_a_lying_tracker_leaves_out_what_has_changed(
    driver: Driver, scattered: tuple[str, str], lie: str, told: int
) -> None:
    base, target = scattered
    driver.faults.inject("lie", operation="GetMetadataDelta", phase="midway", lie=lie)
    assert len(delta(driver, base, target)) == told
    assert len(allocated(driver, target)) == 700


def test_a_snapshot_that_is_deleted_midway_is_compared_to_the_end(driver: Driver, scattered: tuple[str, str]) -> None:
    base, target = scattered
    request = csi.GetMetadataDeltaRequest(base_snapshot_id=base, target_snapshot_id=target, max_results=1)
    stream = driver.metadata.GetMetadataDelta(request)
    next(stream)
    driver.delete(base)
    assert len(list(stream)) == 699


@pytest.mark.parametrize(
    ("base", "target", "expected"),
    [
        ([], [], []),
        ([(0, 8, 100)], [(0, 8, 100)], []),
        ([(0, 8, 100)], [(0, 4, 100), (4, 8, 104)], []),
        ([(0, 8, 100)], [(0, 4, 100), (4, 8, 200)], [(4, 8)]),
        ([(0, 8, 100)], [(2, 6, 102)], [(0, 2), (6, 8)]),
        ([(2, 6, 102)], [(0, 8, 100)], [(0, 2), (6, 8)]),
        ([(0, 4, 100)], [(6, 8, 300)], [(0, 4), (6, 8)]),
        ([(0, 4, 100)], [], [(0, 4)]),
        ([(0, 4, 100), (4, 8, 50)], [(0, 8, 100)], [(4, 8)]),
    ],
)
def test_extents_differ_exactly_where_their_places_do(
    base: list[tuple[int, int, int]], target: list[tuple[int, int, int]], expected: list[tuple[int, int]]
) -> None:
    one, two = ([Extent(*each) for each in side] for side in (base, target))
    assert list(joined(differing(one, two))) == expected
