"""Backups are found by name, never overwritten, hidden by tombstones, and removed only after the trash period."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from longboat.repository import (
    DiskIdentity,
    DiskManifest,
    Repository,
    StoredDisk,
    advance_epoch,
    find_backup,
    find_disk_manifest,
    list_backups,
    list_disk_manifests,
    open_or_create_repository,
    read_disk_manifest,
    read_epoch,
    read_tombstones,
    reference_to,
    remove_tombstone,
    sweep_tombstones,
    update_backup_expiry,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.backups import write_disk_manifest
from longboat.repository.errors import (
    BackupBeingRemovedError,
    BackupNotFoundError,
    DamagedError,
    EpochConflictError,
    ManifestConflictError,
)
from longboat.repository.parents import choose_parent
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import backup_time, repository_in

from .hand_writer import back_up

NOW = datetime(2026, 11, 1, tzinfo=UTC)
TRASH = timedelta(days=7)
KEY, PATH = b"k" * 32, "cluster/namespace"


def world() -> tuple[MemoryStore, Repository]:
    store = MemoryStore()
    return store, open_or_create_repository(store, PATH, KEY)


def disk(repository: Repository, backup: str, key: str = "disk", day: int = 0, **more: object) -> StoredDisk:
    return write_disk_manifest(repository, disk_manifest(repository, backup, key, day, **more))


def disk_manifest(repository: Repository, backup: str, key: str = "disk", day: int = 0, **more: object) -> DiskManifest:
    fields = {
        "formatVersion": 1,
        "repositoryId": repository.id,
        "keyId": repository.key_id,
        "disk": DiskIdentity(disk_key=key, volume_handle="v"),
        "backupName": backup,
        "created": NOW + timedelta(days=day),
        "sizeBytes": 0,
        "blockSize": 4096,
        "pageBlocks": 8,
        "mapPacks": [],
        "pages": [],
    }
    return DiskManifest.model_validate({**fields, **more})


def backup(repository: Repository, name: str, *disks: StoredDisk) -> None:
    write_backup_manifest(
        repository, name, NOW, [reference_to(d, f"d{i}") for i, d in enumerate(disks)], {"keepFor": "30d"}, {"vm": "db"}
    )


def test_backup_is_found_with_its_disks_and_metadata() -> None:
    _, repository = world()
    one = disk(repository, "daily-1")
    backup(repository, "daily-1", one)
    found = find_backup(repository, "daily-1")
    assert found and found.metadata == {"vm": "db"} and found.expiry == {"keepFor": "30d"}
    assert read_disk_manifest(repository, found.disks[0].manifest) == one
    assert find_disk_manifest(repository, "disk", "daily-1", NOW) == one
    assert find_backup(repository, "daily-2") is None
    assert find_disk_manifest(repository, "disk", "daily-2", NOW) is None


def test_a_manifest_of_another_moment_is_not_taken_for_the_one_of_this_run() -> None:
    _, repository = world()
    old = disk(repository, "daily-1")
    for other in (NOW + timedelta(days=1), NOW + timedelta(microseconds=1)):
        assert find_disk_manifest(repository, "disk", "daily-1", other) is None
    assert find_disk_manifest(repository, "disk", "daily-1", NOW) == old
    with pytest.raises(ManifestConflictError, match="make the backup anew"):
        disk(repository, "daily-1", created=NOW + timedelta(microseconds=1))


def test_backup_written_twice_is_the_first_one_and_other_disks_conflict() -> None:
    _, repository = world()
    one, two = disk(repository, "a", "one"), disk(repository, "a", "two")
    backup(repository, "a", one)
    backup(repository, "a", one)
    assert len(list(list_backups(repository))) == 1
    with pytest.raises(ManifestConflictError, match="other disks"):
        backup(repository, "a", one, two)


def test_backup_of_a_disk_that_is_not_there_is_refused() -> None:
    store, repository = world()
    gone = disk(repository, "a")
    store.delete(f"{PATH}/{gone.name}")
    with pytest.raises(BackupNotFoundError):
        backup(repository, "a", gone)
    assert find_backup(repository, "a") is None


def test_changed_expiry_is_a_new_revision() -> None:
    _, repository = world()
    backup(repository, "a", disk(repository, "a"))
    update_backup_expiry(repository, "a", {"hold": True})
    update_backup_expiry(repository, "a", {"hold": True})
    found = find_backup(repository, "a")
    assert found and (found.revision, found.expiry) == (2, {"hold": True})
    assert [b.revision for b in list_backups(repository)] == [2]
    with pytest.raises(BackupNotFoundError):
        update_backup_expiry(repository, "b", None)


def test_names_of_tenants_are_in_no_object_name() -> None:
    store, repository = world()
    name = "../../etc/passwd\nshop"
    backup(repository, name[:200], disk(repository, name, name))
    assert find_disk_manifest(repository, name, name, NOW)
    assert not [n for n in store.objects if "passwd" in n or ".." in n or "\n" in n]


def test_disk_manifests_come_newest_first() -> None:
    _, repository = world()
    for day in (2, 9, 1, 10):
        disk(repository, f"b{day}", day=day)
    assert [stored.manifest.backup_name for stored in list_disk_manifests(repository, "disk")] == [
        "b10",
        "b9",
        "b2",
        "b1",
    ]


def test_manifest_moved_to_another_name_is_damage() -> None:
    store, repository = world()
    one, other = disk(repository, "a"), disk(repository, "b", "other")
    store.objects[f"{PATH}/{one.name}"] = store.objects[f"{PATH}/{other.name}"]
    with pytest.raises(DamagedError, match="another disk"):
        read_disk_manifest(repository, one.name)


@pytest.mark.parametrize(
    "broken",
    [
        {"sizeBytes": 1 << 60},
        {"sizeBytes": 40960, "pages": [None]},
        {"blockSize": 5000},
        {"blockSize": 1 << 30},
        {"sizeBytes": 1, "pages": [(0, 48, 100)]},
        {"sizeBytes": 1, "pages": [(0, 1 << 40, 100)], "mapPacks": ["0" * 32]},
        {"sizeBytes": 1, "pages": [(0, -5, 100)], "mapPacks": ["0" * 32]},
        {"sizeBytes": 1, "pages": [(0, 48, 100)], "mapPacks": ["../../x"]},
    ],
)
def test_hostile_manifest_is_damage(broken: dict[str, object]) -> None:
    _, repository = world()
    name = "a"
    manifest = disk_manifest(repository, name)
    hostile = manifest.model_copy(update={_snake(key): value for key, value in broken.items()})
    written = write_disk_manifest(repository, hostile)
    with pytest.raises(DamagedError):
        read_disk_manifest(repository, written.name)


def _snake(key: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in key)


def test_tombstone_hides_a_backup_until_it_is_undone() -> None:
    _, repository = world()
    backup(repository, "a", disk(repository, "a"))
    first = write_tombstone(repository, "a", NOW, "ann")
    assert write_tombstone(repository, "a", NOW + TRASH, "bob") == first
    assert not list(list_backups(repository))
    assert [b.name for b in list_backups(repository, tombstoned=True)] == ["a"]
    assert [t.deleted_by for t in read_tombstones(repository)] == ["ann"]
    assert remove_tombstone(repository, "a")
    assert not remove_tombstone(repository, "a")
    assert [b.name for b in list_backups(repository)] == ["a"]


def test_sweep_removes_only_what_is_older_than_the_trash_period() -> None:
    store, repository = world()
    for name in ("old", "young", "alive"):
        backup(repository, name, disk(repository, name, name))
    write_tombstone(repository, "old", NOW, "x")
    store.advance(timedelta(days=5))
    write_tombstone(repository, "young", store.now, "x")
    report = sweep_tombstones(repository, NOW + TRASH, TRASH)
    assert (report.removed_backups, report.removed_disk_manifests) == (["old"], 1)
    assert {b.name for b in list_backups(repository, tombstoned=True)} == {"young", "alive"}
    assert find_disk_manifest(repository, "old", "old", NOW) is None
    assert [t.backup_name for t in read_tombstones(repository)] == ["young"]


def test_tombstone_dated_back_ages_from_the_stores_time() -> None:
    _, repository = world()
    backup(repository, "a", disk(repository, "a"))
    write_tombstone(repository, "a", NOW - timedelta(days=365), "a wrong clock")
    assert not sweep_tombstones(repository, NOW + TRASH - timedelta(seconds=1), TRASH).removed_backups
    assert sweep_tombstones(repository, NOW + TRASH, TRASH).removed_backups == ["a"]


def test_shared_disk_manifest_stays_while_another_backup_refers_to_it() -> None:
    _, repository = world()
    shared = disk(repository, "weekly")
    backup(repository, "weekly", shared)
    backup(repository, "daily", shared)
    write_tombstone(repository, "weekly", NOW, "x")
    report = sweep_tombstones(repository, NOW + TRASH, TRASH)
    assert (report.removed_disk_manifests, report.kept_disk_manifests) == (0, 1)
    assert read_disk_manifest(repository, shared.name)
    write_tombstone(repository, "daily", NOW, "x")
    assert sweep_tombstones(repository, NOW + TRASH, TRASH).removed_disk_manifests == 1


def test_sweep_fails_closed_on_a_backup_it_can_not_read() -> None:
    store, repository = world()
    for name in ("old", "alive"):
        backup(repository, name, disk(repository, name, name))
    write_tombstone(repository, "old", NOW, "x")
    path = next(n for n in store.objects if f"/backups/{repository.keys.name_hash('alive')}" in n)
    content, modified, version = store.objects[path]
    store.objects[path] = (content[:-1] + bytes([content[-1] ^ 1]), modified, version)
    before = dict(store.objects)
    with pytest.raises(DamagedError):
        sweep_tombstones(repository, NOW + TRASH, TRASH)
    assert store.objects == before


@pytest.mark.parametrize("fault", ["killed-before", "killed-after"])
def test_sweep_killed_anywhere_ends_with_the_next_one_and_no_undo_comes_too_late(fault: str) -> None:
    store, repository = world()
    backup(repository, "a", disk(repository, "a"), disk(repository, "a", "two"))
    write_tombstone(repository, "a", NOW, "x")
    counter = FaultyStore(store.copy())
    sweep_tombstones(open_or_create_repository(counter, PATH, KEY), NOW + TRASH, TRASH)
    for at in range(counter.operations):
        copy = store.copy()
        with pytest.raises(KilledError):
            sweep_tombstones(open_or_create_repository(FaultyStore(copy, fault, at), PATH, KEY), NOW + TRASH, TRASH)
        survivor = open_or_create_repository(copy, PATH, KEY)
        touched = len([n for n in copy.objects if "/disks/" in n or "/backups/" in n]) < 3
        if touched and read_tombstones(survivor):
            with pytest.raises(BackupBeingRemovedError):
                remove_tombstone(survivor, "a")
        sweep_tombstones(survivor, NOW + TRASH, TRASH)
        assert not [n for n in copy.objects if n.split("/")[2] in {"disks", "backups", "tombstones"}]


def test_parent_is_the_newest_that_fits() -> None:
    _, repository = world()
    identity = DiskIdentity(disk_key="disk", volume_handle="v")
    assert choose_parent(repository, identity, 4096, 8).full_reason == "NoParent"
    one, two = disk(repository, "one", day=1), disk(repository, "two", day=2)
    assert choose_parent(repository, identity, 4096, 8).parent == two
    assert choose_parent(repository, identity, 8192, 8).full_reason == "BlockSizeChanged"
    moved = identity.model_copy(update={"volume_handle": "w"})
    assert choose_parent(repository, moved, 4096, 8).full_reason == "VolumeChanged"
    choice = choose_parent(repository, identity, 4096, 8, excluded=[two.name])
    assert choice.parent == one and "ParentUnreadable" in choice.note
    write_tombstone(repository, "one", NOW, "x")
    assert choose_parent(repository, identity, 4096, 8, excluded=[two.name]).parent is None


def test_two_operators_do_not_both_expire() -> None:
    _, repository = world()
    assert read_epoch(repository) is None
    assert advance_epoch(repository, {"a1"}, "a1").number == 1
    assert advance_epoch(repository, {"a1", "a2"}, "a2").number == 2
    # The other cluster is a clone: it knows what the first one wrote before, and goes on from there.
    assert advance_epoch(repository, {"a1", "a2", "b3"}, "b3").number == 3
    with pytest.raises(EpochConflictError, match="another operator"):
        advance_epoch(repository, {"a2", "a3"}, "a3")
    assert read_epoch(repository) is not None


def test_lost_acknowledgement_of_an_epoch_is_no_conflict() -> None:
    _, repository = world()
    advance_epoch(repository, {"a1"}, "a1")
    assert advance_epoch(repository, {"a1"}, "a1").number == 2


def test_of_several_versions_of_a_disk_manifest_the_one_that_is_wanted_is_read() -> None:
    # A manifest was withdrawn and written anew, and the oldest version of each object is what is read.
    store = MemoryStore()
    repository = repository_in(store)
    first = back_up(repository, "disk", "run", backup_time(1), [1, 2])
    name = f"cluster/namespace/{first.name}"
    old = store.objects.pop(name)
    second = back_up(repository, "disk", "run", backup_time(1), [1, 3])
    versions = [old[0], store.objects[name][0]]

    class Oldest(MemoryStore):
        def get(self, wanted: str, max_size: int) -> bytes:
            return versions[0] if wanted == name else super().get(wanted, max_size)

        def get_versions(self, wanted: str, max_size: int) -> Iterator[bytes]:
            yield from versions if wanted == name else [self.get(wanted, max_size)]

    oldest = Oldest()
    oldest.objects = store.objects
    repository = repository_in(oldest)
    assert read_disk_manifest(repository, first.name) == first
    assert read_disk_manifest(repository, first.name, second.object_id) == second
    assert read_disk_manifest(repository, first.name, first.object_id) == first
    # None is the one: whoever asked says so.
    assert read_disk_manifest(repository, first.name, "0" * 32) == first
