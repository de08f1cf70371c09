"""A damaged backup: healed from other backups where possible, else refused, or restored but for what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longboat.mover.restore_disk import run_restore
from longboat.mover.results import RestoreResult
from longboat.mover.target import partial_path
from longboat.repository import verify
from longboat.repository.errors import DamagedError
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, export, repository_in, restore, restore_job, write_image
from .test_damage import NOW, frames_of
from .test_verify import World, back_up

SIZE = 4 * PAGE_BLOCKS * BLOCK


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two backups; the second one has other data in its last page."""
    content = {i * BLOCK: bytes([i + 1]) * BLOCK for i in range(0, 4 * PAGE_BLOCKS, 2)}
    store = MemoryStore()
    world = World(store, repository_in(store), [], [], write_image(tmp_path / "disk", content, SIZE))
    world = back_up(world, "one", 1)
    write_image(world.folder, {**content, 31 * BLOCK: b"changed" * 100}, SIZE)
    return back_up(world, "two", 2)


def salvaged(world: World, manifest: str, folder: Path) -> tuple[bytes, RestoreResult, list[str]]:
    target = folder / "salvaged"
    target.mkdir()
    lines: list[str] = []
    job = restore_job(world.repository.master_key, manifest, target, salvage=True)
    result = run_restore(job, world.store, lines.append)
    return (target / "disk.img").read_bytes(), result, lines


def damage_first_frame(world: World) -> set[int]:
    """Alter a frame of the first backup; return the blocks that it holds."""
    blocks = frames_of(world.repository, world.manifests[0])
    frame = blocks[0][1]
    world.damage(next(n for n in world.names("packs") if n.endswith(frame.pack.hex())), "flip", frame.offset + 30)
    return {block for block, each in blocks if each == frame}


def test_damage_is_refused_with_what_is_lost_and_what_can_be_done(world: World, tmp_path: Path) -> None:
    lost = damage_first_frame(world)
    with pytest.raises(DamagedError, match=rf"from byte {min(lost) * BLOCK} on: pack packs/.*salvage"):
        restore(world.store, world.repository.master_key, world.manifests[0], tmp_path)


def test_salvage_restores_the_rest_and_says_what_is_missing_and_whom_it_hurts(world: World, tmp_path: Path) -> None:
    lost = damage_first_frame(world)
    data, result, lines = salvaged(world, world.manifests[0], tmp_path)
    expected = bytearray(world.contents[0])
    for block in lost:
        expected[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    assert data == bytes(expected)
    assert result.lost_bytes == len(lost) * BLOCK == sum(length for _, length in result.lost_ranges) or len(lost) > 8
    assert result.hurt == ("two", "one")
    assert "zeros" in result.note
    told = [json.loads(line)["lost"] for line in lines if "lost" in json.loads(line)]
    assert {offset // BLOCK for each in told for offset, _ in each["ranges"]} == lost


def test_salvage_of_a_lost_page_of_the_map_costs_that_page_only(world: World, tmp_path: Path) -> None:
    report = verify(world.repository, share=0, now=NOW)
    assert report.state == "ok"
    # The second backup's own map pack has the page that changed: the last one.
    name = max(world.names("maps"), key=lambda each: world.store.objects[each][2])
    del world.store.objects[name]
    data, result, _ = salvaged(world, world.manifests[1], tmp_path)
    page = PAGE_BLOCKS * BLOCK
    assert data == world.contents[1][: 3 * page] + bytes(page)
    assert (result.lost_ranges, result.hurt) == (((3 * page, page),), ("two",))


def test_sound_backup_is_not_changed_by_salvage(world: World, tmp_path: Path) -> None:
    data, result, _ = salvaged(world, world.manifests[1], tmp_path)
    assert data == world.contents[1]
    assert (result.lost_bytes, result.healed_bytes, result.note, result.hurt) == (0, 0, "", ())


def test_older_backup_is_healed_by_the_backup_that_stored_the_blocks_anew(world: World, tmp_path: Path) -> None:
    lost = damage_first_frame(world)
    verify(world.repository, share=100, now=NOW)
    export(world.store, world.repository.master_key, world.folder, "three", 3)
    for manifest, content in zip(world.manifests, world.contents, strict=True):
        data, result = restore(world.store, world.repository.master_key, manifest, tmp_path)
        assert data == content
        assert (result.healed_bytes, result.lost_bytes) == (len(lost) * BLOCK, 0)
        assert "other backups" in result.note


def test_another_block_in_the_same_place_heals_nothing(world: World, tmp_path: Path) -> None:
    lost = damage_first_frame(world)
    verify(world.repository, share=100, now=NOW)
    changed = {block * BLOCK: b"rewritten" * 100 for block in lost}
    write_image(world.folder, changed, SIZE)
    export(world.store, world.repository.master_key, world.folder, "three", 3)
    _, result, _ = salvaged(world, world.manifests[0], tmp_path)
    assert (result.healed_bytes, result.lost_bytes) == (0, len(lost) * BLOCK)


def test_lost_ranges_are_zeros_also_where_the_target_held_something_else(world: World, tmp_path: Path) -> None:
    lost = damage_first_frame(world)
    # What an earlier attempt has left; its content is not trusted, nor is it kept where nothing better is known.
    target = tmp_path / "salvaged" / "disk.img"
    target.parent.mkdir()
    partial_path(target).write_bytes(b"\xff" * SIZE)
    job = restore_job(world.repository.master_key, world.manifests[0], target.parent, salvage=True)
    assert run_restore(job, world.store, lambda _: None).lost_bytes == len(lost) * BLOCK
    expected = bytearray(world.contents[0])
    for block in lost:
        expected[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    assert target.read_bytes() == bytes(expected)
