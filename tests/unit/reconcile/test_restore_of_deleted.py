"""Restores from DiskBackups that somebody deletes: what is held is there, what goes is not."""

from __future__ import annotations

import pytest

from longboat.kube.kinds import DISK_BACKUP, RESTORE
from tests.unit.reconcile.disk_world import SHOP
from tests.unit.reconcile.restore_world import assert_restored, run, shop, wish

STAMP = "2026-11-22T03:30:00Z"
HELD = {"type": "DeletionHeld", "status": "True", "reason": "OnHold", "message": "", "lastTransitionTime": STAMP}


@pytest.mark.parametrize("kept", [{"conditions": [HELD]}, {}, {"conditions": [HELD], "tombstonedAt": STAMP}])
def test_only_a_backup_whose_deletion_is_held_can_be_restored_while_it_goes(kept: dict[str, object]) -> None:
    world = shop()
    finalizer = [{"op": "add", "path": "/metadata/finalizers", "value": ["longboat.dev/data"]}]
    found = world.cluster.patch(DISK_BACKUP, "nightly", finalizer, SHOP)
    world.cluster.update_status(found | {"status": found["status"] | kept})
    world.cluster.delete(DISK_BACKUP, "nightly", SHOP)
    world.add_restore("r", wish())
    run(world)
    if kept == {"conditions": [HELD]}:
        assert_restored(world)
    else:
        assert world.reason(RESTORE, "r", "Stalled") == "SourceDeleted"
