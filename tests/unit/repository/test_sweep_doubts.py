"""A sweep takes nothing because something else is out of sight: only what it has noted itself says how far it came."""

from __future__ import annotations

from datetime import timedelta

import pytest

from longboat.repository import (
    Repository,
    StoredDisk,
    find_backup,
    list_backups,
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
    DamagedError,
    ObjectNotFoundError,
)
from longboat.repository.layout import REMOVING, TOMBSTONES
from tests.fakes.interleaved import Process
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore

from .test_backups import NOW, PATH, TRASH, backup, disk, world
from .test_sweep import LATER, opened, operations, sweep, whole

_GONE = BackupNotFoundError | BackupBeingRemovedError | ObjectNotFoundError


def hide(store: MemoryStore, hidden: StoredDisk) -> None:
    del store.objects[f"{PATH}/{hidden.name}"]


def announced(repository: Repository, name: str) -> str:
    return f"{PATH}/{REMOVING}{repository.keys.name_hash(name)}"


def test_a_disk_out_of_sight_ends_no_backup_whose_removal_was_only_announced() -> None:
    """The sweep was killed right after its announcement, and the deletion was undone in between."""
    store, repository = world()
    one, two = disk(repository, "a"), disk(repository, "a", "two")
    backup(repository, "a", one, two)
    store.put_new(announced(repository, "a"), b"")
    hide(store, one)
    sweep(store, store)
    assert find_backup(repository, "a") and read_disk_manifest(repository, two.name)


@pytest.mark.parametrize("left", [(TOMBSTONES, REMOVING), (REMOVING,)])
def test_a_disk_out_of_sight_ends_no_new_backup_of_the_name(left: tuple[str, ...]) -> None:
    """The sweep was killed before its last steps; a new backup of that name was made before the next one."""
    store, repository = world()
    backup(repository, "a", disk(repository, "a"), disk(repository, "a", "two"))
    write_tombstone(repository, "a", NOW, "x")
    store.advance(LATER)
    with pytest.raises(KilledError):
        sweep(FaultyStore(store, "killed-before", operations(store) - len(left)), store)
    store.advance(timedelta(hours=1))
    new = disk(repository, "a", day=8), disk(repository, "a", "two", day=8)
    backup(repository, "a", *new)
    hide(store, new[0])
    sweep(store, store)
    assert find_backup(repository, "a") and read_disk_manifest(repository, new[1].name)
    assert not stale_markers(repository)


def shared() -> tuple[MemoryStore, list[StoredDisk]]:
    """Return a store where two backups that have a disk in common have been deleted for as long as the trash period."""
    store, repository = world()
    disks = [disk(repository, "a"), disk(repository, "b", "two")]
    backup(repository, "a", disks[0])
    backup(repository, "b", *disks)
    for name in "ab":
        write_tombstone(repository, name, NOW, "x")
    store.advance(LATER)
    return store, disks


def undone(store: MemoryStore, name: str) -> bool:
    try:
        return remove_tombstone(opened(store), name)
    except BackupBeingRemovedError:
        return False


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("kept", ["a", "b"])
def test_backup_whose_deletion_is_undone_keeps_the_disk_of_another_that_goes(kept: str, killed: bool) -> None:
    before, _ = shared()
    for at in range(operations(before)):
        store = before.copy()
        late = Process(store, lambda gated, store=store: sweep(gated, store))  # type: ignore[misc]
        for _ in range(at):
            late.step()
        if killed:
            late.kill()
        back = undone(store, kept)
        late.run()
        sweep(store, store)
        repository = opened(store)
        assert bool(find_backup(repository, kept)) == back and whole(repository), at
        assert not stale_markers(repository)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("kept", ["a", "b"])
def test_an_undo_that_slept_leaves_no_backup_without_a_disk_that_another_has_taken(kept: str, killed: bool) -> None:
    before, _ = shared()
    for at in range(operations(before)):
        store = before.copy()
        undo = Process(store, lambda gated: remove_tombstone(opened(gated), kept))
        while not undo.next_operation().startswith("delete"):
            undo.step()
        late = Process(store, lambda gated, store=store: sweep(gated, store))  # type: ignore[misc]
        for _ in range(at):
            late.step()
        if killed:
            late.kill()
        undo.run()
        late.run()
        sweep(store, store)
        assert whole(opened(store)) and not stale_markers(opened(store)), at
        assert undo.error is None or isinstance(undo.error, BackupBeingRemovedError)


