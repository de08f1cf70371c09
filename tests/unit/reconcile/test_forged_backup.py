"""A DiskBackup's status, or a VolumeSnapshot, forged by a tenant: the operator touches no snapshot of anybody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import DISK_BACKUP, NAMESPACE, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT
from longboat.kube.port import Object
from longboat.plan.backup_snapshots import labels_of, snapshot_name
from longboat.reconcile.objects import owner_reference
from tests.fakes.snapshots import handle_of
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, disk, look, until

VICTIM = "bank"


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world._create(NAMESPACE, VICTIM, "", {})
    world.storage.add_claim(VICTIM, "ledger", "secrets of the bank", size="4Mi")
    return world


def snapshot(
    world: BackupWorld, namespace: str, name: str, claim: str, metadata: dict[str, Any] | None = None
) -> Object:
    """Make a VolumeSnapshot and return its content."""
    meta = {"name": name, "namespace": namespace} | (metadata or {})
    spec = {"source": {"persistentVolumeClaimName": claim}, "volumeSnapshotClassName": "snapshots"}
    body = {"apiVersion": VOLUME_SNAPSHOT.api_version, "kind": "VolumeSnapshot", "metadata": meta, "spec": spec}
    world.cluster.create(body)
    world.storage.settle()
    found = world.cluster.get(VOLUME_SNAPSHOT, name, namespace) or {}
    return world.cluster.get(VOLUME_SNAPSHOT_CONTENT, found["status"]["boundVolumeSnapshotContentName"]) or {}


def forge(world: BackupWorld, **changes: Any) -> None:
    """Write into the record of the disk "data" as its tenant might."""
    obj = world.get(DISK_BACKUP, "run")
    entry = next(each for each in obj["status"]["disks"] if each["name"] == "data")
    entry["handOver"] |= changes.pop("handOver", {})
    entry |= changes
    world.cluster.update_status(obj)


def untouched(world: BackupWorld, content: Object) -> bool:
    """Return whether a content is as it was, its snapshot there, and nobody else's content stands for it."""
    handle = handle_of(content)
    same = [each for each in world.cluster.list(VOLUME_SNAPSHOT_CONTENT) if handle_of(each) == handle]
    return same == [content] and handle in world.storage.data


def ready(world: BackupWorld) -> None:
    """Bring the run to where its snapshots are ready and none is handed over yet."""
    world.storage.never_ready.add("db-data")
    world.add_backup()
    until(world, lambda status: bool(status.cut and status.cut.ended_at))
    obj = world.get(DISK_BACKUP, "run")
    entry = next(each for each in obj["status"]["disks"] if each["name"] == "data")
    found = world.cluster.get(VOLUME_SNAPSHOT, entry["volumeSnapshot"], SHOP) or {}
    content = world.cluster.get(VOLUME_SNAPSHOT_CONTENT, found["status"]["boundVolumeSnapshotContentName"]) or {}
    record = {
        "snapshotHandle": handle_of(content),
        "originalContent": content["metadata"]["name"],
        "driver": content["spec"]["driver"],
    }
    entry |= {"phase": "Snapshotted", "handOver": record}
    world.cluster.update_status(obj)


def test_the_forging_in_these_tests_is_what_the_operator_would_write_itself(world: BackupWorld) -> None:
    ready(world)
    world.drive()
    assert disk(world, "data").phase == "Completed"


@pytest.mark.parametrize("gone", [False, True], ids=["own snapshot there", "own snapshot deleted"])
def test_a_forged_handle_gives_nobody_the_snapshot_of_another_namespace(world: BackupWorld, gone: bool) -> None:
    victim = snapshot(world, VICTIM, "nightly", "ledger")
    ready(world)
    forge(world, handOver={"snapshotHandle": handle_of(victim)})
    if gone:
        world.cluster.delete(VOLUME_SNAPSHOT, disk(world, "data").volume_snapshot, SHOP)
    world.drive()
    assert (disk(world, "data").phase, disk(world, "data").reason) == ("Failed", "SnapshotLost")
    assert untouched(world, victim)


@pytest.mark.parametrize("named", ["own", "victim's"])
def test_a_forged_content_is_neither_read_nor_deleted(world: BackupWorld, named: str) -> None:
    victim = snapshot(world, VICTIM, "nightly", "ledger")
    ready(world)
    record = {"snapshotHandle": handle_of(victim), "originalContent": victim["metadata"]["name"]}
    forge(world, handOver=record, **({"volumeSnapshot": "nightly"} if named == "victim's" else {}))
    world.drive()
    assert disk(world, "data").phase == "Failed" and untouched(world, victim)


def test_a_forged_content_of_a_snapshot_of_the_same_name_elsewhere_is_left_alone(world: BackupWorld) -> None:
    ready(world)
    victim = snapshot(world, VICTIM, disk(world, "data").volume_snapshot, "ledger")
    forge(world, handOver={"snapshotHandle": handle_of(victim), "originalContent": victim["metadata"]["name"]})
    world.drive()
    assert disk(world, "data").phase == "Failed" and untouched(world, victim)


def test_a_forged_record_of_another_snapshot_in_the_namespace_is_left_alone(world: BackupWorld) -> None:
    mine = snapshot(world, SHOP, "before-upgrade", "db-data")
    ready(world)
    record = {"snapshotHandle": handle_of(mine), "originalContent": mine["metadata"]["name"]}
    forge(world, handOver=record, volumeSnapshot="before-upgrade")
    world.drive()
    assert disk(world, "data").phase == "Failed" and untouched(world, mine)


# Labels alone


@pytest.mark.parametrize("evidence", ["label", "label and owner", "label and name"])
def test_a_snapshot_that_is_only_labelled_as_the_backups_stays(world: BackupWorld, evidence: str) -> None:
    world.storage.never_ready.add("db-logs")
    world.add_backup()
    look(world, times=3)
    backup = world.backup()
    extra: dict[str, Any] = {"labels": labels_of(backup)}
    if "owner" in evidence:
        extra["ownerReferences"] = [owner_reference(backup)]
    name = snapshot_name(backup, "data", 5) if "name" in evidence else "before-upgrade"
    kept = snapshot(world, SHOP, name, "db-root", extra)
    world.clock.advance(hours=12)
    world.drive()
    assert world.backup().status.cleaned_up and untouched(world, kept)
