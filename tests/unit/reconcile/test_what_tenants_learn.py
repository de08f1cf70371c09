"""What only administrators may see of stores is told in no object of a namespace."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP, RESTORE
from longboat.plan.problem import Problem
from longboat.reconcile import backup_end, repositories
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.reconcile.store_choice import store_for
from longboat.repository.errors import UnreachableError
from tests.unit.reconcile.backup_world import BackupWorld, until
from tests.unit.reconcile.policy_world import SHOP, SYSTEM, World

CLOSED: dict[str, Any] = {"allowedNamespaces": {"matchLabels": {"team": "other"}}}


@pytest.mark.parametrize("defaults", [0, 2])
@pytest.mark.parametrize("name", [None, "missing"])
def test_stores_that_are_not_open_to_a_namespace_are_not_named_there(defaults: int, name: str | None) -> None:
    world = World()
    for count, each in enumerate(("closed-one", "closed-two")):
        world.add_store(each, default=count < defaults, **CLOSED)
    world.add_store("open", default=False)
    found = store_for(world.cluster, SHOP, name)
    assert isinstance(found, Problem)
    assert "closed" not in found.message and "nown: open" in found.message.replace("stores: ", "nown: ")


def test_secrets_of_the_operator_are_not_named_in_a_backup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repositories.log_once.cache_clear()
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    world.repositories = StoreAccess(world.cluster, world.settings)
    with caplog.at_level(logging.WARNING):
        world.reconcile()
    stalled = world.condition("Stalled")
    assert stalled.reason == "CredentialsNotFound" and "'offsite'" in stalled.message
    assert "Secret '" not in stalled.message and SYSTEM not in stalled.message
    assert "Secret 's3'" in caplog.text


BUCKET = "s3://hidden-bucket/prefix at https://hidden.example"


@pytest.fixture
def world(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> BackupWorld:
    repositories.log_once.cache_clear()
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    world.add_backup()
    return world


def everything_told(world: BackupWorld) -> str:
    """Return all that users of the namespace can read: their objects, and the Events about them."""
    kinds = (BACKUP_POLICY, DISK_BACKUP, RESTORE)
    return json.dumps([[*world.cluster.list(kind)] for kind in kinds] + [world.cluster.events])  # type: ignore[list-item]


@pytest.mark.parametrize("reason", ["StoreUnreachable", "AccessDenied", "Damaged", "RepositoryNotFound"])
def test_a_store_that_cannot_be_used_is_told_without_its_place(
    world: BackupWorld, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    world.repositories.problem = StoreProblemError(reason, f"{BUCKET}: no route")
    with caplog.at_level(logging.WARNING):
        world.reconcile()
    stalled = world.condition("Stalled")
    assert (
        stalled.reason == reason and "BackupStore 'offsite'" in stalled.message and "administrator" in stalled.message
    )
    assert "hidden" not in everything_told(world) and BUCKET in caplog.text


@pytest.mark.parametrize("error", [UnreachableError(f"{BUCKET}: no route"), RuntimeError(f"cannot connect: {BUCKET}")])
def test_a_mover_that_failed_at_the_store_tells_no_place(
    world: BackupWorld, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    world.job_failures = [error] * 9
    with caplog.at_level(logging.WARNING):
        world.drive()
    assert world.backup().status.phase == "Failed" and "hidden" not in everything_told(world) and BUCKET in caplog.text


def test_a_manifest_that_could_not_be_written_tells_no_place(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise UnreachableError(f"{BUCKET}: no route")

    monkeypatch.setattr(backup_end, "write_backup_manifest", refused)
    until(world, lambda status: any(each.reason == "StoreUnreachable" for each in status.conditions or ()))
    assert "hidden" not in everything_told(world)


def test_a_backup_that_lacks_data_tells_no_place(world: BackupWorld) -> None:
    world.drive()
    for path in (world.folder / "store").rglob("disks/*/*"):
        path.unlink()
    world.cluster.delete(DISK_BACKUP, "run", SHOP)
    world.clock.advance(days=1)
    world.add_backup()
    world.drive()
    assert world.condition("Stalled").reason == "DataMissing" and str(world.folder) not in everything_told(world)


def test_a_full_read_because_of_unreadable_objects_tells_no_place(world: BackupWorld) -> None:
    world.drive()
    for path in (each for each in (world.folder / "store").rglob("maps/**/*") if each.is_file()):
        path.write_bytes(b"rotten")
    world.add_backup("second")
    world.drive("second")
    told = world.get(DISK_BACKUP, "second")["status"]["disks"]
    assert {each["fullReason"] for each in told} == {"ParentUnreadable"} and str(world.folder) not in everything_told(
        world
    )


@pytest.mark.parametrize("default", [False, True])
def test_a_store_that_is_closed_is_as_one_that_does_not_exist(default: bool) -> None:
    """Whoever may not use it does not learn that there is one: not by its name, and not as the default."""
    answers = []
    for exists in (True, False):
        world = World()
        world.add_store("open", default=False)
        if exists:
            world.add_store("closed", default=default, **CLOSED)
        answers.append([store_for(world.cluster, SHOP, name) for name in ("closed", None)])
    assert answers[0] == answers[1] and all(isinstance(each, Problem) for each in answers[0])
