"""A deleted DiskBackup that is applied again, with credentials that can do no more than is documented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longboat.api import BackupStore
from longboat.kube.kinds import DISK_BACKUP
from longboat.reconcile.repositories import RepositoryAccess
from longboat.repository import read_tombstones, write_tombstone
from longboat.repository.errors import AccessDeniedError
from longboat.repository.folder_store import FolderStore
from longboat.repository.object_store import ScopedStore
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, FolderRepositories


class CreateOnly(FolderStore):
    """A store as the credentials of exports see it."""

    def delete(self, name: str) -> None:
        raise AccessDeniedError(f"{name}: may not delete")


class ConfinedRepositories(FolderRepositories):
    """Only maintenance may delete."""

    def find(self, store: BackupStore, namespace_uid: str, *id_: Any, **asked: Any) -> RepositoryAccess:
        found = super().find(store, namespace_uid, *id_, **asked)
        return replace(found, repository=self.repository(namespace_uid)) if may_delete(asked) else confined(found)

    def open(self, store: BackupStore, namespace_uid: str, **asked: Any) -> RepositoryAccess:
        return confined(super().open(store, namespace_uid, **asked))


def may_delete(asked: dict[str, Any]) -> bool:
    return asked.get("purpose") == "maintenance"


def confined(access: RepositoryAccess) -> RepositoryAccess:
    store = ScopedStore(CreateOnly(access.settings), access.path)
    return replace(access, repository=replace(access.repository, store=store))


@pytest.fixture
def world(tmp_path: Path) -> BackupWorld:
    world = BackupWorld(folder=tmp_path)
    world.add_policy("daily")
    return world


@pytest.mark.parametrize("finished", [True, False])
def test_a_deletion_is_undone_though_exports_may_not_delete(world: BackupWorld, finished: bool) -> None:
    if finished:
        world.add_backup()
        world.drive()
        world.cluster.delete(DISK_BACKUP, "run", SHOP)
    write_tombstone(world.repository(), "run", world.clock(), "a user")
    world.repositories = ConfinedRepositories(world.repositories.folder)
    world.add_backup()
    world.drive()
    status = world.backup().status
    assert status.phase == "Completed" and bool(status.adopted) == finished
    assert read_tombstones(world.repository()) == []


def test_maintenance_is_not_asked_for_where_nothing_was_deleted(world: BackupWorld) -> None:
    world.add_backup()
    world.reconcile()
    assert (SHOP, "maintenance") not in world.repositories.asked


def test_a_deletion_that_can_not_be_undone_is_not_tried_for_ever(
    world: BackupWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tombstone(world.repository(), "run", world.clock(), "a user")
    monkeypatch.setattr(FolderStore, "delete", CreateOnly.delete)
    world.add_backup()
    world.reconcile()
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Pending", "AccessDenied")
    world.clock.advance(days=1)
    assert world.reconcile() is None
    assert (world.backup().status.phase, world.condition("Stalled").reason) == ("Failed", "AccessDenied")
