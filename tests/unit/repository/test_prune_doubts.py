"""Whatever prune does not understand, can not read or does not find keeps everything in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from longboat.repository import advance_epoch, prune, read_disk_manifest
from longboat.repository.backups import write_disk_manifest
from longboat.repository.errors import ClockSkewError, DamagedError, UnsupportedFormatError
from longboat.repository.layout import Kind, pack_name
from longboat.repository.leases import Lease
from longboat.repository.mark import references
from longboat.repository.object_store import ObjectInfo
from tests.fakes.object_store import MemoryStore
from tests.unit.repository.prune_world import _FOLDER, GRACE, World, built, hide, world

__all__ = ["built", "world"]


def test_disk_manifest_that_a_backup_names_but_that_is_not_there_keeps_everything(world: World) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    name = world.manifests["three"]
    hidden = hide(world, name)
    before = world.names()
    for dry_run in (True, False):
        with pytest.raises(DamagedError, match=rf"backup 'three' .*{name}"):
            world.prune(dry_run)
    assert world.names() - before <= {"epoch"}
    world.store.objects.update({_FOLDER + each: content for each, content in hidden.items()})
    assert world.prune().freed.objects == 3
    world.check()


def test_disk_manifest_in_whose_place_is_another_one_keeps_everything(world: World) -> None:
    stored = read_disk_manifest(world.repository, world.manifests["three"])
    del world.store.objects[_FOLDER + stored.name]
    assert write_disk_manifest(world.repository, stored.manifest).object_id != stored.object_id
    with pytest.raises(DamagedError, match=stored.name):
        world.prune()


@pytest.mark.parametrize("mark", ["tombstones", "removing"])
def test_deleted_backup_whose_disk_manifests_are_gone_is_no_hindrance(world: World, mark: str) -> None:
    hide(world, world.manifests["two"])
    world.store.put_new(f"{_FOLDER}{mark}/{world.repository.keys.name_hash('two')}", b"")
    assert world.prune().condemned.objects == 2


class SweepingStore(MemoryStore):
    """A sweep goes on while the disk manifests are about to be listed."""

    sweep: Callable[[], object] | None = None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix == f"{_FOLDER}disks/" and self.sweep:
            sweep, self.sweep = self.sweep, None
            sweep()
        return super().list(prefix)


def test_backup_that_is_removed_while_prune_looks_is_no_hindrance(world: World) -> None:
    world.store.__class__ = SweepingStore
    world.store.sweep = lambda: world.remove("two")  # type: ignore[attr-defined]
    assert world.prune().manifests == 2


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "altered": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "cut": lambda data: data[:40],
    "newer": lambda data: data[:8] + b"\x09\x00" + data[10:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("folder", ["disks/", "leases/", "condemned/"])
def test_document_that_can_not_be_read_keeps_everything_and_is_named(world: World, folder: str, damage: str) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    with Lease(world.repository, "disk", "backup"):
        name = sorted(world.names(folder))[0]
        world.replace(name, DAMAGES[damage](world.store.objects[_FOLDER + name][0]))
        before = world.names()
        with pytest.raises((DamagedError, UnsupportedFormatError), match=name):
            world.prune()
        assert world.names() == before


@pytest.mark.parametrize("damage", ["gone", "cut", "garbled"])
def test_map_pack_that_can_not_be_read_keeps_everything_and_is_named(world: World, damage: str) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    name, data = newest_map_pack(world)
    if damage == "gone":
        del world.store.objects[_FOLDER + name]
    else:
        world.replace(name, data[:40] if damage == "cut" else data[:48] + bytes(len(data) - 48))
    before = world.names()
    with pytest.raises(DamagedError, match=name):
        world.prune()
    assert world.names() == before


@pytest.mark.parametrize("at", [-1, -10, -30])
def test_index_that_can_not_be_read_is_made_up_for_by_the_pages(world: World, at: int) -> None:
    name, data = newest_map_pack(world)
    manifest = read_disk_manifest(world.repository, world.manifests["three"]).manifest
    expected = set(references(world.repository, manifest).data)
    world.replace(name, data[:at] + bytes([data[at] ^ 1]) + data[len(data) + at + 1 :])
    assert set(references(world.repository, manifest).data) == expected
    world.remove("two")
    for _ in range(2):
        world.prune()
        world.store.advance(GRACE)
    world.check()


def newest_map_pack(world: World) -> tuple[str, bytes]:
    """Return name and bytes of a map pack that only the newest backup refers to."""
    manifest = read_disk_manifest(world.repository, world.manifests["three"]).manifest
    pages = {page[0] for page in manifest.pages if page}
    written = {pack_name(Kind.MAP_PACK, bytes.fromhex(manifest.map_packs[page])) for page in pages}
    name = max(written, key=lambda each: world.store.objects[_FOLDER + each][2])
    return name, world.store.objects[_FOLDER + name][0]


@pytest.mark.parametrize("name", ["disks/README", "leases/x", "condemned/list", f"disks/{'0' * 32}/20270101T000000Z-2"])
def test_object_whose_name_is_not_understood_where_references_are_keeps_everything(world: World, name: str) -> None:
    world.remove("two")
    world.store.put_new(_FOLDER + name, b"?")
    with pytest.raises(DamagedError, match=name):
        world.prune()


def test_foreign_objects_are_left_alone(world: World) -> None:
    foreign = [
        "packs/note",
        "packs/00/11" + "0" * 30,
        "maps/x/y",
        "damage/x",
        "other",
        "tombstones.txt",
        "backups/readme",
    ]
    for name in foreign:
        world.store.put_new(_FOLDER + name, b"?")
    for _ in range(3):
        world.store.advance(2 * GRACE)
        report = world.prune()
    assert report.unknown == 3
    assert set(foreign) <= world.names()


@pytest.mark.parametrize("skew", [timedelta(minutes=-6), timedelta(minutes=6), timedelta(days=2)])
def test_clock_that_is_off_keeps_everything(world: World, skew: timedelta) -> None:
    world.remove("two")
    epoch = advance_epoch(world.repository, set(), "t")
    before = world.names()
    with pytest.raises(ClockSkewError, match="clock"):
        prune(world.repository, now=world.store.now + skew, grace=GRACE, epoch=epoch)
    assert world.names() == before


def test_store_whose_clock_was_behind_when_it_condemned_does_not_shorten_the_grace(world: World) -> None:
    world.remove("two")
    world.prune()
    (name,) = world.names("condemned/")
    data, modified, version = world.store.objects[_FOLDER + name]
    world.store.objects[_FOLDER + name] = (data, modified - GRACE, version)
    world.store.advance(timedelta(minutes=5))
    assert world.prune().freed.objects == 0


def test_map_packs_that_do_not_name_data_packs_are_read_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longboat.repository.map_builder.page_table", lambda page: (0, b""))
    world = World(tmp_path)
    for name in ("one", "two"):
        world.back_up(name)
    world.store.advance(GRACE)
    used = references(world.repository, read_disk_manifest(world.repository, world.manifests["two"]).manifest)
    assert {pack_name(Kind.DATA_PACK, pack) for pack in used.data} == world.names("packs/")
    world.remove("one")
    for _ in range(3):
        world.prune()
        world.store.advance(GRACE)
    world.check()
