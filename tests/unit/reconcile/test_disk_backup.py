"""A backup of a virtual machine of three disks, from beginning to end."""

from __future__ import annotations

from pathlib import Path

import pytest

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
