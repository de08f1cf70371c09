"""Prune and verify as Jobs: each repository in its turn, by one Job a run, whatever happens to the operator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_STORE, CONFIG_MAP, DISK_BACKUP, JOB, NAMESPACE, SECRET
from longboat.kube.port import Object
from longboat.mover import PruneJob, VerifyJob
from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.reconcile import epochs, maintenance_run
from longboat.reconcile.dispatch import AFTER_PRUNE, sweep_trash
from longboat.reconcile.maintenance_records import add, all_records
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.trash_notes import noted, place_of, update
from longboat.repository import (
    StoreSettings,
    advance_epoch,
    open_or_create_repository,
    open_store,
    read_epoch,
    write_tombstone,
)
from longboat.repository.errors import AccessDeniedError, DamagedError
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import DISKS, SHOP, SYSTEM, Grenade
from tests.unit.reconcile.upkeep_world import NOBODY, STORE, UpkeepWorld

GONE = "00000000-0000-4000-8000-00000000dead"
"""UID of a namespace that is not there."""
VERIFY, PRUNE = plan.REQUESTED["verify"], plan.REQUESTED["prune"]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def world_in(folder: Path) -> UpkeepWorld:
    """Return a world with a backup of a disk."""
    folder.mkdir(parents=True, exist_ok=True)
    world = UpkeepWorld(folder=folder)
    world.add_policy("daily", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_backup()
    world.drive()
    world.clock.advance(seconds=10)
    return world


@pytest.fixture
def world(tmp_path: Path) -> UpkeepWorld:
    return world_in(tmp_path)


def request(world: UpkeepWorld, name: str) -> None:
    world.until_idle()
    world.clock.advance(seconds=1)
    world.annotate(name, world.clock().strftime("%Y-%m-%dT%H:%M:%SZ"))
    world.clock.advance(seconds=1)
    world.until_idle()


def lose_a_pack(world: UpkeepWorld) -> None:
    packs = sorted(path for path in (world.folder / "store").rglob("packs/*/*") if path.is_file())
    packs[0].unlink()


def test_each_repository_is_pruned_and_verified_once_a_day_and_what_came_of_it_is_told(world: UpkeepWorld) -> None:
    world.pass_a_day()
    assert sorted(work for work, _ in world.runs) == ["prune", "verify"]
    status = world.store().status
    assert status.maintenance is not None and status.maintenance.repositories == 1
    assert status.maintenance.verify is not None and status.maintenance.verify.backups == 1
    assert status.maintenance.prune is not None and status.maintenance.prune.freed_bytes == 0
    assert world.store_condition("Verified") == ("True", "Verified")
    assert world.store_condition("Pruned") == ("True", "Pruned")
    backup = world.backup().status
    assert backup.verified == "Yes" and backup.verified_at is not None
    assert world.jobs() == [] and world.leftovers() == ["Secret/s3"]
    world.pass_a_day()
    assert len(world.runs) == 4


@pytest.mark.parametrize(("other", "asked"), [("verify", (SHOP, "maintenance")), ("prune", ("", "export"))])
def test_a_verification_is_not_given_credentials_that_can_delete(
    world: UpkeepWorld, other: str, asked: tuple[str, str]
) -> None:
    """Nor those of a namespace: another one may have the name by now. Also when its Secret has to be made anew."""
    world.ask(**{other: NOBODY})
    world.look()
    world.clock.advance(days=1)
    world.storage.run_job = None
    world.repositories.asked.clear()
    world.look()
    (job,) = world.jobs()
    world.cluster.delete(SECRET, job["metadata"]["name"], SYSTEM)
    world.look()
    assert len(world.repositories.asked) >= 2 and set(world.repositories.asked) == {asked}


def test_jobs_are_told_what_the_store_asks_for_and_go_on_from_run_to_run(world: UpkeepWorld) -> None:
    world.ask(prune={"gracePeriod": "2d"}, verify={"share": 7})
    for _ in range(2):
        world.pass_a_day()
    prunes = [told for _, told in world.runs if isinstance(told, PruneJob)]
    assert {each.grace_seconds for each in prunes} == {2 * 86400}
    assert [each.known_tokens for each in prunes] == [(), ("token-1",)]
    first, second = [told for _, told in world.runs if isinstance(told, VerifyJob)]
    assert (first.phase, first.share) == (None, 7) and second.phase is not None


def _effects(folder: Path) -> int:
    world, bomb = world_in(folder), Grenade()
    world.pass_a_day(bomb)
    return bomb.effects


def test_killed_at_any_write_each_run_has_one_job_and_the_end_is_the_same(tmp_path: Path) -> None:
    count = _effects(tmp_path / "count")
    assert count >= 12, "the test sees too few writes to be worth anything"
    for nth in range(1, count + 2):
        world = world_in(tmp_path / str(nth))
        names, unknown = list[str](), list[str]()
        world.cluster.hooks.append(_watcher(world, names, unknown))
        world.pass_a_day(Grenade(nth))
        where = f"killed after write {nth - 1} of {count}"
        assert sorted(work for work, _ in world.runs) == ["prune", "verify"], where
        assert len(names) == 2 and unknown == [], where
        assert world.jobs() == [] and world.backup().status.verified == "Yes", where
        record = world.record()
        assert record.prune.attempt is None and record.verify.attempt is None, where
        epoch = read_epoch(world.repository())
        assert epoch is not None and [epoch.token] == record.tokens, where


def _kill_at_the_job(world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, after: bool = False) -> None:
    """Look with an operator that is killed right before, or after, it makes a Job."""
    create = world.cluster.create

    def kill(obj: Object) -> Object:
        if obj["kind"] == "Job" and after:
            create(obj)
        if obj["kind"] == "Job":
            raise Killed
        return create(obj)

    with monkeypatch.context() as patch:
        patch.setattr(world.cluster, "create", kill)
        world.look()
    attempt = world.record().prune.attempt
    assert attempt is not None and attempt.job is None and bool(world.jobs()) == after


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("forbidden", [{"dryRun": True}, NOBODY])
def test_a_prune_that_could_not_begin_yet_heeds_what_the_store_says_now(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, forbidden: dict[str, Any], after: bool
) -> None:
    """Who sees something wrong and sets dryRun or suspend must not meet a real prune when the operator comes back."""
    world.ask(verify=NOBODY)
    world.look()
    world.clock.advance(days=1)
    _kill_at_the_job(world, monkeypatch, after)
    tokens = world.record().tokens
    world.ask(verify=NOBODY, prune=forbidden)
    world.pass_a_day()
    assert all(isinstance(told, PruneJob) and told.dry_run for _, told in world.runs)
    assert bool(world.runs) == ("dryRun" in forbidden)
    assert world.record().prune.attempt is None and world.jobs() == []
    assert world.record().tokens == tokens, "nobody knows whether it has written its token"


@pytest.mark.parametrize("after", [False, True])
def test_a_suspended_prune_that_somebody_asked_for_goes_on_after_the_operator_was_killed(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    world.ask(verify=NOBODY, prune=NOBODY)
    world.until_idle()
    world.clock.advance(seconds=1)
    world.annotate(PRUNE, world.clock().strftime("%Y-%m-%dT%H:%M:%SZ"))
    _kill_at_the_job(world, monkeypatch, after)
    world.until_idle()
    assert [told.token for _, told in world.runs if isinstance(told, PruneJob)] == ["token-1"]


def test_a_dry_run_that_is_resumed_stays_one_and_needs_no_charge(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noted down says what the run is, not what the store would have the next one be."""
    advance_epoch(world.repository(), (), "a clone of this cluster")
    world.ask(verify=NOBODY, prune={"dryRun": True})
    world.look()
    world.clock.advance(days=1)
    _kill_at_the_job(world, monkeypatch)
    world.ask(verify=NOBODY)
    world.until_idle()
    assert [told.dry_run for _, told in world.runs if isinstance(told, PruneJob)] == [True]
    assert world.record().prune.failed is None


