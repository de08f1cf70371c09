"""Whatever is read of a backed-up disk, in whatever order, is what was on the disk, or an error: never other bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from random import Random
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longboat.mover import frame_cache
from longboat.mover.disk_reader import DiskReader, LostBlocksError, Shared
from longboat.mover.frame_cache import FrameCache
from longboat.mover.read_ahead import LAST_WINDOW, NEAR, STREAMS, ReadAhead
from longboat.mover.weighted_cache import WeightedCache
from longboat.repository import ObjectStore, Repository, open_with_master_key, read_disk_manifest
from longboat.repository.errors import StoreFailureError
from longboat.repository.object_store import Data
from longboat.repository.pages import FrameRef
from tests.fakes.object_store import FaultyStore, MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, PATH, export, repository_in, write_image
from .test_damage import frames_of

PAGE = PAGE_BLOCKS * BLOCK
SIZE = 200 * PAGE + BLOCK + 700  # 6.25 MiB and the beginning of a block.


class Counting(FaultyStore):
    """Counts what is read of data packs."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.ranges: list[tuple[str, int, int]] = []

    def get_range(self, name: str, offset: int, length: int) -> Data:
        self.ranges.append((name, offset, length))
        return super().get_range(name, offset, length)


class World:
    """A disk with holes of all kinds in two backups, the second of which has changed little."""

    def __init__(self, folder: Path) -> None:
        noise = Random(5)
        content = {at * PAGE + noise.randrange(PAGE): noise.randbytes(noise.randint(1, 3 * PAGE)) for at in range(60)}
        content |= {120 * PAGE: noise.randbytes(2 << 20), SIZE - 300: noise.randbytes(300)}
        self.store = MemoryStore()
        self.key = repository_in(self.store).master_key
        self.names, self.images = [], list[bytes]()
        for number, more in enumerate(({}, {130 * PAGE: b"new" * BLOCK, 3 * PAGE + 5: b"x"})):
            folder = write_image(folder, {at: data[: SIZE - at] for at, data in (content | more).items()}, SIZE)
            self.images.append((folder / "disk.img").read_bytes())
            self.names.append(export(self.store, self.key, folder, f"backup-{number}", number).manifest)

    def repository(self, store: ObjectStore | None = None) -> Repository:
        return open_with_master_key(store or self.store, PATH, self.key)

    def reader(self, pool: Executor, number: int = 1, store: ObjectStore | None = None, **more: int) -> DiskReader:
        repository = self.repository(store)
        return DiskReader(repository, read_disk_manifest(repository, self.names[number]), Shared.of(pool, **more))

    def damaged(self, frame: FrameRef) -> MemoryStore:
        """Return a copy of the store in which a bit of a frame has rotted."""
        store = self.store.copy()
        name = next(name for name in store.objects if name.endswith(frame.pack.hex()))
        data, modified, version = store.objects[name]
        at = frame.offset + frame.length // 2
        store.objects[name] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], modified, version
        return store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world") / "disk")


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


