"""A store that is known to be bad is not used in vain, and what was known of it once costs no backup."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api.common import format_time
from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, SECRET, VOLUME_SNAPSHOT, Kind
from longboat.kube.port import Object, RefusedError
from longboat.reconcile import backup_store
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.repository import Rights, StoreCheck, StoreProblem, StoreSettings, generate_store_key
from tests.unit.reconcile.backup_world import BackupWorld
from tests.unit.reconcile.disk_world import SHOP, SYSTEM

CREDENTIALS = {"accessKeyID": "a", "secretAccessKey": "b"}
WORKS = StoreCheck(StoreProblem.NONE, "works", timedelta(0))
DENIED = StoreCheck(StoreProblem.DENIED, "s3://hidden/place: may not write", timedelta(0))


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily", startingDeadline="10m")
    add_secret(world, "s3", **CREDENTIALS)
    add_secret(world, "key", key=generate_store_key())
    return world


def add_secret(world: BackupWorld, name: str, **data: str) -> None:
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    meta = {"name": name, "namespace": SYSTEM}
    world.cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": encoded})


def change_store(world: BackupWorld, field: str, value: Any) -> None:
    world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "add", "path": f"/spec/{field}", "value": value}])


def available(world: BackupWorld) -> Any:
    return world.cluster.get(BACKUP_STORE, "offsite")["status"]["available"]  # type: ignore[index]


def check(world: BackupWorld, found: StoreCheck = DENIED, **at_fault: StoreCheck) -> None:
    def answer(settings: StoreSettings, now: Any, rights: Rights) -> StoreCheck:
        return at_fault.get(rights, found)

    backup_store.reconcile(world.context(), "", "offsite", check=answer)


def wait(world: BackupWorld, until: float) -> timedelta | None:
    """Look when it asks for it, until this many minutes have passed; return the last answer."""
    end, delay = world.clock() + timedelta(minutes=until), world.reconcile()
    while delay is not None and world.clock() + delay <= end:
        world.clock.advance(seconds=delay.total_seconds())
        delay = world.reconcile()
    return delay


def slot(world: BackupWorld) -> str:
    return format_time(world.clock())


def snapshots(world: BackupWorld) -> int:
    return len(list(world.cluster.list(VOLUME_SNAPSHOT)))


def test_nothing_is_captured_for_a_store_that_takes_nothing(world: BackupWorld) -> None:
    check(world)
    world.add_backup(slot=slot(world))
    world.reconcile()
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Pending", "AccessDenied")
    assert snapshots(world) == 0 and world.machines.calls == [] and world.repositories.asked == []


def test_what_is_wrong_is_not_told_with_the_names_of_buckets(world: BackupWorld) -> None:
    check(world)
    world.add_backup()
    world.reconcile()
    assert "hidden" not in world.condition("Stalled").message and "'offsite'" in world.condition("Stalled").message


def test_a_backup_begins_when_the_store_is_well_again(world: BackupWorld) -> None:
    check(world)
    world.add_backup(slot=slot(world))
    world.reconcile()
    world.clock.advance(minutes=1)
    check(world, WORKS)
    world.drive()
    assert world.backup().status.phase == "Completed"


@pytest.mark.parametrize("minutes", [6, 60 * 24 * 30])
def test_what_was_known_long_ago_keeps_no_backup_from_beginning(world: BackupWorld, minutes: float) -> None:
    check(world)
    world.clock.advance(minutes=minutes)
    world.add_backup(slot=slot(world))
    world.drive()
    assert world.backup().status.phase == "Completed"


def test_a_check_of_other_settings_keeps_no_backup_from_beginning(world: BackupWorld) -> None:
    check(world)
    change_store(world, "credentialsSecretRef", {"name": "other"})
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "Completed"


def test_a_slot_is_not_lost_to_a_check_from_before_its_time_was_over(world: BackupWorld) -> None:
    world.add_backup(slot=slot(world))
    world.clock.advance(minutes=9, seconds=50)
    check(world)
    world.clock.advance(seconds=20)
    assert world.reconcile() is not None and world.backup().status.phase == "Pending"
    world.clock.advance(seconds=20)
    check(world, WORKS)
    world.drive()
    assert world.backup().status.phase == "Completed"


def test_a_slot_is_given_up_when_the_store_is_still_bad_after_its_time(world: BackupWorld) -> None:
    world.add_backup(slot=slot(world))
    world.clock.advance(minutes=10, seconds=5)
    check(world)
    assert world.reconcile() is None
    assert (world.backup().status.phase, world.condition().reason) == ("Failed", "AccessDenied")
    assert snapshots(world) == 0


def test_the_last_look_is_at_the_end_of_a_slots_time(world: BackupWorld) -> None:
    world.add_backup(slot=slot(world), policy="daily")
    world.cluster.delete(BACKUP_STORE, "offsite")
    delay = wait(world, until=9.9)
    end = world.backup().metadata.creation_timestamp + timedelta(minutes=10)
    assert delay is not None and world.clock() + delay == end
    world.clock.advance(seconds=delay.total_seconds())
    world.add_store("offsite", default=True)
    world.drive()
    assert world.backup().status.phase == "Completed"


@pytest.mark.parametrize("purpose", ["restore", "maintenance"])
def test_what_is_wrong_with_other_purposes_keeps_no_backup_waiting(world: BackupWorld, purpose: str) -> None:
    change_store(world, f"{purpose}CredentialsSecretRef", {"name": "s3"})
    check(world, WORKS, read=DENIED, remove=DENIED)
    world.add_backup()
    world.reconcile()
    assert world.backup().status.phase == "Snapshotting"


@pytest.mark.parametrize("purpose", ["restore", "maintenance"])
@pytest.mark.parametrize(
    ("data", "reason"), [({}, "CredentialsNotFound"), ({"accessKeyID": "a"}, "CredentialsIncomplete")]
)
def test_a_missing_secret_of_other_purposes_keeps_no_backup_waiting(
    world: BackupWorld, purpose: str, data: dict[str, str], reason: str
) -> None:
    if data:
        add_secret(world, "half", **data)
    change_store(world, f"{purpose}CredentialsSecretRef", {"name": "half"})
    check(world, WORKS)
    assert available(world) == reason
    world.add_backup()
    world.reconcile()
    assert world.backup().status.phase == "Snapshotting"


@pytest.mark.parametrize("mode", ["Optional", "Required"])
@pytest.mark.parametrize(("missing", "reason"), [(False, "AccessDenied"), (True, "CredentialsNotFound")])
def test_bad_credentials_of_a_store_hold_up_no_namespace_that_has_its_own(
    world: BackupWorld, mode: str, missing: bool, reason: str
) -> None:
    add_secret(world, f"s3.{SHOP}", **CREDENTIALS)
    change_store(world, "namespaceCredentials", mode)
    if missing:
        world.cluster.delete(SECRET, "s3", SYSTEM)
    check(world)
    assert available(world) == reason
    world.add_backup()
    world.reconcile()
    assert world.backup().status.phase == "Snapshotting"


@pytest.mark.parametrize(("mode", "owner"), [("Ignored", SHOP), ("Optional", "another")])
def test_nothing_is_captured_for_credentials_that_may_not_write_as_others_have_their_own(
    world: BackupWorld, mode: str, owner: str
) -> None:
    add_secret(world, f"s3.{owner}", **CREDENTIALS)
    change_store(world, "namespaceCredentials", mode)
    check(world)
    world.add_backup()
    world.reconcile()
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Pending", "AccessDenied")
    assert snapshots(world) == 0


def test_a_namespace_without_its_required_credentials_is_not_told_of_others(world: BackupWorld) -> None:
    change_store(world, "namespaceCredentials", "Required")
    check(world)
    world.repositories.problem = StoreProblemError("CredentialsNotFound", "there is no Secret 's3.shop'")
    world.add_backup()
    world.reconcile()
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Pending", "CredentialsNotFound")


def test_a_secret_that_may_not_be_read_is_told_by_who_needs_it_and_ends_no_run(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_store(world, "namespaceCredentials", "Optional")
    check(world)
    get = world.cluster.get

    def refusing(kind: Kind, name: str, namespace: str = "") -> Object | None:
        if name == f"s3.{SHOP}":
            raise RefusedError("forbidden")
        return get(kind, name, namespace)

    monkeypatch.setattr(world.cluster, "get", refusing)
    world.repositories = StoreAccess(world.cluster, world.settings)
    world.add_backup()
    world.reconcile()
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Pending", "CredentialsNotFound")


def test_a_stored_backup_is_looked_for_with_a_namespaces_own_credentials_when_the_stores_are_bad(
    world: BackupWorld,
) -> None:
    add_secret(world, f"s3.{SHOP}", **CREDENTIALS)
    change_store(world, "namespaceCredentials", "Optional")
    check(world)
    world.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    world.add_backup()
    world.reconcile()
    assert world.repositories.asked == [(SHOP, "export")]


def test_an_old_backup_that_is_applied_again_waits_as_long_as_the_store_is_away(world: BackupWorld) -> None:
    world.add_backup(slot="2025-11-20T03:30:00Z")
    away = StoreCheck(StoreProblem.UNREACHABLE, "no route", timedelta(0))
    for _ in range(3):
        world.clock.advance(days=1)
        check(world, away)
        assert world.reconcile() is not None
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Pending", "Unreachable")
    assert world.repositories.asked == []
