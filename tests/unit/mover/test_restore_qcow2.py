"""A qcow2 image holds the disk for whoever reads it by the format's rules, and no more than the disk's data."""

from __future__ import annotations

import struct
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.mover.progress import Progress
from longboat.mover.restore_disk import write_disk
from longboat.mover.restore_qcow2 import CLUSTER, Layout, open_qcow2
from longboat.mover.target import partial_path
from longboat.repository import read_disk_manifest
from longboat.repository.following import FollowingMapReader
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, export, repository_in, write_image


def read_qcow2(image: bytes) -> bytes:
    """Return the disk in a qcow2 image; checks that each cluster of the file is referred to as often as is counted."""
    magic, version, _, _, bits, size, _, entries, first, counters, counter_clusters = struct.unpack(
        ">4sIQIIQIIQQI", image[:60]
    )
    assert (magic, version, bits, len(image) % CLUSTER) == (b"QFI\xfb", 3, 16, 0)
    used = {0, *(first // CLUSTER + i for i in range(-(-entries * 8 // CLUSTER)))}
    used |= {counters // CLUSTER + i for i in range(counter_clusters)}
    blocks = [
        at for at in struct.unpack(f">{counter_clusters * 8192}Q", image[counters:][: counter_clusters * CLUSTER]) if at
    ]
    used |= {at // CLUSTER for at in blocks}
    disk = bytearray(size)
    for number, entry in enumerate(struct.unpack(f">{entries}Q", image[first : first + entries * 8])):
        if not entry:
            continue
        at = entry & ~(1 << 63)
        assert at // CLUSTER not in used
        used.add(at // CLUSTER)
        for index, place in enumerate(struct.unpack(">8192Q", image[at : at + CLUSTER])):
            if place:
                place &= ~(1 << 63)
                assert place // CLUSTER not in used
                used.add(place // CLUSTER)
                start = (number * 8192 + index) * CLUSTER
                disk[start : start + CLUSTER] = image[place : place + CLUSTER][: size - start]
    counts = b"".join(image[at : at + CLUSTER] for at in blocks)
    assert (
        used
        == {i for i in range(len(counts) // 2) if counts[2 * i : 2 * i + 2] == b"\0\1"}
        == set(range(len(image) // CLUSTER))
    )
    return bytes(disk)


class World:
    """A store with one backup."""

    def __init__(self, folder: Path, content: dict[int, bytes], size: int) -> None:
        store = MemoryStore()
        self.repository = repository_in(store)
        source = write_image(folder / "source", content, size)
        self.image = (source / "disk.img").read_bytes()
        name = export(store, self.repository.master_key, source, "one").manifest
        self.stored = read_disk_manifest(self.repository, name)

    def write(self, path: Path) -> None:
        reader = FollowingMapReader(self.repository, self.stored)
        with closing(open_qcow2(path, reader, True)) as target:
            write_disk(self.repository, reader, target, Progress(reader.manifest.size_bytes, lambda _: None))


WRITES = st.dictionaries(st.integers(0, 400), st.binary(min_size=1, max_size=40), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 400 * BLOCK), writes=WRITES)
def test_any_disk_reads_back_from_its_image(tmp_path: Path, size: int, writes: dict[int, bytes]) -> None:
    content = {at * BLOCK: data[: size - at * BLOCK] for at, data in writes.items() if at * BLOCK < size}
    world, path = World(tmp_path, content, size), tmp_path / "disk.qcow2"
    world.write(path)
    assert read_qcow2(path.read_bytes()) == world.image + bytes(-size % 512)


def test_holes_take_no_space(tmp_path: Path) -> None:
    world, path = World(tmp_path, {20 << 20: b"data"}, 40 << 20), tmp_path / "disk.qcow2"
    world.write(path)
    assert path.stat().st_size == 6 * CLUSTER


@pytest.mark.parametrize("left", [b"\xff" * (30 * CLUSTER), b"\xff" * 100, b""])
def test_what_an_earlier_attempt_left_does_no_harm(tmp_path: Path, left: bytes) -> None:
    noise = Random(5)
    content = {i * 5 * BLOCK: noise.randbytes(BLOCK) for i in range(40)}
    world, path = World(tmp_path, content, 300 * BLOCK + 512), tmp_path / "disk.qcow2"
    partial_path(path).write_bytes(left)
    world.write(path)
    assert read_qcow2(path.read_bytes()) == world.image


def test_the_layout_of_a_large_disk_is_whole_and_small() -> None:
    size = 2 << 40
    used = bytearray(b"\x01\0\0\x80" * (size // CLUSTER // 32)) + b"\0"
    layout = Layout(size, used)
    parts = sorted((offset, len(data)) for offset, data in layout.metadata())
    assert all(one + length <= two for (one, length), (two, _) in pairwise(parts))
    assert parts[-1][0] + parts[-1][1] <= layout.data
    data = size // CLUSTER // 16
    assert layout.file_size == layout.data + data * CLUSTER
    assert layout.counter_blocks * (CLUSTER // 2) >= layout.file_size // CLUSTER
    assert layout.place(31 * CLUSTER + 5) == layout.data + CLUSTER + 5
    assert layout.place((size // CLUSTER - 1) * CLUSTER) == layout.file_size - CLUSTER
