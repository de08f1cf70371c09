"""Exports under failing movers, and what belongs to others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from longboat.kube.client import _failure
from longboat.kube.kinds import (
    BACKUP_STORE,
    CUSTOM_RESOURCE_DEFINITION,
    DISK_BACKUP,
    JOB,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SECRET,
    STORAGE_CLASS,
    VOLUME_SNAPSHOT,
)
from longboat.kube.port import Object
from longboat.mover.errors import NoDiskImageError, SourceReadError
from longboat.plan.backup_snapshots import snapshot_name
from longboat.plan.hand_over import claim_name, copy_name
from longboat.reconcile import disk_backup
from longboat.repository import read_disk_manifest
from tests.fakes.cluster import FakeCluster
from tests.unit.reconcile.backup_world import DISKS, SHOP, SYSTEM, BackupWorld, disk, look, until


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


# Exports


def test_a_run_uses_the_credentials_that_may_only_create(world: BackupWorld) -> None:
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "Completed"
    assert set(world.repositories.asked) == {(SHOP, "export")}


@pytest.mark.parametrize("dedupe", ["Disk", "Namespace"])
def test_disks_of_one_image_share_their_blocks_only_if_the_administrator_says_so(
    world: BackupWorld, dedupe: str
) -> None:
    operation = {"op": "add", "path": "/spec/dedupe", "value": dedupe}
    world.cluster.patch(BACKUP_STORE, "offsite", [operation], "")
    for number, claim in enumerate(("golden", "clone")):
        world.storage.add_claim(SHOP, claim, "".join(f"block {i} of the image".ljust(500) for i in range(9000)))
        world.add_policy(claim, {"disk": {"persistentVolumeClaim": claim}})
        world.add_backup(f"run-{number}", policy=claim)
        world.drive(f"run-{number}")
    first, second = (disk(world, claim, f"run-{n}") for n, claim in enumerate(("golden", "clone")))
    assert first.stored_bytes and second.stored_bytes is not None
    assert (second.stored_bytes < first.stored_bytes / 2) == (dedupe == "Namespace")
    assert ("'golden'" in (second.message or "")) == (dedupe == "Namespace")


@pytest.mark.parametrize(
    ("asked", "size", "warned"),
    [(None, None, False), ("16Ki", 16384, False), ("17Ki", None, True), ("8Mi", None, True)],
)
def test_a_disk_is_stored_in_blocks_of_the_size_that_its_claim_asks_for(
    world: BackupWorld, asked: str | None, size: int | None, warned: bool
) -> None:
    world.storage.add_claim(SHOP, "base", "content " * 40000)
    if asked:
        annotations = {"op": "add", "path": "/metadata/annotations", "value": {"longboat.dev/block-size": asked}}
        world.cluster.patch(PERSISTENT_VOLUME_CLAIM, "base", [annotations], SHOP)
    world.add_policy("base", {"disk": {"persistentVolumeClaim": "base"}})
    world.add_backup(policy="base")
    world.drive()
    stored = disk(world, "base")
    assert (stored.phase, stored.block_size) == ("Completed", size)
    manifest = read_disk_manifest(world.repository(), stored.manifest or "").manifest
    assert manifest.block_size == (size or 65536)
    assert ("BlockSizeInvalid" in str(world.cluster.events)) == warned


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


def running_mover(world: BackupWorld, log: str) -> None:
    """Let the only Job have a pod that runs, with this log."""
    [job] = world.cluster.list(JOB)
    labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": SYSTEM, "labels": labels}}
    world.cluster.create(pod | {"status": {"phase": "Running"}})
    world.cluster.pod_logs[SYSTEM, "p"] = log


@pytest.mark.parametrize(("done", "minutes"), [(1 << 20, 30), (4 << 20, 120), (None, 120)])
def test_a_mover_that_comes_no_further_is_given_up_and_tried_again(
    world: BackupWorld, done: int | None, minutes: int
) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.run_job = None
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").job) if status.disks else False)
    line = f'{{"progress": {{"bytesDone": {done}, "bytesTotal": {4 << 20}}}}}'
    running_mover(world, line if done is not None else "")
    look(world)
    world.clock.advance(minutes=minutes - 1)
    look(world)
    assert disk(world, "data").attempts == 1 and disk(world, "data").retry_at is None
    world.clock.advance(minutes=1)
    look(world)
    assert disk(world, "data").reason == "MoverHung" and list(world.cluster.list(JOB)) == []
    world.cluster.delete(POD, "p", SYSTEM)
    world.storage.run_job = world._export
    world.drive()
    assert world.backup().status.phase == "Completed" and disk(world, "data").attempts == 2


def test_a_slow_mover_is_left_to_work(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.run_job = None
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").job) if status.disks else False)
    running_mover(world, "")
    for done in range(20):
        world.cluster.pod_logs[SYSTEM, "p"] = f'{{"progress": {{"bytesDone": {done}, "bytesTotal": 4194304}}}}'
        look(world)
        world.clock.advance(minutes=20)
    assert disk(world, "data").attempts == 1 and disk(world, "data").reason is None


def test_no_more_movers_than_allowed_are_under_way_and_the_others_say_so(world: BackupWorld) -> None:
    world.settings = replace(world.settings, movers_at_once=1)
    world.storage.run_job = None
    world.add_backup()
    until(world, lambda status: status.phase == "Exporting" and any(each.job for each in status.disks or ()))
    look(world, times=3)
    assert len(list(world.cluster.list(JOB))) == 1
    waiting = [each for each in world.backup().status.disks or () if not each.job]
    assert waiting and all("movers.atOnce" in each.message for each in waiting)
    assert "waiting for room" in world.condition().message
    # Waiting for room is not waiting for a pod: it costs no attempt, however long it takes.
    world.clock.advance(hours=2)
    world.storage.run_job = world._export
    world.drive()
    assert world.backup().status.phase == "Completed" and world.leftovers() == []
    assert {disk(world, each.name).attempts for each in waiting} == {1}


def test_the_repository_is_not_opened_again_for_a_mover_that_has_been_told(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.run_job = None
    world.add_backup(policy="one")
    until(world, lambda status: bool(list(world.cluster.list(SECRET))))
    opened: list[str] = []
    inner = world.repositories.open
    world.repositories.open = lambda store, uid, *more: opened.append(uid) or inner(store, uid, *more)
    look(world, times=5)
    assert opened == [] and disk(world, "data").phase == "Exporting"


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


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_a_volume_that_was_there_before_is_not_taken_for_a_copy_of_the_snapshot(
    world: BackupWorld, policy: str
) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.add_claim(SHOP, "foreign", "somebody else's", size="4Mi")
    world.clock.advance(days=1)
    volume = world.storage.free(SHOP, "foreign", policy=policy)
    world.add_backup(policy="one")
    world.drive()
    assert world.backup().status.phase == "Failed" and disk(world, "data").reason == "VolumeNotNew"
    assert world.exports == [] and world.leftovers() == []
    assert world.get(PERSISTENT_VOLUME, volume, "")["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert "somebody else's" in world.storage.data.values()


def test_an_empty_volume_of_another_driver_is_not_taken_for_the_disk(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    provisioner = {"op": "replace", "path": "/provisioner", "value": "other.example.com"}
    world.cluster.patch(STORAGE_CLASS, "fast", [provisioner])
    world.add_backup(policy="one")
    world.drive()
    assert world.backup().status.phase == "Failed" and disk(world, "data").reason == "ProvisionerMismatch"
    assert world.exports == [] and world.leftovers() == []


def test_a_claim_of_the_exports_name_that_is_somebody_elses_is_not_read(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_backup(policy="one")
    name = claim_name(world.backup(), "data")
    world.storage.add_claim(SYSTEM, name, "somebody else's", size="4Mi")
    world.drive()
    assert disk(world, "data").reason == "NameTaken" and world.exports == []
    assert world.storage.content(SYSTEM, name) == "somebody else's"
    assert world.cluster.get(PERSISTENT_VOLUME_CLAIM, name, SYSTEM)


def test_what_the_api_server_refuses_is_told_in_its_words_without_the_call(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    body = {"message": "exceeded quota: jobs", "reason": "Forbidden"}

    class Quota(FakeCluster):
        def create(self, obj: Object) -> Object:
            if obj["kind"] == "Job":
                raise _failure("POST", "/apis/batch/v1/namespaces/x/jobs", 403, json.dumps(body).encode())
            return super().create(obj)

    world.cluster.__class__ = Quota
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").retry_at) if status.disks else False)
    assert "exceeded quota: jobs" in disk(world, "data").message
    assert "POST" not in disk(world, "data").message and "403" not in disk(world, "data").message


def test_a_hand_over_that_takes_long_says_what_it_waits_for(world: BackupWorld) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.static_ready = False
    world.add_backup(policy="one")
    until(world, lambda status: bool(disk(world, "data").hand_over) if status.disks else False)
    world.clock.advance(minutes=2)
    look(world)
    copy = copy_name(world.backup(), "data")
    assert copy in disk(world, "data").message and "not bound and ready" in disk(world, "data").message
    assert copy in world.condition().message
