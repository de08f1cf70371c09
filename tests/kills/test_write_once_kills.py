"""Prunes and verifications that come by themselves, on a bucket with Object Lock, whoever is killed on the way."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, DISK_BACKUP
from longboat.kube.port import Object
from longboat.mover import PruneJob, export_disk, prune, verify
from longboat.reconcile.repositories import RepositoryAccess
from longboat.reconcile.store_access import StoreAccess
from longboat.repository import ObjectStore, StoreSettings, sweep_tombstones, write_once, write_tombstone
from longboat.repository import verify as verify_all
from longboat.repository.write_once import VOLATILE
from tests.fakes.locked_bucket import Death, Keeper, LockedBucket, Objects, Versions, opened
from tests.fakes.object_store import KilledError
from tests.unit.reconcile.backup_world import SHOP, FolderRepositories, Grenade
from tests.unit.reconcile.upkeep_world import STORE, UpkeepWorld

LOCK_DAYS = 6
TRASH = timedelta(days=7)
DAYS = 7 + 2 + LOCK_DAYS + 7 + 3
"""The trash, the grace period, the last lock, what was hidden stays so long; and some days to be late in."""


@dataclass
class BucketRepositories(FolderRepositories):
    """Opens real repositories in the bucket, and gives movers the settings of their purpose."""

    world: Any = None

    def place(self) -> ObjectStore:
        return Keeper(self.world.bucket)

    def find(
        self, store: BackupStore, namespace_uid: str, repository_id: str | None = None, **asked: Any
    ) -> RepositoryAccess:
        access = super().find(store, namespace_uid, repository_id, **asked)
        return self._for(store, access, asked.get("purpose", "export"))

    def open(
        self, store: BackupStore, namespace_uid: str, generation: int | None = None, **more: Any
    ) -> RepositoryAccess:
        access = super().open(store, namespace_uid, generation)
        return self._for(store, access, more.get("purpose", "export"))

    def _for(self, store: BackupStore, access: RepositoryAccess, purpose: Any) -> RepositoryAccess:
        settings = StoreAccess(self.world.cluster, self.world.settings).settings_of(store, purpose)
        return replace(access, settings=settings)


@dataclass
class LockedWorld(UpkeepWorld):
    """A store with Object Lock whose upkeep nobody asks for. ``deaths`` are of the next movers of upkeep."""

    deaths: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    """How many requests each of these movers had made when it ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bucket, self.strike = LockedBucket(self.clock, LOCK_DAYS), Death(None)
        self.repositories = BucketRepositories("/unused", world=self)
        lock = {"deleteVersions": True, "objectLock": {"mode": "Compliance", "days": LOCK_DAYS}}
        s3 = self.get(BACKUP_STORE, STORE)["spec"]["s3"] | lock
        self.cluster.patch(BACKUP_STORE, STORE, [{"op": "replace", "path": "/spec/s3", "value": s3}])

    def open_store(self, settings: StoreSettings) -> Objects:
        return opened(self.bucket, settings, self.strike)

    def versions(self, _: StoreSettings, path: str) -> Versions:
        return Versions(self.bucket, f"{path}/", self.strike)

    def store_time(self) -> datetime:
        return self.clock()

    def _inside(self, settings: StoreSettings, path: str) -> list[str]:
        return [*Objects(self.bucket).folders(path)]

    def _export(self, job: Object, content: str | None) -> tuple[bool, str, str | None]:
        is_upkeep = self.work(job) in ("prune", "verify")
        self.strike = Death(self.deaths.pop(0) if is_upkeep and self.deaths else None)
        try:
            return super()._export(job, content)
        except KilledError:
            return False, "", None
        finally:
            if is_upkeep:
                self.requests.append(self.strike.requests)
            self.strike = Death(None)

    def make(self, name: str, disk: str) -> None:
        self.add_policy(name, {"disk": {"virtualMachine": "db", "name": disk}})
        self.add_backup(name, policy=name)
        self.drive(name)

    def delete(self, name: str) -> None:
        """Let a backup be deleted: its object is gone, its data in the trash."""
        write_tombstone(self.repository(), name, self.clock(), "user")
        del self.cluster.objects[DISK_BACKUP, SHOP, name]

    def day(self, bomb: Grenade | None = None) -> None:
        """Let a day pass, in which the operator does what is due, and sweeps the trash."""
        self.killed = False
        for _ in range(4):
            # What has failed is tried again on the same day.
            self.clock.advance(hours=6)
            self.until_idle(bomb)
        sweep_tombstones(self.repository(), self.clock(), TRASH)

    def packs(self) -> set[str]:
        """Return all packs of which a version is left, hidden or not."""
        return {name for name in self.bucket.names if "/packs/" in name or "/maps/" in name}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LockedWorld:
    world = LockedWorld(folder=tmp_path)
    for module in (export_disk, prune, verify):
        monkeypatch.setattr(module, "open_store", world.open_store)
    monkeypatch.setattr(write_once, "_versions", world.versions)
    for name, disk in (("kept", "data"), ("kept-too", "root")):
        world.make(name, disk)
    # The repository is seen for the first time: its first runs come within a day.
    world.until_idle()
    return world


