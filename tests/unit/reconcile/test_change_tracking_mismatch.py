"""A CSI driver left out changes: the backup that found out, those before it, policies and restores say so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longboat.api import BackupPolicy, Restore
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP, RESTORE
from longboat.kube.port import Object
from longboat.mover.errors import MoverError
from longboat.mover.reading import ChangeTrackingMismatchError
from longboat.plan.conditions import find
from longboat.plan.export import MISMATCH_LENGTH
from longboat.reconcile import backup_end, backup_policy, restore
from longboat.repository.errors import ManifestConflictError
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, Grenade, disk, until

LIE = "bytes 4096 to 8192 differ from what the change source says"
FOUND: Object = {"mode": "Full", "fullReason": "ChangeTrackingMismatch", "distrust": "ChangeTrackingMismatch"}
FOUND |= {"note": LIE, "sinceFullRead": 0}


def make_world(folder: Path) -> BackupWorld:
    folder.mkdir(parents=True, exist_ok=True)
    world = BackupWorld(folder=folder)
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_policy("other", {"disk": {"virtualMachine": "db", "name": "data"}})
    return world


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    return make_world(tmp_path)


def begin(world: BackupWorld, name: str, told: Object, policy: str = "one") -> None:
    """A backup whose mover will report what is given, beside what it did."""

    def export(job: Object, content: str | None) -> tuple[bool, str, str | None]:
        ok, message, log = world._export(job, content)
        return ok, json.dumps(json.loads(message) | told), log

    world.storage.run_job = export
    world.add_backup(name, policy=policy)


def run(world: BackupWorld, name: str, told: Object, policy: str = "one", bomb: Grenade | None = None) -> None:
    """One backup whose mover reports what is given, beside what it did."""
    begin(world, name, told, policy)
    world.drive(name, bomb=bomb)
    assert world.backup(name).status.phase == "Completed", world.backup(name).status
    world.clock.advance(seconds=60)


def history(world: BackupWorld) -> None:
    """A full read, backups of two policies that believed the driver, and one that found it wrong."""
    run(world, "before", {"mode": "Incremental", "sinceFullRead": 7})
    run(world, "full", {"mode": "Full", "fullReason": "ScheduledFullRead", "sinceFullRead": 0})
    run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
    run(world, "second", {"mode": "Incremental", "sinceFullRead": 2}, policy="other")
    run(world, "found", FOUND)


def marked(world: BackupWorld) -> dict[str, str]:
    """By name, which DiskBackups are suspect, and by whom."""
    backups = [world.backup(each["metadata"]["name"]) for each in world.cluster.list(DISK_BACKUP, SHOP)]
    return {
        each.name: its.suspected_by
        for each in backups
        for its in each.status.disks or ()
        if its.suspected_by is not None
    }


def test_backup_that_found_its_driver_wrong_says_so_for_good(world: BackupWorld) -> None:
    history(world)
    assert disk(world, "data", "found").mismatch == LIE
    said = world.condition("ChangeTrackingMismatch", "found")
    assert (said.status, said.reason) == ("True", "BlocksDiffer")
    assert LIE in said.message and "'data'" in said.message and "second, first" in said.message
    assert world.condition("Ready", "found").status == "True"


def test_backups_that_relied_on_the_driver_are_suspect_back_to_the_last_full_read(world: BackupWorld) -> None:
    history(world)
    assert marked(world) == {"first": "found", "second": "found"}
    for name in marked(world):
        said = world.condition("Suspect", name)
        assert (said.status, said.reason) == ("True", "ChangeTrackingMismatch")
        assert "'found'" in said.message
        assert world.condition("Ready", name).status == "True"
    assert sum(reason == "Suspect" for reason, _ in world.cluster.events) == 2


def test_full_read_for_one_store_clears_nothing_of_another(world: BackupWorld) -> None:
    world.add_store("elsewhere")
    world.add_policy("far", {"disk": {"virtualMachine": "db", "name": "data"}}, storeRef={"name": "elsewhere"})
    run(world, "near", {"mode": "Incremental", "sinceFullRead": 4})
    run(world, "far-1", {"mode": "Incremental", "sinceFullRead": 5}, policy="far")
    elsewhere(world, "far-1")
    run(world, "near-full", {"mode": "Full", "fullReason": "ScheduledFullRead", "sinceFullRead": 0})
    run(world, "found", FOUND, policy="far")
    assert marked(world) == {"far-1": "found"}


def elsewhere(world: BackupWorld, name: str) -> None:
    """Have a backup be in another repository: all stores of this world are one folder."""
    its = world.get(DISK_BACKUP, name)
    its["status"]["store"]["id"] = "another"
    world.cluster.update_status(its)


def test_what_comes_after_is_not_suspect_and_a_second_mismatch_accuses_only_what_came_between(
    world: BackupWorld,
) -> None:
    history(world)
    run(world, "later", {"mode": "Incremental", "sinceFullRead": 1})
    run(world, "again", FOUND)
    assert marked(world) == {"first": "found", "second": "found", "later": "again"}


def test_first_backup_that_was_told_what_is_allocated_is_suspect_too(world: BackupWorld) -> None:
    run(world, "first", {"mode": "Full", "fullReason": "NoParent", "sinceFullRead": 1})
    run(world, "found", FOUND)
    assert marked(world) == {"first": "found"}


def test_lie_that_is_found_by_a_first_backup_is_told_although_its_full_reason_is_another(world: BackupWorld) -> None:
    run(world, "found", FOUND | {"fullReason": "NoParent"})
    assert world.condition("ChangeTrackingMismatch", "found").message.endswith("may hold wrong blocks: none")
    assert [reason for reason, _ in world.cluster.events].count("ChangeTrackingMismatch") == 1


def test_tracker_that_only_fails_accuses_nobody(world: BackupWorld) -> None:
    run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
    run(world, "failed", FOUND | {"fullReason": "ChangeTrackingUnavailable", "distrust": "ChangeTrackingUnavailable"})
    assert marked(world) == {} and world.condition("ChangeTrackingMismatch", "failed") is None


def test_other_disks_are_not_suspect(world: BackupWorld) -> None:
    world.add_policy("machine")
    run(world, "all", {"mode": "Incremental", "sinceFullRead": 3}, policy="machine")
    run(world, "found", FOUND)
    its = {each.name: each.suspected_by for each in world.backup("all").status.disks or ()}
    assert its == {"root": None, "data": "found", "logs": None}


def policies(world: BackupWorld) -> Iterator[Any]:
    for name in ("one", "other"):
        backup_policy.reconcile(world.context(), SHOP, name)
        found = BackupPolicy.model_validate(world.cluster.get(BACKUP_POLICY, name, SHOP))
        yield find(found.status.conditions, "ChangeTrackingMismatch")


def test_policies_say_it_without_events_for_as_long_as_there_are_such_backups(world: BackupWorld) -> None:
    history(world)
    one, other = policies(world)
    assert (one.status, one.reason) == ("True", "SuspectBackups")
    assert "first" in one.message and "found" in one.message
    assert (other.status, other.reason) == ("True", "SuspectBackups") and "second" in other.message
    for name in ("first", "second"):
        del world.cluster.objects[DISK_BACKUP, SHOP, name]
    one, other = policies(world)
    assert one.reason == "BlocksDiffer" and other is None


def test_restore_from_a_suspect_backup_warns_and_goes_on(world: BackupWorld) -> None:
    history(world)
    for name in ("first", "found"):
        spec = {"source": {"diskBackup": {"name": name}}, "claim": {"name": f"from-{name}"}}
        world._create(RESTORE, name, SHOP, {"spec": spec})
        restore.reconcile(world.context(), SHOP, name)
    first, found = (Restore.model_validate(world.get(RESTORE, name)) for name in ("first", "found"))
    said = find(first.status.conditions, "SuspectSource")
    assert said and (said.status, said.reason) == ("True", "ChangeTrackingMismatch") and "'found'" in said.message
    assert first.status.phase == "Restoring"
    assert find(found.status.conditions, "SuspectSource") is None


def test_backup_that_found_out_and_failed_has_marked_the_earlier_ones_and_is_not_called_right(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: Any) -> None:
        raise ManifestConflictError("the name is taken")

    run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
    monkeypatch.setattr(backup_end, "write_backup_manifest", taken)
    begin(world, "found", FOUND)
    world.drive("found")
    assert world.backup("found").status.phase == "Failed"
    assert marked(world) == {"first": "found"}
    said = world.condition("ChangeTrackingMismatch", "found").message
    assert LIE in said and "this backup is right" not in said and "first" in said


def test_backup_that_is_deleted_before_its_end_has_marked_the_earlier_ones(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
    monkeypatch.setattr(backup_end, "_write_manifest", lambda *_: False)
    begin(world, "found", FOUND)
    until(world, lambda status: any(each.mismatch for each in status.disks or ()), "found")
    assert world.backup("found").status.completed_at is None
    assert marked(world) == {"first": "found"}


class LostError(MoverError):
    """The mover's node is gone."""

    reason = "PodLost"
    retryable = True


