"""Deletion by users over a real repository in a folder: named by the failures that each test prevents."""

from __future__ import annotations

import pytest

from longboat.kube.kinds import CONFIG_MAP, DISK_BACKUP, NAMESPACE
from longboat.plan.conditions import find
from longboat.plan.names import FINALIZER
from longboat.reconcile import deletion
from longboat.repository import read_tombstones
from tests.unit.reconcile.deletion_world import (
    UNREACHABLE,
    add_backup,
    buried,
    expire,
    settle,
    uid_of,
    user_deletes,
    world,
)
from tests.unit.reconcile.policy_world import SHOP, SYSTEM, World

__all__ = ["world"]


def test_a_namespace_that_goes_takes_no_data_with_it(world: World) -> None:
    add_backup(world, "b")
    world.cluster.patch(NAMESPACE, SHOP, [{"op": "add", "path": "/metadata/finalizers", "value": ["kubernetes"]}])
    world.cluster.delete(NAMESPACE, SHOP)
    user_deletes(world, "b")
    assert world.backups() == []
    assert buried(world) == []
    assert "DataKept" in world.reasons()


def test_removing_the_kind_takes_no_data_with_it(world: World) -> None:
    add_backup(world, "b")
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    meta = {"name": "diskbackups.longboat.dev", "finalizers": ["customresourcecleanup"], "deletionTimestamp": "x"}
    world.cluster.create(kind | {"metadata": meta})
    user_deletes(world, "b")
    assert world.backups() == []
    assert buried(world) == []


def test_many_deletions_at_once_stop_and_ask(world: World) -> None:
    world.set(deletion_limit=3)
    names = [f"b{number}" for number in range(5)]
    for name in names:
        add_backup(world, name)
    user_deletes(world, *names)
    assert len(world.backups()) == 5
    assert buried(world) == []
    condition = find(world.backups()[0].status.conditions, "DeletionHeld")
    assert condition is not None
    assert condition.reason == "ManyDeletions"
    answer(world, "b0", "true")
    answer(world, "b1", "false")
    settle(world)
    assert buried(world)[0] == "b0"
    assert "b1" not in buried(world)
    settle(world)
    # Three were left, and three are few enough.
    assert buried(world) == ["b0", "b2", "b3", "b4"]


def test_deletions_one_after_the_other_are_many_too(world: World) -> None:
    world.set(deletion_limit=2)
    for number in range(3):
        add_backup(world, f"b{number}")
        user_deletes(world, f"b{number}")
        world.clock.by(minutes=10)
    assert [each.name for each in world.backups()] == ["b2"]
    world.clock.by(minutes=41)
    settle(world)
    assert world.backups() == []


def hold(world: World, name: str, on: bool = True) -> None:
    world.cluster.patch(DISK_BACKUP, name, [{"op": "add", "path": "/spec/hold", "value": on}], SHOP)


@pytest.mark.parametrize("expired", [False, True])
def test_what_is_on_hold_survives_its_deletion_until_the_hold_ends(world: World, expired: bool) -> None:
    add_backup(world, "b")
    hold(world, "b")
    add_backup(world, "newer")
    if expired:
        world.clock.by(days=8)
    expire(world)
    user_deletes(world, "b")
    world.clock.by(days=30)
    settle(world)
    expire(world)
    assert buried(world) == []
    condition = find(world.backup("b").status.conditions, "DeletionHeld")
    assert condition is not None
    assert condition.reason == "OnHold"
    assert world.reasons().count("DeletionHeld") == 1
    hold(world, "b", on=False)
    settle(world)
    assert buried(world) == ["b"]


@pytest.mark.parametrize(("text", "marked"), [("true", ["b"]), ("false", [])])
def test_a_held_backup_goes_once_that_is_confirmed(world: World, text: str, marked: list[str]) -> None:
    add_backup(world, "b")
    hold(world, "b")
    user_deletes(world, "b")
    answer(world, "b", text)
    settle(world)
    assert world.backups() == []
    assert buried(world) == marked


def test_a_hold_that_only_the_manifest_tells_of_holds_a_deletion_too(world: World) -> None:
    add_backup(world, "b")
    world.set_status("b", unconfirmedRule={"hold": True})
    user_deletes(world, "b")
    assert buried(world) == []
    condition = find(world.backup("b").status.conditions, "DeletionHeld")
    assert condition is not None
    assert condition.reason == "OnHold"