def needed(world: LockedWorld) -> set[str]:
    """Return the names of what the backups that are there need."""
    return {
        each for each in world.bucket.visible() if not each.partition("/")[2].partition("/")[2].startswith(VOLATILE)
    }


def assert_kept(world: LockedWorld, names: set[str], days: int, where: str) -> None:
    """What is needed can be seen, and is locked for so long at least."""
    assert names <= set(world.bucket.visible()), where
    least = world.clock() + timedelta(days=days)
    assert {name for name in names if (world.bucket.locked_until(name) or least) < least} == set(), where


def test_locks_are_kept_and_garbage_goes_by_scheduled_runs_alone(world: LockedWorld) -> None:
    keep, packs = needed(world), world.packs()
    world.make("gone", "logs")
    garbage = world.packs() - packs
    assert len(garbage) >= 2
    world.delete("gone")
    hidden, left = list[bool](), list[int]()
    for day in range(DAYS):
        world.day()
        # Half a period, but for the day since the last prune.
        assert_kept(world, keep, LOCK_DAYS // 2 - 1, f"day {day}")
        assert world.backup("kept").status.verified == "Yes"
        hidden.append(not garbage & set(world.bucket.visible()))
        left.append(len(garbage & world.packs()))
    assert left[0] == len(garbage) and left[-1] == 0 and world.packs() == packs
    assert left.index(0) - hidden.index(True) >= 7, "nothing that was hidden goes within a week"
    works = [work for work, _ in world.runs]
    assert DAYS <= works.count("prune") <= DAYS + 1 and DAYS <= works.count("verify") <= DAYS + 1
    assert world.store_condition("Pruned") == ("True", "Pruned")
    assert verify_all(world.repository(), share=100, now=world.clock()).state == "ok"


def test_a_purge_that_is_killed_at_any_request_brings_nothing_back_into_sight(world: LockedWorld) -> None:
    keep, packs = needed(world), world.packs()
    world.make("gone", "logs")
    garbage = world.packs() - packs
    world.delete("gone")
    while garbage & set(world.bucket.visible()):
        world.day()
    for _ in range(6):
        world.day()
    world.clock.advance(days=1.5)
    before, told = world.bucket, [told for _, told in world.runs if isinstance(told, PruneJob)][-1]

    def purge(at: int | None) -> int:
        world.strike = Death(at)
        with suppress(KilledError):
            prune.run_prune(told, emit=lambda _: None, now=world.clock)
        return world.strike.requests

    world.bucket = before.copy()
    count = purge(None)
    assert garbage & world.packs() == set()
    for at in range(count):
        world.bucket = before.copy()
        purge(at)
        assert not garbage & set(world.bucket.visible()), at
        assert_kept(world, keep, 0, f"killed at request {at}")
        purge(None)
        assert world.packs() == packs, at


@pytest.mark.parametrize("seed", range(3))
def test_movers_and_operators_that_are_killed_every_day_lose_no_lock_and_no_backup(
    world: LockedWorld, seed: int
) -> None:
    keep, packs = needed(world), world.packs()
    world.make("gone", "logs")
    garbage = world.packs() - packs
    world.delete("gone")
    for day in range(DAYS + 4):
        # Each day others die, at another request, and the operator at another write.
        world.deaths = [(13 * day + 5 * seed) % 71, (29 * day + 11 * seed) % 71]
        world.day(Grenade(1 + (5 * day + seed) % 14))
        assert_kept(world, keep, 1, f"day {day}")
    assert world.requests and max(world.requests) > 60, "deaths come after the end"
    assert garbage & world.packs() == set() and world.packs() == packs
    assert verify_all(world.repository(), share=100, now=world.clock()).state == "ok"
