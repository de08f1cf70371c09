"""Nothing that is known to be damaged is referred to by a new backup, and what is still on the disk heals the chain."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.repository import Repository, read_disk_manifest
from longboat.repository.damage import WHOLE, Damage, read_damage, record_damage
from longboat.repository.errors import DamagedError
from longboat.repository.layout import Kind
from longboat.repository.map_reader import MapReader
from longboat.repository.pages import FrameRef
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, PATH, export, repository_in, restore, write_image

NOW = datetime(2026, 11, 5, tzinfo=UTC)
SIZE = 4 * PAGE_BLOCKS * BLOCK


def frames_of(repository: Repository, manifest: str) -> list[tuple[int, FrameRef]]:
    """Return the number and the frame of each block of a backup that is no hole."""
    reader = MapReader(repository, read_disk_manifest(repository, manifest).manifest)
    found = []
    for number in range(reader.pages):
        page = reader.page(number)
        for index in range(page.blocks if page else 0):
            place = page.place(index) if page else None
            if place:
                found.append((number * PAGE_BLOCKS + index, place[0]))
    return found


def one_backup(folder: Path) -> tuple[MemoryStore, Repository, str, Path]:
    """Return a store, its repository, the only backup's manifest, and the folder of its disk."""
    store = MemoryStore()
    repository = repository_in(store)
    content = {i * BLOCK: bytes([i + 1]) * BLOCK for i in range(0, 4 * PAGE_BLOCKS, 3)}
    image = write_image(folder, content, SIZE)
    return store, repository, export(store, repository.master_key, image, "one", 1).manifest, image


def test_damage_reads_back_and_adds_up() -> None:
    repository = repository_in(MemoryStore())
    first, second = Damage(), Damage()
    first.add(Kind.DATA_PACK, b"a" * 16, 48)
    first.add(Kind.DATA_PACK, b"a" * 16, 99)
    second.add(Kind.MAP_PACK, b"b" * 16)
    for damage in (first, second):
        assert len(record_damage(repository, damage, NOW)) == 1
    known = read_damage(repository)
    assert set(known) == {
        (Kind.DATA_PACK, b"a" * 16, 48),
        (Kind.DATA_PACK, b"a" * 16, 99),
        (Kind.MAP_PACK, b"b" * 16, WHOLE),
    }
    assert known.covers(Kind.MAP_PACK, b"b" * 16, 7) and not known.covers(Kind.DATA_PACK, b"b" * 16, 7)
    assert not first.beyond(known) and set(known.beyond(first)) == set(second)


def test_whole_pack_is_more_than_its_frames() -> None:
    some, whole = Damage(), Damage()
    some.add(Kind.DATA_PACK, b"a" * 16, 48)
    whole.add(Kind.DATA_PACK, b"a" * 16)
    assert set(whole.beyond(some)) == set(whole)
    assert not some.beyond(whole)


@pytest.mark.parametrize("kind", [Kind.DATA_PACK, Kind.MAP_PACK])
def test_next_backup_does_not_refer_to_a_lost_pack_and_is_whole(tmp_path: Path, kind: Kind) -> None:
    store, repository, _, folder = one_backup(tmp_path / "a")
    place = "/packs/" if kind is Kind.DATA_PACK else "/maps/"
    lost = next(name for name in store.objects if place in name)
    del store.objects[lost]
    damage = Damage()
    damage.add(kind, bytes.fromhex(lost.rsplit("/", 1)[1]))
    record_damage(repository, damage, NOW)
    second = export(store, repository.master_key, folder, "two", 2)
    assert second.mode == "Incremental"
    assert restore(store, repository.master_key, second.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()
    # The chain is healed: the next one stores nothing.
    third = export(store, repository.master_key, folder, "three", 3)
    assert (third.mode, third.stored_bytes) == ("Incremental", 0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.integers(0, 20), max_size=6))
def test_exactly_the_blocks_of_damaged_frames_are_stored_anew(tmp_path: Path, chosen: set[int]) -> None:
    store, repository, first, folder = one_backup(tmp_path / "a")
    before = frames_of(repository, first)
    frames = sorted({frame for _, frame in before})
    bad = {frames[i % len(frames)] for i in chosen}
    damage = Damage()
    for frame in bad:
        damage.add(Kind.DATA_PACK, frame.pack, frame.offset)
    record_damage(repository, damage, NOW)
    second = export(store, repository.master_key, folder, "two", 2)
    after = dict(frames_of(repository, second.manifest))
    assert {block for block, frame in before if after[block] != frame} == {b for b, frame in before if frame in bad}
    assert not bad & set(after.values())


def test_without_a_readable_record_of_damage_nothing_is_referred_to(tmp_path: Path) -> None:
    store, repository, first, folder = one_backup(tmp_path / "a")
    damage = Damage()
    damage.add(Kind.DATA_PACK, b"a" * 16)
    [name] = record_damage(repository, damage, NOW)
    data, modified, version = store.objects[f"{PATH}/{name}"]
    store.objects[f"{PATH}/{name}"] = (data[:-1], modified, version)
    with pytest.raises(DamagedError, match=name):
        read_damage(repository)
    second = export(store, repository.master_key, folder, "two", 2)
    assert (second.mode, second.full_reason) == ("Full", "DamageUnreadable")
    old = {frame for _, frame in frames_of(repository, first)}
    assert not old & {frame for _, frame in frames_of(repository, second.manifest)}


def test_record_under_another_name_is_refused(tmp_path: Path) -> None:
    store, repository, _, _ = one_backup(tmp_path / "a")
    damage = Damage()
    damage.add(Kind.DATA_PACK, b"a" * 16)
    [name] = record_damage(repository, damage, NOW)
    store.objects[f"{PATH}/damage/{'0' * 32}"] = store.objects[f"{PATH}/{name}"]
    with pytest.raises(DamagedError, match="another name"):
        read_damage(repository)


@pytest.mark.parametrize("kind", [Kind.DATA_PACK, Kind.MAP_PACK])
def test_finished_manifest_whose_packs_are_damaged_by_now_is_not_reported_as_a_success(
    tmp_path: Path, kind: Kind
) -> None:
    store, repository, _, folder = one_backup(tmp_path / "a")
    key = repository.master_key
    other = Damage()
    other.add(kind, b"o" * 16)
    record_damage(repository, other, NOW)
    assert export(store, key, folder, "one", 1).reused
    place = "/packs/" if kind is Kind.DATA_PACK else "/maps/"
    damage = Damage()
    damage.add(kind, bytes.fromhex(next(name for name in store.objects if place in name).rsplit("/", 1)[1]))
    record_damage(repository, damage, NOW)
    with pytest.raises(DamagedError, match="found damaged since; make another backup"):
        export(store, key, folder, "one", 1)
    second = export(store, key, folder, "two", 2)
    assert restore(store, key, second.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()
