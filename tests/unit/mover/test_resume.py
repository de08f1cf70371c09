"""What an attempt uploaded before it ended is used by the next one, and by nobody once it is condemned."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from longboat.mover import export_attempt, export_disk
from longboat.mover.errors import DiskTooLargeError
from longboat.mover.results import ExportResult
from longboat.repository import uploaded
from longboat.repository.condemned import CondemnedList, write_condemned
from longboat.repository.documents import open_document
from longboat.repository.errors import StoreFailureError
from longboat.repository.layout import Kind
from longboat.repository.leases import LeaseRecord
from longboat.repository.packs import PackSink, read_pack_index
from longboat.repository.uploaded import UploadedBlocks
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, export, repository_in, restore, write_image

BLOCKS = 1500


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    def sink(store: Any, capacity: int = 600 << 10, **more: Any) -> PackSink:
        return PackSink(store, capacity, **more)

    monkeypatch.setattr(export_attempt, "PackSink", sink)


def packs(store: MemoryStore) -> set[str]:
    return {name for name in store.objects if "/packs/" in name}


def interrupted(tmp_path: Path, after: int, fault: str = "fails") -> tuple[MemoryStore, bytes, Path]:
    """Return a store in which an export of random bytes ended after some operations."""
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {0: os.urandom(BLOCKS * BLOCK)}, BLOCKS * BLOCK)
    with contextlib.suppress(KilledError, StoreFailureError):
        export(FaultyStore(store, fault, after), key, folder, "one", 1)
    return store, key, folder


def test_next_attempt_uses_what_was_uploaded(tmp_path: Path) -> None:
    store, key, folder = interrupted(tmp_path, 24)
    before = packs(store)
    assert len(before) > 3
    result = export(store, key, folder, "one", 1)
    # Every block of the old packs is used, none is stored again.
    assert result.resumed_bytes >= (len(before) - 1) * 128 * BLOCK
    assert result.stored_bytes < BLOCKS * BLOCK - result.resumed_bytes + 100_000
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_attempt_after_two_that_ended_uses_the_packs_of_both(tmp_path: Path) -> None:
    store, key, folder = interrupted(tmp_path, 18)
    first = len(packs(store))
    with contextlib.suppress(StoreFailureError):
        export(FaultyStore(store, "fails", 36), key, folder, "one", 1)
    assert len(packs(store)) > first
    result = export(store, key, folder, "one", 1)
    assert result.resumed_bytes >= (len(packs(store)) - 6) * 128 * BLOCK
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_reused_packs_are_named_in_a_lease_before_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key, folder = interrupted(tmp_path, 24)
    repository = repository_in(store)
    old = {name.split("namespace/")[1] for name in packs(store)}
    named: list[set[str]] = []
    read = uploaded.read_index

    def watched(*arguments: Any) -> Any:
        leases = [name for name in store.objects if "/leases/" in name]
        newest = max(leases, key=lambda name: store.objects[name][2])
        folder = newest.rsplit("/", 1)[0]
        records = [
            open_document(repository.keys, Kind.LEASE, store.objects[n][0], LeaseRecord)[1]
            for n in leases
            if n.startswith(folder)
        ]
        named.append({pack for record in records for pack in record.packs})
        return read(*arguments)

    monkeypatch.setattr(uploaded, "read_index", watched)
    export(store, key, folder, "one", 1)
    assert named and all(old <= names | (old - named[0]) for names in named)
    assert len(named[0] & old) >= len(old) - 1


def test_condemned_packs_are_not_used(tmp_path: Path) -> None:
    store, key, folder = interrupted(tmp_path, 24)
    condemned = {name.split("namespace/")[1] for name in packs(store)}
    ids = tuple(name.rsplit("/", 1)[1] for name in condemned)
    write_condemned(repository_in(store), CondemnedList(marked=store.now, packs=ids))
    result = export(store, key, folder, "one", 1)
    assert result.resumed_bytes == 0
    for name in list(packs(store)):
        if name.split("namespace/")[1] in condemned:
            del store.objects[name]
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


@pytest.mark.parametrize("damage", ["gone", "cut", "flip"])
def test_damaged_packs_of_an_earlier_attempt_are_passed_over(tmp_path: Path, damage: str) -> None:
    store, key, folder = interrupted(tmp_path, 24)
    for name in sorted(packs(store))[::2]:
        content, *rest = store.objects.pop(name)
        broken = content[: len(content) // 2] if damage == "cut" else content[:-30] + b"?" + content[-29:]
        if damage != "gone":
            store.objects[name] = (broken, *rest)
    result = export(store, key, folder, "one", 1)
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_what_has_rotted_of_an_earlier_attempt_is_not_referred_to(tmp_path: Path) -> None:
    """No manifest names these packs, so that no verification has looked at them: their indexes alone are whole."""
    store, key, folder = interrupted(tmp_path, 24)
    repository = repository_in(store)
    for name in sorted(packs(store))[::2]:
        content, *rest = store.objects.pop(name)
        pack, broken = bytes.fromhex(name.rsplit("/", 1)[1]), bytearray(content)
        for frame, _ in read_pack_index(repository.keys, Kind.DATA_PACK, content):
            broken[frame.offset + frame.length // 2] ^= 1
            assert frame.pack == pack
        store.objects[name] = (bytes(broken), *rest)
    result = export(store, key, folder, "one", 1)
    assert 0 < result.resumed_bytes < BLOCKS * BLOCK
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_one_random_frame_of_each_pack_is_read(tmp_path: Path) -> None:
    """Rot anywhere in a pack is found sooner or later, at the cost of a few percent of what is used again."""
    store, _, _ = interrupted(tmp_path, 24)
    repository = repository_in(store)
    name = sorted(packs(store))[0].split("namespace/")[1]
    whole = store.objects[next(each for each in store.objects if each.endswith(name))][0]
    frames = {frame.offset for frame, _ in read_pack_index(repository.keys, Kind.DATA_PACK, whole)}
    seen = set[int]()
    get = store.get_range

    def counting(where: str, offset: int, length: int) -> object:
        seen.update({offset} & frames)
        return get(where, offset, length)

    store.get_range = counting  # type: ignore[assignment]
    for _ in range(100 * len(frames)):
        before = len(seen)
        with UploadedBlocks(repository, [name]) as blocks:
            blocks.find(bytes(16))
        assert len(seen) - before <= 1
        if seen == frames:
            return
    raise AssertionError(f"only these were read: {seen}")


@pytest.mark.parametrize("after", range(8, 40, 3))
def test_killed_at_any_operation_the_next_attempt_is_right(tmp_path: Path, after: int) -> None:
    store, key, folder = interrupted(tmp_path, after, "killed-after")
    result = export(store, key, folder, "one", 1)
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_window_of_uploaded_packs_moves_with_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploaded, "_WINDOW", 5)
    monkeypatch.setattr(uploaded, "_AHEAD", 2)
    store = MemoryStore()
    repository = repository_in(store)
    folder = write_image(tmp_path / "a", {0: os.urandom(BLOCKS * BLOCK)}, BLOCKS * BLOCK)
    order: list[str] = []
    put = store.put_new
    store.put_new = lambda name, data: (order.append(name), put(name, data))[1]  # type: ignore[method-assign]
    export(store, repository.master_key, folder, "one", 1, workers=1)
    names = [name.split("namespace/")[1] for name in order if "/packs/" in name]
    data = (folder / "disk.img").read_bytes()
    with UploadedBlocks(repository, names) as blocks:
        found = [blocks.find(repository.keys.block_id(data[at : at + BLOCK])) for at in range(0, len(data), BLOCK)]
        assert len(blocks._blocks) <= 6 * 150
    assert sum(map(bool, found)) > BLOCKS * 0.9
    assert isinstance(found[0], tuple) and found[0][1] == 0


def test_small_blocks_take_no_more_memory_and_are_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploaded, "_MOST_IDS", 400)  # Less than three packs of 150 or so.
    store = MemoryStore()
    repository = repository_in(store)
    folder = write_image(tmp_path / "a", {0: os.urandom(BLOCKS * BLOCK)}, BLOCKS * BLOCK)
    order: list[str] = []
    put = store.put_new
    store.put_new = lambda name, data: (order.append(name), put(name, data))[1]  # type: ignore[method-assign]
    export(store, repository.master_key, folder, "one", 1, workers=1)
    names = [name.split("namespace/")[1] for name in order if "/packs/" in name]
    data = (folder / "disk.img").read_bytes()
    found, most = 0, 0
    with UploadedBlocks(repository, names) as blocks:
        for at in range(0, len(data), BLOCK):
            found += blocks.find(repository.keys.block_id(data[at : at + BLOCK])) is not None
            most = max(most, len(blocks._blocks))
    assert found > BLOCKS * 0.9
    assert most <= 400 + 2 * 160


def test_a_disk_whose_map_no_manifest_can_hold_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    pages = 3
    size = pages * PAGE_BLOCKS * BLOCK
    folder = write_image(tmp_path / "a", {0: os.urandom(BLOCK)}, size)
    monkeypatch.setattr(export_disk, "MAX_PAGES", pages - 1)
    with pytest.raises(DiskTooLargeError, match=rf"{size} bytes.*longboat\.dev/block-size"):
        export(store, key, folder, "one", 1)
    assert not [name for name in store.objects if "/packs/" in name or "/leases/" in name]
    monkeypatch.setattr(export_disk, "MAX_PAGES", pages)
    assert export(store, key, folder, "one", 1).manifest


def test_lease_of_a_finished_export_is_gone_and_that_of_a_failed_one_stays(tmp_path: Path) -> None:
    store, key, folder = interrupted(tmp_path, 24)
    left = {name for name in store.objects if "/leases/" in name}
    assert left
    result = export(store, key, folder, "one", 1)
    assert isinstance(result, ExportResult)
    assert {name for name in store.objects if "/leases/" in name} == left