def _watcher(world: UpkeepWorld, names: list[str], unknown: list[str]) -> Any:
    """Note the Jobs that are made, and those whose token nobody has noted down before."""

    def watch(verb: str, obj: Object) -> None:
        if verb == "create" and obj["kind"] == "Job":
            names.append(obj["metadata"]["name"])
            if world.work(obj) == "prune" and not world.record().tokens:
                unknown.append(obj["metadata"]["name"])

    return watch


def test_no_more_jobs_than_asked_for_and_none_while_the_store_is_not_available(world: UpkeepWorld) -> None:
    for number in range(6):
        name = f"more-{number}"
        world.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        world.repositories.repository(world.uid(name))
    world.storage.run_job = None
    world.ask(parallelism=3)
    world.look()
    world.clock.advance(days=2)
    world.told({"available": "Unreachable"})
    world.look()
    assert world.jobs() == []
    world.told({"available": "Yes"})
    for _ in range(3):
        world.look()
        assert len(world.jobs()) == 3
    world.storage.run_job = world._export
    world.until_idle()
    assert len(world.runs) == 14


def test_the_operators_own_repository_is_left_alone_and_those_of_gone_namespaces_are_not(world: UpkeepWorld) -> None:
    world.repositories.repository(world.uid(SYSTEM))
    world.repositories.repository(GONE)
    world.pass_a_day()
    assert {told.repository_path for _, told in world.runs} == {f"cluster/{world.uid()}", f"cluster/{GONE}"}
    assert world.record(GONE).namespace == ""


