"""Write-once buckets: locks that nobody extends end while backups still need what they protect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_STORE
from longboat.mover import PruneResult
from longboat.mover.results import PruneCount
from longboat.plan import maintenance as plan
from longboat.plan.conditions import find
from longboat.plan.maintenance import RepositoryRecord
from longboat.reconcile import backup_store, maintenance_records
from longboat.reconcile.store_locks import keep_locks
from longboat.repository import StoreSettings, WriteOnceReport, generate_store_key
from longboat.repository.errors import AccessDeniedError
from tests.unit.reconcile.policy_world import STORE_SPEC, FolderRepositories, World
from tests.unit.reconcile.test_backup_store import Checks

FIRST, SECOND = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
LOCK: dict[str, Any] = {"objectLock": {"mode": "Governance", "days": 2}}


@dataclass
class Bucket:
    """Stands in for the bucket; each repository has the objects a and b."""

    world: World
    looked: list[tuple[str, str]] = field(default_factory=list)
    settings: list[StoreSettings] = field(default_factory=list)
    slow: timedelta = timedelta(0)
    refused: bool = False

    def folders(self, settings: StoreSettings, path: str) -> list[str]:
        return [SECOND, "lost+found", FIRST] if path == f"{self.world.settings.cluster_id}/" else []

    def keep(
        self, settings: StoreSettings, path: str, now: datetime, after: str, enough: Callable[[], bool]
    ) -> WriteOnceReport:
        self.settings.append(settings)
        for name in [each for each in ("a", "b") if each > after]:
            if self.refused:
                raise AccessDeniedError("may not lock")
            self.looked.append((path.rpartition("/")[2], name))
            self.world.clock.by(seconds=self.slow.total_seconds())
            if enough():
                return WriteOnceReport(reached=name)
        return WriteOnceReport()


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(repositories=FolderRepositories(str(tmp_path)))
    for name in ("offsite-s3", "keeper"):
        world.add_secret(name, accessKeyID=name, secretAccessKey="hidden-secret")
    world.add_secret("offsite-key", key=generate_store_key())
    return world


@pytest.fixture
def bucket(world: World) -> Bucket:
    return Bucket(world)


def add(world: World, **s3: Any) -> None:
    world.add_store(s3=STORE_SPEC["s3"] | s3, maintenanceCredentialsSecretRef={"name": "keeper"})


def look(world: World, bucket: Bucket) -> None:
    locks = partial(keep_locks, keep=bucket.keep, inside=bucket.folders)
    backup_store.reconcile(world.context(), "", "offsite", check=Checks(), locks=locks)


ALL = [(FIRST, "a"), (FIRST, "b"), (SECOND, "a"), (SECOND, "b")]


def pruned(world: World, uid: str, *, dry_run: bool = False) -> None:
    """Let a prune of a repository end now, with what the store asks for now."""
    now = world.clock.time
    record = RepositoryRecord(store="offsite", namespace="shop", namespace_uid=uid, seen=now)
    count = PruneCount(objects=0, bytes=0)
    counts = dict.fromkeys(("freed", "condemned", "waiting", "later", "leased", "live"), count)
    result = PruneResult(dry_run=dry_run, manifests=1, leases=0, removed={}, **counts)
    record = plan.pruned(plan.begin(record, "prune", world.store(), now, "token"), result, now)
    maintenance_records.add(world.context(), record)


LONG: dict[str, Any] = {"objectLock": {"mode": "Governance", "days": 30}}


def test_what_a_prune_has_looked_at_is_not_looked_at_again_at_once(world: World, bucket: Bucket) -> None:
    add(world, **LONG)
    pruned(world, FIRST)
    look(world, bucket)
    assert bucket.looked == ALL[2:]
    world.clock.by(days=8)
    look(world, bucket)
    assert bucket.looked == [*ALL[2:], *ALL], "prunes have ceased to come"


@pytest.mark.parametrize("reason", ["short lock", "dry run", "other lock", "other bucket", "long ago"])
def test_locks_that_no_prune_keeps_for_long_enough_are_looked_at(world: World, bucket: Bucket, reason: str) -> None:
    add(world, **(LOCK if reason == "short lock" else LONG))
    pruned(world, FIRST, dry_run=reason == "dry run")
    fields = {"other lock": ("objectLock/days", 60), "other bucket": ("bucket", "another")}
    if reason in fields:
        field_, value = fields[reason]
        world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "replace", "path": f"/spec/s3/{field_}", "value": value}])
    if reason == "long ago":
        world.clock.by(days=7.1)
    look(world, bucket)
    assert bucket.looked == ALL


def test_locks_are_extended_twice_in_their_shortest_period_with_the_credentials_of_maintenance(
    world: World, bucket: Bucket
) -> None:
    add(world, **LOCK)
    for _ in range(3):
        look(world, bucket)
    assert bucket.looked == ALL
    assert {(each.access_key_id, each.lock_days) for each in bucket.settings} == {("keeper", 2)}
    world.clock.by(hours=12)
    look(world, bucket)
    assert bucket.looked == ALL * 2
    assert world.store().status.locks_kept_time == world.clock.time.replace(microsecond=0)


@pytest.mark.parametrize(("s3", "times"), [({}, 0), ({"deleteVersions": True}, 0), (LOCK, 1)])
def test_only_buckets_with_locks_are_looked_through(
    world: World, bucket: Bucket, s3: dict[str, Any], times: int
) -> None:
    add(world, **s3)
    look(world, bucket)
    assert bucket.looked == ALL * times


def test_a_large_bucket_does_not_keep_the_stores_checks_waiting(world: World, bucket: Bucket) -> None:
    add(world, **LOCK)
    bucket.slow = timedelta(minutes=3)
    for count in (1, 2, 3):
        look(world, bucket)
        assert bucket.looked == ALL[:count]
        assert world.store().status.locks_kept_time is None
    bucket.slow = timedelta(0)
    look(world, bucket)
    assert bucket.looked == ALL and world.store().status.locks_kept_time is not None


def test_locks_that_can_not_be_extended_are_told_and_tried_again(world: World, bucket: Bucket) -> None:
    add(world, **LOCK)
    bucket.refused = True
    look(world, bucket)
    found = find(world.store().status.conditions, "LocksNotExtended")
    assert found is not None and (found.status, found.reason) == ("True", "AccessDenied")
    assert "may not lock" in found.message and world.store().status.locks_kept_time is None
    bucket.refused = False
    look(world, bucket)
    assert bucket.looked == ALL and find(world.store().status.conditions, "LocksNotExtended") is None