def attempts(world: BackupWorld, name: str, *failures: Exception, bomb: Grenade | None = None) -> list[str | None]:
    """Run a backup whose first movers fail so; return what each mover is told of its driver."""
    told: list[str | None] = []

    def export(job: Object, content: str | None) -> tuple[bool, str, str | None]:
        told.append(world.job_file(job).distrust)
        return world._export(job, content)

    world.job_failures += failures
    world.storage.run_job = export
    world.add_backup(name, policy="one")
    world.drive(name, bomb=bomb)
    return told


def test_mover_that_is_lost_after_one_found_out_is_followed_by_one_that_does_not_believe_the_driver(
    world: BackupWorld,
) -> None:
    run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
    told = attempts(world, "found", ChangeTrackingMismatchError(LIE), LostError("its node is gone"))
    assert told == [None, "ChangeTrackingMismatch", "ChangeTrackingMismatch"]
    its = disk(world, "data", "found")
    assert (its.phase, its.full_reason, its.since_full_read) == ("Completed", "ChangeTrackingMismatch", 0)
    assert LIE in its.mismatch and LIE in its.message
    said = world.condition("ChangeTrackingMismatch", "found").message
    assert "this backup is right" in said and "first" in said
    assert marked(world) == {"first": "found"}
    assert [reason for reason, _ in world.cluster.events].count("ChangeTrackingMismatch") == 1


