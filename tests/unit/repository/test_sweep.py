"""A sweep that stands still, is killed or meets an undo removes no backup but the deleted one, and never half of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from longboat.repository import (
    ObjectStore,
    Repository,
    advance_epoch,
    find_backup,
    list_backups,
    open_or_create_repository,
    read_disk_manifest,
    remove_tombstone,
    stale_markers,
    sweep_tombstones,
    update_backup_expiry,
    write_tombstone,
)
from longboat.repository.clutter import old_markers
from longboat.repository.errors import (
    BackupBeingRemovedError,
    BackupNotFoundError,
    EpochConflictError,
    ObjectNotFoundError,
)
from longboat.repository.layout import REMOVING
from tests.fakes.interleaved import Process
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore

from .test_backups import KEY, NOW, PATH, TRASH, backup, disk, world

LATER = timedelta(days=8)


@pytest.fixture
def store() -> MemoryStore:
    """Return a store with a backup of two disks whose trash period is over."""
    made, repository = world()
    backup(repository, "a", disk(repository, "a"), disk(repository, "a", "two"))
    write_tombstone(repository, "a", NOW, "x")
    made.advance(LATER)
    return made


def opened(store: ObjectStore) -> Repository:
    return open_or_create_repository(store, PATH, KEY)


def sweep(store: ObjectStore, now: MemoryStore) -> object:
    return sweep_tombstones(opened(store), now.now, TRASH)


def whole(repository: Repository) -> bool:
    """Tell whether every backup that is listed has its disks."""
    backups = list(list_backups(repository))
    return all(read_disk_manifest(repository, each.manifest) for found in backups for each in found.disks)


def operations(store: MemoryStore) -> int:
    counter = FaultyStore(store.copy())
    sweep(counter, store)
    return counter.operations


def test_sweep_that_stood_still_removes_no_new_backup_of_the_name(store: MemoryStore) -> None:
    # The last three operations are deletions by name, right after it has looked.
    for at in range(operations(store) - 3):
        shared = store.copy()
        late = Process(shared, lambda gated, shared=shared: sweep(gated, shared))  # type: ignore[misc]
        for _ in range(at):
            late.step()
        sweep(shared, shared)
        shared.advance(timedelta(hours=1))
        repository = opened(shared)
        remove_tombstone(repository, "a")
        made = disk(repository, "a", day=8), disk(repository, "a", "two", day=8)
        backup(repository, "a", *made)
        late.run()
        assert late.error is None or isinstance(late.error, ObjectNotFoundError)
        assert find_backup(repository, "a") and whole(repository), at


def test_sweep_ends_where_another_run_has_begun_to_remove(store: MemoryStore) -> None:
    repository = opened(store)
    epoch = advance_epoch(repository, set(), "mine")
    advance_epoch(repository, {"mine"}, "next")
    before = dict(store.objects)
    with pytest.raises(EpochConflictError):
        sweep_tombstones(repository, store.now, TRASH, epoch=epoch)
    assert store.objects == before


def test_backup_whose_expiry_was_changed_after_its_deletion_goes_as_a_whole(store: MemoryStore) -> None:
    update_backup_expiry(opened(store), "a", {"hold": True})
    for at in range(operations(store)):
        copy = store.copy()
        with pytest.raises(KilledError):
            sweep(FaultyStore(copy, "killed-before", at), store)
        sweep(copy, store)
        assert not [name for name in copy.objects if name.split("/")[2] in {"disks", "backups", "tombstones"}]


def test_undo_that_meets_a_sweep_that_is_killed_leaves_no_half_backup(store: MemoryStore) -> None:
    for before in range(4):
        for at in range(operations(store)):
            copy = store.copy()
            undo = Process(copy, lambda gated: remove_tombstone(opened(gated), "a"))
            for _ in range(before + 2):
                undo.step()
            with pytest.raises(KilledError):
                sweep(FaultyStore(copy, "killed-before", at), store)
            undo.run()
            repository = opened(copy)
            copy.advance(LATER)
            for marker in old_markers(repository, copy.now):
                copy.delete(f"{PATH}/{marker.name}")  # As prune does.
            sweep(copy, copy)
            assert undo.error is None or isinstance(undo.error, BackupBeingRemovedError)
            assert whole(repository) and not stale_markers(repository), (before, at)


@pytest.mark.parametrize("writes", [1, 9])
@pytest.mark.parametrize("killed", [False, True])
def test_backup_whose_manifest_comes_while_its_disks_are_removed_is_not_listed(writes: int, killed: bool) -> None:
    """Its writer slept: the backup was deleted for good before its own manifest was written."""
    before, repository = world()
    disks = disk(repository, "a"), disk(repository, "a", "two")
    for at in range(40):
        shared = before.copy()
        write_tombstone(opened(shared), "a", NOW, "x")
        writer = Process(shared, lambda gated: backup(opened(gated), "a", *disks))
        while "/backups/" not in writer.next_operation():
            writer.step()
        shared.advance(LATER)
        sweeper = Process(shared, lambda gated, shared=shared: sweep(gated, shared))  # type: ignore[misc]
        for _ in range(at):
            sweeper.step()
        for _ in range(writes):
            writer.step()
        if killed and sweeper.step() and not sweeper.ended:
            # Once it has ended, nobody could tell; prune says of such a backup that it is to be deleted.
            sweeper.kill()
            writer.kill()
            sweep(shared, shared)
        sweeper.run()
        writer.run()
        assert whole(opened(shared)), at
        assert list(list_backups(opened(shared))) or not [name for name in shared.objects if "/disks/" in name], at
        assert writer.killed or writer.error is None or isinstance(writer.error, BackupNotFoundError)


def test_announcement_alone_removes_nothing(store: MemoryStore) -> None:
    repository = opened(store)
    remove_tombstone(repository, "a")
    store.put_new(f"{PATH}/{REMOVING}{repository.keys.name_hash('a')}", b"")
    sweep(store, store)
    assert find_backup(repository, "a") and whole(repository) and not stale_markers(repository)
