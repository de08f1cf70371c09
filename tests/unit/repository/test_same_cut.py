"""Two backups of one moment share what one export stored, and neither needs the other one any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from longboat.repository import (
    SecondBackup,
    StoredDisk,
    read_disk_manifest,
    reference_to,
    write_backup_manifest,
    write_second_manifest,
)
from longboat.repository.condemned import CondemnedList, write_condemned
from longboat.repository.damage import Damage, record_damage
from longboat.repository.errors import (
    BackupNotFoundError,
    DamagedError,
    LeaseLostError,
    ManifestConflictError,
)
from longboat.repository.layout import Kind
from longboat.repository.leases import LEASE_TTL
from longboat.repository.mark import references
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import BLOCK, DISK, backup_time, export, repository_in, restore, write_image
from tests.unit.repository.prune_world import _FOLDER, GRACE, SIZE, World, built, world

__all__ = ["built", "world"]


def _share(world: World, number: int = 2, name: str = "weekly", of: str = "three") -> StoredDisk:
    second = SecondBackup(name, DISK, backup_time(number), {"hold": False})
    stored = write_second_manifest(world.repository, world.manifests[of], second)
    world.manifests[name], world.contents[name] = stored.name, world.contents[of]
    return stored


def _finish(world: World, stored: StoredDisk, name: str = "weekly") -> None:
    write_backup_manifest(world.repository, name, stored.manifest.created, [reference_to(stored, "data")])


def _prune(world: World, times: int = 3) -> None:
    for _ in range(times):
        world.store.advance(GRACE + LEASE_TTL)
        world.prune()


def test_second_backup_stores_nothing_and_is_counted_so(world: World) -> None:
    before = world.names("packs/") | world.names("maps/")
    stored = _share(world)
    assert world.names("packs/") | world.names("maps/") == before
    first = read_disk_manifest(world.repository, world.manifests["three"]).manifest
    counts = stored.manifest.statistics
    assert (counts.stored_bytes, counts.read_bytes, counts.new_blocks, counts.new_packs) == (0, 0, 0, 0)
    assert counts.unchanged_blocks == first.statistics.new_blocks + first.statistics.unchanged_blocks > 0
    assert counts.allocated_bytes == first.statistics.allocated_bytes
    assert (stored.manifest.parent, stored.manifest.backup_name) == (world.manifests["three"], "weekly")
    assert stored.manifest.expiry == {"hold": False}
    assert world.names("leases/") == set()
    world.check()


@pytest.mark.parametrize("gone", ["three", "weekly"])
def test_either_backup_is_restored_when_the_other_is_gone_for_good(world: World, gone: str) -> None:
    _finish(world, _share(world))
    world.remove(gone)
    _prune(world)
    assert gone not in world.contents
    world.check()


def test_what_both_had_goes_with_the_second_of_them(world: World) -> None:
    alone = World.copy(world, world.folder)
    alone.remove("three")
    _prune(alone)
    _finish(world, _share(world))
    for name in ("three", "weekly"):
        world.remove(name)
    _prune(world)
    assert world.names("packs/") == alone.names("packs/")
    assert world.names("disks/") == alone.names("disks/")


def test_first_backup_that_goes_before_the_second_has_its_own_manifest_leaves_it_whole(world: World) -> None:
    """The disk's manifest is there, the backup's is not: what it refers to stays all the same."""
    _share(world)
    world.remove("three")
    _prune(world)
    world.check()


def test_first_backup_that_is_gone_gives_nothing_to_share(world: World) -> None:
    manifest = world.manifests["three"]
    world.remove("three")
    world.manifests["three"], world.contents["three"] = manifest, b""
    with pytest.raises(BackupNotFoundError):
        _share(world)


@pytest.mark.parametrize(
    "second",
    [
        SecondBackup("weekly", DISK, backup_time(1)),
        SecondBackup("weekly", DISK.model_copy(update={"disk_key": "shop/other/data"}), backup_time(2)),
    ],
)
def test_a_disk_of_another_moment_or_identity_is_never_taken_over(world: World, second: SecondBackup) -> None:
    before = world.names("disks/")
    with pytest.raises(ManifestConflictError):
        write_second_manifest(world.repository, world.manifests["three"], second)
    assert world.names("disks/") == before


def test_packs_condemned_since_are_not_referred_to_by_another_manifest(world: World) -> None:
    used = references(world.repository, read_disk_manifest(world.repository, world.manifests["three"]).manifest)
    packs = tuple(pack.hex() for pack in used.data)
    write_condemned(world.repository, CondemnedList(marked=world.store.now, packs=packs[:1]))
    before = world.names("disks/")
    with pytest.raises(DamagedError, match="condemned"):
        _share(world)
    assert world.names("disks/") == before


def test_packs_found_damaged_since_are_not_referred_to_by_another_manifest(world: World) -> None:
    used = references(world.repository, read_disk_manifest(world.repository, world.manifests["three"]).manifest)
    damage = Damage()
    damage.add(Kind.DATA_PACK, next(iter(used.data)))
    record_damage(world.repository, damage, world.store.now)
    with pytest.raises(DamagedError, match="damaged"):
        _share(world)


def test_a_condemned_list_that_can_not_be_read_lets_nothing_be_written(world: World) -> None:
    world.store.put_new(_FOLDER + "condemned/" + "0" * 32, b"?")
    before = world.names("disks/")
    with pytest.raises(LeaseLostError):
        _share(world)
    assert world.names("disks/") == before


class _Meanwhile(MemoryStore):
    """Something happens right before the disk manifest is written, and time may pass."""

    between: Callable[[], object] = staticmethod(lambda: None)

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        if "/disks/" in name and (between := self.between):
            self.between = lambda: None
            between()
        return super().put_new(name, data)


def _meanwhile(folder: Path) -> tuple[World, _Meanwhile]:
    store = _Meanwhile()
    world = World(folder, store)
    world.back_up("one")
    world.back_up("two")
    store.advance(2 * GRACE)
    return world, store


def test_first_backup_that_prunes_away_at_the_very_last_moment_takes_nothing_along(tmp_path: Path) -> None:
    """Deleted, swept and pruned between the last look at the lists and the manifest, which comes in time."""
    world, store = _meanwhile(tmp_path)
    content = world.contents["two"]

    def between() -> None:
        world.remove("two")
        world.prune()

    store.between = between
    stored = write_second_manifest(world.repository, world.manifests["two"], SecondBackup("w", DISK, backup_time(1)))
    world.manifests["w"], world.contents["w"] = stored.name, content
    _prune(world)
    world.check()


def test_second_manifest_that_comes_after_its_packs_were_pruned_is_withdrawn(tmp_path: Path) -> None:
    world, store = _meanwhile(tmp_path)

    def between() -> None:
        world.remove("two")
        _prune(world)

    store.between = between
    before = world.manifests["one"]
    with pytest.raises(LeaseLostError, match="run it again"):
        write_second_manifest(world.repository, world.manifests["two"], SecondBackup("w", DISK, backup_time(1)))
    assert world.names("disks/") == {before}
    world.check()


def test_killed_at_any_call_it_is_written_once_by_the_next_attempt(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    image = write_image(tmp_path / "disk", {0: b"x" * BLOCK}, SIZE)
    first = export(store, key, image, "daily").manifest
    second = SecondBackup("weekly", DISK, backup_time(0))
    counter = FaultyStore(store.copy())
    write_second_manifest(repository_in(counter), first, second)
    opening = FaultyStore(store.copy())
    repository_in(opening)
    for kill in ("killed-before", "killed-after"):
        for at in range(opening.operations, counter.operations):
            here = store.copy()
            with pytest.raises(KilledError):
                write_second_manifest(repository_in(FaultyStore(here, kill, at)), first, second)
            stored = write_second_manifest(repository_in(here), first, second)
            assert len([name for name in here.objects if "/disks/" in name]) == 2, (kill, at)
            assert restore(here, key, stored.name, tmp_path)[0][:1] == b"x"


def test_first_backup_pruned_after_a_kill_leaves_a_whole_manifest_or_none(tmp_path: Path) -> None:
    world, store = _meanwhile(tmp_path)
    content, first = world.contents["two"], world.manifests["two"]
    second = SecondBackup("w", DISK, backup_time(1))
    opening, counter = FaultyStore(store.copy()), FaultyStore(store.copy())
    repository_in(opening)
    write_second_manifest(repository_in(counter), first, second)
    ends = set()
    for kill in ("killed-before", "killed-after"):
        for at in range(opening.operations, counter.operations):
            here = world.copy(tmp_path)
            with contextlib.suppress(KilledError):
                write_second_manifest(repository_in(FaultyStore(here.store, kill, at)), first, second)
            here.remove("two")
            _prune(here)
            try:
                stored = write_second_manifest(here.repository, first, second)
            except BackupNotFoundError:
                ends.add("gone")
                continue
            ends.add("there")
            assert restore(here.store, here.key, stored.name, tmp_path)[0] == content, (kill, at)
    assert ends == {"gone", "there"}


def test_next_export_builds_on_the_second_backup_when_the_first_is_deleted(world: World) -> None:
    _finish(world, _share(world))
    world.remove("three")
    image = write_image(world.folder / "disk", {}, SIZE)
    result = export(world.store, world.key, image, "four", 9)
    assert (result.parent, result.mode) == (world.manifests["weekly"], "Incremental")


def test_moments_are_compared_exactly(world: World) -> None:
    moment: datetime = backup_time(2).replace(microsecond=1)
    with pytest.raises(ManifestConflictError):
        write_second_manifest(world.repository, world.manifests["three"], SecondBackup("weekly", DISK, moment))