def test_lie_that_is_found_by_the_last_attempt_is_no_end_of_the_backup(world: BackupWorld) -> None:
    lost = [LostError("its node is gone") for _ in range(2)]
    assert attempts(world, "found", *lost, ChangeTrackingMismatchError(LIE)) == [None] * 3 + ["ChangeTrackingMismatch"]
    assert world.backup("found").status.phase == "Completed"


def test_lie_is_not_forgotten_when_the_backup_that_found_it_fails_for_good(world: BackupWorld) -> None:
    run(world, "first", {"mode": "Incremental", "sinceFullRead": 1})
    attempts(world, "found", ChangeTrackingMismatchError(LIE), *[LostError("its node is gone") for _ in range(3)])
    its = disk(world, "data", "found")
    assert (its.phase, its.reason) == ("Failed", "PodLost") and LIE in its.mismatch
    assert "this backup is right" not in world.condition("ChangeTrackingMismatch", "found").message
    assert marked(world) == {"first": "found"}


def test_long_message_of_a_mover_does_not_grow_what_is_kept_of_a_disk(world: BackupWorld) -> None:
    attempts(world, "found", ChangeTrackingMismatchError("x" * 4000))
    assert len(disk(world, "data", "found").mismatch) == MISMATCH_LENGTH


def test_mover_is_told_how_much_to_check_and_when_to_read_everything(world: BackupWorld) -> None:
    told: list[Any] = []
    world.storage.run_job = lambda job, content: told.append(world.job_file(job)) or world._export(job, content)  # type: ignore[assignment, func-returns-value]
    world.set(audit_percent=2.5, full_read_every=7)
    world.add_backup("run", policy="one")
    world.drive("run")
    assert (told[0].audit_share, told[0].full_read_every) == (0.025, 7)
