"""Finished backups whose data is gone from the store say so, and a store that merely shows nothing proves nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP
from longboat.mover import VerifyResult
from longboat.plan.conditions import find
from longboat.plan.maintenance_findings import Finding, Hurt, Knowledge, finding, with_finding
from longboat.reconcile import backup_policy, backup_store, retention, stored_data
from longboat.reconcile.context import Context
from longboat.reconcile.objects import save_status
from longboat.reconcile.queue import Key
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.routing import STORED_DATA, Owners
from longboat.reconcile.tick import Tick
from longboat.repository import StoreCheck, StoreProblem
from longboat.repository.folder_store import FolderStore
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, disk
from tests.unit.reconcile.test_tick_and_routing import Queue

WORKS = StoreCheck(StoreProblem.NONE, "works", timedelta(0))
NAMES = ("one", "two", "three")


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    for name in NAMES:
        world.add_backup(name)
        world.drive(name)
        world.clock.advance(days=1)
    return world


@pytest.fixture
def ctx(world: BackupWorld) -> Context:
    return world.context()


def look(ctx: Context) -> timedelta | None:
    return stored_data.look_up(ctx, SHOP, "offsite")


def said(world: BackupWorld) -> dict[str, str]:
    """Return what DiskBackups say of missing data."""
    found = {name: world.condition("DataMissing", name) for name in NAMES}
    return {name: each.message for name, each in found.items() if each is not None and each.status == "True"}


def on_store(world: BackupWorld, ctx: Context) -> str | None:
    backup_store.reconcile(ctx, "", "offsite", check=lambda *_: WORKS)
    store = backup_store.load(world.cluster, BACKUP_STORE, BackupStore, "", "offsite")
    found = find(store.status.conditions if store else None, "BackupsNotSeen")
    return found and found.message


def lose_manifest(world: BackupWorld, name: str) -> Any:
    repository = world.repository()
    [info] = list(repository.store.list(f"backups/{repository.keys.name_hash(name)}/"))
    data = repository.store.get(info.name, 1 << 20)
    repository.store.delete(info.name)
    return lambda: repository.store.put_new(info.name, data)


def test_backups_that_are_there_say_nothing(world: BackupWorld, ctx: Context) -> None:
    writes = world.cluster.writes
    assert look(ctx) is None and said(world) == {} and world.cluster.writes == writes


def test_a_backup_whose_manifest_is_gone_says_so_and_the_others_do_not(world: BackupWorld, ctx: Context) -> None:
    lose_manifest(world, "two")
    look(ctx)
    assert list(said(world)) == ["two"] and "its manifest" in said(world)["two"]
    assert ("DataMissing", said(world)["two"]) in world.cluster.events


def test_a_disk_that_is_gone_is_named(world: BackupWorld, ctx: Context) -> None:
    world.repository().store.delete(disk(world, "data", "three").manifest)
    look(ctx)
    assert list(said(world)) == ["three"] and "disk 'data'" in said(world)["three"]


def test_nothing_is_deleted_and_nothing_told_twice(world: BackupWorld, ctx: Context) -> None:
    lose_manifest(world, "two")
    look(ctx)
    events, writes = list(world.cluster.events), world.cluster.writes
    look(ctx)
    assert (world.cluster.events, world.cluster.writes) == (events, writes)
    assert len(list(world.cluster.list(DISK_BACKUP, SHOP))) == 3
    assert world.backup("two").status.phase == "Completed"


def test_what_is_put_back_is_said_to_be_there(world: BackupWorld, ctx: Context) -> None:
    put_back = lose_manifest(world, "two")
    look(ctx)
    put_back()
    look(ctx)
    assert said(world) == {}


def verify(world: BackupWorld, name: str, found: Finding) -> None:
    """A verification has said something of a backup."""
    backup = world.backup(name)
    save_status(world.cluster, backup, with_finding(backup, found, world.clock(), timedelta(0)))


def verified(world: BackupWorld, name: str) -> tuple[str | None, str, str]:
    """Return what tables show, and the condition's status and reason."""
    told = world.condition("Verified", name)
    assert told is not None
    return world.backup(name).status.verified, told.status, told.reason


def test_a_backup_whose_data_is_gone_is_not_called_whole_by_what_an_earlier_verification_said(
    world: BackupWorld, ctx: Context
) -> None:
    for name in ("two", "three"):
        verify(world, name, Finding("True", "Verified", "all is there"))
    put_back = lose_manifest(world, "two")
    look(ctx)
    assert verified(world, "two") == ("DataMissing", "False", "DataMissing")
    assert verified(world, "three") == ("Yes", "True", "Verified")
    put_back()
    look(ctx)
    assert verified(world, "two") == (None, "Unknown", "NotYet"), "nobody has read it since it is back"


def as_older_versions_left(world: BackupWorld, name: str) -> None:
    """What is said of missing data, beside what an earlier verification had said."""
    backup = world.backup(name)
    save_status(
        world.cluster, backup, with_finding(backup, Finding("True", "Verified", "ok"), world.clock(), timedelta(0))
    )
    assert verified(world, name) == ("Yes", "True", "Verified") and name in said(world)


@pytest.mark.parametrize("is_back", [False, True])
def test_a_backup_that_older_versions_called_whole_and_missing_at_once_is_corrected_once(
    world: BackupWorld, ctx: Context, is_back: bool
) -> None:
    put_back = lose_manifest(world, "two")
    look(ctx)
    as_older_versions_left(world, "two")
    if is_back:
        put_back()
    look(ctx)
    corrected = (None, "Unknown", "NotYet") if is_back else ("DataMissing", "False", "DataMissing")
    assert verified(world, "two") == corrected and ("two" in said(world)) is not is_back
    writes = world.cluster.writes
    look(ctx)
    assert world.cluster.writes == writes


