"""Expiry over a real repository in a folder: named by the failures that each test prevents."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP
from longboat.reconcile import retention, trash, trash_notes
from longboat.repository import find_backup, list_backups
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.deletion_world import (
    UNREACHABLE,
    add_backup,
    buried,
    expire,
    repository,
    settle,
    uid_of,
    world,
)
from tests.unit.reconcile.policy_world import SHOP, World

__all__ = ["world"]


def test_an_expired_backup_goes_and_its_data_into_the_trash(world: World) -> None:
    add_backup(world, "old")
    world.clock.by(days=1)
    add_backup(world, "new")
    assert expire(world) == timedelta(days=6)
    world.clock.by(days=6)
    expire(world)
    settle(world)
    assert [each.name for each in world.backups()] == ["new"]
    assert buried(world) == ["old"]
    assert set(world.repositories.asked) == {(SHOP, "maintenance")}
    assert [each.name for each in list_backups(repository(world))] == ["new"]


def test_the_newest_good_one_stays_and_says_why(world: World) -> None:
    add_backup(world, "good")
    world.clock.by(days=30)
    expire(world)
    [backup] = world.backups()
    assert backup.status.kept_because == "NewestGood"
    assert backup.status.expires_at is not None


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("nth", range(1, 7))
def test_an_operator_killed_during_an_expiry_goes_on_where_it_was(world: World, nth: int, before: bool) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    bomb = KillAt(nth, before=before)
    try:
        expire(world, bomb=bomb)
        settle(world, bomb)
    except Killed:
        expire(world)
        settle(world)
    assert [each.name for each in world.backups()] == ["new"]
    assert buried(world) == ["old"]
    assert trash_notes.recent_deletions(world.context(), SHOP) == 0


def test_an_object_never_goes_before_its_data_is_marked(world: World) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    world.repositories.problem = UNREACHABLE
    assert expire(world) == timedelta(minutes=10)
    assert len(world.backups()) == 2


def test_a_backup_that_is_held_at_the_last_moment_does_not_expire(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    second_look = retention.load

    def hold_first(cluster: Any, kind: Any, *rest: Any) -> Any:
        if kind == DISK_BACKUP:
            world.cluster.patch(DISK_BACKUP, "old", [{"op": "add", "path": "/spec/hold", "value": True}], SHOP)
        return second_look(cluster, kind, *rest)

    monkeypatch.setattr(retention, "load", hold_first)
    expire(world)
    assert len(world.backups()) == 2
    assert buried(world) == []


def test_a_backup_that_is_held_after_it_was_marked_is_no_longer_marked(world: World) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    with pytest.raises(Killed):
        # Its writes: the note in the status, the note of the repository, the deletion.
        expire(world, bomb=KillAt(3, before=True))
    assert buried(world) == ["old"]
    world.cluster.patch(DISK_BACKUP, "old", [{"op": "add", "path": "/spec/hold", "value": True}], SHOP)
    expire(world)
    held = world.backup("old")
    assert held is not None
    assert held.status.tombstoned_at is None
    assert buried(world) == []


def test_a_backup_that_is_held_while_it_is_marked_is_not_deleted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    bury = trash.bury

    def hold_meanwhile(*args: Any, **named: Any) -> None:
        bury(*args, **named)
        world.cluster.patch(DISK_BACKUP, "old", [{"op": "add", "path": "/spec/hold", "value": True}], SHOP)

    monkeypatch.setattr(trash, "bury", hold_meanwhile)
    expire(world)
    expire(world)
    assert len(world.backups()) == 2
    assert buried(world) == []


def test_a_hold_an_expiry_and_an_edit_of_the_policy_reach_the_manifest(world: World) -> None:
    add_backup(world, "b")
    expire(world)
    world.cluster.patch(DISK_BACKUP, "b", [{"op": "add", "path": "/spec/hold", "value": True}], SHOP)
    stamp = "2030-01-01T00:00:00Z"
    world.cluster.patch(DISK_BACKUP, "b", [{"op": "add", "path": "/spec/expiresAt", "value": stamp}], SHOP)
    world.edit(retention={"keepFor": "9d"})
    expire(world)
    manifest = find_backup(repository(world), "b")
    assert manifest is not None
    assert isinstance(manifest.expiry, dict)
    assert (manifest.expiry["hold"], manifest.expiry["expiresAt"]) == (True, stamp)
    assert isinstance(manifest.expiry["retention"], dict)
    assert manifest.expiry["retention"]["keepFor"] == "9d"
    world.repositories.problem = UNREACHABLE
    assert expire(world) != retention.STORE_RETRY, "the store is asked only when the rule has changed"


def test_a_dead_store_does_not_stop_the_expiry_of_what_lies_in_others(world: World) -> None:
    add_backup(world, "dead")
    add_backup(world, "old")
    world.set_status("dead", store={"name": "gone", "repository": f"cluster/{uid_of(world)}"})
    world.clock.by(days=8)
    add_backup(world, "new")
    assert expire(world) == retention.STORE_RETRY
    settle(world)
    assert [each.name for each in world.backups()] == ["dead", "new"]
    assert buried(world) == ["old"]


def test_a_backup_that_is_held_does_not_expire(world: World) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    world.cluster.patch(DISK_BACKUP, "old", [{"op": "add", "path": "/spec/hold", "value": True}], SHOP)
    expire(world)
    held = world.backup("old")
    assert held is not None
    assert held.status.kept_because == "Hold"


def test_a_backup_that_a_restore_reads_does_not_expire(world: World) -> None:
    add_backup(world, "old")
    world.clock.by(days=8)
    add_backup(world, "new")
    world.add("Restore", "r", {"source": {"diskBackup": {"name": "old"}}, "claim": {"name": "c"}})
    expire(world)
    assert len(world.backups()) == 2


def test_failed_runs_without_data_expire_without_the_store(world: World) -> None:
    add_backup(world, "failed", data=False, phase="Failed")
    world.clock.by(days=8)
    world.repositories.problem = UNREACHABLE
    expire(world)
    settle(world)
    assert world.backups() == []


def test_deleting_the_policy_expires_nothing_at_once(world: World) -> None:
    add_backup(world, "good")
    world.clock.by(days=30)
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    expire(world)
    world.clock.by(days=6)
    expire(world)
    assert len(world.backups()) == 1
    world.clock.by(days=2)
    expire(world)
    settle(world)
    assert world.backups() == []
    assert buried(world) == ["good"]


def test_a_policy_that_is_applied_again_takes_its_backups_back(world: World) -> None:
    add_backup(world, "good")
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    expire(world)
    world.add_policy(retention={"keepFor": "14d"})
    expire(world)
    [backup] = world.backups()
    assert backup.status.policy_gone_at is None
    assert backup.status.retention is not None
    assert backup.status.retention.keep_for == "14d"
