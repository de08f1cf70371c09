"""Backups under bad input and missing stores: each says what is wrong, none hangs, none runs twice."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api.common import format_time
from longboat.kube.kinds import (
    BACKUP_POLICY,
    BACKUP_STORE,
    DISK_BACKUP,
    PERSISTENT_VOLUME_CLAIM,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT_CLASS,
)
from longboat.mover.errors import NoDiskImageError
from longboat.reconcile import backup_end, retention
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import find_backup, list_backups, read_tombstones, write_backup_manifest, write_tombstone
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, disk, look, until


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


# What a run depends on


def test_an_unknown_policy_is_named_and_waited_for(world: BackupWorld) -> None:
    world.add_backup(policy="dayly")
    assert world.reconcile() is not None
    stalled = world.condition("Stalled")
    assert stalled.reason == "PolicyNotFound" and "'dayly'" in stalled.message
    world.add_policy("dayly")
    world.drive()
    assert world.backup().status.phase == "Completed"


def test_what_cannot_begin_is_looked_at_ever_less_often(world: BackupWorld) -> None:
    world.add_backup(policy="weekly")
    delays = []
    for _ in range(5):
        delays.append(str(world.reconcile()))
        world.clock.advance(minutes=4)
    assert delays == ["0:00:30", "0:02:00", "0:04:00", "0:05:00", "0:05:00"]


def test_what_cannot_be_removed_is_looked_at_ever_less_often(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_end, "clean", lambda *_: False)
    world.add_backup()
    until(world, lambda status: status.phase == "Completed")
    delays = []
    for minutes in (1, 9, 60):
        world.clock.advance(minutes=minutes)
        delays.append((world.reconcile() or timedelta()).total_seconds() // 60)
    assert delays == [0, 5, 5]


def test_an_unknown_policy_is_not_waited_for_for_ever(world: BackupWorld) -> None:
    world.add_backup(policy="dayly")
    world.reconcile()
    world.clock.advance(days=1, minutes=1)
    assert world.reconcile() is None
    assert world.backup().status.phase == "Failed" and world.condition().reason == "PolicyNotFound"


def test_no_default_store_two_default_stores_and_a_closed_store_are_told_apart(world: BackupWorld) -> None:
    world.add_backup()
    world.add_store("second", default=True)
    world.reconcile()
    assert world.condition("Stalled").reason == "SeveralDefaultStores"
    world.cluster.delete(BACKUP_STORE, "second")
    world.cluster.delete(BACKUP_STORE, "offsite")
    world.reconcile()
    assert world.condition("Stalled").reason == "NoDefaultStore"
    world.add_store("closed", default=True, allowedNamespaces={"matchLabels": {"backups": "yes"}})
    world.reconcile()
    assert world.condition("Stalled").reason == "NoDefaultStore"
    world.cluster.delete(BACKUP_STORE, "closed")
    world.add_store("offsite", default=True)
    world.drive()
    assert world.backup().status.phase == "Completed" and world.condition("Stalled") is None


@pytest.mark.parametrize("reason", ["WrongKey", "StoreUnreachable"])
def test_a_store_that_cannot_be_used_is_a_condition_and_nothing_is_frozen(world: BackupWorld, reason: str) -> None:
    world.repositories.problem = StoreProblemError(reason, "what to do")
    world.add_backup()
    assert world.reconcile() is not None
    assert world.condition("Stalled").reason == reason and "'offsite'" in world.condition("Stalled").message
    assert world.machines.calls == []
    world.repositories.problem = None
    world.drive()
    assert world.backup().status.phase == "Completed"


@pytest.mark.parametrize("slot", [None, "2025-11-20T03:30:00Z"])
def test_what_may_be_in_a_store_that_is_away_does_not_fail_before_that_is_known(
    world: BackupWorld, slot: str | None
) -> None:
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no route")
    world.add_backup(**({"slot": slot} if slot else {}))
    world.clock.advance(days=3)
    assert world.reconcile() is not None
    assert world.backup().status.phase == "Pending" and world.condition("Stalled").reason == "StoreUnreachable"


def test_a_new_run_of_the_schedule_gives_up_when_the_store_stays_away(world: BackupWorld) -> None:
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no route")
    world.add_backup(slot=format_time(world.clock()))
    world.clock.advance(days=3)
    assert world.reconcile() is None
    assert world.backup().status.phase == "Failed" and world.condition().reason == "StoreUnreachable"


def test_a_store_that_fails_in_the_middle_is_waited_for(world: BackupWorld) -> None:
    world.add_backup()
    until(world, lambda status: any(each.phase == "Exporting" for each in status.disks or ()))
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no route")
    look(world, times=4)
    assert world.condition("Stalled").reason == "StoreUnreachable"
    world.repositories.problem = None
    world.drive()
    assert world.backup().status.phase == "Completed" and world.leftovers() == []


def test_a_store_that_stays_away_ends_the_run_and_frees_the_storage(world: BackupWorld) -> None:
    world.add_backup()
    until(world, lambda status: any(each.phase == "Exporting" for each in status.disks or ()))
    world.cluster.delete(BACKUP_STORE, "offsite")
    look(world, times=2)
    world.clock.advance(days=1)
    world.drive()
    assert world.backup().status.phase == "Failed" and world.leftovers() == []


def test_a_failed_run_shows_neither_full_progress_nor_an_expiry(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.job_failures.append(NoDiskImageError("no disk.img"))
    world.add_backup(policy="one")
    world.drive()
    status = world.backup().status
    assert (status.phase, status.progress, status.expires_at) == ("Failed", None, None)
    retention.reconcile(world.context(), SHOP, "one")
    status = world.backup().status
    assert status.expires_at is None and (status.kept_because or "").startswith("KeepFor until ")


@pytest.mark.parametrize("phase", ["Exporting", "Completed"])
def test_one_error_of_the_store_is_no_end_for_a_run_that_is_days_old(world: BackupWorld, phase: str) -> None:
    world.add_backup()
    until(world, lambda status: any(each.phase == "Exporting" for each in status.disks or ()))
    if phase == "Completed":
        until(world, lambda status: all(each.phase in ("Exporting", "Completed") for each in status.disks or ()))
    world.clock.advance(days=3)
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no route")
    look(world)
    assert world.condition("Stalled").reason == "StoreUnreachable"
    world.repositories.problem = None
    world.drive()
    assert world.backup().status.phase == "Completed" and world.leftovers() == []


@pytest.mark.parametrize(
    ("target", "reason", "named"),
    [
        ({"virtualMachine": {"name": "dbb"}}, "VirtualMachineNotFound", "'dbb'"),
        ({"disk": {"virtualMachine": "dbb", "name": "data"}}, "VirtualMachineNotFound", "'dbb'"),
        ({"disk": {"virtualMachine": "db", "name": "date"}}, "DiskNotFound", "root, data, logs"),
        ({"disk": {"persistentVolumeClaim": "db-date"}}, "ClaimNotFound", "'db-date'"),
        ({"selector": {"matchLabels": {"tier": "prod"}}}, "VirtualMachineMissing", "spec.virtualMachine"),
    ],
)
def test_an_unknown_target_is_named(world: BackupWorld, target: dict[str, Any], reason: str, named: str) -> None:
    world.add_policy("odd", target)
    world.add_backup(policy="odd")
    world.reconcile()
    assert world.condition("Stalled").reason == reason and named in world.condition("Stalled").message


def test_a_machine_that_the_policy_does_not_select_is_refused(world: BackupWorld) -> None:
    world.add_policy("odd", {"selector": {"matchLabels": {"tier": "prod"}}})
    world.add_backup(policy="odd", virtualMachine="db")
    assert world.reconcile() is None
    assert world.condition().reason == "VirtualMachineNotSelected"
    world.label(VIRTUAL_MACHINE, "db", {"tier": "prod"})
    world.add_backup("again", policy="odd", virtualMachine="db")
    world.drive("again")
    assert world.backup("again").status.phase == "Completed"


def test_a_disk_that_can_never_be_captured_is_no_failure_of_the_others(world: BackupWorld) -> None:
    host = {"name": "host", "hostDisk": {"path": "/x"}}
    operation = {"op": "add", "path": "/spec/template/spec/volumes/-", "value": host}
    world.cluster.patch(VIRTUAL_MACHINE, "db", [operation], SHOP)
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "Completed"
    assert disk(world, "host").phase == "Unsupported" and "host" in world.condition().message


def test_a_machine_whose_storage_cannot_snapshot_is_not_said_to_be_backed_up(world: BackupWorld) -> None:
    world.cluster.delete(VOLUME_SNAPSHOT_CLASS, "snapshots")
    world.add_backup()
    assert world.reconcile() is None
    assert world.backup().status.phase == "Failed" and world.condition().reason == "NothingToBackUp"


# What goes away meanwhile


@pytest.mark.parametrize("kind", [VIRTUAL_MACHINE, VIRTUAL_MACHINE_INSTANCE, BACKUP_POLICY, PERSISTENT_VOLUME_CLAIM])
@pytest.mark.parametrize("looks", [1, 2, 3, 4])
def test_a_deleted_machine_policy_or_claim_does_not_cost_the_backup(world: BackupWorld, kind: Any, looks: int) -> None:
    world.add_backup()
    look(world, times=looks)
    name = {"BackupPolicy": "daily", "PersistentVolumeClaim": "db-data"}.get(kind.name, "db")
    world.cluster.delete(kind, name, SHOP)
    world.drive()
    assert world.backup().status.phase in ("Completed", "PartiallyFailed") and world.leftovers() == []
    assert not world.machines.frozen


# Rule 4: it never runs twice


def test_a_finished_backup_never_runs_again(world: BackupWorld) -> None:
    world.add_backup()
    world.drive()
    writes = world.cluster.writes
    assert world.reconcile() is None and world.cluster.writes == writes


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_run_whose_store_was_emptied_neither_makes_a_repository_nor_writes_into_another(
    world: BackupWorld, made_anew: bool
) -> None:
    world.add_backup()
    until(world, lambda status: status.phase == "Exporting")
    folder = Path(world.repositories.folder)
    shutil.rmtree(folder / "cluster")
    if made_anew:
        world.repository()
    look(world, times=5)
    assert world.condition("Stalled").reason == ("RepositoryReplaced" if made_anew else "RepositoryNotFound")
    assert bool(list(folder.rglob("repository"))) == made_anew


def test_the_mark_that_a_run_deleted_midway_left_does_not_hide_the_next_one_of_its_name(world: BackupWorld) -> None:
    write_tombstone(world.repository(), "run", world.clock(), "deletion of the DiskBackup")
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "Completed"
    assert [each.name for each in list_backups(world.repository())] == ["run"]


def test_a_backup_applied_again_is_adopted_and_brought_back_from_the_trash(world: BackupWorld) -> None:
    world.add_backup()
    world.drive()
    before = world.backup().status
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    write_tombstone(world.repository(), "run", world.clock(), "a user")
    world.add_backup()
    world.drive()
    after = world.backup().status
    assert after.adopted and after.phase == "Completed" and world.condition().reason == "Adopted"
    assert "nothing was run: to run the policy now, create a DiskBackup of another name" in world.condition().message
    assert ("Adopted", world.condition().message) in world.cluster.events
    assert read_tombstones(world.repository()) == []
    assert len(world.exports) == 3
    same = ("manifest", "consistency", "same_moment", "logical_bytes", "policy", "retention", "expires_at", "cut")
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}
    same_disks = [[(each.manifest, each.object_id) for each in status.disks or ()] for status in (before, after)]
    assert same_disks[0] == same_disks[1] and all(object_id for _, object_id in same_disks[0])


@pytest.mark.parametrize("store_changed", [False, True])
def test_a_backup_is_adopted_when_its_policy_is_gone_or_has_another_store(
    world: BackupWorld, store_changed: bool
) -> None:
    slot = "2025-11-22T03:30:00Z"
    world.add_backup(slot=slot)
    world.drive()
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    if store_changed:
        world.add_policy("daily", storeRef={"name": "offsite"})
    world.clock.advance(days=3)
    world.add_backup(slot=slot)
    world.drive()
    assert world.backup().status.adopted and world.backup().status.phase == "Completed"


def test_an_old_slot_is_refused(world: BackupWorld) -> None:
    world.add_backup(slot="2025-11-20T03:30:00Z")
    assert world.reconcile() is None
    assert world.backup().status.phase == "Failed" and world.condition().reason == "SlotMissed"
    assert world.machines.calls == [] and world.leftovers() == []


def test_an_old_slot_is_not_refused_before_every_store_was_searched(world: BackupWorld) -> None:
    world.add_backup(policy="gone", slot="2025-11-20T03:30:00Z")
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no route")
    world.reconcile()
    assert world.condition("Stalled").reason == "StoreUnreachable"


def test_a_manifest_of_the_name_with_other_disks_is_never_overwritten(world: BackupWorld) -> None:
    world.add_backup()
    until(world, lambda status: all(each.phase == "Exporting" for each in status.disks) if status.disks else False)
    write_backup_manifest(world.repository(), "run", world.clock(), [], metadata={"foreign": True})
    world.drive()
    assert world.backup().status.phase == "Failed" and world.condition().reason == "ManifestConflict"
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None and manifest.metadata == {"foreign": True} and world.leftovers() == []


def test_a_name_that_another_policy_used_is_refused(world: BackupWorld) -> None:
    world.add_backup()
    world.drive()
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    world.add_policy("weekly")
    world.add_backup(policy="weekly")
    world.drive()
    assert world.backup().status.phase == "Failed" and world.condition().reason == "NameTaken"
    assert find_backup(world.repository(), "run") is not None


# Long names


@pytest.mark.parametrize("claim", ["a" * 253, f"{'data.' * 20}v2", f"{'a' * 15}.{'b' * 60}"], ids=len)
def test_a_claim_with_any_name_that_kubernetes_takes_can_be_backed_up(world: BackupWorld, claim: str) -> None:
    world.storage.add_claim(SHOP, claim, "content", size="4Mi")
    world.add_policy("long", {"disk": {"persistentVolumeClaim": claim}})
    world.add_backup(policy="long")
    world.drive()
    assert disk(world, claim).phase == "Completed" and world.leftovers() == []