def test_a_hold_that_comes_just_after_the_mark_takes_it_off_again(world: World) -> None:
    add_backup(world, "b")
    deletion.trash.bury(world.context(), world.backup("b"), by="retention")
    world.set_status("b", tombstonedAt=world.clock.time.isoformat().replace("+00:00", "Z"))
    hold(world, "b")
    user_deletes(world, "b")
    assert buried(world) == []
    assert world.backup("b").status.tombstoned_at is None


def test_held_backups_that_wait_make_no_other_deletion_one_of_many(world: World) -> None:
    world.set(deletion_limit=2)
    for number in range(4):
        add_backup(world, f"held{number}")
        hold(world, f"held{number}")
    user_deletes(world, *(f"held{number}" for number in range(4)))
    add_backup(world, "b")
    user_deletes(world, "b")
    assert buried(world) == ["b"]


def answer(world: World, name: str, text: str) -> None:
    operation = {"op": "add", "path": "/metadata/annotations", "value": {"longboat.dev/confirm-deletion": text}}
    world.cluster.patch(DISK_BACKUP, name, [operation], SHOP)


def test_a_store_that_is_away_holds_a_deletion_up_for_ten_minutes_only(world: World) -> None:
    add_backup(world, "b")
    world.repositories.problem = UNREACHABLE
    user_deletes(world, "b")
    assert len(world.backups()) == 1
    world.clock.by(minutes=10)
    settle(world)
    assert world.backups() == []
    world.repositories.problem = None
    assert buried(world) == []
    assert "DataKept" in world.reasons()


@pytest.mark.parametrize("forged", [False, True])
def test_what_a_deletion_waits_for_is_said_at_once_and_once(world: World, forged: bool) -> None:
    add_backup(world, "b")
    if forged:
        world.set_status("b", store={"name": "offsite", "repository": "cluster/of-somebody-else"})
    else:
        world.repositories.problem = UNREACHABLE
    user_deletes(world, "b")
    reason = "ForeignRepository" if forged else "StoreUnreachable"
    for _ in range(3):
        settle(world)
    [backup] = world.backups()
    stalled = find(backup.status.conditions, "Stalled")
    assert stalled is not None and stalled.reason == reason and "10 minutes at most" in stalled.message
    assert world.reasons().count(reason) == 1


def test_a_run_is_stopped_before_it_is_deleted(world: World) -> None:
    add_backup(world, "b", phase="Exporting")
    world.cluster.delete(DISK_BACKUP, "b", SHOP)
    world.clock.by(seconds=5)
    [backup] = world.backups()
    assert deletion.delete(world.context(), backup, lambda ctx, each: False) is not None
    assert len(world.backups()) == 1


def test_a_run_that_cannot_be_cleared_away_does_not_hold_its_deletion_up_for_ever(world: World) -> None:
    add_backup(world, "b", phase="Exporting")
    world.cluster.delete(DISK_BACKUP, "b", SHOP)
    world.clock.by(minutes=11)
    deletion.delete(world.context(), world.backups()[0], lambda ctx, each: False)
    assert world.backups() == []
    assert buried(world) == ["b"]


def test_a_forged_repository_path_deletes_nothing_elsewhere(world: World) -> None:
    add_backup(world, "b")
    world.set_status("b", store={"name": "offsite", "repository": f"cluster/{uid_of(world, SYSTEM)}"})
    user_deletes(world, "b")
    assert list(world.cluster.list(CONFIG_MAP, SYSTEM)) == []
    assert read_tombstones(world.repositories.repository(uid_of(world, SYSTEM))) == []


def test_the_finalizer_is_there_only_while_there_is_data_to_keep(world: World) -> None:
    world.add("DiskBackup", "adhoc", {"policyRef": {"name": "daily"}})
    adhoc = world.backup("adhoc")
    assert adhoc is not None
    assert deletion.guard(world.context(), adhoc).metadata.finalizers == [FINALIZER]
    world.set_status("adhoc", phase="Failed")
    failed = world.backup("adhoc")
    assert failed is not None
    assert deletion.guard(world.context(), failed).metadata.finalizers == []
