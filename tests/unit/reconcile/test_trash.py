"""The trash over a real repository in a folder: named by the failures that each test prevents."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP
from longboat.reconcile import trash, trash_notes
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import read_tombstones, remove_tombstone, write_tombstone
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.deletion_world import add_backup, buried, repository, uid_of, user_deletes, world
from tests.unit.reconcile.policy_world import SHOP, STORE_SPEC, Clock, World

__all__ = ["world"]


def test_a_users_deletion_keeps_the_data_for_the_trash_period(world: World) -> None:
    add_backup(world, "b")
    user_deletes(world, "b")
    assert world.backups() == []
    assert buried(world) == ["b"]
    [place] = trash_notes.places(world.context())
    world.clock.by(days=6)
    assert trash.sweep(world.context(), place).removed_backups == []
    world.clock.by(days=2)
    assert trash.sweep(world.context(), place).removed_backups == ["b"]


@pytest.mark.parametrize(
    "asked", [("maintenance", {"prune": {"suspend": True}}), ("s3", {**STORE_SPEC["s3"], "readVersions": "Oldest"})]
)
def test_the_trash_is_not_emptied_while_a_bucket_is_put_right(world: World, asked: tuple[str, Any]) -> None:
    add_backup(world, "b")
    user_deletes(world, "b")
    [place] = trash_notes.places(world.context())
    field, value = asked
    before = world.cluster.get(BACKUP_STORE, "offsite")
    world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "add", "path": f"/spec/{field}", "value": value}])
    world.clock.by(days=30)
    assert trash.sweep(world.context(), place).removed_backups == []
    assert buried(world) == ["b"]
    assert before is not None
    world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "replace", "path": "/spec", "value": before["spec"]}])
    assert trash.sweep(world.context(), place).removed_backups == ["b"]


def test_a_backup_that_was_applied_again_is_not_swept(world: World) -> None:
    add_backup(world, "b")
    user_deletes(world, "b")
    world.add("DiskBackup", "b", {"policyRef": {"name": "daily"}})
    world.clock.by(days=30)
    assert trash.sweep(world.context(), trash_notes.places(world.context())[0]).removed_backups == []


def test_a_backup_that_was_applied_again_does_not_stop_the_sweep_of_others(world: World) -> None:
    for name in ("back", "gone"):
        add_backup(world, name)
        user_deletes(world, name)
    world.add("DiskBackup", "back", {"policyRef": {"name": "daily"}})
    world.clock.by(days=30)
    assert trash.sweep(world.context(), trash_notes.places(world.context())[0]).removed_backups == ["gone"]
    assert buried(world) == ["back"]


def test_an_undo_that_fails_does_not_shorten_the_trash_period(world: World) -> None:
    for name in ("back", "gone"):
        add_backup(world, name)
        user_deletes(world, name)
    [place] = trash_notes.places(world.context())
    world.clock.by(days=6, hours=12)
    world.add("DiskBackup", "back", {"policyRef": {"name": "daily"}})
    trash.sweep(world.context(), place)
    world.cluster.delete(DISK_BACKUP, "back", SHOP)
    world.clock.by(days=6)
    assert trash.sweep(world.context(), place).removed_backups == ["gone"]
    world.clock.by(days=1)
    assert trash.sweep(world.context(), place).removed_backups == ["back"]


def test_what_was_applied_again_is_not_marked_anew_at_every_look(world: World) -> None:
    add_backup(world, "b")
    user_deletes(world, "b")
    [before] = read_tombstones(repository(world))
    world.add("DiskBackup", "b", {"policyRef": {"name": "daily"}})
    world.clock.by(hours=23)
    trash.sweep(world.context(), trash_notes.places(world.context())[0])
    assert read_tombstones(repository(world)) == [before]


def test_a_mark_of_an_earlier_deletion_does_not_shorten_the_trash_period(world: World) -> None:
    add_backup(world, "b")
    write_tombstone(repository(world), "b", world.clock.time, "somebody, long ago")
    world.clock.by(days=30)
    user_deletes(world, "b")
    [stone] = read_tombstones(repository(world))
    assert stone.deleted == world.clock.time


def test_a_clock_that_jumped_ahead_does_not_empty_the_trash(world: World) -> None:
    add_backup(world, "b")
    user_deletes(world, "b")
    world.repositories.clock = Clock(world.clock.time)
    world.clock.by(days=8)
    with pytest.raises(StoreProblemError) as caught:
        trash.sweep(world.context(), trash_notes.places(world.context())[0])
    assert caught.value.reason == "ClockSkew"
    assert buried(world) == ["b"]


def test_what_an_interrupted_removal_left_does_not_forbid_the_undo_of_a_later_deletion(world: World) -> None:
    add_backup(world, "b")
    user_deletes(world, "b")
    hashed = repository(world).keys.name_hash("b")
    repository(world).store.put_new(f"removing/{hashed}", b"")
    repository(world).store.delete(f"tombstones/{hashed}")
    trash.sweep(world.context(), trash_notes.places(world.context())[0])
    write_tombstone(repository(world), "b", world.clock.time, "a user")
    assert remove_tombstone(repository(world), "b")


def test_a_second_operator_on_the_same_repository_sweeps_nothing(world: World) -> None:
    add_backup(world, "a")
    add_backup(world, "b")
    user_deletes(world, "a")
    [place] = trash_notes.places(world.context())
    clone = {key: each for key, each in world.cluster.objects.items() if key[0] != DISK_BACKUP}
    world.clock.by(days=8)
    assert trash.sweep(world.context(), place).removed_backups == ["a"]
    user_deletes(world, "b")
    world.clock.by(days=8)
    # The clone has the notes from before the first sweep.
    world.cluster.objects = clone
    with pytest.raises(StoreProblemError) as caught:
        trash.sweep(world.context(), place)
    assert caught.value.reason == "EpochConflict"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_sweep_that_was_killed_is_no_stranger_to_itself(world: World, nth: int, before: bool) -> None:
    for name in ("z", "a"):
        add_backup(world, name)
        user_deletes(world, name)
        [place] = trash_notes.places(world.context())
        world.clock.by(days=8)
        if name == "z":
            trash.sweep(world.context(), place)
    with pytest.raises(Killed):
        trash.sweep(world.context(KillAt(nth, before=before)), place)
    trash.sweep(world.context(), place)
    assert buried(world) == []


def empty_store(world: World) -> None:
    folder = Path(world.repositories.folder)
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def test_a_store_that_was_emptied_gets_no_repository_and_no_mark(world: World) -> None:
    add_backup(world, "b")
    empty_store(world)
    with pytest.raises(StoreProblemError) as caught:
        trash.bury(world.context(), world.backups()[0], by="test")
    assert caught.value.reason == "RepositoryNotFound"
    assert list(Path(world.repositories.folder).rglob("repository")) == []


def test_another_repository_at_the_same_place_gets_no_mark(world: World) -> None:
    add_backup(world, "b")
    world.set_status("b", store={"name": "offsite", "repository": f"cluster/{uid_of(world)}", "id": "0" * 32})
    with pytest.raises(StoreProblemError) as caught:
        trash.bury(world.context(), world.backups()[0], by="test")
    assert caught.value.reason == "RepositoryReplaced"
    assert buried(world) == []


def test_a_backup_of_which_the_repository_holds_nothing_gets_no_mark(world: World) -> None:
    add_backup(world, "b")
    empty_store(world)
    assert buried(world) == []
    with pytest.raises(StoreProblemError) as caught:
        trash.bury(world.context(), world.backups()[0], by="test")
    assert caught.value.reason == "BackupNotFound"
    assert buried(world) == []
