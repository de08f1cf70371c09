"""Expiry, deletion and trash over a real repository in a folder: named by the failures that each test prevents."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api import DiskBackup
from longboat.kube.kinds import BACKUP_POLICY, CONFIG_MAP, DISK_BACKUP, NAMESPACE
from longboat.plan.conditions import find
from longboat.plan.names import FINALIZER
from longboat.reconcile import deletion, retention, trash, trash_notes
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import (
    find_backup,
    list_backups,
    read_tombstones,
    remove_tombstone,
    write_backup_manifest,
    write_tombstone,
)
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.policy_world import SHOP, SYSTEM, Clock, FolderRepositories, World

UNREACHABLE = StoreProblemError("StoreUnreachable", "no answer")


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock = Clock()
    world = World(clock, FolderRepositories(str(tmp_path), clock=clock))
    world.add_store()
    world.add_policy(retention={"keepFor": "7d"})
    return world


def uid_of(world: World, namespace: str = SHOP) -> str:
    found = world.cluster.get(NAMESPACE, namespace)
    assert found is not None
    return str(found["metadata"]["uid"])


def add_backup(world: World, name: str, *, data: bool = True, phase: str = "Completed", policy: str = "daily") -> None:
    """Add a DiskBackup that was captured now, with its manifest in the repository if it has data."""
    world.add("DiskBackup", name, {"policyRef": {"name": policy}}, finalizers=[FINALIZER])
    stamp = world.clock.time.isoformat().replace("+00:00", "Z")
    disk = {
        "name": "root",
        "phase": "Completed",
        "claim": {"name": "c", "uid": "c1"},
        "volumeHandle": "v",
        "manifest": "m",
    }
    status: dict[str, Any] = {"phase": phase, "startedAt": stamp, "retention": {"keepFor": "7d"}}
    status["store"] = {"name": "offsite", "repository": f"cluster/{uid_of(world)}"}
    if data:
        status |= {"manifest": f"m-{name}", "disks": [disk]}
        write_backup_manifest(repository(world), name, world.clock.time, [])
    world.set_status(name, **status)


def repository(world: World) -> Any:
    return world.repositories.repository(uid_of(world))


def buried(world: World) -> list[str]:
    return sorted(each.backup_name for each in read_tombstones(repository(world)))


def expire(world: World, policy: str = "daily", bomb: KillAt | None = None) -> timedelta | None:
    return retention.reconcile(world.context(bomb), SHOP, policy)


def stopped(ctx: Context, backup: DiskBackup) -> bool:
    return True


def settle(world: World, bomb: KillAt | None = None) -> None:
    """Let the operator look at everything that is being deleted."""
    for each in world.backups():
        if each.metadata.deletion_timestamp:
            deletion.delete(world.context(bomb), each, stopped)


def user_deletes(world: World, *names: str) -> None:
    for name in names:
        world.cluster.delete(DISK_BACKUP, name, SHOP)
    world.clock.by(seconds=5)
    settle(world)


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


def test_the_finalizer_is_there_only_while_there_is_data_to_keep(world: World) -> None:
    world.add("DiskBackup", "adhoc", {"policyRef": {"name": "daily"}})
    adhoc = world.backup("adhoc")
    assert adhoc is not None
    assert deletion.guard(world.context(), adhoc).metadata.finalizers == [FINALIZER]
    world.set_status("adhoc", phase="Failed")
    failed = world.backup("adhoc")
    assert failed is not None
    assert deletion.guard(world.context(), failed).metadata.finalizers == []
