"""Backups under bad input, failing storage, failing movers and missing stores: each says what is wrong, none hangs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import (
    BACKUP_POLICY,
    BACKUP_STORE,
    CUSTOM_RESOURCE_DEFINITION,
    DISK_BACKUP,
    JOB,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CLASS,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.kube.port import ConflictError, RefusedError, UnavailableError
from longboat.mover.errors import NoDiskImageError, SourceReadError
from longboat.plan.backup_snapshots import snapshot_name
from longboat.reconcile import disk_backup
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import find_backup, read_tombstones, write_backup_manifest, write_tombstone
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import DISKS, SHOP, SYSTEM, BackupWorld, Grenade


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


def disk(world: BackupWorld, name: str, backup: str = "run") -> Any:
    return next(each for each in world.backup(backup).status.disks or () if each.name == name)


def look(world: BackupWorld, *, times: int = 1, name: str = "run") -> None:
    for _ in range(times):
        delay = world.reconcile(name)
        world.clock.advance(seconds=delay.total_seconds() if delay else 1)


def until(world: BackupWorld, holds: Any, name: str = "run") -> None:
    for _ in range(100):
        if holds(world.backup(name).status):
            return
        look(world, name=name)
    raise AssertionError(f"never happened: {world.backup(name).status}")


# What a run depends on


def test_an_unknown_policy_is_named_and_waited_for(world: BackupWorld) -> None:
    world.add_backup(policy="dayly")
    assert world.reconcile() is not None
    stalled = world.condition("Stalled")
    assert stalled.reason == "PolicyNotFound" and "'dayly'" in stalled.message
    world.add_policy("dayly")
    world.drive()
    assert world.backup().status.phase == "Completed"


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
    assert world.condition("Stalled").reason == "NamespaceNotAllowed"
    world.cluster.delete(BACKUP_STORE, "closed")
    world.add_store("offsite", default=True)
    world.drive()
    assert world.backup().status.phase == "Completed" and world.condition("Stalled") is None


@pytest.mark.parametrize("reason", ["WrongKey", "StoreUnreachable"])
def test_a_store_that_cannot_be_used_is_a_condition_and_nothing_is_frozen(world: BackupWorld, reason: str) -> None:
    world.repositories.problem = StoreProblemError(reason, "what to do")
    world.add_backup()
    assert world.reconcile() is not None
    assert world.condition("Stalled").reason == reason and "what to do" in world.condition("Stalled").message
    assert world.machines.calls == []
    world.repositories.problem = None
    world.drive()
    assert world.backup().status.phase == "Completed"


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


# The cut


def test_without_an_agent_nothing_is_claimed(world: BackupWorld) -> None:
    world.set_agent(False)
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert (status.phase, status.consistency, status.same_moment) == ("Completed", "Crash", False)
    assert "agent" in (status.consistency_reason or "") and world.machines.calls == []


def test_a_stopped_machine_is_one_moment_but_not_application_consistent(world: BackupWorld) -> None:
    world.cluster.delete(VIRTUAL_MACHINE_INSTANCE, "db", SHOP)
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert (status.consistency, status.same_moment) == ("Crash", True)


@pytest.mark.parametrize("error", [RefusedError("migrating"), UnavailableError("10 s"), ConflictError("not running")])
def test_a_freeze_that_fails_is_thawed_all_the_same(world: BackupWorld, error: Exception) -> None:
    world.machines.fail["freeze"] = error
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert [verb for verb, *_ in world.machines.calls] == ["freeze", "unfreeze"]
    assert status.consistency == "Crash" and str(error) in (status.consistency_reason or "")


def test_a_thaw_that_fails_is_tried_until_it_succeeds_and_nothing_is_claimed(world: BackupWorld) -> None:
    world.machines.fail["unfreeze"] = UnavailableError("VSS")
    world.add_backup()
    world.reconcile()
    assert world.machines.frozen
    world.machines.fail.clear()
    world.drive()
    assert not world.machines.frozen
    assert world.backup().status.consistency == "Crash"
    assert ("ThawFailed", "VirtualMachine 'db': VSS") in world.cluster.events


def test_a_guest_is_thawed_when_the_api_server_fails_while_it_is_frozen(world: BackupWorld) -> None:
    world.add_backup()
    create = world.cluster.create

    def failing(obj: Any) -> Any:
        if obj["kind"] == "VolumeSnapshot":
            raise UnavailableError("503")
        return create(obj)

    world.cluster.create = failing  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        world.reconcile()
    assert not world.machines.frozen and world.machines.calls[0][0] == "freeze"
    world.cluster.create = create  # type: ignore[method-assign]
    world.drive()
    assert world.backup().status.phase == "Completed" and world.leftovers() == []
    assert world.backup().status.cut is not None and world.backup().status.cut.attempt == 2


def test_a_slow_snapshot_does_not_keep_the_guest_frozen(world: BackupWorld) -> None:
    world.storage.never_cut.add("db-logs")
    world.add_backup()
    begun = world.clock()
    world.reconcile()
    assert not world.machines.frozen and world.clock() - begun <= timedelta(seconds=25)
    world.storage.never_cut.clear()
    world.drive()
    status = world.backup().status
    assert (status.phase, status.consistency, status.same_moment) == ("Completed", "Crash", False)


def test_another_backups_open_cut_of_the_machine_is_waited_for(world: BackupWorld) -> None:
    world.add_backup()
    with pytest.raises(Killed):
        # Killed after the freeze: the first backup's cut is open, its guest frozen.
        world.reconcile(bomb=_grenade_at(world, "freeze"))
    assert world.machines.frozen
    world.add_backup("other")
    look(world, name="other", times=2)
    assert world.machines.frozen, "the other backup thawed a guest that was not its own to thaw"
    assert world.backup("other").status.cut is None
    world.drive("run", "other")
    assert {world.backup(name).status.consistency for name in ("run", "other")} == {"Application"}


def test_a_vanished_backups_cut_holds_nobody_up_for_ever(world: BackupWorld) -> None:
    world.add_backup()
    with pytest.raises(Killed):
        world.reconcile(bomb=_grenade_at(world, "freeze"))
    world.add_backup("other")
    world.drive("other", rounds=200)
    assert world.backup("other").status.phase == "Completed"


def test_an_operator_that_is_killed_in_every_cut_does_without_the_freeze_in_the_end(world: BackupWorld) -> None:
    world.add_backup()
    for _ in range(3):
        with pytest.raises(Killed):
            world.reconcile(bomb=_grenade_at(world, "freeze"))
        world.clock.advance(seconds=5)
    world.drive()
    status = world.backup().status
    assert status.cut is not None and (status.cut.attempt, status.cut.freeze) == (4, "GivenUp")
    assert (status.phase, status.consistency) == ("Completed", "Crash") and world.leftovers() == []


def _grenade_at(world: BackupWorld, verb: str) -> Grenade:
    """Return a grenade that goes off right after a call of this verb."""

    class AfterVerb(Grenade):
        def wrap(self, port: Any) -> Any:
            if not hasattr(port, "freeze"):
                return port
            call = getattr(port, verb)

            class Port:
                def __getattr__(self, name: str) -> Any:
                    return getattr(port, name)

            wrapped = Port()

            def called(*args: Any) -> None:
                call(*args)
                wrapped.unfreeze = dead  # type: ignore[attr-defined]
                raise Killed(verb)

            def dead(*args: Any) -> None:
                raise Killed("dead")

            setattr(wrapped, verb, called)
            return wrapped

    return AfterVerb()


# Snapshots


def test_a_failing_snapshot_fails_its_disk_alone_and_names_the_snapshot(world: BackupWorld) -> None:
    world.storage.cut_errors["db-logs"] = "pool is full"
    world.add_backup()
    world.drive(rounds=400)
    failed = disk(world, "logs")
    assert (failed.phase, failed.reason) == ("Failed", "SnapshotNotCut")
    assert failed.volume_snapshot in failed.message and "pool is full" in failed.message
    assert world.backup().status.phase == "PartiallyFailed" and world.leftovers() == []
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None and {each.disk for each in manifest.disks} == {"root", "data"}


def test_a_snapshot_that_is_never_ready_ends_in_a_bounded_time(world: BackupWorld) -> None:
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    look(world, times=5)
    world.clock.advance(hours=12)
    world.drive()
    assert disk(world, "logs").reason == "SnapshotNotReady" and world.leftovers() == []


def test_a_snapshot_deleted_by_a_tenant_before_the_hand_over_is_no_backup(world: BackupWorld) -> None:
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    until(world, lambda status: status.disks and disk(world, "data").phase == "Exporting")
    world.cluster.delete(VOLUME_SNAPSHOT, disk(world, "logs").volume_snapshot, SHOP)
    world.drive()
    assert disk(world, "logs").reason == "SnapshotLost" and world.backup().status.phase == "PartiallyFailed"


def test_a_content_that_goes_during_the_hand_over_is_noticed(world: BackupWorld) -> None:
    world.storage.static_ready = False
    world.add_backup()
    until(world, lambda status: all(each.hand_over for each in status.disks or [disk]) if status.disks else False)
    look(world, times=2)
    world.cluster.delete(VOLUME_SNAPSHOT_CONTENT, disk(world, "logs").hand_over.original_content)
    world.storage.static_ready = True
    for each in world.cluster.list(VOLUME_SNAPSHOT, SYSTEM):
        path = {"op": "add", "path": "/status/readyToUse", "value": True}
        world.cluster.patch(VOLUME_SNAPSHOT, each["metadata"]["name"], [path], SYSTEM)
    world.drive()
    assert disk(world, "logs").reason == "SnapshotLost" and disk(world, "data").phase == "Completed"


def test_the_copy_carries_what_the_csi_driver_needs(world: BackupWorld) -> None:
    world.storage.annotations = {"snapshot.storage.kubernetes.io/deletion-secret-name": "s", "other": "x"}
    world.storage.static_ready = False
    world.add_backup()
    look(world, times=4)
    copies = [c for c in world.cluster.list(VOLUME_SNAPSHOT_CONTENT) if c["metadata"].get("labels")]
    copies = [c for c in copies if "longboat.dev/copy-of" in c["metadata"]["annotations"]]
    assert len(copies) == 3
    for copy in copies:
        assert copy["metadata"]["annotations"]["snapshot.storage.kubernetes.io/deletion-secret-name"] == "s"
        assert "other" not in copy["metadata"]["annotations"]
        assert (copy["spec"]["sourceVolumeMode"], copy["spec"]["volumeSnapshotClassName"]) == ("Block", "snapshots")


def test_a_class_that_retains_snapshots_leaves_none_in_the_storage(world: BackupWorld) -> None:
    world.storage.class_policy = "Retain"
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    look(world, times=3)
    world.clock.advance(hours=12)
    world.drive()
    assert world.leftovers() == []


# Exports


def test_a_volume_without_a_disk_image_fails_its_disk_at_once(world: BackupWorld) -> None:
    world.job_failures.append(NoDiskImageError("no disk.img"))
    world.add_backup()
    world.drive()
    failed = [each for each in world.backup().status.disks or () if each.phase == "Failed"]
    assert [(each.reason, each.attempts) for each in failed] == [("NoDiskImage", 1)]
    assert world.backup().status.phase == "PartiallyFailed" and world.leftovers() == []


def test_a_failure_that_may_pass_is_tried_three_times(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.job_failures += [SourceReadError("EIO"), SourceReadError("EIO")]
    world.add_backup(policy="one")
    world.drive()
    assert world.backup().status.phase == "Completed" and disk(world, "data").attempts == 3
    world.job_failures += [SourceReadError("EIO")] * 3
    world.add_backup("again", policy="one")
    world.drive("again")
    assert world.backup("again").status.phase == "Failed"
    assert world.condition("Ready", "again").reason == "SourceReadFailed"
    assert world.job_failures == [] and world.leftovers() == []


def test_a_job_deleted_by_hand_and_a_lost_pod_are_tried_again(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.run_job = None
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").job) if status.disks else False)
    [job] = world.cluster.list(JOB)
    world.cluster.delete(JOB, job["metadata"]["name"], SYSTEM)
    until(world, lambda status: disk(world, "data").attempts == 2 and disk(world, "data").job)
    assert any(reason == "JobDeleted" for reason, _ in world.cluster.events)
    [job] = world.cluster.list(JOB)
    failed = {"op": "add", "path": "/status", "value": {"conditions": [{"type": "Failed", "status": "True"}]}}
    world.cluster.patch(JOB, job["metadata"]["name"], [failed], SYSTEM)
    look(world)
    assert any(reason == "PodLost" for reason, _ in world.cluster.events)
    world.storage.run_job = world._export
    world.drive()
    assert world.backup().status.phase == "Completed" and disk(world, "data").attempts == 3


def test_a_claim_that_is_not_provisioned_is_named_and_ends_in_a_bounded_time(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage._source_content = lambda claim: None  # type: ignore[method-assign]
    world.add_backup(policy="one")
    world.storage.run_job = None
    until(world, lambda status: "PersistentVolumeClaim" in (disk(world, "data").message or "") if status.disks else 0)
    assert "Bound" in disk(world, "data").message and "quota" in disk(world, "data").message
    world.drive(rounds=800)
    assert disk(world, "data").reason == "MoverNotStarted" and world.leftovers() == []


def test_two_policies_on_one_disk_store_it_once(world: BackupWorld) -> None:
    world.add_policy("logs-daily", {"disk": {"virtualMachine": "db", "name": "logs"}})
    world.add_backup("weekly")
    world.add_backup("daily-1", policy="logs-daily")
    world.drive("weekly", "daily-1")
    first, second = disk(world, "logs", "weekly"), disk(world, "logs", "daily-1")
    assert {first.phase, second.phase} == {"Completed"}
    assert {first.mode, second.mode} == {"Full", "Incremental"}
    assert {world.backup(name).status.consistency for name in ("weekly", "daily-1")} == {"Application"}
    assert not world.machines.frozen and world.leftovers() == []


def test_a_disk_named_by_its_claim_freezes_the_machine_that_uses_it(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"persistentVolumeClaim": "db-data"}})
    world.add_backup(policy="one")
    world.drive()
    assert world.backup().status.consistency == "Application"
    assert (world.backup().status.target or disk).kind == "PersistentVolumeClaim"


def test_progress_is_told_while_a_mover_runs(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.run_job = None
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").job) if status.disks else False)
    [job] = world.cluster.list(JOB)
    name = job["metadata"]["name"]
    labels = {"batch.kubernetes.io/job-name": name}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": SYSTEM, "labels": labels}}
    world.cluster.create(pod | {"status": {"phase": "Running"}})
    world.cluster.pod_logs[SYSTEM, "p"] = '{"progress": {"bytesDone": 1048576, "bytesTotal": 4194304}}\n{"pro'
    look(world)
    assert (disk(world, "data").progress, disk(world, "data").bytes_done) == ("25%", 1 << 20)
    assert world.backup().status.progress == "25%"
    world.cluster.delete(POD, "p", SYSTEM)


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
    assert read_tombstones(world.repository()) == []
    assert len(world.exports) == 3
    same = ("manifest", "consistency", "same_moment", "logical_bytes", "policy", "retention", "expires_at", "cut")
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}
    assert [each.manifest for each in after.disks or ()] == [each.manifest for each in before.disks or ()]


@pytest.mark.parametrize("store_changed", [False, True])
def test_a_backup_is_adopted_when_its_policy_is_gone_or_has_another_store(
    world: BackupWorld, store_changed: bool
) -> None:
    slot = "2026-11-22T03:30:00Z"
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
    world.add_backup(slot="2026-11-20T03:30:00Z")
    assert world.reconcile() is None
    assert world.backup().status.phase == "Failed" and world.condition().reason == "SlotMissed"
    assert world.machines.calls == [] and world.leftovers() == []


def test_an_old_slot_is_not_refused_before_every_store_was_searched(world: BackupWorld) -> None:
    world.add_backup(policy="gone", slot="2026-11-20T03:30:00Z")
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


# What belongs to others


def test_a_foreign_snapshot_of_our_name_is_left_alone(world: BackupWorld) -> None:
    world.add_backup()
    backup = world.backup()
    name = snapshot_name(backup, "data", 1)
    spec = {"source": {"persistentVolumeClaimName": "db-data"}, "volumeSnapshotClassName": "snapshots"}
    head = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot"}
    world.cluster.create(head | {"metadata": {"name": name, "namespace": SHOP, "labels": {}}, "spec": spec})
    world.drive()
    assert disk(world, "data").reason == "NameTaken" and world.backup().status.phase == "PartiallyFailed"
    assert world.cluster.get(VOLUME_SNAPSHOT, name, SHOP) is not None
    assert len(world.storage.snapshots()) == 1


def test_the_sweep_leaves_alone_what_is_not_ours_or_in_use(world: BackupWorld) -> None:
    world.storage.run_job = None
    world.add_backup()
    until(world, lambda status: status.disks and all(each.job for each in status.disks))
    foreign = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "mine", "namespace": SYSTEM}}
    world.cluster.create(
        foreign | {"spec": {"storageClassName": "fast", "volumeName": "x"}, "status": {"phase": "Bound"}}
    )
    writes = world.cluster.writes
    disk_backup.sweep(world.context())
    assert world.cluster.writes == writes


def test_the_sweep_removes_nothing_when_the_kind_is_going(world: BackupWorld) -> None:
    world.storage.run_job = None
    world.add_backup()
    until(world, lambda status: status.disks and all(each.job for each in status.disks))
    world.cluster.delete(CUSTOM_RESOURCE_DEFINITION, "diskbackups.longboat.dev")
    for key in [key for key in world.cluster.objects if key[0] == DISK_BACKUP]:
        del world.cluster.objects[key]
    writes = world.cluster.writes
    disk_backup.sweep(world.context())
    assert world.cluster.writes == writes


def test_the_volume_of_the_original_says_where_the_mover_can_run(world: BackupWorld) -> None:
    claim = world.storage.claim(SHOP, DISKS["data"])
    required = {"nodeSelectorTerms": [{"matchExpressions": []}]}
    affinity = {"op": "add", "path": "/spec/nodeAffinity", "value": {"required": required}}
    world.cluster.patch(PERSISTENT_VOLUME, claim["spec"]["volumeName"], [affinity])
    world.storage.run_job = None
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").job) if status.disks else False)
    [job] = world.cluster.list(JOB)
    its = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert its == {"requiredDuringSchedulingIgnoredDuringExecution": required}
