"""A namespace with a new master key: new backups lie in another repository, and the old ones stay what they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, DISK_BACKUP, NAMESPACE
from longboat.plan.names import FINALIZER
from longboat.reconcile import (
    backup_generation,
    backup_store_access,
    deletion,
    export,
    retention,
    stored_data,
    trash,
    trash_notes,
)
from longboat.reconcile.backup_run import Run
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import Repository, find_backup, read_tombstones
from longboat.repository.layout import BACKUPS, DISKS
from tests.unit.reconcile.backup_world import DISKS as WORLD_DISKS
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, disk, look, until


def uid_of(world: BackupWorld) -> str:
    return str(world.get(NAMESPACE, SHOP, "")["metadata"]["uid"])


def repository(world: BackupWorld, generation: int) -> Repository:
    return world.repositories.repository(uid_of(world), generation)


def rotate(world: BackupWorld) -> None:
    world.repositories.rotate(uid_of(world))


def path_of(world: BackupWorld, name: str = "run") -> str:
    store = world.backup(name).status.store
    assert store is not None
    return store.repository.rpartition("/")[2].removeprefix(uid_of(world))


def manifests(world: BackupWorld, generation: int) -> int:
    store = repository(world, generation).store
    return len(list(store.list(BACKUPS))) + len(list(store.list(DISKS)))


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    """A machine with a backup of its three disks under the first key, and a new key since."""
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup("old")
    world.drive("old")
    rotate(world)
    world.clock.advance(days=1)
    return world


@pytest.fixture
def both(world: BackupWorld) -> BackupWorld:
    world.add_backup("new")
    world.drive("new")
    return world


def test_the_next_backup_is_a_full_one_in_the_new_repository_and_nothing_is_added_to_the_old_one(
    world: BackupWorld,
) -> None:
    before = manifests(world, 1)
    world.add_backup("new")
    world.drive("new")
    assert (path_of(world, "old"), path_of(world, "new")) == ("", ".2")
    assert {disk(world, name, "new").full_reason for name in WORLD_DISKS} == {"NoParent"}
    assert manifests(world, 1) == before and find_backup(repository(world, 2), "new") is not None
    assert find_backup(repository(world, 2), "old") is None


def test_the_one_after_it_builds_upon_it(both: BackupWorld) -> None:
    both.clock.advance(days=1)
    both.add_backup("third")
    both.drive("third")
    assert path_of(both, "third") == ".2" and disk(both, "data", "third").mode == "Incremental"


def delete(world: BackupWorld, name: str) -> None:
    patch = {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}
    world.cluster.patch(DISK_BACKUP, name, [patch], SHOP)
    world.cluster.delete(DISK_BACKUP, name, SHOP)
    world.clock.advance(seconds=5)
    deletion.delete(world.context(), world.backup(name), lambda ctx, backup: True)
    assert world.cluster.get(DISK_BACKUP, name, SHOP) is None


def buried(world: BackupWorld) -> list[list[str]]:
    return [[each.backup_name for each in read_tombstones(repository(world, number))] for number in (1, 2)]


@pytest.mark.parametrize(("name", "expected"), [("old", [["old"], []]), ("new", [[], ["new"]])])
def test_a_deletion_marks_the_backup_where_it_is(both: BackupWorld, name: str, expected: list[list[str]]) -> None:
    delete(both, name)
    assert buried(both) == expected


@pytest.mark.parametrize("name", ["old", "new"])
def test_the_trash_of_each_repository_is_swept_by_its_own_epoch(
    both: BackupWorld, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete(both, name)
    [place] = trash_notes.places(both.context())
    assert place.generation == (1 if name == "old" else 2)
    # The folder's stamps are those of the real clock, so the trash period is over when that one and the world's say so.
    both.clock.moment = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr(trash, "_store_time", lambda ctx, access: ctx.now())
    assert trash.sweep(both.context(), place).removed_backups == [name]
    left = {"old": find_backup(repository(both, 1), "old"), "new": find_backup(repository(both, 2), "new")}
    assert left.pop(name) is None and all(left.values())


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_deletion_is_undone_where_the_backup_is(both: BackupWorld, name: str) -> None:
    path = path_of(both, name)
    delete(both, name)
    both.clock.advance(hours=1)
    both.add_backup(name)
    both.drive(name)
    assert both.backup(name).status.adopted and path_of(both, name) == path
    assert buried(both) == [[], []] and len(both.exports) == 6


def test_a_backup_without_its_policy_is_found_in_an_old_repository(both: BackupWorld) -> None:
    both.cluster.delete(DISK_BACKUP, "old", SHOP)
    both.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    both.clock.advance(days=40)
    both.add_backup("old", slot="2026-01-01T03:30:00Z")
    both.drive("old")
    assert both.backup("old").status.adopted and path_of(both, "old") == ""


def test_an_old_repository_that_can_not_be_opened_stops_no_punctual_run_and_nothing_is_run_twice(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = world.repositories.find

    def refuse(store: object, uid: str, *rest: object, **asked: object) -> object:
        if asked.get("generation", 1) == 1:
            raise StoreProblemError("WrongKey", "another key", retryable=False)
        return find(store, uid, *rest, **asked)  # type: ignore[arg-type]

    monkeypatch.setattr(world.repositories, "find", refuse)
    slot = world.clock().replace(hour=3, minute=30, second=0, microsecond=0)
    slot = slot if slot <= world.clock() else slot - timedelta(days=1)
    world.add_backup("by-hand")
    look(world, name="by-hand")
    assert world.condition("Stalled", "by-hand").reason == "WrongKey" and not world.backup("by-hand").status.started_at
    world.clock.advance(seconds=(slot + timedelta(days=1, seconds=5) - world.clock()).total_seconds())
    world.add_backup("punctual", slot=world.clock().replace(second=0, microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ"))
    world.drive("punctual")
    assert world.backup("punctual").status.phase == "Completed" and path_of(world, "punctual") == ".2"


def test_an_old_backup_expires_in_its_own_repository(both: BackupWorld) -> None:
    both.clock.advance(days=31)
    both.add_backup("newest")
    both.drive("newest")
    retention.reconcile(both.context(), SHOP, "daily")
    assert buried(both) == [["old"], ["new"]]


def test_a_rule_that_changes_is_recorded_in_the_manifest_of_an_old_backup(both: BackupWorld) -> None:
    both.cluster.patch(
        BACKUP_POLICY, "daily", [{"op": "add", "path": "/spec/retention", "value": {"keepFor": "90d"}}], SHOP
    )
    retention.reconcile(both.context(), SHOP, "daily")
    found = find_backup(repository(both, 1), "old")
    assert found is not None and "90d" in str(found.expiry)
    # A later revision that says nothing else is believed by an adoption.
    both.cluster.delete(DISK_BACKUP, "old", SHOP)
    both.clock.advance(hours=1)
    both.add_backup("old")
    both.drive("old")
    assert both.backup("old").status.adopted


def test_backups_are_looked_for_in_their_own_repositories(both: BackupWorld) -> None:
    ctx = both.context()
    assert stored_data.look_up(ctx, SHOP, "offsite") is None
    assert not any(both.condition("DataMissing", name) for name in ("old", "new"))
    assert ctx.not_seen == {"offsite": {SHOP: None}}
    store = repository(both, 1).store
    both.add_backup("more")
    for name in [info.name for info in store.list(BACKUPS)]:
        store.delete(name)
    stored_data.look_up(ctx, SHOP, "offsite")
    # All of the old one's are gone: it may lead elsewhere, and no backup is called lost; nor are the new ones.
    assert "lists nothing of its 1 backups" in (ctx.not_seen["offsite"][SHOP] or "")
    assert not any(both.condition("DataMissing", name) for name in ("old", "new"))


def test_a_disk_that_is_lost_in_the_old_repository_is_told_of_its_backup_alone(both: BackupWorld) -> None:
    repository(both, 1).store.delete(disk(both, "data", "old").manifest)
    stored_data.look_up(both.context(), SHOP, "offsite")
    assert both.condition("DataMissing", "old").status == "True" and both.condition("DataMissing", "new") is None


def test_a_run_that_has_exported_nothing_moves_to_the_new_repository(tmp_path: Path) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    until(world, lambda status: bool(status.disks) and all(each.phase == "Snapshotted" for each in status.disks))
    assert path_of(world) == ""
    rotate(world)
    world.drive()
    assert world.backup().status.phase == "Completed" and path_of(world) == ".2"
    assert manifests(world, 1) == 0 and find_backup(repository(world, 2), "run") is not None


def test_a_run_with_disks_under_the_old_key_writes_no_more_there_and_keeps_these(tmp_path: Path) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    world.job_failures = []
    until(world, lambda status: any(each.phase == "Completed" for each in status.disks or ()))
    done = [each.name for each in world.backup().status.disks or () if each.phase == "Completed"]
    rotate(world)
    world.drive()
    status = world.backup().status
    failed = {each.name: each.reason for each in status.disks or () if each.phase == "Failed"}
    assert path_of(world) == "" and status.manifest == "run"
    assert set(failed.values()) <= {"MasterKeyReplaced"} and set(failed) | set(done) <= set(WORLD_DISKS)
    found = find_backup(repository(world, 1), "run")
    assert found is not None and len(found.disks) == len(WORLD_DISKS) - len(failed)


def test_a_run_that_ends_too_late_writes_no_manifest_that_would_stop_every_prune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_backup()

    def closed(run: Run) -> datetime | None:
        """Be closed once the disk is captured; the folder's stamps are those of the real clock, and no use here."""
        ended = all(each.phase == "Completed" for each in run.disks)
        return world.clock() - timedelta(minutes=25) if ended else None

    monkeypatch.setattr(backup_generation, "closed", closed)
    world.drive()
    status = world.backup().status
    assert status.phase == "Failed" and world.condition().reason == "MasterKeyReplaced"
    assert list(repository(world, 1).store.list(BACKUPS)) == []


