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
from longboat.reconcile.backup_store import Check
from longboat.reconcile.store_locks import keep_locks
from longboat.repository import (
    Rights,
    StoreCheck,
    StoreProblem,
    StoreSettings,
    WriteOnceReport,
    generate_store_key,
)
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


def look(world: World, bucket: Bucket, checks: Check | None = None) -> None:
    locks = partial(keep_locks, keep=bucket.keep, inside=bucket.folders)
    backup_store.reconcile(world.context(), "", "offsite", check=checks or Checks(), locks=locks)


def told(world: World) -> tuple[str, str, str] | None:
    """Return what LocksNotExtended says."""
    found = find(world.store().status.conditions, "LocksNotExtended")
    return (found.status, found.reason, found.message) if found else None


NO_ANSWER = Checks(StoreCheck(StoreProblem.UNREACHABLE, "no answer"))


def refused(*key_ids: str) -> Check:
    """Return a check that some credentials do not pass."""
    plain = Checks()

    def check(settings: StoreSettings, now: datetime, rights: Rights) -> StoreCheck:
        bad = settings.access_key_id in key_ids
        return StoreCheck(StoreProblem.CREDENTIALS, "refused") if bad else plain(settings, now, rights)

    return check


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


@pytest.mark.parametrize("bad", [("offsite-s3",), ("restorer",), ("offsite-s3", "restorer")])
def test_locks_do_not_end_because_of_the_credentials_of_others(
    world: World, bucket: Bucket, bad: tuple[str, ...]
) -> None:
    world.add_secret("restorer", accessKeyID="restorer", secretAccessKey="hidden-secret")
    s3, keeper = STORE_SPEC["s3"] | LOCK, {"name": "keeper"}
    world.add_store(s3=s3, maintenanceCredentialsSecretRef=keeper, restoreCredentialsSecretRef={"name": "restorer"})
    look(world, bucket, refused(*bad))
    assert world.store().status.available == "WrongCredentials"
    assert bucket.looked == ALL
    assert told(world) is None


def test_a_store_that_does_not_answer_is_not_looked_through(world: World, bucket: Bucket) -> None:
    add(world, **LOCK)
    look(world, bucket, NO_ANSWER)
    assert bucket.looked == []
    assert told(world) is None, "there is time yet"


def test_locks_that_end_soon_are_told_though_nothing_has_failed(world: World, bucket: Bucket) -> None:
    add(world, **LOCK)
    look(world, bucket)
    for _ in range(17):
        world.clock.by(hours=1)
        look(world, bucket, NO_ANSWER)
    assert told(world) is None, "a look every twelve hours leaves time for another"
    world.clock.by(hours=2)
    look(world, bucket, NO_ANSWER)
    said = told(world)
    assert said is not None and said[:2] == ("True", "LocksNotLookedAt")
    assert "Unreachable" in said[2]
    world.clock.by(minutes=1)
    look(world, bucket)
    assert told(world) is None


def test_a_bucket_that_is_too_large_for_its_looks_is_told(world: World, bucket: Bucket) -> None:
    add(world, **LOCK)
    bucket.slow = timedelta(hours=10)
    for _ in range(3):
        look(world, bucket)
    said = told(world)
    assert said is not None and said[:2] == ("True", "LocksNotLookedAt")
    assert "takes too long" in said[2]
    bucket.slow = timedelta(0)
    look(world, bucket)
    assert told(world) is None


def test_what_was_told_of_locks_goes_with_them(world: World, bucket: Bucket) -> None:
    add(world, **LOCK)
    bucket.refused = True
    look(world, bucket)
    assert told(world) is not None
    world.cluster.patch(BACKUP_STORE, "offsite", [{"op": "remove", "path": "/spec/s3/objectLock"}])
    look(world, bucket)
    assert told(world) is None
