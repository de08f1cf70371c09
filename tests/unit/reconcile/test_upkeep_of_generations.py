"""Upkeep of a namespace with two master keys: each repository has its own records, runs, epoch and findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from longboat.mover import PruneJob
from longboat.plan.maintenance import bucket_of
from longboat.plan.metrics import repository_samples
from longboat.reconcile.epochs import contested
from longboat.reconcile.maintenance_records import all_records
from longboat.repository import read_epoch
from longboat.repository.accepted import mark_of, write_accepted
from longboat.repository.layout import DISKS
from tests.unit.reconcile.backup_world import SHOP, SYSTEM
from tests.unit.reconcile.maintenance_world import world_in
from tests.unit.reconcile.upkeep_world import STORE, UpkeepWorld


@pytest.fixture
def world(tmp_path: Path) -> UpkeepWorld:
    world = world_in(tmp_path)
    world.repositories.rotate(world.uid())
    world.add_backup("new")
    world.drive("new")
    world.clock.advance(seconds=10)
    return world


def test_both_repositories_are_pruned_and_verified_each_with_its_own_record(world: UpkeepWorld) -> None:
    world.pass_a_day()
    uid = world.uid()
    paths = {(work, told.repository_path) for work, told in world.runs}
    assert paths == {(work, f"cluster/{uid}{end}") for work in ("prune", "verify") for end in ("", ".2")}
    records = list(all_records(world.cluster, SYSTEM))
    assert sorted(each.folder for each in records) == [uid, f"{uid}.2"]
    assert {each.namespace_uid for each in records} == {uid} and {each.namespace for each in records} == {SHOP}
    assert world.store_condition("Pruned") == ("True", "Pruned")
    assert world.store_condition("Verified") == ("True", "Verified")


def test_each_repository_has_an_epoch_of_its_own_which_its_next_prunes_know(world: UpkeepWorld) -> None:
    for _ in range(3):
        world.pass_a_day()
    records = list(all_records(world.cluster, SYSTEM))
    assert [each.prune.failed for each in records] == [None, None] and all(each.prune.number > 1 for each in records)
    for number, path in ((1, f"cluster/{world.uid()}"), (2, f"cluster/{world.uid()}.2")):
        prunes = [told for _, told in world.runs if isinstance(told, PruneJob) and told.repository_path == path]
        epoch = read_epoch(world.repositories.repository(world.uid(), number))
        assert epoch is not None and epoch.token == prunes[-1].token
        # A token of the other one would let a prune go on in a repository that another operator is in charge of.
        assert {token for each in prunes for token in each.known_tokens} <= {each.token for each in prunes}
    assert contested(world.context(), STORE) == []


def test_the_record_of_the_first_repository_is_what_it_always_was(world: UpkeepWorld) -> None:
    world.pass_a_day()
    assert "generation" not in world.config_map()["data"]["record"]


def test_the_old_repositorys_prune_is_told_since_when_it_is_closed(world: UpkeepWorld) -> None:
    world.pass_a_day()
    closed = {told.repository_path[-2:]: told.closed for _, told in world.runs if isinstance(told, PruneJob)}
    assert closed.pop(".2") is None and None not in closed.values() and len(closed) == 1


def test_the_old_repositorys_prune_is_told_what_is_accepted(world: UpkeepWorld) -> None:
    world.pass_a_day()
    newest, old = world.repositories.repository(world.uid(), 2), world.repositories.repository(world.uid(), 1)
    info = next(iter(old.store.list(DISKS)))
    write_accepted(old.store, old.id, [info], newest)
    world.runs.clear()
    world.pass_a_day()
    told = {told.repository_path[-2:]: told.accepted for _, told in world.runs if isinstance(told, PruneJob)}
    assert told.pop(".2") == () and list(told.values()) == [(mark_of(info),)]


def test_damage_in_one_repository_is_told_of_its_backups_alone(world: UpkeepWorld) -> None:
    packs = sorted(each for each in (world.folder / "store").rglob("packs/*/*") if ".2/" not in str(each))
    packs[0].unlink()
    world.pass_a_day()
    assert world.backup("run").status.verified == "Damaged"
    assert world.backup("new").status.verified == "Yes"
    assert world.store_condition("Verified") == ("False", "Damaged")


def test_what_a_namespace_occupies_is_the_sum_of_its_repositories(world: UpkeepWorld) -> None:
    world.pass_a_day()
    records, names = list(all_records(world.cluster, SYSTEM)), {world.uid(): SHOP}
    results = [each.prune.result for each in records]
    samples = list(repository_samples(records, names, {STORE: bucket_of(world.store())}))
    live = [value for name, _, value in samples if name == "longboat_repository_live_bytes"]
    assert live == [sum(each.live.bytes for each in results if each is not None)] and len(results) == 2


def test_the_operators_own_repositories_are_not_seen_to(world: UpkeepWorld) -> None:
    own = world.uid(SYSTEM)
    world.repositories.repository(own)
    world.repositories.rotate(own)
    world.pass_a_day()
    assert not [path for _, told in world.runs if own in (path := told.repository_path)]
