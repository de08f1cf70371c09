"""What a backup that is given up leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from longboat.kube.kinds import DISK_BACKUP, PERSISTENT_VOLUME_CLAIM
from longboat.reconcile import backup_sweep, disk_backup
from tests.unit.reconcile.backup_world import SHOP, SYSTEM, BackupWorld, until


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


@pytest.mark.parametrize("away", [True, False], ids=["operator-away", "operator-there"])
def test_a_backup_deleted_before_its_mover_ran_does_not_take_a_foreign_volume_along(
    world: BackupWorld, away: bool
) -> None:
    world.add_policy("one", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.storage.add_claim(SHOP, "foreign", "somebody else's", size="4Mi")
    world.clock.advance(days=1)
    world.storage.free(SHOP, "foreign", policy="Delete")
    world.add_backup(policy="one")
    until(world, lambda _: any(world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM)))
    backup = world.backup()
    if away:
        world.cluster.objects.pop((DISK_BACKUP, SHOP, "run"))
    for _ in range(6):
        if away:
            backup_sweep.sweep(world.context())
        else:
            disk_backup.abandon(world.context(), backup)
        world.storage.settle()
    assert list(world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM)) == []
    assert "somebody else's" in world.storage.data.values()