def test_what_can_be_had_elsewhere_makes_no_backup_whole_whose_data_is_gone(world: BackupWorld, ctx: Context) -> None:
    lose_manifest(world, "two")
    look(ctx)
    for lost in (False, True):
        hurt = Hurt(backup="two", lost=lost, disks=("'data'",))
        knowledge = Knowledge({"two": hurt}, VerifyResult.model_construct(damaged=1, share=100))
        found = finding(world.backup("two"), knowledge)
        assert (found and found.reason) == ("Damaged" if lost else None)


def test_a_damaged_backup_whose_manifest_comes_back_is_damaged_as_before(world: BackupWorld, ctx: Context) -> None:
    verify(world, "two", Finding("False", "Damaged", "disk data"))
    put_back = lose_manifest(world, "two")
    look(ctx)
    put_back()
    look(ctx)
    assert verified(world, "two") == ("Damaged", "False", "Damaged")


def test_a_store_that_does_not_answer_is_no_proof_of_loss(world: BackupWorld, ctx: Context) -> None:
    world.repositories.problem = StoreProblemError("StoreUnreachable", "no answer")
    assert look(ctx) == stored_data.RETRY
    assert said(world) == {} and on_store(world, ctx) is None


def test_a_listing_that_breaks_off_is_no_proof_of_loss(
    world: BackupWorld, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FolderStore, prefix: str) -> Any:
        raise stored_data.RepositoryError("cut off")

    monkeypatch.setattr(FolderStore, "list", broken)
    assert look(ctx) == stored_data.RETRY and said(world) == {}


@pytest.mark.parametrize("lost", ["backups", "disks"])
def test_a_store_that_lists_nothing_at_all_is_told_once_on_the_store(
    world: BackupWorld, ctx: Context, lost: str
) -> None:
    if lost == "backups":
        put_back = [lose_manifest(world, name) for name in NAMES]
    else:
        put_back = []
        for info in list(world.repository().store.list("disks/")):
            world.repository().store.delete(info.name)
    look(ctx)
    assert said(world) == {}
    message = on_store(world, ctx)
    assert message is not None and SHOP in message and "prefix" in message
    for each in put_back:
        each()
    look(ctx)
    assert lost == "disks" or on_store(world, ctx) is None


def test_a_store_that_leads_elsewhere_is_told_on_the_store(world: BackupWorld, ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    world.repositories.folder = str(tmp_path / "elsewhere")
    assert look(ctx) is None and said(world) == {}
    assert on_store(world, ctx) is not None


def test_what_was_said_on_a_store_is_not_taken_back_by_a_restart(world: BackupWorld, ctx: Context) -> None:
    for name in NAMES:
        lose_manifest(world, name)
    look(ctx)
    assert on_store(world, ctx) is not None and on_store(world, world.context()) is not None


def test_a_policy_is_not_protected_by_what_is_gone(world: BackupWorld, ctx: Context) -> None:
    world.clock.advance(hours=-12)
    for name in ("two", "three"):
        lose_manifest(world, name)
    look(ctx)
    backup_policy.reconcile(ctx, SHOP, "daily")
    policy = backup_policy.load(world.cluster, backup_policy.BACKUP_POLICY, backup_policy.BackupPolicy, SHOP, "daily")
    assert policy is not None
    protected = find(policy.status.conditions, "Protected")
    assert protected is not None and (protected.status, protected.reason) == ("False", "Late")


def test_a_backup_that_is_gone_does_not_let_the_last_whole_one_expire(world: BackupWorld, ctx: Context) -> None:
    for name in ("two", "three"):
        lose_manifest(world, name)
    look(ctx)
    world.clock.advance(days=60)
    for _ in range(2):
        retention.reconcile(ctx, SHOP, "daily")
    one = world.backup("one")
    assert one.status.tombstoned_at is None and "NewestGood" in (one.status.kept_because or "")


def test_many_lost_ones_are_told_in_portions(world: BackupWorld, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_data, "AT_ONCE", 1)
    for name in ("two", "three"):
        lose_manifest(world, name)
    assert look(ctx) == stored_data.MORE and len(said(world)) == 1
    assert look(ctx) is None and len(said(world)) == 2


def test_they_are_looked_up_after_a_start_and_daily_once_for_all(world: BackupWorld) -> None:
    queue, ctx = Queue(), world.context()
    ticking = Tick(ctx, queue, Owners())
    found = []
    for _ in range(49):
        ticking.once()
        found.append(queue.drained().count(Key(STORED_DATA, SHOP, "offsite")))
        world.clock.advance(hours=1, seconds=1)
    assert found[0] == 1 and sum(found) == 3


def test_a_store_that_leads_to_another_bucket_loses_none_of_the_backups_in_the_first(
    world: BackupWorld, ctx: Context, tmp_path: Path
) -> None:
    (tmp_path / "store").rename(tmp_path / "first")
    (tmp_path / "store").mkdir()
    world.add_backup("four")
    world.drive("four")
    look(ctx)
    assert said(world) == {}
    told = on_store(world, ctx)
    assert told is not None and "another repository than that of 3 of its 4 backups" in told


def test_what_a_store_is_known_not_to_show_is_told_until_it_is_looked_at_again(
    world: BackupWorld, ctx: Context
) -> None:
    ctx.not_seen["offsite"] = {SHOP: "nothing is there", "gone": "nothing is there"}
    Tick(ctx, Queue(), Owners()).once()
    assert ctx.not_seen == {"offsite": {SHOP: "nothing is there"}}
    told = on_store(world, ctx)
    assert told is not None and "1 namespace" in told
    ctx.not_seen["offsite"] = {}
    assert on_store(world, ctx) is None
