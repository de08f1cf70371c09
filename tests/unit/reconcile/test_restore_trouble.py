"""Restores that can't go well: each says why, and nothing of anybody's is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from longboat.api import Restore
from longboat.kube.kinds import (
    BACKUP_STORE,
    DISK_BACKUP,
    DISK_SNAPSHOT,
    JOB,
    KUBEVIRT,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    RESTORE,
    STORAGE_CLASS,
    VIRTUAL_MACHINE,
    VIRTUAL_MACHINE_INSTANCE,
)
from longboat.kube.port import ConflictError, RefusedError
from longboat.reconcile.objects import load
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.restore import reconcile
from longboat.reconcile.restore_cleanup import abandon, sweep, take_back
from tests.fakes.cluster import FakeCluster, KillAt, Killed
from tests.unit.reconcile.disk_world import SHOP, SYSTEM, World
from tests.unit.reconcile.restore_world import (
    OLD,
    add_backup,
    assert_restored,
    disk,
    disks_of,
    leftovers,
    message,
    run,
    shop,
    snapshot,
    status,
    wish,
)


def source(name: str, disk: str | None = None) -> dict[str, Any]:
    return {"source": {"diskBackup": {"name": name} | ({"disk": disk} if disk else {})}}


def untouched(world: World) -> None:
    """No claim was made, nothing lies in the operator's namespace, the machine is as it was."""
    assert world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP) is None
    assert leftovers(world) == []
    assert [name for name, _ in disks_of(world)] == ["data"]


FINAL = {
    "DiskNameRequired": (wish() | source("two"), "name one of: data, logs"),
    "DiskNotFound": (wish() | source("two", "dota"), "data, logs"),
    "DiskNotBackedUp": (wish() | source("partial", "host"), "it is a file of its node"),
    "SourceFailed": (wish() | source("failed", "data"), "spec.source.diskBackup"),
    "VolumeTooSmall": (wish(size="1023Mi"), "1Gi"),
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
        _kill_before_bind(world)
        world.storage.settle()
    assert status(world)["phase"] == "Binding"
    world.storage.ignores_data_source_ref = True
    world.storage.settle()
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ProvisionerIgnoredDataSource"
    assert [name for name, _ in disks_of(world)] == ["data"]
    assert leftovers(world) == []


def _kill_before_bind(world: World) -> None:
    """Run on until the volume is filled, and not a write further."""

    class Stopping(KillAt):
        def strike(self, moment_is_before: bool) -> None:
            if moment_is_before and status(world).get("filledAt"):
                raise Killed

    try:
        reconcile(world.context(Stopping()), SHOP, "r")
    except Killed:
        return


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


def failing(world: World, *reports: tuple[str, bool]) -> None:
    mover: Any = world.storage.run_job
    mover.failures = [{"reason": reason, "message": "m", "retryable": again} for reason, again in reports]


def test_a_mover_that_fails_is_tried_again_up_to_three_times() -> None:
    world = shop()
    failing(world, ("StoreUnreachable", True), ("Interrupted", True))
    world.add_restore("r", wish())
    for _ in range(4):
        run(world, rounds=4)
        world.clock.advance(minutes=2)
    assert_restored(world)
    assert status(world)["attempts"] == 3


def test_a_retry_waits_its_time() -> None:
    world = shop()
    failing(world, ("StoreUnreachable", True))
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r") == "Retrying"
    assert status(world)["attempts"] == 1
    wait = reconcile(world.context(), SHOP, "r")
    assert wait is not None
    assert wait.total_seconds() == 30


def test_three_failures_are_enough_and_the_empty_claim_makes_way() -> None:
    world = shop()
    failing(world, *[("StoreUnreachable", True)] * 3)
    world.add_restore("r", wish())
    for _ in range(5):
        run(world, rounds=4)
        world.clock.advance(minutes=5)
    assert status(world)["phase"] == "Failed"
    assert world.reason(RESTORE, "r", "Stalled") == "StoreUnreachable"
    assert "3 attempts" in message(world)
    untouched(world)
    assert set(world.storage.data.values()) == {"the new data"}
    world.add_restore("again", wish())
    run(world, name="again")
    assert status(world, "again")["phase"] == "Completed"
    # The failed one looks on and touches nothing of its successor's.
    run(world)
    assert world.storage.content(SHOP, "db-restored") == OLD


@pytest.mark.parametrize("reason", ["WrongKey", "BackupNotFound", "Damaged", "TargetFull"])
@pytest.mark.parametrize("storage_class", ["fast", "keeping", "late"])
def test_what_no_retry_can_help_fails_with_its_reason_and_leaves_nothing(reason: str, storage_class: str) -> None:
    world = shop()
    failing(world, (reason, False))
    world.add_restore("r", wish(storageClassName=storage_class))
    run(world)
    assert status(world)["phase"] == "Failed"
    assert status(world)["attempts"] == 1
    assert world.reason(RESTORE, "r", "Stalled") == reason
    untouched(world)
    assert set(world.storage.data.values()) == {"the new data"}


def test_the_operator_killed_while_it_takes_back_goes_on_taking_back() -> None:
    for nth in range(1, 40):
        world = shop()
        failing(world, ("Damaged", False))
        world.add_restore("r", wish())
        try:
            run(world, bomb=KillAt(nth, before=False))
        except Killed:
            run(world)
        else:
            break
        assert status(world)["phase"] == "Failed"
        untouched(world)


def test_a_mover_that_vanished_without_a_word_is_tried_again() -> None:
    world = shop()
    world.add_restore("r", wish())
    world.storage.run_job, mover = None, world.storage.run_job
    run(world, rounds=2)
    (job,) = world.cluster.list(JOB, SYSTEM)
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
    world.cluster.update_status(job)
    run(world, rounds=1)
    assert world.reason(RESTORE, "r") == "Retrying"
    world.storage.run_job = mover
    world.clock.advance(minutes=1)
    run(world)
    assert_restored(world)


def test_a_staging_claim_that_is_deleted_is_filled_anew() -> None:
    world = shop()
    world.add_restore("r", wish())
    world.storage.run_job, mover = None, world.storage.run_job
    run(world, rounds=2)
    (staging,) = world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM)
    key = (PERSISTENT_VOLUME_CLAIM, SYSTEM, staging["metadata"]["name"])
    world.cluster.objects.pop(key)
    world.storage.run_job = mover
    # The old Job sees no claim of its own any more; what it may have done before does not count.
    (job,) = world.cluster.list(JOB, SYSTEM)
    job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
    world.cluster.update_status(job)
    run(world)
    assert_restored(world)


