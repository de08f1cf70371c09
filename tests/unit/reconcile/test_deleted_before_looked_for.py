"""A deleted DiskBackup that is applied again and deleted once more before anybody could look for its data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from longboat.kube.kinds import DISK_BACKUP
from longboat.plan.deletion import SETTLE
from longboat.reconcile import trash, trash_notes
from longboat.reconcile.dispatch import reconcile_disk_backup
from longboat.reconcile.repositories import StoreProblemError
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.deletion_world import UNREACHABLE, add_backup, buried, user_deletes
from tests.unit.reconcile.policy_world import SHOP, Clock, FolderRepositories, World

REFUSED = StoreProblemError("WrongCredentials", "who are you?", retryable=False)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A backup that was deleted six and a half days ago, whose store is away."""
    clock = Clock()
    world = World(clock, FolderRepositories(str(tmp_path), clock=clock))
    world.add_store()
    world.add_policy(retention={"keepFor": "365d"})
    add_backup(world, "precious")
    user_deletes(world, "precious")
    clock.by(days=6, hours=12)
    world.repositories.problem = UNREACHABLE
    return world


def look(world: World, name: str = "precious", bomb: KillAt | None = None) -> None:
    reconcile_disk_backup(world.context(bomb), SHOP, name)


def apply_again(world: World, name: str = "precious") -> None:
    world.add("DiskBackup", name, {"policyRef": {"name": "daily"}})
    look(world, name)


def delete(world: World, name: str = "precious", bomb: KillAt | None = None) -> None:
    world.cluster.delete(DISK_BACKUP, name, SHOP)
    world.clock.by(seconds=SETTLE.total_seconds())
    look(world, name, bomb)


def sweep(world: World, **later: float) -> list[str]:
    world.clock.by(**later)
    world.repositories.problem = None
    [place] = trash_notes.places(world.context())
    return trash.sweep(world.context(), place).removed_backups


def test_a_deletion_that_nobody_could_look_into_begins_the_trash_period_anew(world: World) -> None:
    apply_again(world)
    world.clock.by(hours=20)
    delete(world)
    assert world.backups() == []
    assert sweep(world) == [] and sweep(world, days=6, hours=23) == []
    assert sweep(world, hours=2) == ["precious"]


def test_the_undo_of_such_a_deletion_brings_the_backup_back(world: World) -> None:
    apply_again(world)
    delete(world)
    sweep(world, days=6)
    world.clock.by(seconds=1)
    apply_again(world)
    [backup] = world.backups()
    assert backup.status.adopted and buried(world) == []


@pytest.mark.parametrize("before", [True, False])
def test_an_operator_that_is_killed_does_not_let_it_go_without_a_note(world: World, before: bool) -> None:
    apply_again(world)
    with pytest.raises(Killed):
        delete(world, bomb=KillAt(1, before=before))
    look(world)
    assert world.backups() == [] and sweep(world, days=6) == []


def test_one_whose_store_refused_and_that_failed_long_ago_is_not_forgotten(world: World) -> None:
    world.repositories.problem = REFUSED
    apply_again(world)
    world.clock.by(days=1)
    look(world)
    look(world)
    assert [(each.status.phase, each.metadata.finalizers) for each in world.backups()] == [("Failed", [])]
    [place] = trash_notes.places(world.context())
    for _ in range(20):
        world.clock.by(hours=12)
        with pytest.raises(StoreProblemError):
            trash.sweep(world.context(), place)
    # There is no finalizer: nobody sees this.
    world.cluster.delete(DISK_BACKUP, "precious", SHOP)
    assert sweep(world, days=6) == []
    assert world.backups() == [] and sweep(world, days=2) == ["precious"]


def test_a_sweep_that_is_under_way_leaves_what_is_going_to_its_deletion(world: World) -> None:
    apply_again(world)
    world.cluster.delete(DISK_BACKUP, "precious", SHOP)
    assert sweep(world, days=1) == []


def test_more_names_than_can_be_noted_keep_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash_notes, "MOST_NAMES", 3)
    names = ["precious", *(f"other-{number}" for number in range(4))]
    for name in names:
        apply_again(world, name)
        delete(world, name)
    [(_, data)] = trash_notes.noted(world.context())
    assert trash_notes.EVERYTHING in trash_notes.unseen(data) and len(trash_notes.unseen(data)) <= 3
    assert sweep(world, days=6) == []
    assert sweep(world, days=2) == ["precious"]


def test_what_is_not_in_the_trash_is_not_remembered_for_ever(world: World) -> None:
    apply_again(world, "never-ran")
    delete(world, "never-ran")
    assert sweep(world) == []
    [(_, data)] = trash_notes.noted(world.context())
    assert trash_notes.unseen(data) == {}


def test_a_repository_without_trash_gets_no_note(tmp_path: Path) -> None:
    world = World(Clock(), FolderRepositories(str(tmp_path)))
    world.add_store()
    world.add_policy()
    world.repositories.problem = UNREACHABLE
    apply_again(world)
    delete(world)
    assert world.backups() == [] and trash_notes.places(world.context()) == []
    assert world.settings.trash_period == timedelta(days=7)