OFFSETS = st.one_of(
    st.integers(0, SIZE + BLOCK),
    st.builds(lambda block, by: max(0, block * BLOCK + by), st.integers(0, SIZE // BLOCK + 1), st.integers(-1, 1)),
)
LENGTHS = st.one_of(st.integers(0, 3 * BLOCK), st.sampled_from([BLOCK, 128 << 10, 1 << 20, SIZE, SIZE + 1]))


@given(st.lists(st.tuples(st.integers(0, 1), OFFSETS, LENGTHS), min_size=1, max_size=12), st.sampled_from([0, 1, 64]))
@settings(max_examples=80)
def test_any_range_is_what_was_on_the_disk(
    world: World, pool: Executor, reads: list[tuple[int, int, int]], cache_mib: int
) -> None:
    readers = [world.reader(pool, number, frame_bytes=cache_mib << 20) for number in (0, 1)]
    for number, offset, length in reads:
        assert readers[number].read(offset, length) == world.images[number][offset : offset + length]


def test_many_threads_read_the_same_disk(world: World, pool: Executor) -> None:
    reader, together = world.reader(pool), Barrier(8)

    def read(seed: int) -> bool:
        noise = Random(seed)
        together.wait()
        places = [(noise.randrange(SIZE), noise.randrange(1 << 18)) for _ in range(30)]
        return all(reader.read(at, length) == world.images[1][at : at + length] for at, length in places)

    with ThreadPoolExecutor(8) as readers:
        assert all(readers.map(read, range(8)))


def test_holes_and_the_end_of_the_disk_cost_no_request(world: World, pool: Executor) -> None:
    store = Counting(world.store)
    reader = world.reader(pool, store=store)
    assert reader.read(100 * PAGE, 8 * PAGE) == bytes(8 * PAGE)
    assert reader.read(SIZE, 9) == b"" == reader.read(SIZE + 5, 1) == reader.read(0, 0) == reader.read(-1, 5)
    assert store.ranges == []


def test_only_the_frames_asked_for_are_fetched_and_only_once(world: World, pool: Executor) -> None:
    store = Counting(world.store)
    reader = world.reader(pool, store=store)
    for _ in range(3):
        reader.read(121 * PAGE, 10)
    packs = [each for each in store.ranges if "/packs/" in each[0]]
    assert len(packs) == 1 and packs[0][2] < 600 << 10
    assert len(store.ranges) == 2  # And one page of the map.


def test_memory_is_bounded(world: World, pool: Executor) -> None:
    repository, cache = world.repository(), FrameCache(1 << 20, pool)
    frames = sorted({frame for _, frame in frames_of(repository, world.names[1])})
    assert sum(frame.blocks * BLOCK for frame in frames) > 3 << 20
    for frame in frames:
        assert len(cache.want(repository, [frame], BLOCK)[frame].result().plain) == frame.blocks * BLOCK
        assert cache._kept.weight <= 1 << 20
    assert not cache._flying


def test_what_was_used_last_is_kept(world: World) -> None:
    cache: WeightedCache[str, int] = WeightedCache(10)
    for name in ("a", "b"):
        cache.put(name, 1, 4)
    cache.get("a")
    cache.put("c", 1, 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.weight) == (1, None, 1, 8)
    cache.put("a", 2, 9)
    assert (cache.get("a"), cache.get("c"), cache.weight) == (2, None, 9)
    cache.put("d", 1, 11)
    assert (cache.get("d"), cache.weight) == (None, 0)


def test_a_damaged_frame_is_an_error_that_names_the_place_and_hides_no_other_one(world: World, pool: Executor) -> None:
    placed = frames_of(world.repository(), world.names[0])
    block, frame = next(each for each in placed if each[0] >= 125 * PAGE_BLOCKS)
    # Both backups have the block in this frame: nothing heals it.
    store = world.damaged(frame)
    reader = world.reader(pool, 0, store)
    hurt = [number for number, found in placed if found == frame]
    for _ in range(2):
        with pytest.raises(
            LostBlocksError, match=f"bytes at byte {block * BLOCK} can't be read: pack packs/"
        ) as caught:
            reader.read(block * BLOCK + 7, 1)
        assert caught.value.damage.ranges == ((block * BLOCK, BLOCK),)
    with pytest.raises(LostBlocksError):
        reader.read((min(hurt) - 1) * BLOCK, 2 * BLOCK)
    for number in range(-(-SIZE // BLOCK)):
        if number not in hurt:
            at = number * BLOCK
            assert reader.read(at, BLOCK) == world.images[0][at : at + BLOCK]


def test_a_whole_frame_with_another_block_is_an_error(
    world: World, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = frame_cache.open_frame

    def other(*arguments: object) -> bytes:
        plain = opened(*arguments)  # type: ignore[arg-type]
        return b"\0" * BLOCK + plain[BLOCK:]

    monkeypatch.setattr(frame_cache, "open_frame", other)
    monkeypatch.setattr("longboat.repository.copies.open_frame", other)
    placed = frames_of(world.repository(), world.names[0])
    first = next(block for block, frame in placed if frame == placed[-3][1])
    with pytest.raises(LostBlocksError, match="is another block"):
        world.reader(pool, 0).read(first * BLOCK, 1)


def test_a_block_that_another_backup_has_is_healed(tmp_path: Path, pool: Executor) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "disk", {0: b"a" * 5 * BLOCK}, PAGE)
    first = export(store, key, folder, "one", 1).manifest
    second = export(store, key, folder, "two", 2, policy="None").manifest
    repository = open_with_master_key(store, PATH, key)
    (frame,) = {frame for _, frame in frames_of(repository, first)}
    if frame in {frame for _, frame in frames_of(repository, second)}:
        pytest.fail("the two backups were to share nothing")
    del store.objects[next(name for name in store.objects if name.endswith(frame.pack.hex()))]
    counting = Counting(store)
    repository = open_with_master_key(counting, PATH, key)
    reader = DiskReader(repository, read_disk_manifest(repository, first), Shared.of(pool))
    assert reader.read(0, PAGE) == b"a" * 5 * BLOCK + bytes(3 * BLOCK)
    asked = len(counting.ranges)
    assert reader.read(BLOCK, 9) == b"a" * 9
    assert len(counting.ranges) == asked  # What was healed is kept.


def test_a_lost_page_of_the_map_is_an_error_for_its_range_only(world: World, pool: Executor) -> None:
    store = world.store.copy()
    reader = world.reader(pool, 1, store)
    pack, _ = reader._map.place(130)
    del store.objects[next(name for name in store.objects if name.endswith(pack.hex()))]
    with pytest.raises(LostBlocksError, match=rf"{PAGE} bytes at byte {130 * PAGE} .*map pack .* is missing"):
        reader.read(130 * PAGE + 9, 1)
    assert reader.read(100 * PAGE, PAGE) == bytes(PAGE)


def test_a_backup_that_prune_took_away_is_told_as_such(world: World, pool: Executor) -> None:
    store = world.store.copy()
    reader = world.reader(pool, 0, store)
    reader.read(0, 10)
    for name in [name for name in store.objects if "/packs/" in name or "/disks/" in name]:
        del store.objects[name]
    assert reader.read(0, 10) == world.images[0][:10]  # What is at hand is good.
    with pytest.raises(LostBlocksError, match="the backup was removed from the repository since it was opened"):
        reader.read(125 * PAGE, 1)


def test_a_store_that_fails_is_asked_again_by_the_next_read(world: World, pool: Executor) -> None:
    store = FaultyStore(world.store)
    reader = world.reader(pool, 1, store)
    reader.read(121 * PAGE, 1)
    store.fault, store.at = "fails", store.operations
    with pytest.raises(StoreFailureError):
        reader.read(SIZE - 1, 1)
    assert reader.read(SIZE - 1, 1) == world.images[1][-1:]


def test_a_sequential_reader_is_fetched_ahead_of(world: World) -> None:
    store = Counting(world.store)
    with ThreadPoolExecutor(4) as pool:
        reader = world.reader(pool, 1, store)
        for at in range(0, 64 << 10, 16 << 10):
            reader.read(120 * PAGE + at, 16 << 10)
    asked = len(store.ranges)
    with ThreadPoolExecutor(1) as pool:
        reader._shared.pool, reader._shared.frames._pool = pool, pool
        reader._shared.ahead.acquire(), reader._shared.ahead.acquire()
        reader._shared.ahead.acquire(), reader._shared.ahead.acquire()
        assert reader.read(120 * PAGE + (1 << 20), 4096) == world.images[1][120 * PAGE + (1 << 20) :][:4096]
    assert len(store.ranges) == asked


def test_a_pool_that_is_being_shut_down_leaves_nobody_waiting(world: World) -> None:
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    reader = world.reader(ended)
    for _ in range(2):
        assert reader.read(0, SIZE) == world.images[1]
    assert not reader._shared.frames._flying


@given(st.lists(st.tuples(st.integers(0, 1 << 26), st.integers(1, 1 << 17)), max_size=60))
def test_read_ahead_lies_ahead_and_is_bounded(reads: list[tuple[int, int]]) -> None:
    ahead = ReadAhead()
    for start, length in reads:
        window = ahead.next(start, start + length)
        assert len(ahead._streams) <= STREAMS
        if window:
            assert start + length <= window[0] < window[1] <= start + length + LAST_WINDOW


def test_interleaved_sequential_readers_are_each_fetched_ahead_once() -> None:
    ahead, fetched = ReadAhead(), dict[int, list[tuple[int, int]]]()
    for step in range(300):
        for base in (0, 1 << 30, 1 << 31):
            at = base + step * (128 << 10)
            window = ahead.next(at, at + (128 << 10))
            if window:
                fetched.setdefault(base, []).append(window)
    for windows in fetched.values():
        assert len(windows) < 40
        # From the second read on everything is fetched before it is read, and nothing twice.
        assert all(before[1] == after[0] for before, after in pairwise(windows))
    assert len(fetched) == 3


def test_random_reads_fetch_nothing_ahead() -> None:
    ahead, noise = ReadAhead(), Random(2)
    places = [noise.randrange(1 << 20) * 4 * NEAR for _ in range(500)]
    assert not any(ahead.next(at, at + 4096) for at in places)