def test_progress_is_seen_while_the_mover_runs() -> None:
    world = shop()
    world.storage.run_job = None
    world.add_restore("r", wish())
    run(world, rounds=2)
    (job,) = world.cluster.list(JOB, SYSTEM)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": SYSTEM}}
    pod["metadata"] |= {"labels": {"batch.kubernetes.io/job-name": job["metadata"]["name"]}}  # type: ignore[operator]
    world.cluster.create(pod | {"status": {"phase": "Running"}})
    line = {"progress": {"bytesDone": 1 << 29, "bytesTotal": 1 << 30, "bytesRead": 1, "bytesStored": 0}}
    world.cluster.pod_logs[SYSTEM, "p"] = json.dumps(line)
    run(world, rounds=1)
    assert (status(world)["progress"], status(world)["bytesDone"]) == ("50%", 1 << 29)
    assert world.cluster.get(POD, "p", SYSTEM)


def test_a_wrong_key_at_the_store_is_named_and_recovered_from_without_a_restart() -> None:
    world = shop()
    world.repositories.error = StoreProblemError("WrongKey", "the key does not open the repository", retryable=False)
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "WrongKey"
    assert not list(world.cluster.list(JOB, SYSTEM))
    world.repositories.error = None
    run(world)
    assert_restored(world)


def test_a_store_that_is_gone_is_named() -> None:
    world = shop()
    world.cluster.delete(BACKUP_STORE, "offsite")
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "StoreNotFound"


