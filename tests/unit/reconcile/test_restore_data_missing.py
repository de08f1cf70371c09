"""A restore of what is certain to be gone makes nothing; one of what may be there is tried."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.kube.kinds import DISK_BACKUP, PERSISTENT_VOLUME_CLAIM, RESTORE
from longboat.reconcile.repositories import StoreProblemError
from longboat.reconcile.restore import reconcile
from longboat.repository.errors import RepositoryError
from tests.unit.reconcile.disk_world import SHOP, World
from tests.unit.reconcile.restore_world import MANIFEST, assert_restored, leftovers, message, run, shop, status, wish


@pytest.fixture
def world() -> World:
    """A DiskBackup that says since its last look-up that data is missing."""
    world = shop()
    backup = world.get(DISK_BACKUP, "nightly")
    told = {"type": "DataMissing", "status": "True", "reason": "DataMissing", "message": "not disk 'data' any more"}
    backup["status"]["conditions"] = [told | {"lastTransitionTime": "2026-01-07T10:17:00Z"}]
    world.cluster.update_status(backup)
    world.add_restore("r", wish())
    return world


def claim(world: World) -> Any:
    return world.cluster.get(PERSISTENT_VOLUME_CLAIM, "db-restored", SHOP)


def test_restore_of_what_is_gone_is_refused_at_once_and_makes_nothing(world: World) -> None:
    assert reconcile(world.context(), SHOP, "r") is not None
    assert world.reason(RESTORE, "r", "Stalled") == "DataMissing"
    assert "does not hold nightly/data any more" in message(world, "Stalled")
    run(world)
    assert claim(world) is None and leftovers(world) == [] and status(world)["phase"] != "Failed"


def test_restore_goes_on_when_the_data_is_put_back(world: World) -> None:
    run(world)
    assert claim(world) is None
    world.repositories.store.put_new(MANIFEST, b"sealed")
    run(world)
    assert_restored(world)


def test_restore_of_a_disk_that_is_there_is_made_although_others_of_the_backup_are_missing(world: World) -> None:
    world.repositories.store.put_new(MANIFEST, b"sealed")
    run(world)
    assert_restored(world)


def test_what_is_not_certain_is_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(name: str) -> None:
        raise RepositoryError("no answer")

    monkeypatch.setattr(world.repositories.store, "head", silent)
    run(world)
    assert_restored(world)


def test_store_that_can_not_be_opened_proves_no_loss(world: World) -> None:
    world.repositories.error = StoreProblemError("StoreUnreachable", "no answer")
    reconcile(world.context(), SHOP, "r")
    assert claim(world) is not None and world.reason(RESTORE, "r", "Stalled") != "DataMissing"


def test_restore_that_has_begun_is_not_called_off(world: World) -> None:
    world.repositories.store.put_new(MANIFEST, b"sealed")
    reconcile(world.context(), SHOP, "r")
    assert claim(world) is not None
    world.repositories.store.delete(MANIFEST)
    run(world)
    assert_restored(world)
