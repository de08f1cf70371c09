"""A backup of a virtual machine of three disks, from beginning to end."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from longboat.plan.retention import Rule, decide, point_of
from longboat.repository import find_backup
from tests.unit.reconcile.backup_world import DISKS, BackupWorld


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


def test_three_disks_of_a_running_machine_are_one_application_consistent_moment_in_the_store(
    world: BackupWorld,
) -> None:
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert status.phase == "Completed"
    assert (status.consistency, status.same_moment) == ("Application", True), status.consistency_reason
    assert [disk.phase for disk in status.disks or ()] == ["Completed"] * 3
    assert world.storage.cut_while_frozen == dict.fromkeys(DISKS.values(), True)
    assert not world.machines.frozen
    assert world.leftovers() == []
    assert world.storage.most_deleters == 1
    manifest = find_backup(world.repository(), "run")
    assert manifest is not None and {each.disk for each in manifest.disks} == set(DISKS)


def test_what_tables_show_is_short_and_retention_has_nothing_to_write_anew(world: BackupWorld) -> None:
    world.clock.advance(microseconds=962290)
    world.add_backup()
    world.drive()
    backup = world.backup()
    status = backup.status
    assert status.cut is not None and status.cut.cut_at is not None and status.cut.cut_at.microsecond
    assert status.expires_at == status.cut.cut_at.replace(microsecond=0) + timedelta(days=30)
    (decision,) = decide([point_of(backup)], Rule(status.retention), world.clock())
    assert decision.expires_at == status.expires_at
    assert (status.logical_bytes, status.size) == (3 << 16, "192Ki")
    assert status.read and status.stored and status.stored.endswith(("Ki", str(status.stored_bytes)))


def test_an_own_expiry_is_shown_in_whole_seconds_too(world: BackupWorld) -> None:
    world.add_backup(expiresAt="2026-12-23T12:59:37.962290Z")
    world.drive()
    backup = world.backup()
    (decision,) = decide([point_of(backup)], Rule(backup.status.retention), world.clock())
    assert decision.expires_at == backup.status.expires_at
    assert backup.status.wire()["expiresAt"] == "2026-12-23T12:59:37Z"