def test_a_removal_that_has_begun_is_not_forgotten_for_an_undo_that_slept() -> None:
    """It looked before the first sweep, which was killed, and takes the tombstone while the second one begins."""
    before, repository = world()
    backup(repository, "a", disk(repository, "a"), disk(repository, "a", "two"))
    write_tombstone(repository, "a", NOW, "x")
    before.advance(LATER)
    number = operations(before)
    for killed in range(number - 8, number - 2):
        for at in range(10):
            store = before.copy()
            undo = Process(store, lambda gated: remove_tombstone(opened(gated), "a"))
            while not undo.next_operation().startswith("delete"):
                undo.step()
            with pytest.raises(KilledError):
                sweep(FaultyStore(store, "killed-before", killed), store)
            second = Process(store, lambda gated, store=store: sweep(gated, store))  # type: ignore[misc]
            for _ in range(at):
                second.step()
            undo.run()
            second.run()
            sweep(store, store)
            assert whole(opened(store)) and not stale_markers(opened(store)), (killed, at)


def test_a_sweep_that_another_one_overtakes_at_a_removal_ends_it_no_less() -> None:
    before, _ = shared()
    for at in range(operations(before)):
        store = before.copy()
        late = Process(store, lambda gated, store=store: sweep(gated, store))  # type: ignore[misc]
        for _ in range(at):
            late.step()
        sweep(store, store)
        late.run()
        sweep(store, store)
        left = [name for name in store.objects if name.split("/")[2] not in {"repository", "keys"}]
        assert not left, (at, left)


def test_announcement_that_cannot_be_read_removes_nothing() -> None:
    store, _ = shared()
    store.put_new(announced(opened(store), "b"), b"not ours")
    before = set(store.objects)
    with pytest.raises(DamagedError, match=REMOVING):
        sweep(store, store)
    assert before <= set(store.objects)


def test_objects_of_other_names_are_left_alone() -> None:
    store, _ = shared()
    others = [f"{PATH}/{each}" for each in ("removing/notes.txt", "tombstones/README", "removing/a/b")]
    for name in others:
        store.put_new(name, b"")
    assert sweep(store, store).removed_backups == ["a", "b"]  # type: ignore[attr-defined]
    store.advance(LATER)
    assert not list(old_markers(opened(store), store.now)) and {*others} <= set(store.objects)


@pytest.mark.parametrize("first", ["update", "sweep"])
def test_backup_whose_expiry_is_changed_while_it_is_removed_does_not_come_back(first: str) -> None:
    """A revision that comes after the sweep has looked would be a backup without disks: every prune ends at it."""
    before, repository = world()
    backup(repository, "a", disk(repository, "a"), disk(repository, "a", "two"))
    write_tombstone(repository, "a", NOW, "x")
    before.advance(LATER)
    for at in range(operations(before) + 1):
        for writes in range(1, 8):
            store = before.copy()
            sweeper = Process(store, lambda gated, store=store: sweep(gated, store))  # type: ignore[misc]
            updater = Process(store, lambda gated: update_backup_expiry(opened(gated), "a", {"hold": True}))
            one, other = (sweeper, updater) if first == "sweep" else (updater, sweeper)
            steps = {id(sweeper): at, id(updater): writes}
            for process in (one, other):
                for _ in range(steps[id(process)]):
                    process.step()
            for process in (one, other):
                process.run()
            left = list(list_backups(opened(store), tombstoned=True))
            assert not left, (at, writes, left)
            assert isinstance(updater.error, _GONE | None)


def test_expiry_of_a_backup_in_the_trash_may_change() -> None:
    store, repository = world()
    backup(repository, "a", disk(repository, "a"))
    write_tombstone(repository, "a", NOW, "x")
    assert update_backup_expiry(repository, "a", {"hold": True}).revision == 2
    assert remove_tombstone(repository, "a")
    found = find_backup(repository, "a")
    assert found and found.expiry == {"hold": True} and whole(repository)
    assert sweep_tombstones(repository, store.now + LATER, TRASH).removed_backups == []