def test_damage_is_told_on_the_backup_and_the_store_and_the_next_backup_heals_it(world: UpkeepWorld) -> None:
    world.ask(prune=NOBODY, verify=NOBODY)
    lose_a_pack(world)
    request(world, VERIFY)
    found = find(world.backup().status.conditions, "Verified")
    assert found is not None and (found.status, found.reason) == ("False", "Damaged")
    (hurt,) = [name for name in DISKS if f"disk {name}:" in found.message]
    assert world.backup().status.verified == "Damaged" and ("Damaged", found.message) in world.cluster.events
    assert world.store_condition("Verified") == ("False", "Damaged")
    assert world.store().status.maintenance is not None and world.store().status.maintenance.verified == "Damaged"
    world.add_backup("next")
    world.drive("next")
    request(world, VERIFY)
    assert world.backup("next").status.verified == "Yes"
    healed = find(world.backup().status.conditions, "Verified")
    assert healed is not None and (healed.status, healed.reason) == ("True", "Recoverable") and hurt in healed.message
    world.ask(prune=NOBODY)
    world.until_idle()
    assert world.store_condition("Verified") == ("True", "Recoverable")
    assert [told.share for _, told in world.runs if isinstance(told, VerifyJob)] == [100, 100]


def test_who_deletes_a_backup_that_nothing_heals_is_not_alarmed_until_it_has_left_the_trash(world: UpkeepWorld) -> None:
    world.ask(prune=NOBODY, verify=NOBODY)
    lose_a_pack(world)
    request(world, VERIFY)
    found, told = world.record().verify.result, world.store().status.maintenance
    assert found is not None and told is not None and told.verify is not None and told.verify.lost == 1
    write_tombstone(world.repository(), found.hurt[0], world.clock(), "test")
    request(world, VERIFY)
    world.ask(prune=NOBODY)
    world.until_idle()
    condition, told = find(world.store().status.conditions, "Verified"), world.store().status.maintenance
    assert condition is not None and (condition.status, condition.reason) == ("True", "Recoverable")
    assert "but for 1 deleted" in condition.message
    assert told is not None and told.verify is not None and (told.verify.damaged, told.verify.lost) == (1, 0)