def test_a_namespace_made_anew_does_not_get_the_old_ones_backups() -> None:
    world = shop()
    backup = world.get(DISK_BACKUP, "nightly")
    backup["status"]["store"]["repository"] = "cluster/another-uid"
    world.cluster.update_status(backup)
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "RepositoryMismatch"
    untouched(world)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_users_claim_deleted_on_the_way_ends_the_restore_and_leaves_nothing(rounds: int) -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world, rounds=rounds)
    if status(world)["phase"] == "Completed":
        return
    world.cluster.delete(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    world.storage.settle()
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "ClaimDeleted"
    world.storage.settle()
    untouched(world)
    assert set(world.storage.data.values()) == {"the new data"}


def deleted_after(nth: int) -> tuple[World, Restore | None]:
    """A restore whose operator was killed after its nth write; then the Restore was deleted."""
    world = shop()
    world.add_restore("r", wish(storageClassName="keeping"))
    try:
        run(world, bomb=KillAt(nth, before=False))
    except Killed:
        world.storage.settle()
    restore = load(world.cluster, RESTORE, Restore, SHOP, "r")
    world.cluster.delete(RESTORE, "r", SHOP)
    return world, restore


@pytest.mark.parametrize("nth", range(1, 20))
def test_a_restore_deleted_on_the_way_leaves_nothing_and_loses_nothing(nth: int) -> None:
    world, restore = deleted_after(nth)
    assert restore is not None
    abandon(world.context(), restore)
    for _ in range(3):
        world.storage.settle()
    assert leftovers(world) == []
    claim = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    assert claim is None or world.storage.content(SHOP, "db-restored") == OLD
    kept = {"the new data"} | ({OLD} if claim else set())
    assert set(world.storage.data.values()) == kept


@pytest.mark.parametrize("nth", range(1, 20))
def test_what_a_deleted_restore_left_while_the_operator_was_away_is_swept(nth: int) -> None:
    world, _ = deleted_after(nth)
    sweep(world.context())
    for _ in range(3):
        world.storage.settle()
    assert leftovers(world) == []
    claim = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    assert claim is None or world.storage.content(SHOP, "db-restored") in (OLD, None)
    assert "the new data" in world.storage.data.values()


def test_the_sweep_leaves_a_restore_that_is_under_way_alone() -> None:
    world = shop()
    world.add_restore("r", wish())
    world.storage.run_job, mover = None, world.storage.run_job
    run(world, rounds=2)
    before = leftovers(world)
    assert before
    sweep(world.context())
    assert leftovers(world) == before
    world.storage.run_job = mover
    run(world)
    assert_restored(world)


def test_taking_back_a_finished_restore_changes_nothing() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    restore = load(world.cluster, RESTORE, Restore, SHOP, "r")
    assert restore is not None
    abandon(world.context(), restore)
    take_back(world.context(), SHOP, restore.uid)
    assert_restored(world)


def test_a_machine_deleted_meanwhile_leaves_the_disk_where_it_is() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world, rounds=1)
    world.cluster.delete(VIRTUAL_MACHINE, "db", SHOP)
    run(world)
    assert world.reason(RESTORE, "r", "Attached") == "VirtualMachineNotFound"
    assert world.storage.content(SHOP, "db-restored") == OLD
    assert status(world)["phase"] == "Attaching"
    assert leftovers(world) == []


def test_hot_plug_that_is_refused_is_named_until_the_machine_stops() -> None:
    world = shop()
    world.machines.fail["addvolume"] = RefusedError("hotplug volumes feature gate is not enabled")
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "AttachRefused"
    assert [name for name, _ in disks_of(world)] == ["data"]
    world.cluster.delete(VIRTUAL_MACHINE_INSTANCE, "db", SHOP)
    run(world)
    assert_restored(world)
    assert [name for name, _ in disks_of(world)] == ["data", "restored"]


def test_with_declarative_hot_plug_alone_the_machine_is_edited() -> None:
    world = shop()
    gates = {"configuration": {"developerConfiguration": {"featureGates": ["DeclarativeHotplugVolumes"]}}}
    kubevirt = {"apiVersion": KUBEVIRT.api_version, "kind": "KubeVirt", "metadata": {"name": "k", "namespace": SYSTEM}}
    world.cluster.create(kubevirt | {"spec": gates})
    world.machines.fail["addvolume"] = RefusedError("bad request")
    world.add_restore("r", wish())
    run(world)
    spec = world.get(VIRTUAL_MACHINE, "db")["spec"]["template"]["spec"]
    assert spec["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "db-restored", "hotpluggable": True}
    assert world.reason(RESTORE, "r", "Attached") == "Attaching"
    plugged = [
        {"op": "add", "path": "/spec/volumes", "value": spec["volumes"]},
        {"op": "add", "path": "/spec/domain", "value": spec["domain"]},
    ]
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", plugged, SHOP)
    run(world)
    assert_restored(world)


def test_a_call_that_took_effect_although_it_failed_is_not_repeated() -> None:
    world = shop()
    real = world.machines.on_add_volume

    def late(name: str, namespace: str, volume: dict[str, Any]) -> None:
        real(name, namespace, volume)
        raise ConflictError("the server was too slow to answer")

    world.machines.on_add_volume = late
    world.add_restore("r", wish())
    run(world)
    assert_restored(world)
    assert len(world.machines.calls) == 1


def test_a_machine_that_is_starting_is_waited_for() -> None:
    world = shop()
    starting = [{"op": "replace", "path": "/status/phase", "value": "Scheduling"}]
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", starting, SHOP)
    world.add_restore("r", wish())
    run(world)
    assert world.machines.calls == []
    running = [{"op": "replace", "path": "/status/phase", "value": "Running"}]
    world.cluster.patch(VIRTUAL_MACHINE_INSTANCE, "db", running, SHOP)
    run(world)
    assert_restored(world)


def test_an_accepted_hot_plug_that_is_not_in_the_spec_yet_is_not_asked_for_twice() -> None:
    world = shop()
    request = {"volumeRequests": [{"addVolumeOptions": {"name": "restored"}}]}
    world.cluster.patch(VIRTUAL_MACHINE, "db", [{"op": "add", "path": "/status", "value": request}], SHOP)
    world.add_restore("r", wish())
    run(world)
    assert world.machines.calls == []
    assert world.reason(RESTORE, "r", "Attached") == "Attaching"


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
        _kill_before_bind(world)
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
