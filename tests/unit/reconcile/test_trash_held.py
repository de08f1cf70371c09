"""A disk whose backups were all found lost keeps what expired before that was known."""

from __future__ import annotations

import pytest

from longboat.plan.names import disk_key
from longboat.reconcile import trash, trash_notes
from longboat.repository.layout import disk_manifest_name
from tests.unit.reconcile.deletion_world import (
    add_backup,
    buried,
    expire,
    repository,
    settle,
    user_deletes,
    world,
)
from tests.unit.reconcile.policy_world import World

__all__ = ["world"]


def back_up(world: World, name: str) -> None:
    add_backup(world, name)
    its = repository(world)
    disk, backup = its.keys.name_hash(disk_key("c1", "v")), its.keys.name_hash(name)
    its.store.put_new(disk_manifest_name(disk, world.clock.time, backup), name.encode())
    world.clock.by(days=1)


def find(world: World, name: str, whole: bool) -> None:
    """Let a verification say what it has found."""
    said = {"type": "Verified", "status": str(whole), "reason": "Verified" if whole else "Damaged", "message": ""}
    said["lastTransitionTime"] = world.clock.time.isoformat().replace("+00:00", "Z")
    world.set_status(name, conditions=[said])


def sweep(world: World) -> list[str]:
    [place] = trash_notes.places(world.context())
    return sorted(trash.sweep(world.context(), place).removed_backups)


@pytest.fixture
def lost(world: World) -> World:
    """Two backups of a disk in the trash, expired, and one that is kept, and was found lost since; nine days ago."""
    for name in ("older", "old", "new"):
        back_up(world, name)
    world.clock.by(days=7)
    expire(world)
    settle(world)
    assert buried(world) == ["old", "older"]
    world.clock.by(days=3)
    find(world, "new", whole=False)
    world.clock.by(days=6)
    return world


def test_what_expired_stays_in_the_trash_while_all_that_is_left_of_a_disk_is_lost(lost: World) -> None:
    assert sweep(lost) == []
    lost.clock.by(days=30)
    assert sweep(lost) == [] and buried(lost) == ["old", "older"]
    find(lost, "new", whole=True)
    assert sweep(lost) == ["old", "older"] and buried(lost) == []


def test_a_whole_backup_of_the_disk_lets_the_trash_go(lost: World) -> None:
    back_up(lost, "healed")
    assert sweep(lost) == ["old", "older"]


def test_what_somebody_deleted_is_not_held_back(lost: World) -> None:
    back_up(lost, "meant")
    user_deletes(lost, "meant")
    lost.clock.by(days=8)
    assert sweep(lost) == ["meant"] and buried(lost) == ["old", "older"]


def test_the_lost_one_can_be_given_up(lost: World) -> None:
    user_deletes(lost, "new")
    lost.clock.by(days=8)
    assert sweep(lost) == ["new", "old", "older"]


def test_backups_of_other_disks_are_not_held_back(lost: World) -> None:
    add_backup(lost, "elsewhere")
    lost.set_status("elsewhere", disks=[])
    lost.clock.by(days=9)
    expire(lost)
    settle(lost)
    lost.clock.by(days=8)
    assert sweep(lost) == ["elsewhere"]
