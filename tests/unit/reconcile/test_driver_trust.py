"""A CSI driver that was caught leaving out changes is not asked again by the backups that follow."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import DISK_BACKUP, SNAPSHOT_METADATA_SERVICE
from longboat.kube.port import Object
from longboat.mover.errors import MoverError
from longboat.mover.reading import ChangeTrackingMismatchError
from longboat.plan.driver_trust import TRUSTED_SINCE
from tests.fakes.storage import DRIVER
from tests.unit.reconcile.backup_world import SHOP, BackupWorld, Grenade, disk

LIE = ChangeTrackingMismatchError("bytes 4096 to 8192 differ from what the change source says")
SERVICE = {"address": "metadata.csi:6443", "audience": "the-driver", "caCert": base64.b64encode(b"CA").decode()}


class LostError(MoverError):
    """The mover's node is gone."""

    reason = "PodLost"
    retryable = True


class Believing(BackupWorld):
    """Movers that are told to ask a driver report what they were told, and that they have believed it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.asked: list[str | None] = []
        """For each mover: None if it was to ask the driver, else why not."""
        self.storage.run_job = self.report
        self._create(SNAPSHOT_METADATA_SERVICE, DRIVER, "", {"spec": SERVICE})
        for name in ("one", "other"):
            self.add_policy(name, {"disk": {"virtualMachine": "db", "name": "data"}})
        self.set(full_read_every=3)

    def report(self, job: Object, content: str | None) -> tuple[bool, str, str | None]:
        told = self.job_file(job)
        assert (told.changes is None) == (told.distrust is not None), told
        self.asked.append(told.distrust)
        ok, message, log = self._export(job, content)
        believed = {"mode": "Incremental", "fullReason": None, "sinceFullRead": 1}
        return ok, json.dumps(json.loads(message) | (believed if ok and told.distrust is None else {})), log

    def run(
        self, name: str, *failures: Exception, policy: str = "one", bomb: Grenade | None = None
    ) -> list[str | None]:
        """One backup whose first movers fail so; return what was said to its movers."""
        self.job_failures += failures
        before = len(self.asked)
        self.add_backup(name, policy=policy)
        self.drive(name, bomb=bomb)
        self.clock.advance(seconds=60)
        return self.asked[before:]

    def runs(self, *names: str) -> list[str | None]:
        return [reason for name in names for reason in self.run(name)]

    def trust(self, moment: str) -> None:
        meta = self.cluster.get(SNAPSHOT_METADATA_SERVICE, DRIVER)["metadata"]  # type: ignore[index]
        operation = {"op": "add", "path": "/metadata/annotations", "value": {TRUSTED_SINCE: moment}}
        self.cluster.patch(SNAPSHOT_METADATA_SERVICE, meta["name"], [operation])


def make_world(folder: Path) -> Believing:
    folder.mkdir(parents=True, exist_ok=True)
    return Believing(folder=folder)


@pytest.fixture
def world(tmp_path: Path) -> Believing:
    return make_world(tmp_path)


DISTRUSTED = "ChangeTrackingDistrusted"


def test_driver_that_was_caught_is_not_believed_by_the_very_next_backups(world: Believing) -> None:
    world.run("before")
    assert world.run("found", LIE) == [None, "ChangeTrackingMismatch"]
    assert world.runs("one-1", "one-2") == [DISTRUSTED] * 2
    assert world.run("other", policy="other") == [DISTRUSTED]
    assert world.runs("later", "last") == [None] * 2
    its = disk(world, "data", "one-2")
    assert (its.full_reason, its.since_full_read) == (DISTRUSTED, 0)
    assert "DiskBackup 'found' had caught the CSI driver" in its.message and "for 1 more backup of" in its.message
    assert "for the last time" in disk(world, "data", "other").message
    assert disk(world, "data", "later").message is None
    assert [reason for reason, _ in world.cluster.events].count(DISTRUSTED) == 3


def test_distrust_outlives_the_backup_that_found_out(world: Believing) -> None:
    world.run("found", LIE)
    world.run("next")
    del world.cluster.objects[DISK_BACKUP, SHOP, "found"]
    assert world.runs("1", "2", "3") == [DISTRUSTED, DISTRUSTED, None]


def test_backup_that_found_out_and_failed_is_believed_about_the_driver(world: Believing) -> None:
    world.run("found", LIE, *[LostError("its node is gone") for _ in range(3)])
    assert world.backup("found").status.phase == "Failed"
    assert world.runs("1", "2", "3", "4") == [DISTRUSTED] * 3 + [None]


def test_backup_that_failed_is_none_of_those_that_read_everything(world: Believing) -> None:
    world.run("found", LIE)
    world.run("failed", *[LostError("its node is gone") for _ in range(3)])
    assert world.backup("failed").status.phase == "Failed"
    del world.cluster.objects[DISK_BACKUP, SHOP, "found"]
    assert world.runs("1", "2", "3", "4") == [DISTRUSTED] * 3 + [None]


def test_each_attempt_reads_everything_and_the_backup_counts_once(world: Believing) -> None:
    world.run("found", LIE)
    assert world.run("next", LostError("its node is gone")) == [DISTRUSTED] * 2
    assert disk(world, "data", "next").distrust.left == 2


def test_driver_that_is_caught_again_is_held_to_it_from_then_on(world: Believing) -> None:
    world.run("found", LIE)
    world.runs("1", "2", "3")
    assert world.run("again", LIE) == [None, "ChangeTrackingMismatch"]
    assert world.runs("4", "5", "6", "7") == [DISTRUSTED] * 3 + [None]
    assert "'again'" in disk(world, "data", "4").message


def test_administrator_who_trusts_a_driver_again_is_heard(world: Believing) -> None:
    world.set(full_read_every=30)
    world.run("found", LIE)
    assert world.run("1") == [DISTRUSTED]
    world.trust("2999-01-01T00:00:00Z")
    assert world.run("2") == [DISTRUSTED], "an answer to what nobody has found yet"
    world.trust("yesterday")
    assert world.run("undecided") == [DISTRUSTED]
    world.trust(world.clock().isoformat())
    assert world.run("3") == [None]
    assert world.run("again", LIE)[-1] == "ChangeTrackingMismatch"
    assert world.run("4") == [DISTRUSTED]


def test_without_periodic_full_reads_only_an_administrator_ends_the_distrust(world: Believing) -> None:
    world.set(full_read_every=0)
    world.run("found", LIE)
    assert world.runs(*[f"b{n}" for n in range(5)]) == [DISTRUSTED] * 5
    assert "until an administrator trusts it again" in disk(world, "data", "b4").message
    world.trust(world.clock().isoformat())
    assert world.run("trusted") == [None]


@pytest.mark.parametrize("away", ["service", "setting"])
def test_what_a_driver_did_is_not_forgotten_while_nobody_can_be_asked(world: Believing, away: str) -> None:
    world.set(full_read_every=0)
    world.run("found", LIE)
    service = world.cluster.get(SNAPSHOT_METADATA_SERVICE, DRIVER)
    assert service is not None
    if away == "service":
        world.cluster.delete(SNAPSHOT_METADATA_SERVICE, DRIVER)
    world.set(changed_blocks=away != "setting")
    world.runs("upgrade-1", "upgrade-2")
    for name in ("found", "upgrade-1"):
        # They have expired.
        del world.cluster.objects[DISK_BACKUP, SHOP, name]
    if away == "service":
        world._create(SNAPSHOT_METADATA_SERVICE, DRIVER, "", {"spec": SERVICE})
    world.set(changed_blocks=True)
    assert world.run("back") == [DISTRUSTED]
    assert "DiskBackup 'found' had caught the CSI driver" in disk(world, "data", "back").message


def test_other_disks_of_the_driver_are_asked_about(world: Believing) -> None:
    world.run("found", LIE)
    world.add_policy("logs", {"disk": {"virtualMachine": "db", "name": "logs"}})
    assert world.run("other-disk", policy="logs") == [None]


def test_history_is_not_read_to_find_what_is_held_against_a_driver(world: Believing) -> None:
    asked: list[Any] = []
    listed = world.cluster.list

    def spied(kind: Any, *place: Any, **more: Any) -> Any:
        asked.append(more.get("fields")) if kind is DISK_BACKUP else None
        return listed(kind, *place, **more)

    world.run("found", LIE)
    world.cluster.list = spied  # type: ignore[method-assign]
    world.run("next")
    assert ("status.driverDistrusted=true",) in asked