def test_nothing_is_written_while_the_newest_repository_is_not_known(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> object:
        raise StoreProblemError("WrongKey", "the newest one is another key's", retryable=False)

    monkeypatch.setattr(world.repositories, "open", denied)
    before = manifests(world, 1)
    world.add_backup("new")
    look(world, name="new", times=3)
    assert world.condition("Stalled", "new").reason == "WrongKey"
    assert not world.backup("new").status.store and manifests(world, 1) == before


def test_every_repository_of_a_namespace_is_named_once(both: BackupWorld) -> None:
    ctx = both.context()
    store = BackupStore.model_validate(both.get(BACKUP_STORE, "offsite", ""))
    found = list(backup_store_access.each_at(ctx, store, SHOP))
    assert [getattr(each, "generation", each) for each in found] == [2, 1]
    older = list(backup_store_access.each_at(ctx, store, SHOP, below=2))
    assert [getattr(each, "generation", each) for each in older] == [1]


def test_an_export_under_way_too_long_is_begun_again_by_what_is_known_and_asks_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_backup()
    until(world, lambda status: any(each.job for each in status.disks or ()))

    def asked(*_: object, **__: object) -> object:
        raise AssertionError("the store was asked")

    run = Run(world.context(), world.backup())
    monkeypatch.setattr(world.repositories, "closed", asked)
    monkeypatch.setattr(world.repositories, "generations", asked)
    for minutes, late in ((5, False), (25, True)):
        since = world.clock() - timedelta(minutes=minutes)
        monkeypatch.setattr(world.repositories, "known_closed", lambda *_, since=since, **__: since)
        assert (export._too_late(run) is not None) is late