def test_damaged_backups_that_are_not_known_by_name_are_called_neither_damaged_nor_whole(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_backup("next")
    world.drive("next")
    monkeypatch.setattr("longboat.mover.verify._NAMED", 0)
    world.ask(prune=NOBODY, verify=NOBODY)
    world.logs_are_lost = True
    lose_a_pack(world)
    request(world, VERIFY)
    assert world.backup().status.verified is world.backup("next").status.verified is None
    assert world.store_condition("Verified") == ("False", "Damaged")


def test_what_is_whole_as_before_is_written_once_a_week(world: UpkeepWorld) -> None:
    world.pass_a_day()
    first = world.get(DISK_BACKUP, "run")["metadata"]["resourceVersion"]
    for _ in range(3):
        world.pass_a_day()
    assert world.get(DISK_BACKUP, "run")["metadata"]["resourceVersion"] == first
    for _ in range(5):
        world.pass_a_day()
    assert world.get(DISK_BACKUP, "run")["metadata"]["resourceVersion"] != first


def test_a_run_that_fails_is_told_by_reason_and_tried_again_later_and_backups_go_on(world: UpkeepWorld) -> None:
    world.ask(verify=NOBODY, prune=NOBODY)
    world.trouble = [DamagedError("manifest x can not be read")]
    request(world, PRUNE)
    failed = world.record().prune.failed
    assert failed is not None and (failed.reason, failed.count) == ("Damaged", 1)
    condition = find(world.store().status.conditions, "Pruned")
    assert condition is not None and (condition.status, condition.reason) == ("False", "PruneFailed")
    assert "shop" in condition.message and "manifest x" in condition.message
    assert "PruneFailed" in [reason for reason, _ in world.cluster.events]
    world.add_backup("next")
    world.drive("next")
    assert world.backup("next").status.phase == "Completed"
    world.until_idle()
    assert world.runs == []
    world.clock.advance(minutes=6)
    world.until_idle()
    assert [work for work, _ in world.runs] == ["prune"] and world.record().prune.failed is None
    assert world.store_condition("Pruned") == ("False", "Suspended")


def test_a_store_that_does_not_answer_costs_one_attempt_and_not_one_for_each_namespace(world: UpkeepWorld) -> None:
    world.repositories.repository(GONE)
    world.look()
    world.clock.advance(days=2)
    world.repositories.problem = StoreProblemError("Unreachable", "no answer")
    world.look()
    failures = [world.record(uid).runs(work).failed for uid in (world.uid(), GONE) for work in plan.WORKS]
    assert sum(each is not None for each in failures) == 1
    world.repositories.problem = None
    world.clock.advance(minutes=6)
    world.until_idle()
    assert len(world.runs) == 4


def test_a_job_that_somebody_deletes_is_made_anew_under_another_name(world: UpkeepWorld) -> None:
    world.storage.run_job = None
    world.ask(verify=NOBODY)
    world.look()
    world.clock.advance(days=1)
    world.look()
    (job,) = world.jobs()
    world.cluster.delete(JOB, job["metadata"]["name"], SYSTEM)
    world.clock.advance(minutes=6)
    world.look()
    failed = world.record().prune.failed
    assert failed is not None and failed.reason == "JobDeleted"
    world.clock.advance(minutes=6)
    world.look()
    (again,) = world.jobs()
    assert again["metadata"]["name"] != job["metadata"]["name"]


def test_a_job_whose_pod_does_not_start_makes_room_for_others(world: UpkeepWorld) -> None:
    world.storage.run_job = None
    world.ask(verify=NOBODY, parallelism=1)
    world.look()
    world.clock.advance(days=1)
    world.look()
    assert len(world.jobs()) == 1
    world.clock.advance(hours=2)
    world.look()
    failed = world.record().prune.failed
    assert world.jobs() == [] and failed is not None and failed.reason == "MoverNotStarted"


def test_prunes_and_sweeps_of_one_operator_know_each_others_tokens(world: UpkeepWorld) -> None:
    """Otherwise each would take the other for a second cluster, and nothing would be removed any more."""
    world.ask(verify=NOBODY, prune=NOBODY)
    request(world, PRUNE)
    place = place_of(world.context(), world.backup())
    access = world.repositories.open(world.store(), world.uid())
    epochs.require_charge(world.context(), place, access)
    epochs.fence(world.context(), place, access, "swept")
    request(world, PRUNE)
    epochs.fence(world.context(), place, access, "swept again")
    assert world.record().prune.failed is None and len(world.runs) == 2


def test_a_sweep_waits_for_the_prune_of_the_repository(world: UpkeepWorld) -> None:
    """It would take over the epoch, and the prune would end as if somebody else were in charge."""
    ctx = world.context()
    place = place_of(ctx, world.backup())
    update(ctx, place, lambda data: data)
    world.storage.run_job = None
    world.ask(verify=NOBODY)
    world.look()
    world.clock.advance(days=1)
    assert sweep_trash(ctx, SHOP, place.name) is None
    world.look()
    assert sweep_trash(ctx, SHOP, place.name) == AFTER_PRUNE
    world.storage.run_job = world._export
    world.until_idle()
    assert sweep_trash(ctx, SHOP, place.name) is None


def test_a_store_that_does_not_tell_what_is_in_it_says_so(world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: UpkeepWorld, settings: StoreSettings, path: str) -> list[str]:
        raise AccessDeniedError("may not list")

    before = UpkeepWorld._inside
    monkeypatch.setattr(UpkeepWorld, "_inside", refuse)
    world.look()
    assert world.store_condition("Verified") == world.store_condition("Pruned") == ("Unknown", "NotListed")
    monkeypatch.setattr(UpkeepWorld, "_inside", before)
    world.clock.advance(minutes=5)
    world.look()
    assert world.store_condition("Verified") == ("Unknown", "NotYet")
    # What is known is seen to by an operator that starts anew, too.
    monkeypatch.setattr(UpkeepWorld, "_inside", refuse)
    world.memory = {}
    world.pass_a_day()
    assert len(world.runs) == 2


def test_who_was_overtaken_prunes_nothing_and_verifies_all_the_same(world: UpkeepWorld) -> None:
    advance_epoch(world.repository(), (), "a clone of this cluster")
    world.pass_a_day()
    assert [work for work, _ in world.runs] == ["verify"]
    failed = world.record().prune.failed
    assert failed is not None and failed.reason == "EpochConflict"
    assert world.store_condition("Pruned") == ("False", "PruneFailed")
    assert [each.store for each, data in noted(world.context()) if epochs.is_contested(data)] == [STORE]


def test_most_of_a_repository_goes_only_when_somebody_says_so(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask(verify=NOBODY, prune=NOBODY)
    for path in (world.folder / "store").rglob("*"):
        if path.is_file() and ("/disks/" in str(path) or "/backups/" in str(path)):
            path.unlink()
    for path in (world.folder / "store").rglob("*"):
        os.utime(path, (path.stat().st_mtime - 3 * 86400,) * 2)
    request(world, PRUNE)
    assert world.store_condition("Pruned") == ("False", "PruneHeld")
    code = world.record().prune.question
    assert code and code.startswith("shop-")
    world.annotate(plan.CONFIRM_PRUNE, code)
    world.until_idle()
    first, second = [told.allowed for _, told in world.runs if isinstance(told, PruneJob)]
    assert first is None and second is not None and second.condemned.bytes > 0
    assert world.record().prune.question is None
    maintenance = world.store().status.maintenance
    assert maintenance is not None and maintenance.prune is not None and (maintenance.prune.waiting_bytes or 0) > 0


def test_a_record_that_can_not_be_read_stops_the_runs_of_its_repository(world: UpkeepWorld) -> None:
    world.look()
    found = world.config_map()
    operation = {"op": "replace", "path": "/data/record", "value": '{"tokens": 7}'}
    world.cluster.patch(CONFIG_MAP, found["metadata"]["name"], [operation], SYSTEM)
    world.pass_a_day()
    assert world.runs == []
    assert world.config_map()["data"]["record"] == '{"tokens": 7}'


def test_what_is_remembered_of_a_store_does_not_outlive_it(world: UpkeepWorld) -> None:
    world.look()
    world.cluster.delete(BACKUP_STORE, STORE)
    assert world.look() is None and world.memory == {}


def test_a_check_of_the_store_is_not_skipped_because_its_upkeep_was_seen_to(world: UpkeepWorld) -> None:
    world.ask(parallelism=2)
    world.pass_a_day()
    assert world.store().status.observed_generation != world.store().metadata.generation


def test_a_request_is_for_the_repositories_that_are_there_now(world: UpkeepWorld) -> None:
    world.look()
    world.repositories.repository(GONE)
    request(world, VERIFY)
    assert {told.repository_path for _, told in world.runs} == {f"cluster/{world.uid()}", f"cluster/{GONE}"}


def test_the_end_of_a_job_is_told_also_where_a_look_at_everything_takes_long(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = UpkeepWorld._inside

    def slow(self: UpkeepWorld, settings: StoreSettings, path: str) -> list[str]:
        self.clock.advance(seconds=1)
        return before(self, settings, path)

    monkeypatch.setattr(UpkeepWorld, "_inside", slow)
    request(world, PRUNE)
    status = world.store().status.maintenance
    assert status is not None and status.prune is not None and status.prune.last_run_time is not None


def test_a_short_look_reads_jobs_only(world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand records are read every few minutes, not every few seconds."""
    world.look()
    listed = list[str]()
    before = world.cluster.list
    monkeypatch.setattr(
        world.cluster, "list", lambda kind, *a, **more: listed.append(kind.name) or before(kind, *a, **more)
    )
    world.clock.advance(seconds=5)
    world.look()
    assert [each for each in listed if each in ("ConfigMap", "Namespace", "DiskBackup")] == []


def test_a_job_of_others_under_our_name_is_left_alone(world: UpkeepWorld) -> None:
    world.ask(verify=NOBODY)
    world.look()
    world.clock.advance(days=1)
    name = maintenance_run.job_name(world.record(), "prune", 1)
    world._create(JOB, name, SYSTEM, {"spec": {"template": {"spec": {"volumes": []}}}, "status": {"conditions": [{}]}})
    world.look()
    failed = world.record().prune.failed
    assert failed is not None and failed.reason == "NameTaken"
    assert world.cluster.get(JOB, name, SYSTEM) is not None


def test_a_new_namespace_of_an_old_name_is_not_told_of_the_old_ones_backups(world: UpkeepWorld) -> None:
    world.ask(prune=NOBODY)
    world.look()
    world.clock.advance(days=1)
    meta = {"op": "replace", "path": "/metadata/uid", "value": "another"}
    world.cluster.patch(NAMESPACE, SHOP, [meta])
    world.until_idle()
    assert world.backup().status.verified is None


def test_damage_of_a_namespace_that_is_gone_is_not_told_of_the_new_one_of_its_name(world: UpkeepWorld) -> None:
    world.pass_a_day()
    world.cluster.patch(NAMESPACE, SHOP, [{"op": "replace", "path": "/metadata/uid", "value": "another"}])
    lose_a_pack(world)
    request(world, VERIFY)
    found = find(world.store().status.conditions, "Verified")
    assert found is not None and found.reason == "Damaged"
    assert "a namespace that is gone (" in found.message and SHOP not in found.message


def test_a_repository_that_was_removed_from_the_bucket_is_known_as_missing_until_it_is_back(world: UpkeepWorld) -> None:
    world.repositories.repository(GONE)
    world.pass_a_day()
    assert world.record(GONE).missing is None
    place = world.folder / "store" / "cluster" / GONE
    place.rename(world.folder / "aside")
    world.clock.advance(hours=2)
    world.until_idle()
    assert world.record(GONE).missing is not None and world.record().missing is None
    # Who can't see the bucket learns nothing of what is in it.
    world.memory.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UpkeepWorld, "_inside", refused)
        world.until_idle()
    assert world.record(GONE).missing is not None and world.record().missing is None
    (world.folder / "aside").rename(place)
    world.memory.clear()
    world.until_idle()
    assert world.record(GONE).missing is None


@pytest.mark.parametrize("name", ["lost+found", "a b", "größer", ".trash", "shop", GONE.upper()])
def test_a_folder_that_is_no_namespaces_stops_no_upkeep(world: UpkeepWorld, name: str) -> None:
    """Some of these names are refused by everything that opens repositories."""
    (world.folder / "store" / "cluster" / name).mkdir()
    world.pass_a_day()
    assert sorted(work for work, _ in world.runs) == ["prune", "verify"]
    assert [each.namespace_uid for each in all_records(world.cluster, SYSTEM)] == [world.uid()]
    assert world.store_condition("Pruned") == ("True", "Pruned")
    assert world.store_condition("Verified") == ("True", "Verified")


def test_a_record_of_a_name_that_is_refused_is_passed_over_while_the_bucket_does_not_tell(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(world.context(), plan.RepositoryRecord(store=STORE, namespace="", namespace_uid="a b", seen=world.clock()))
    monkeypatch.setattr(UpkeepWorld, "_inside", refused)
    world.pass_a_day()
    assert world.record("a b").prune.number == world.record("a b").verify.number == 0


def test_a_folder_without_a_repository_is_not_noted_down_and_fails_no_run(world: UpkeepWorld) -> None:
    """Nobody could take the record away again, and the whole store would be called failing for ever."""
    (world.folder / "store" / "cluster" / GONE / "packs").mkdir(parents=True)
    world.pass_a_day()
    assert [each.namespace_uid for each in all_records(world.cluster, SYSTEM)] == [world.uid()]
    assert world.store_condition("Verified") == ("True", "Verified")
    world.repositories.repository(GONE)
    for _ in range(2):
        world.pass_a_day()
    assert world.record(GONE).verify.ended is not None


def test_a_repository_that_can_not_be_opened_is_noted_down_and_told(world: UpkeepWorld) -> None:
    place = open_store(StoreSettings(type="folder", path=str(world.folder / "store")))
    open_or_create_repository(place, f"cluster/{GONE}", bytes(32))
    world.pass_a_day()
    assert world.record(GONE).verify.failed is not None
    assert world.store_condition("Verified") == ("Unknown", "VerifyFailed")


def test_new_repositories_of_a_store_that_does_not_answer_are_noted_down_later(world: UpkeepWorld) -> None:
    world.repositories.problem = StoreProblemError("Unreachable", "no answer")
    world.look()
    assert list(all_records(world.cluster, SYSTEM)) == []
    world.repositories.problem = None
    world.clock.advance(minutes=10)
    world.look()
    assert [each.namespace_uid for each in all_records(world.cluster, SYSTEM)] == [world.uid()]


def test_a_store_that_is_not_listed_is_not_called_whole_for_what_is_known(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repositories of new namespaces would be pruned and verified by nobody, and nobody would be told."""
    world.pass_a_day()
    world.clock.advance(hours=2)
    with monkeypatch.context() as patched:
        patched.setattr(UpkeepWorld, "_inside", refused)
        world.until_idle()
    found, told = find(world.store().status.conditions, "Verified"), world.store().status.maintenance
    assert found is not None and (found.status, found.reason) == ("Unknown", "NotListed")
    assert "does not tell" in found.message and told is not None and told.verified == "NotListed"
    assert world.store_condition("Pruned") == ("Unknown", "NotListed") and told.repositories == 1
    world.clock.advance(minutes=10)
    world.until_idle()
    assert world.store_condition("Verified") == ("True", "Verified")


def refused(_: UpkeepWorld, settings: StoreSettings, path: str) -> list[str]:
    raise AccessDeniedError("no")


def test_records_are_small(world: UpkeepWorld) -> None:
    world.pass_a_day()
    assert len(json.dumps(world.config_map())) < 4000


def test_a_backup_that_the_repository_does_not_hold_is_not_called_verified(world: UpkeepWorld) -> None:
    for path in (world.folder / "store").rglob("backups/*/*"):
        path.unlink()
    world.pass_a_day()
    assert len(world.runs) == 2 and world.backup().status.verified is None


def test_a_verified_repository_says_nothing_of_backups_in_another(world: UpkeepWorld) -> None:
    other = [{"op": "replace", "path": "/status/store/id", "value": "0" * 32}]
    world.cluster.patch(DISK_BACKUP, world.backup().name, other, SHOP)
    world.pass_a_day()
    assert len(world.runs) == 2 and world.backup().status.verified is None
