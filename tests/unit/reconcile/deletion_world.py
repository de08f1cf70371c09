"""The world of policies with backups in a real repository in a folder, that expire and are deleted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api import DiskBackup
from longboat.kube.kinds import DISK_BACKUP, NAMESPACE
from longboat.plan.names import FINALIZER
from longboat.reconcile import deletion, retention
from longboat.reconcile.context import Context
from longboat.reconcile.repositories import StoreProblemError
from longboat.repository import read_tombstones, write_backup_manifest
from tests.fakes.cluster import KillAt
from tests.unit.reconcile.policy_world import SHOP, Clock, FolderRepositories, World

UNREACHABLE = StoreProblemError("StoreUnreachable", "no answer")


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock = Clock()
    world = World(clock, FolderRepositories(str(tmp_path), clock=clock))
    world.add_store()
    world.add_policy(retention={"keepFor": "7d"})
    return world


def uid_of(world: World, namespace: str = SHOP) -> str:
    found = world.cluster.get(NAMESPACE, namespace)
    assert found is not None
    return str(found["metadata"]["uid"])


def add_backup(world: World, name: str, *, data: bool = True, phase: str = "Completed", policy: str = "daily") -> None:
    """Add a DiskBackup that was captured now, with its manifest in the repository if it has data."""
    world.add("DiskBackup", name, {"policyRef": {"name": policy}}, finalizers=[FINALIZER])
    stamp = world.clock.time.isoformat().replace("+00:00", "Z")
    disk = {
        "name": "root",
        "phase": "Completed",
        "claim": {"name": "c", "uid": "c1"},
        "volumeHandle": "v",
        "manifest": "m",
    }
    status: dict[str, Any] = {"phase": phase, "startedAt": stamp, "retention": {"keepFor": "7d"}}
    status["store"] = {"name": "offsite", "repository": f"cluster/{uid_of(world)}"}
    if data:
        status |= {"manifest": f"m-{name}", "disks": [disk]}
        write_backup_manifest(repository(world), name, world.clock.time, [])
    world.set_status(name, **status)


def repository(world: World) -> Any:
    return world.repositories.repository(uid_of(world))


def buried(world: World) -> list[str]:
    return sorted(each.backup_name for each in read_tombstones(repository(world)))


def expire(world: World, policy: str = "daily", bomb: KillAt | None = None) -> timedelta | None:
    return retention.reconcile(world.context(bomb), SHOP, policy)


def stopped(ctx: Context, backup: DiskBackup) -> bool:
    return True


def settle(world: World, bomb: KillAt | None = None) -> None:
    """Let the operator look at everything that is being deleted."""
    for each in world.backups():
        if each.metadata.deletion_timestamp:
            deletion.delete(world.context(bomb), each, stopped)


def user_deletes(world: World, *names: str) -> None:
    for name in names:
        world.cluster.delete(DISK_BACKUP, name, SHOP)
    world.clock.by(seconds=5)
    settle(world)
