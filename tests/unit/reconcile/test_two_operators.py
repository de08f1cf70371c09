"""Two operators on one repository (a clone of a cluster, or one whose etcd was put back): only one is in charge."""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path

import pytest

from longboat.kube.kinds import BACKUP_STORE, CONFIG_MAP, DISK_BACKUP
from longboat.plan.conditions import find
from longboat.plan.take_over import TAKE_OVER
from longboat.reconcile import backup_store, retention, trash, trash_notes
from longboat.reconcile.dispatch import reconcile_disk_backup, sweep_trash
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import StoreCheck, StoreProblem, generate_store_key, read_epoch
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.deletion_world import add_backup, buried, repository, settle, user_deletes
from tests.unit.reconcile.policy_world import SHOP, SYSTEM, Clock, FolderRepositories, World

WORKS = StoreCheck(StoreProblem.NONE, "works", timedelta(0))


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A cluster that has removed data before."""
    clock = Clock()
    world = World(clock, FolderRepositories(str(tmp_path), clock=clock))
    world.add_store()
    world.add_secret("offsite-s3", accessKeyID="a", secretAccessKey="s")
    world.add_secret("offsite-key", key=generate_store_key())
    world.add_policy(retention={"keepFor": "7d"})
    for name in ("first", "second", "third"):
        add_backup(world, name)
    user_deletes(world, "first")
    clock.by(days=8)
    sweep(world)
    return world


@pytest.fixture
def clone(world: World) -> World:
    """The same cluster from a copy of its etcd; the cluster itself has removed something since."""
    clone = World(world.clock, FolderRepositories(world.repositories.folder, clock=world.clock))
    clone.cluster.objects = copy.deepcopy(world.cluster.objects)
    user_deletes(world, "second")
    world.clock.by(days=8)
    sweep(world)
    return clone


def sweep(world: World) -> list[str]:
    [place] = trash_notes.places(world.context())
    return trash.sweep(world.context(), place).removed_backups


def look_at_trash(world: World) -> None:
    """Do what the tick asks for."""
    for place in trash_notes.places(world.context()):
        sweep_trash(world.context(), SHOP, place.name)


def condition(world: World) -> str | None:
    backup_store.reconcile(world.context(), "", "offsite", check=lambda *_: WORKS)
    found = find(world.store().status.conditions, "EpochConflict")
    return found and found.message


def answer(world: World, text: str) -> None:
    operation = {"op": "add", "path": "/metadata/annotations", "value": {TAKE_OVER: text}}
    world.cluster.patch(BACKUP_STORE, "offsite", [operation])


def asked(world: World) -> str:
    """Return the answer that the condition asks for."""
    look_at_trash(world)
    message = condition(world)
    assert message is not None
    return message.split(f'{TAKE_OVER}="')[1].split('"')[0]


def test_a_clone_buries_nothing(world: World, clone: World) -> None:
    user_deletes(clone, "third")
    assert buried(world) == [] and [each.name for each in clone.backups()] == ["second", "third"]
    clone.clock.by(minutes=10)
    settle(clone)
    assert buried(world) == [] and "DataKept" in clone.reasons()


def test_a_clone_expires_nothing(world: World, clone: World) -> None:
    clone.clock.by(days=30)
    retention.reconcile(clone.context(), SHOP, "daily")
    assert buried(world) == [] and len(clone.backups()) == 2
    assert not any(each.status.tombstoned_at for each in clone.backups())


def test_a_clone_takes_no_backup_over_and_waits_for_the_answer(world: World, clone: World) -> None:
    clone.cluster.patch(DISK_BACKUP, "third", [{"op": "add", "path": "/metadata/finalizers", "value": []}], SHOP)
    clone.cluster.delete(DISK_BACKUP, "third", SHOP)
    clone.clock.by(days=1)
    clone.add("DiskBackup", "third", {"policyRef": {"name": "daily"}})
    for _ in range(3):
        reconcile_disk_backup(clone.context(), SHOP, "third")
        clone.clock.by(days=1)
    [backup] = [each for each in clone.backups() if each.name == "third"]
    stalled = find(backup.status.conditions, "Stalled")
    assert (backup.status.phase, stalled and stalled.reason) == ("Pending", "EpochConflict")
    answer(clone, asked(clone))
    # The store's Secrets are not there, so that its check fails, which counts for five minutes.
    clone.clock.by(minutes=10)
    reconcile_disk_backup(clone.context(), SHOP, "third")
    adopted = clone.backup("third")
    assert adopted is not None and adopted.status.adopted


def test_who_is_not_in_charge_learns_of_it_before_anything_is_to_be_removed(world: World, clone: World) -> None:
    look_at_trash(clone)
    message = condition(clone)
    assert message is not None and "1 repository" in message
    assert condition(world) is None


def test_an_administrator_takes_a_repository_over_and_the_other_one_stops(world: World, clone: World) -> None:
    answer(clone, asked(clone))
    look_at_trash(clone)
    assert condition(clone) is None
    user_deletes(clone, "third")
    assert buried(world) == ["third"]
    with pytest.raises(StoreProblemError, match="another operator"):
        sweep(world)


def test_an_answer_holds_once(world: World, clone: World) -> None:
    """Both have it, as they share Git: the other one does not take the repository back and forth."""
    text = asked(clone)
    world.clock.by(minutes=5)
    for each in (clone, world):
        answer(each, text)
    for _ in range(3):
        for each in (clone, world):
            each.clock.by(minutes=5)
            look_at_trash(each)
    assert condition(clone) is None
    message = condition(world)
    assert message is not None and text not in message


@pytest.mark.parametrize("text", ["true", "", "2027-01-01T00:00:00Z", "2026-01-15T00:00:00"])
def test_an_answer_that_names_no_moment_of_the_past_takes_nothing_over(world: World, clone: World, text: str) -> None:
    answer(clone, text)
    look_at_trash(clone)
    assert condition(clone) is not None


def test_an_answer_to_what_was_before_does_not_hold_for_what_the_other_one_did_since(
    world: World, clone: World
) -> None:
    text = asked(clone)
    user_deletes(world, "third")
    world.clock.by(days=8)
    sweep(world)
    answer(clone, text)
    look_at_trash(clone)
    assert condition(clone) is not None


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_operator_that_is_killed_while_it_takes_over_is_no_stranger_to_itself(
    world: World, clone: World, nth: int, before: bool
) -> None:
    answer(clone, asked(clone))
    with pytest.raises(Killed):
        sweep_trash(clone.context(KillAt(nth, before=before)), SHOP, trash_notes.places(clone.context())[0].name)
    look_at_trash(clone)
    assert condition(clone) is None


def test_a_cluster_that_lost_its_notes_is_told_so_and_takes_over(world: World) -> None:
    [notes] = list(world.cluster.list(CONFIG_MAP, SYSTEM))
    world.cluster.delete(CONFIG_MAP, notes["metadata"]["name"], SYSTEM)
    user_deletes(world, "second")
    assert buried(world) == []
    answer(world, asked(world))
    look_at_trash(world)
    settle(world)
    assert buried(world) == ["second"]


def test_a_clone_still_makes_backups(world: World, clone: World) -> None:
    """Nothing of a run can destroy anything; without it a cluster that was put back would be without backups."""
    clone.add_vm("db", "root")
    clone.add("DiskBackup", "new", {"policyRef": {"name": "daily"}})
    reconcile_disk_backup(clone.context(), SHOP, "new")
    [new] = [each for each in clone.backups() if each.name == "new"]
    stalled = find(new.status.conditions, "Stalled")
    assert stalled is None or stalled.reason != "EpochConflict"


def test_the_first_one_to_remove_anything_needs_no_answer(tmp_path: Path) -> None:
    world = World(Clock(), FolderRepositories(str(tmp_path)))
    world.add_store()
    add_backup(world, "only")
    user_deletes(world, "only")
    assert buried(world) == ["only"] and read_epoch(repository(world)) is None
