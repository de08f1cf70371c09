"""What is wrong with a bucket is not made final by upkeep: nothing is removed while somebody puts it right."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP
from longboat.plan.conditions import find
from longboat.plan.names import FINALIZER
from tests.unit.reconcile.backup_world import SHOP
from tests.unit.reconcile.maintenance_world import PRUNE, request, world
from tests.unit.reconcile.upkeep_world import NOBODY, SELDOM, STORE, UpkeepWorld

__all__ = ["world"]


def hide(world: UpkeepWorld, pattern: str) -> list[tuple[Path, bytes]]:
    """Take objects out of the store; return what is needed to bring them back."""
    found = [path for path in (world.folder / "store").rglob(pattern) if path.is_file()]
    hidden = [(path, path.read_bytes()) for path in found]
    for path in found:
        path.unlink()
    return hidden


def hold(world: UpkeepWorld, how: str) -> None:
    """Ask that nothing be removed."""
    if how == "suspend":
        world.ask(verify=NOBODY, prune=NOBODY)
        return
    oldest = {"op": "add", "path": "/spec/s3/readVersions", "value": "Oldest"}
    world.cluster.patch(BACKUP_STORE, STORE, [oldest])


@pytest.mark.parametrize("pattern", ["backups/*/*", "disks/*/*"])
def test_manifests_of_backups_that_are_out_of_sight_do_not_end_as_garbage(world: UpkeepWorld, pattern: str) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
    world.add_backup("next")
    world.drive("next")
    hidden = hide(world, pattern)
    request(world, PRUNE)
    # The store tells of it with the next look at everything.
    world.clock.advance(minutes=6)
    world.until_idle()
    condition = find(world.store().status.conditions, "Pruned")
    assert world.runs == [] and condition is not None and condition.reason == "PruneFailed"
    assert "BackupsNotInSight" in condition.message and "DiskBackups next, run are not" in condition.message
    for path, data in hidden:
        path.write_bytes(data)
    request(world, PRUNE)
    assert [work for work, _ in world.runs] == ["prune"] and world.record().prune.failed is None


def test_who_deletes_backups_whose_manifests_are_lost_for_good_has_prunes_again(world: UpkeepWorld) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
    hide(world, "backups/*/*")
    request(world, PRUNE)
    assert world.runs == []
    world.cluster.delete(DISK_BACKUP, world.backup().name, SHOP)
    request(world, PRUNE)
    assert [work for work, _ in world.runs] == ["prune"]


@pytest.mark.parametrize("how", ["suspend", "oldest"])
def test_a_request_of_before_removes_nothing_while_a_store_is_put_right(world: UpkeepWorld, how: str) -> None:
    hold(world, how)
    request(world, PRUNE)
    assert "prune" not in [work for work, _ in world.runs]
    condition = find(world.store().status.conditions, "Pruned")
    assert condition is not None and (condition.reason, "trash" in condition.message) == ("Suspended", True)


@pytest.mark.parametrize("how", ["suspend", "oldest"])
def test_another_store_that_leads_to_the_same_bucket_removes_nothing_either(world: UpkeepWorld, how: str) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
    second = copy.deepcopy(world.get(BACKUP_STORE, STORE))
    second["metadata"] = {"name": "second"}
    world.cluster.create(second)
    held: dict[str, Any] = {"op": "add", "path": "/spec/maintenance", "value": {"prune": NOBODY}}
    if how == "oldest":
        held = {"op": "add", "path": "/spec/s3/readVersions", "value": "Oldest"}
    world.cluster.patch(BACKUP_STORE, "second", [held])
    request(world, PRUNE)
    failed = world.record().prune.failed
    assert world.runs == [] and failed is not None and failed.reason == "RemovalsHeld"
    assert "BackupStore second" in failed.message


def test_manifests_of_backups_from_before_the_store_was_renamed_are_looked_for_too(world: UpkeepWorld) -> None:
    """The repository is the same one, whatever the BackupStore is called."""
    world.ask(verify=NOBODY, prune=SELDOM)
    renamed = [{"op": "replace", "path": "/status/store/name", "value": "before"}]
    world.cluster.patch(DISK_BACKUP, world.backup().name, renamed, SHOP)
    hide(world, "backups/*/*")
    request(world, PRUNE)
    failed = world.record().prune.failed
    assert world.runs == [] and failed is not None and failed.reason == "BackupsNotInSight"


def test_a_backup_whose_deletion_is_held_keeps_its_data(world: UpkeepWorld) -> None:
    world.ask(verify=NOBODY, prune=SELDOM)
    backup = world.get(DISK_BACKUP, world.backup().name)
    condition = {"type": "DeletionHeld", "status": "True", "reason": "OnHold", "message": "held"}
    condition["lastTransitionTime"] = "2026-11-22T03:00:00Z"
    held = [*backup["status"].get("conditions", []), condition]
    change = [
        {"op": "add", "path": "/status/conditions", "value": held},
        {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]},
    ]
    world.cluster.patch(DISK_BACKUP, backup["metadata"]["name"], change, SHOP)
    world.cluster.delete(DISK_BACKUP, backup["metadata"]["name"], SHOP)
    hide(world, "backups/*/*")
    request(world, PRUNE)
    failed = world.record().prune.failed
    assert world.runs == [] and failed is not None and failed.reason == "BackupsNotInSight"
