"""A world with a backup of a disk whose repository is pruned and verified, and what the tests of that do with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from longboat.plan import maintenance as plan
from longboat.repository import StoreSettings
from longboat.repository.errors import AccessDeniedError
from tests.unit.reconcile.upkeep_world import UpkeepWorld

GONE = "00000000-0000-4000-8000-00000000dead"
"""UID of a namespace that is not there."""
VERIFY, PRUNE = plan.REQUESTED["verify"], plan.REQUESTED["prune"]


def world_in(folder: Path) -> UpkeepWorld:
    """Return a world with a backup of a disk."""
    folder.mkdir(parents=True, exist_ok=True)
    world = UpkeepWorld(folder=folder)
    world.add_policy("daily", {"disk": {"virtualMachine": "db", "name": "data"}})
    world.add_backup()
    world.drive()
    world.clock.advance(seconds=10)
    return world


@pytest.fixture
def world(tmp_path: Path) -> UpkeepWorld:
    return world_in(tmp_path)


def request(world: UpkeepWorld, name: str) -> None:
    world.until_idle()
    world.clock.advance(seconds=1)
    world.annotate(name, world.clock().strftime("%Y-%m-%dT%H:%M:%SZ"))
    world.clock.advance(seconds=1)
    world.until_idle()


def lose_a_pack(world: UpkeepWorld) -> None:
    packs = sorted(path for path in (world.folder / "store").rglob("packs/*/*") if path.is_file())
    packs[0].unlink()


def refused(_: UpkeepWorld, settings: StoreSettings, path: str) -> list[str]:
    raise AccessDeniedError("no")
