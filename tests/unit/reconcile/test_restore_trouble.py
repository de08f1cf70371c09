"""Restores that can't go well: each says why, and nothing of anybody's is touched."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.api import Restore
from longboat.kube.kinds import (
    DISK_SNAPSHOT,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
    STORAGE_CLASS,
)
from longboat.kube.port import RefusedError
from longboat.plan.restore_target import users_claim
from longboat.reconcile.restore import reconcile
from tests.fakes.cluster import FakeCluster
from tests.unit.reconcile.disk_world import SHOP, World
from tests.unit.reconcile.restore_world import (
    GIB,
    add_backup,
    assert_restored,
    disk,
    disks_of,
    fill_only,
    leftovers,
    message,
    run,
    shop,
    snapshot,
    status,
    untouched,
    wish,
)


def source(name: str, disk: str | None = None) -> dict[str, Any]:
    return {"source": {"diskBackup": {"name": name} | ({"disk": disk} if disk else {})}}


FINAL = {
    "DiskNameRequired": (wish() | source("two"), "name one of: data, logs"),
    "DiskNotFound": (wish() | source("two", "dota"), "data, logs"),
    "DiskNotBackedUp": (wish() | source("partial", "host"), "it is a file of its node"),
    "SourceFailed": (wish() | source("failed", "data"), "spec.source.diskBackup"),
    "VolumeTooSmall": (wish(size="1023Mi"), "1Gi"),
    "VolumeTooLarge": (wish(size="99999P"), "spec.claim.size: 99999P"),
    "DiskNameTaken": (wish() | {"attach": {"virtualMachine": "db", "diskName": "data"}}, "spec.attach.diskName"),
    "StorageClassRequired": (wish() | source("classless", "data"), "spec.claim.storageClassName"),
}


WAITING = {
    "SourceNotFound": (wish() | source("nothing", "data"), "'nothing'"),
    "StorageClassNotFound": (wish(storageClassName="none"), "'none'"),
    "VirtualMachineNotFound": (wish() | {"attach": {"virtualMachine": "gone", "diskName": "x"}}, "'gone'"),
}


def troubled() -> World:
    world = shop()
    host = disk("host", "Unsupported", message="it is a file of its node", claim=None)
    add_backup(world, "two", [disk("data"), disk("logs")])
    add_backup(world, "partial", [disk("data"), host], phase="PartiallyFailed")
    add_backup(world, "failed", [disk("data", "Failed")], phase="Failed")
    add_backup(world, "classless", [disk("data", storageClassName=None)])
    return world


@pytest.mark.parametrize("reason", FINAL)
def test_what_can_never_work_fails_at_once_and_makes_nothing(reason: str) -> None:
    world = troubled()
    spec, words = FINAL[reason]
    world.add_restore("r", spec)
    assert reconcile(world.context(), SHOP, "r") is None
    assert status(world)["phase"] == "Failed"
    assert world.reason(RESTORE, "r", "Stalled") == reason
    assert words in message(world)
    untouched(world)


@pytest.mark.parametrize("reason", WAITING)
def test_what_may_still_come_is_waited_for_ever_less_often(reason: str) -> None:
    world = troubled()
    spec, words = WAITING[reason]
    world.add_restore("r", spec)
    first = reconcile(world.context(), SHOP, "r")
    assert world.reason(RESTORE, "r", "Stalled") == reason
    assert words in message(world)
    world.clock.advance(hours=2)
    later = reconcile(world.context(), SHOP, "r")
    assert first is not None
    assert later is not None
    assert first.total_seconds() == 10
    assert later.total_seconds() == 600
    assert status(world)["phase"] == "Pending"
    assert [each for each, _ in world.cluster.events] == [reason]
    untouched(world)


def test_a_partial_backups_good_disk_can_be_restored() -> None:
    world = troubled()
    world.add_restore("r", wish() | source("partial", "data"))
    run(world)
    assert_restored(world)


def test_an_existing_claim_is_never_touched() -> None:
    world = shop()
    before = world.storage.add_claim(SHOP, "db-restored", "somebody's")
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimExists"
    assert status(world)["phase"] == "Failed"
    assert world.storage.claim(SHOP, "db-restored") == before
    assert world.storage.content(SHOP, "db-restored") == "somebody's"
    assert leftovers(world) == []


def test_a_claim_that_appears_at_the_last_moment_is_never_touched() -> None:
    world = shop()
    world.add_restore("r", wish())

    def race(verb: str, obj: dict[str, Any]) -> None:
        # Somebody makes a claim of that name just after the plan was written.
        if obj["kind"] == "Restore" and world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP) is None:
            world.cluster.hooks.clear()
            world.storage.add_claim(SHOP, "db-restored", "theirs")

    world.cluster.hooks.append(race)
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimExists"
    assert world.storage.content(SHOP, "db-restored") == "theirs"
    assert leftovers(world) == []


def test_a_claim_that_forges_our_annotation_but_has_another_source_is_not_ours() -> None:
    world = shop()
    uid = world.add_restore("r", wish())["metadata"]["uid"]
    world.storage.add_claim(SHOP, "db-restored", "somebody's")
    annotated = [{"op": "add", "path": "/metadata/annotations", "value": {"longboat.dev/restore-uid": uid}}]
    world.cluster.patch(PERSISTENT_VOLUME_CLAIM, "db-restored", annotated, SHOP)
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimExists"
    assert world.storage.content(SHOP, "db-restored") == "somebody's"


@pytest.mark.parametrize("moment", ["before the plan", "after the plan"])
@pytest.mark.parametrize(
    "change",
    [
        {"resources": {"requests": {"storage": "1Mi"}}},
        {"storageClassName": "keeping"},
        {"volumeMode": "Filesystem"},
        {"accessModes": ["ReadWriteMany"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_smaller_claim_made_beforehand_does_not_get_round_a_quota(change: dict[str, Any], moment: str) -> None:
    world = shop()
    world.add_restore("r", wish())

    def make(verb: str, obj: dict[str, Any]) -> None:
        if obj["kind"] == "Restore" and obj.get("status", {}).get("startedAt"):
            world.cluster.hooks.remove(make)
            _create_claim(world, change)

    if moment == "after the plan":
        world.cluster.hooks.append(make)
    else:
        _create_claim(world, change)
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimExists"
    claim = world.storage.claim(SHOP, "db-restored")
    assert "volumeName" not in claim["spec"] and leftovers(world) == []


def _create_claim(world: World, change: dict[str, Any]) -> None:
    """Make the claim that the Restore would make, but for a change."""
    restore = Restore.model_validate(world.get(RESTORE, "r"))
    plan = {"size_bytes": GIB, "storage_class_name": "fast", "volume_mode": "Block"}
    made = users_claim(restore, restore.status.model_copy(update=plan))
    made["spec"] |= change
    world.cluster.create(made)


def test_the_claim_that_an_operator_made_before_it_was_killed_is_its_own() -> None:
    world = shop()
    world.add_restore("r", wish())

    def make(verb: str, obj: dict[str, Any]) -> None:
        if obj["kind"] == "Restore" and obj.get("status", {}).get("startedAt"):
            world.cluster.hooks.remove(make)
            world.cluster.create(users_claim(Restore.model_validate(obj), Restore.model_validate(obj).status))

    world.cluster.hooks.append(make)
    run(world)
    assert_restored(world)


def test_a_provisioner_that_ignores_the_data_source_is_found_out_and_its_disk_not_attached() -> None:
    world = shop()
    world.storage.ignores_data_source_ref = True
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ProvisionerIgnoredDataSource"
    assert [name for name, _ in disks_of(world)] == ["data"]
    assert leftovers(world) == []
    # The empty claim is bound: nobody deletes a claim with a volume.
    assert world.storage.content(SHOP, "db-restored") == ""


def test_a_provisioner_that_ignores_the_data_source_late_is_found_out_too() -> None:
    world = shop()
    world.add_restore("r", wish())
    for _ in range(6):
        fill_only(world)
        world.storage.settle()
    assert status(world)["phase"] == "Binding"
    world.storage.ignores_data_source_ref = True
    world.storage.settle()
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ProvisionerIgnoredDataSource"
    assert [name for name, _ in disks_of(world)] == ["data"]
    assert leftovers(world) == []


def test_a_quota_that_is_full_is_named_and_waited_for() -> None:
    world = shop()

    class Quota(FakeCluster):
        def create(self, obj: dict[str, Any]) -> dict[str, Any]:
            if obj["kind"] == "PersistentVolumeClaim" and obj["metadata"]["namespace"] == SHOP:
                raise RefusedError("exceeded quota: disks, requested: 1Gi, used: 9Gi, limited: 9Gi")
            return super().create(obj)

    world.cluster.__class__ = Quota
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimRefused"
    assert "exceeded quota: disks" in message(world)
    world.cluster.__class__ = FakeCluster
    run(world)
    assert_restored(world)


def test_a_storage_without_space_is_quoted_and_the_restore_goes_on_when_there_is_some() -> None:
    world = shop()
    world.storage.full = "no space left in the pool"
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "", "it may be there in a moment"
    world.clock.advance(seconds=31)
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "VolumeNotProvisioned"
    assert "no space left in the pool" in message(world)
    assert "'fast'" in message(world)
    world.storage.full = ""
    run(world)
    assert_restored(world)


def test_a_storage_that_never_makes_the_volume_ends_the_restore_and_leaves_nothing() -> None:
    world = shop()
    world.storage.full = "no space left in the pool"
    world.add_restore("r", wish())
    for _ in range(8):
        run(world, rounds=4)
        world.clock.advance(minutes=61)
    assert (status(world)["phase"], world.reason(RESTORE, "r", "Stalled")) == ("Failed", "MoverNotStarted")
    assert "no space left in the pool" in message(world)
    untouched(world)


def test_a_snapshot_that_failed_or_is_lost_is_named() -> None:
    world = shop()
    world.add_restore("r", wish(snapshot="before"))
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "SourceNotFound"
    made = world.add_snapshot("before", {"virtualMachine": "db", "name": "data"})
    made["status"] = {"phase": "Failed"}
    world.cluster.update_status(made)
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "SourceFailed"
    made = world.get(DISK_SNAPSHOT, "before")
    made["status"] = {"phase": "Ready", "sizeBytes": 1 << 30, "volumeSnapshot": "gone", "storageClassName": "fast"}
    world.cluster.update_status(made)
    world.add_restore("again", wish(snapshot="before"))
    run(world, name="again")
    assert world.reason(RESTORE, "again", "Stalled") == "SnapshotLost"
    untouched(world)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [({"storageClassName": "foreign"}, "StorageClassMismatch"), ({"size": "512Mi"}, "VolumeTooSmall")],
)
def test_a_snapshot_does_not_fit_everywhere(claim: dict[str, Any], reason: str) -> None:
    world = shop()
    snapshot(world)
    world.add_restore("r", wish(snapshot="before", **claim))
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == reason
    untouched(world)


def test_a_volume_that_somebody_took_is_left_to_them() -> None:
    world = shop()
    world.add_restore("r", wish())
    for _ in range(6):
        fill_only(world)
        world.storage.settle()
    name = status(world)["volume"]
    theirs = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "x", "name": "y", "uid": "z"}
    world.cluster.patch(PERSISTENT_VOLUME, name, [{"op": "replace", "path": "/spec/claimRef", "value": theirs}])
    keep = [{"op": "replace", "path": "/spec/persistentVolumeReclaimPolicy", "value": "Retain"}]
    world.cluster.patch(PERSISTENT_VOLUME, name, keep)
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "VolumeTaken"
    assert world.get(PERSISTENT_VOLUME, name, "")["spec"]["claimRef"] == theirs
    assert world.get(PERSISTENT_VOLUME, name, "")["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert world.cluster.get(STORAGE_CLASS, "fast")
