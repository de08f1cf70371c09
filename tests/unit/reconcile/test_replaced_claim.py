"""A claim that is deleted and made anew during a run is another disk: nothing of it is stored as the old one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import PERSISTENT_VOLUME_CLAIM, VOLUME_SNAPSHOT
from longboat.kube.port import Object
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, disk


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


def replace_when(world: BackupWorld, holds: Any) -> None:
    """Replace the claim of a disk after the first write that a condition holds for."""

    def hook(verb: str, obj: Object) -> None:
        if holds(obj):
            world.cluster.hooks.remove(hook)
            world.cluster.objects.pop((PERSISTENT_VOLUME_CLAIM, SHOP, "db-data"))
            world.storage.add_claim(SHOP, "db-data", "another disk", size="4Mi")

    world.cluster.hooks.append(hook)


def is_pinned(obj: Object) -> bool:
    return obj["kind"] == "DiskBackup" and bool((obj.get("status") or {}).get("disks"))


def is_asked_for(obj: Object) -> bool:
    source = obj["spec"].get("source") or {} if obj["kind"] == VOLUME_SNAPSHOT.name else {}
    return bool(source.get("persistentVolumeClaimName") == "db-data")


@pytest.mark.parametrize("moment", [is_pinned, is_asked_for], ids=["before-the-cut", "before-the-snapshot-is-cut"])
def test_a_replaced_claim_is_not_stored_under_the_old_disks_identity(world: BackupWorld, moment: Any) -> None:
    replace_when(world, moment)
    world.add_backup()
    world.drive()
    assert world.backup().status.phase == "PartiallyFailed"
    assert (disk(world, "data").phase, disk(world, "data").reason) == ("Failed", "ClaimReplaced")
    assert sorted(world.exports) == ["db-logs", "db-root"]
    assert world.leftovers() == []
