"""Prunes and verifications that fail, lose their Job or meet another operator: told by reason, tried again later."""

from __future__ import annotations

import shutil

import pytest

from longboat.kube.kinds import CONFIG_MAP, JOB
from longboat.mover import VerifyJob
from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.reconcile import epochs, maintenance_run
from longboat.reconcile.dispatch import AFTER_PRUNE, sweep_trash
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.trash_notes import Place, noted, place_of, update
from longboat.repository import advance_epoch, read_epoch
from longboat.repository.errors import DamagedError
from tests.unit.reconcile.backup_world import SHOP, SYSTEM
from tests.unit.reconcile.maintenance_world import GONE, PRUNE, VERIFY, request, world
from tests.unit.reconcile.upkeep_world import NOBODY, SELDOM, STORE, UpkeepWorld

__all__ = ["world"]


def test_a_run_that_fails_is_told_by_reason_and_tried_again_later_and_backups_go_on(world: UpkeepWorld) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
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
    assert world.store_condition("Pruned") == ("True", "Pruned")


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
    world.ask(verify=NOBODY, prune=SELDOM)
    request(world, PRUNE)
    place = place_of(world.context(), world.backup())
    access = world.repositories.open(world.store(), world.uid())
    epochs.require_charge(world.context(), place, access)
    epochs.fence(world.context(), place, access, "swept")
    request(world, PRUNE)
    epochs.fence(world.context(), place, access, "swept again")
    assert world.record().prune.failed is None and len(world.runs) == 2


@pytest.mark.parametrize("by", ["prune", "sweep"])
def test_who_was_in_charge_while_the_store_had_another_name_still_is(world: UpkeepWorld, by: str) -> None:
    """The bucket is the same: a BackupStore that was made anew under another name is no other operator."""
    ctx, place = world.context(), place_of(world.context(), world.backup())
    access = world.repositories.open(world.store(), world.uid())
    if by == "prune":
        world.ask(verify=NOBODY, prune=SELDOM)
        request(world, PRUNE)
    else:
        epochs.fence(ctx, place, access, "swept")
    renamed = Place("renamed", place.namespace, place.namespace_uid)
    epochs.require_charge(ctx, renamed, access)
    epoch = read_epoch(access.repository)
    assert epoch is not None and epoch.token in epochs.own_tokens(ctx, renamed), "its next prune has to know it, too"
    epochs.fence(ctx, renamed, access, "swept under the new name")
    epochs.require_charge(ctx, place, access)


def test_tokens_of_another_repository_put_nobody_in_charge(world: UpkeepWorld) -> None:
    ctx, place = world.context(), place_of(world.context(), world.backup())
    access = world.repositories.open(world.store(), world.uid())
    epochs.fence(ctx, place, access, "swept")
    update(ctx, place, lambda data: data | {"repositoryID": "another"})
    with pytest.raises(StoreProblemError, match="another operator"):
        epochs.require_charge(ctx, Place("renamed", place.namespace, place.namespace_uid), access)


def test_what_was_found_in_another_repository_is_not_gone_on_with(world: UpkeepWorld) -> None:
    """The store was made anew under its name, and leads to another bucket, or this one was emptied."""
    world.ask(prune=SELDOM)
    request(world, VERIFY)
    before = world.record()
    assert before.verify.result is not None and before.verify.result.backups == 1
    shutil.rmtree(world.folder / "store")
    (world.folder / "store").mkdir()
    other = world.repositories.repository(world.uid())
    world.clock.advance(hours=1)
    request(world, PRUNE)
    after = world.record()
    assert after.repository_id == other.id != before.repository_id
    # What was asked for is done here as well, from the start.
    assert after.verify.result is not None and after.verify.result.backups == 0
    assert [told.phase for _, told in world.runs if isinstance(told, VerifyJob)] == [None, None]
    assert after.verify.number == before.verify.number + 1, "Jobs have names of their own"


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


def test_who_was_overtaken_prunes_nothing_and_verifies_all_the_same(world: UpkeepWorld) -> None:
    advance_epoch(world.repository(), (), "a clone of this cluster")
    world.pass_a_day()
    assert [work for work, _ in world.runs] == ["verify"]
    failed = world.record().prune.failed
    assert failed is not None and failed.reason == "EpochConflict"
    assert world.store_condition("Pruned") == ("False", "PruneFailed")
    assert [each.store for each, data in noted(world.context()) if epochs.is_contested(data)] == [STORE]


def test_a_record_that_can_not_be_read_stops_the_runs_of_its_repository(world: UpkeepWorld) -> None:
    world.look()
    found = world.config_map()
    operation = {"op": "replace", "path": "/data/record", "value": '{"tokens": 7}'}
    world.cluster.patch(CONFIG_MAP, found["metadata"]["name"], [operation], SYSTEM)
    world.pass_a_day()
    assert world.runs == []
    assert world.config_map()["data"]["record"] == '{"tokens": 7}'


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
