"""The snapshot that the next export is compared with is kept exactly as long as it is needed."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import (
    BACKUP_POLICY,
    DISK_BACKUP,
    JOB,
    PERSISTENT_VOLUME_CLAIM,
    SNAPSHOT_METADATA_SERVICE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.kube.port import Object
from longboat.mover.reading import ChangeTrackingMismatchError
from longboat.plan.hand_over import copy_name
from longboat.plan.mover import TOKEN_PATH
from longboat.plan.names import OWNER_KIND
from longboat.reconcile import base_snapshots, disk_backup
from tests.fakes.storage import DRIVER
from tests.unit.reconcile.backup_world import SHOP, SYSTEM, BackupWorld, Grenade, disk

CA = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
SERVICE = {
    "address": "snapshot-metadata.csi:6443",
    "audience": "the-driver",
    "caCert": base64.b64encode(CA.encode()).decode(),
}


def make_world(folder: Path, service: bool = True) -> BackupWorld:
    folder.mkdir(parents=True, exist_ok=True)
    world = BackupWorld(folder=folder)
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    if service:
        world._create(SNAPSHOT_METADATA_SERVICE, DRIVER, "", {"spec": SERVICE})
    return world


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    return make_world(tmp_path)


def run(world: BackupWorld, name: str = "run", bomb: Grenade | None = None) -> None:
    world.add_backup(name, policy="one")
    world.drive(name, bomb=bomb)
    assert world.backup(name).status.phase == "Completed", world.backup(name).status
    # Moments of two backups differ.
    world.clock.advance(seconds=60)


def kept(world: BackupWorld) -> list[str]:
    """The kept VolumeSnapshots, after a check that each has its content and its snapshot, and nothing else is left."""
    snapshots = list(world.cluster.list(VOLUME_SNAPSHOT))
    contents = list(world.cluster.list(VOLUME_SNAPSHOT_CONTENT))
    for each in [*snapshots, *contents]:
        assert each["metadata"]["labels"][OWNER_KIND] == "Disk", each["metadata"]
    bound = {each["status"]["boundVolumeSnapshotContentName"] for each in snapshots}
    assert bound == {each["metadata"]["name"] for each in contents}
    assert len(world.storage.snapshots()) == len(snapshots)
    assert not list(world.cluster.list(JOB)) and not list(world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM))
    return [each["metadata"]["name"] for each in snapshots]


def sweep(world: BackupWorld) -> list[str]:
    """One pass over everything; the controllers act afterwards."""
    for _ in range(3):
        disk_backup.sweep(world.context())
        base_snapshots.sweep(world.context())
        world.storage.settle()
    return kept(world)


def test_the_newest_backups_snapshot_stays_and_the_one_before_it_goes(world: BackupWorld) -> None:
    names = []
    for number in range(3):
        run(world, f"run-{number}")
        names = kept(world)
        assert names == [copy_name(world.backup(f"run-{number}"), "data")]
    assert sweep(world) == names
    assert world.storage.most_deleters == 1


def test_the_mover_is_told_whom_to_ask_and_gets_a_token_for_nobody_else(world: BackupWorld) -> None:
    jobs: list[Object] = []
    world.cluster.hooks.append(lambda verb, obj: jobs.append(obj) if obj["kind"] == "Job" else None)
    told: list[Any] = []
    world.storage.run_job = lambda job, content: told.append(world.job_file(job)) or world._export(job, content)  # type: ignore[assignment, func-returns-value]
    run(world)
    [asked] = told
    assert asked.snapshot_handle == disk(world, "data").hand_over.snapshot_handle
    assert asked.changes.model_dump() == {
        "address": "snapshot-metadata.csi:6443",
        "ca_pem": CA,
        "token_path": TOKEN_PATH,
        "namespace": SYSTEM,
        "snapshot_name": copy_name(world.backup(), "data"),
    }
    pod = jobs[0]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    [token] = [each["projected"]["sources"] for each in pod["volumes"] if "projected" in each]
    assert token == [{"serviceAccountToken": {"audience": "the-driver", "expirationSeconds": 3600, "path": "token"}}]


def test_a_driver_that_an_attempt_found_wrong_is_not_asked_by_the_next_one(world: BackupWorld) -> None:
    told: list[Any] = []
    world.storage.run_job = lambda job, content: told.append(world.job_file(job)) or world._export(job, content)  # type: ignore[assignment, func-returns-value]
    world.job_failures.append(ChangeTrackingMismatchError("block 7 differs"))
    run(world)
    assert [each.changes is not None for each in told] == [True, False]
    assert [each.distrust for each in told] == [None, "ChangeTrackingMismatch"]


@pytest.mark.parametrize("reason", ["no service", "turned off", "service of another driver"])
def test_without_a_service_nothing_is_kept_and_no_token_given(tmp_path: Path, reason: str) -> None:
    world = make_world(tmp_path, service=reason == "turned off")
    if reason == "turned off":
        world.set(changed_blocks=False)
    if reason == "service of another driver":
        world._create(SNAPSHOT_METADATA_SERVICE, "other.example.com", "", {"spec": SERVICE})
    jobs: list[Object] = []
    world.cluster.hooks.append(lambda verb, obj: jobs.append(obj) if obj["kind"] == "Job" else None)
    run(world)
    assert world.leftovers() == []
    assert not any("projected" in each for each in jobs[0]["spec"]["template"]["spec"]["volumes"])


def test_a_disk_with_a_file_system_keeps_nothing(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    claim = world.get(PERSISTENT_VOLUME_CLAIM, "db-data")
    mode = {"op": "replace", "path": "/spec/volumeMode", "value": "Filesystem"}
    world.cluster.patch(PERSISTENT_VOLUME_CLAIM, claim["metadata"]["name"], [mode], SHOP)
    run(world)
    assert world.leftovers() == []


def test_a_driver_that_can_not_be_relied_on_is_told_of(world: BackupWorld) -> None:
    def lied(job: Object, content: str | None) -> tuple[bool, str, str | None]:
        ok, message, log = world._export(job, content)
        told = json.loads(message) | {"mode": "Full", "fullReason": "ChangeTrackingMismatch", "note": "block 7 differs"}
        return ok, json.dumps(told), log

    world.storage.run_job = lied
    run(world)
    assert disk(world, "data").full_reason == "ChangeTrackingMismatch"
    [message] = [message for reason, message in world.cluster.events if reason == "ChangeTrackingMismatch"]
    assert "block 7 differs" in message


def test_a_failed_disk_keeps_nothing_and_the_older_snapshot_stays(world: BackupWorld) -> None:
    run(world, "good")
    before = kept(world)
    world.job_failures += [RuntimeError("broken")] * 3
    world.add_backup("bad", policy="one")
    world.drive("bad")
    assert world.backup("bad").status.phase == "Failed"
    assert sweep(world) == before


def test_it_goes_when_the_disk_is_gone(world: BackupWorld) -> None:
    run(world)
    world.cluster.objects.pop((PERSISTENT_VOLUME_CLAIM, SHOP, "db-data"))
    assert sweep(world) == []


def test_it_goes_when_the_claim_is_another_one_of_the_same_name(world: BackupWorld) -> None:
    run(world)
    world.cluster.objects.pop((PERSISTENT_VOLUME_CLAIM, SHOP, "db-data"))
    world.storage.add_claim(SHOP, "db-data", "other", size="4Mi")
    assert sweep(world) == []


def test_it_goes_when_its_backup_is_deleted(world: BackupWorld) -> None:
    run(world)
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    assert sweep(world) == []


@pytest.mark.parametrize("field", ["policyGoneAt", "tombstonedAt"])
def test_it_goes_when_its_policy_is_gone_or_its_data_on_the_way_out(world: BackupWorld, field: str) -> None:
    run(world)
    status = world.get(DISK_BACKUP, "run")["status"] | {field: world.clock().isoformat()}
    world.cluster.patch(DISK_BACKUP, "run", [{"op": "replace", "path": "/status", "value": status}], SHOP)
    assert sweep(world) == []


def test_it_goes_when_tracking_is_turned_off_or_the_service_is_gone(world: BackupWorld) -> None:
    run(world)
    world.set(changed_blocks=False)
    assert sweep(world) == []
    world.set(changed_blocks=True)
    run(world, "again")
    assert len(kept(world)) == 1
    world.cluster.delete(SNAPSHOT_METADATA_SERVICE, DRIVER)
    assert sweep(world) == []


def test_it_goes_when_it_is_too_old(world: BackupWorld) -> None:
    run(world)
    world.clock.advance(seconds=timedelta(days=34).total_seconds())
    assert len(sweep(world)) == 1
    world.clock.advance(seconds=timedelta(days=2).total_seconds())
    assert sweep(world) == []


def test_what_carries_no_label_of_ours_is_left_alone(world: BackupWorld) -> None:
    run(world)
    foreign = {
        "metadata": {"name": "foreign", "namespace": SYSTEM},
        "spec": {"source": {}},
        "status": {"readyToUse": True},
    }
    kind = {"apiVersion": VOLUME_SNAPSHOT.api_version, "kind": VOLUME_SNAPSHOT.name}
    foreign["status"]["creationTime"] = world.clock().isoformat()  # type: ignore[index]
    world.cluster.create({**kind, **foreign})
    world.cluster.delete(BACKUP_POLICY, "one", SHOP)
    base_snapshots.sweep(world.context())
    assert world.cluster.get(VOLUME_SNAPSHOT, "foreign", SYSTEM) is not None


def test_a_kept_snapshot_whose_backup_cannot_be_read_stays_and_holds_up_none_of_the_others(world: BackupWorld) -> None:
    run(world)
    (name,) = kept(world)
    backup = world.cluster.objects[DISK_BACKUP, SHOP, "run"]
    status = backup["status"]
    backup["status"] = status | {"startedAt": "never"}
    assert sweep(world) == [name]
    backup["status"] = status | {"policyGoneAt": "2026-11-22T03:30:00Z"}
    assert sweep(world) == []
