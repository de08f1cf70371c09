"""What verify finds is told on the backups that it is about and on the store, and of no other backup."""

from __future__ import annotations

import pytest

from longboat.kube.kinds import DISK_BACKUP, NAMESPACE
from longboat.mover import VerifyJob
from longboat.plan.conditions import find
from longboat.repository import write_tombstone
from tests.unit.reconcile.backup_world import DISKS, SHOP
from tests.unit.reconcile.maintenance_world import VERIFY, lose_a_pack, request, world
from tests.unit.reconcile.upkeep_world import NOBODY, UpkeepWorld

__all__ = ["world"]


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


def test_a_backup_that_the_repository_does_not_hold_is_not_called_verified(world: UpkeepWorld) -> None:
    for path in (world.folder / "store").rglob("backups/*/*"):
        path.unlink()
    world.pass_a_day()
    assert [work for work, _ in world.runs] == ["verify"] and world.backup().status.verified is None


def test_a_verified_repository_says_nothing_of_backups_in_another(world: UpkeepWorld) -> None:
    other = [{"op": "replace", "path": "/status/store/id", "value": "0" * 32}]
    world.cluster.patch(DISK_BACKUP, world.backup().name, other, SHOP)
    world.pass_a_day()
    assert len(world.runs) == 2 and world.backup().status.verified is None
