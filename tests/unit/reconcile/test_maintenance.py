"""Prune and verify as Jobs: each repository in its turn, by one Job a run, as often as the store asks for."""

from __future__ import annotations

import json
import os

import pytest

from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP, SECRET
from longboat.mover import PruneJob, VerifyJob
from longboat.plan import maintenance as plan
from longboat.repository import StoreSettings
from tests.unit.reconcile.backup_world import SHOP, SYSTEM
from tests.unit.reconcile.maintenance_world import PRUNE, request, world
from tests.unit.reconcile.upkeep_world import NOBODY, SELDOM, STORE, UpkeepWorld

__all__ = ["world"]


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
    assert {each.repack_bytes for each in prunes} == {0}, "nothing is downloaded unless that is asked for"
    first, second = [told for _, told in world.runs if isinstance(told, VerifyJob)]
    assert (first.phase, first.share) == (None, 7) and second.phase is not None


def test_prunes_move_as_much_as_the_store_allows(world: UpkeepWorld) -> None:
    world.ask(prune={"repack": {"budget": "2Gi", "goneAfter": "60d", "livingBelow": 60}})
    world.pass_a_day()
    (told,) = [told for _, told in world.runs if isinstance(told, PruneJob)]
    assert (told.repack_bytes, told.gone_after_seconds, told.repack_living_percent) == (2 << 30, 60 * 86400, 60)


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


def test_most_of_a_repository_goes_only_when_somebody_says_so(
    world: UpkeepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
    world.cluster.delete(DISK_BACKUP, world.backup().name, SHOP)
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


def test_what_is_remembered_of_a_store_does_not_outlive_it(world: UpkeepWorld) -> None:
    world.look()
    world.cluster.delete(BACKUP_STORE, STORE)
    assert world.look() is None and world.memory == {}


def test_a_check_of_the_store_is_not_skipped_because_its_upkeep_was_seen_to(world: UpkeepWorld) -> None:
    world.ask(parallelism=2)
    world.pass_a_day()
    assert world.store().status.observed_generation != world.store().metadata.generation


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


def test_records_are_small(world: UpkeepWorld) -> None:
    world.pass_a_day()
    assert len(json.dumps(world.config_map())) < 4000
