"""Movers of restores that fail, vanish or are tried again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from longboat.kube.kinds import (
    BACKUP_STORE,
    DISK_BACKUP,
    JOB,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    RESTORE,
    SECRET,
    STORAGE_CLASS,
)
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.restore import reconcile
from longboat.reconcile.restore_cleanup import sweep
from longboat.repository.accepted import mark_of
from tests.unit.reconcile.disk_world import SHOP, SYSTEM
from tests.unit.reconcile.restore_world import (
    MANIFEST,
    OLD,
    add_backup,
    assert_restored,
    disk,
    failing,
    message,
    run,
    shop,
    status,
    untouched,
    wish,
)


def test_a_restore_uses_the_credentials_that_may_only_read() -> None:
    world = shop()
    world.add_restore("r", wish())
    run(world)
    assert_restored(world)
    assert set(world.repositories.asked) == {(SHOP, "restore")}


@pytest.mark.parametrize("folder", ["", ".2", ".11"])
def test_a_backup_is_restored_from_the_repository_that_it_lies_in(folder: str) -> None:
    world = shop()
    add_backup(world, "moved", [disk("data")], folder=folder)
    world.add_restore("r", wish(backup="moved"))
    run(world)
    assert_restored(world)
    mover = world.storage.run_job
    told = mover.told[-1]  # type: ignore[attr-defined]
    assert told["repositoryPath"] == status(world)["repository"] and told["repositoryPath"].endswith(folder)


@pytest.mark.parametrize(("late", "reason"), [(timedelta(minutes=29), None), (timedelta(minutes=31), "LateManifest")])
def test_what_was_forged_with_a_leaked_key_is_not_restored(late: timedelta, reason: str | None) -> None:
    world = shop()
    store = world.repositories
    store.store.put_new(MANIFEST, b"x")
    store.closings = {1: store.store.now - late}
    world.add_restore("r", wish())
    run(world)
    if reason is None:
        assert_restored(world)
        return
    untouched_ = world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    assert "volumeName" not in (untouched_ or {"spec": {}})["spec"] and not world.storage.run_job.jobs
    assert world.reason(RESTORE, "r") == reason and "BackupStore 'offsite'" in message(world)


def test_what_an_administrator_has_accepted_is_restored_though_it_came_late() -> None:
    world = shop()
    store = world.repositories
    store.store.put_new(MANIFEST, b"x")
    store.closings = {1: store.store.now - timedelta(days=1)}
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r") == "LateManifest"
    store.accepts = {1: frozenset({mark_of(store.store.head(MANIFEST))})}
    world.clock.advance(minutes=10)
    run(world)
    assert_restored(world)


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


def test_three_failures_are_enough_and_another_restore_can_follow() -> None:
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
    world.cluster.delete(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)
    world.storage.settle()
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


def test_a_mover_that_comes_no_further_is_given_up_and_tried_again() -> None:
    world = shop()
    world.storage.run_job, mover = None, world.storage.run_job
    world.add_restore("r", wish())
    run(world, rounds=2)
    (job,) = world.cluster.list(JOB, SYSTEM)
    labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": SYSTEM, "labels": labels}}
    world.cluster.create(pod | {"status": {"phase": "Running"}})
    world.cluster.pod_logs[SYSTEM, "p"] = '{"progress": {"bytesDone": 1, "bytesTotal": 2}}'
    run(world, rounds=1)
    world.clock.advance(minutes=29)
    run(world, rounds=1)
    assert world.reason(RESTORE, "r") == "Restoring"
    world.clock.advance(minutes=1)
    run(world, rounds=1)
    assert world.reason(RESTORE, "r") == "Retrying" and "MoverHung" in message(world)
    world.cluster.delete(POD, "p", SYSTEM)
    world.storage.run_job = mover
    world.clock.advance(minutes=1)
    run(world)
    assert_restored(world)


def test_a_restore_waits_for_other_restores_and_says_so_but_not_for_backups() -> None:
    world = shop()
    world.settings = replace(world.settings, movers_at_once=1)
    head = {"apiVersion": "batch/v1", "kind": "Job"}
    for role in ("export", "restore"):
        meta = {"name": role, "namespace": SYSTEM, "labels": {"longboat.dev/role": role}}
        world.cluster.create(head | {"metadata": meta, "spec": {"template": {"spec": {"volumes": []}}}})
    world.storage.run_job, mover = None, world.storage.run_job
    world.add_restore("r", wish())
    run(world, rounds=3)
    assert world.reason(RESTORE, "r") == "MoversBusy" and "movers.atOnce" in message(world)
    world.cluster.delete(JOB, "restore", SYSTEM)
    run(world, rounds=2)
    assert world.reason(RESTORE, "r") == "Restoring"
    world.cluster.delete(JOB, "export", SYSTEM)
    world.storage.run_job = mover
    run(world)
    assert_restored(world)


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


def test_another_repository_at_the_same_place_is_not_restored_from() -> None:
    world = shop()
    world.repositories.id = "second"
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "RepositoryReplaced"
    world.repositories.id = "first"
    run(world)
    assert_restored(world)


def test_a_namespace_made_anew_does_not_get_the_old_ones_backups() -> None:
    world = shop()
    backup = world.get(DISK_BACKUP, "nightly")
    backup["status"]["store"]["repository"] = "cluster/another-uid"
    world.cluster.update_status(backup)
    world.add_restore("r", wish())
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "RepositoryMismatch"
    untouched(world)


@pytest.mark.parametrize("storage_class", ["fast", "late"])
@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_a_volume_that_was_there_before_is_neither_written_nor_deleted(storage_class: str, policy: str) -> None:
    world = shop()
    world.storage.add_claim(SHOP, "original", "the only copy", storage=storage_class)
    world.clock.advance(days=1)
    volume = world.storage.free(SHOP, "original", policy=policy)
    world.add_restore("r", wish(storageClassName=storage_class))
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "VolumeNotNew"
    assert volume in message(world)
    untouched(world)
    assert world.get(PERSISTENT_VOLUME, volume, "")["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert sorted(world.storage.data.values()) == ["the new data", "the only copy"]


def test_a_restore_deleted_before_its_mover_ran_does_not_take_a_foreign_volume_along() -> None:
    world = shop()
    world.storage.add_claim(SHOP, "original", "the only copy")
    world.clock.advance(days=1)
    world.storage.free(SHOP, "original", policy="Delete")
    world.add_restore("r", wish())
    world.storage.run_job = None
    reconcile(world.context(), SHOP, "r")
    world.storage.settle()
    world.cluster.delete(RESTORE, "r", SHOP)
    sweep(world.context())
    world.storage.settle()
    assert list(world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM)) == []
    assert sorted(world.storage.data.values()) == ["the new data", "the only copy"]


def test_a_storage_class_that_is_gone_stops_the_mover_until_it_is_back() -> None:
    world = shop()
    world.add_restore("r", wish(storageClassName="late"))
    reconcile(world.context(), SHOP, "r")
    world.storage.settle()
    storage_class = world.get(STORAGE_CLASS, "late", "")
    world.cluster.delete(STORAGE_CLASS, "late")
    run(world)
    assert world.reason(RESTORE, "r", "Stalled") == "StorageClassNotFound"
    assert not list(world.cluster.list(SECRET, SYSTEM))
    world.cluster.create(storage_class)
    run(world)
    assert_restored(world)
