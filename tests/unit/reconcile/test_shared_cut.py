"""Policies whose runs fall into one slot: disks are frozen, captured, read and stored once, and each has its backup."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.api.common import format_time
from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP, JOB, VOLUME_SNAPSHOT
from longboat.kube.port import Object
from longboat.mover.errors import MoverError
from longboat.plan.policy_figures import usage
from longboat.plan.retention import has_data
from longboat.plan.shared_cut import CUT_PATIENCE, PATIENCE
from longboat.reconcile import disk_backup
from longboat.repository import find_backup, list_disk_manifests, read_disk_manifest, sweep_tombstones, write_tombstone
from tests.fakes.cluster import Killed
from tests.unit.reconcile.backup_world import DISKS, SHOP, BackupWorld, Grenade, disk, until
from tests.unit.reconcile.slot_world import ONE, WHOLE, Slot


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written here need not survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def world(tmp_path: Path) -> Slot:
    return Slot(folder=tmp_path)


class Cuts:
    """Counts the VolumeSnapshots that are made in the tenant's namespace."""

    def __init__(self, world: BackupWorld) -> None:
        self.names: list[str] = []
        world.cluster.hooks.append(self._note)

    def _note(self, verb: str, obj: Object) -> None:
        if verb == "create" and obj["kind"] == "VolumeSnapshot" and obj["metadata"]["namespace"] == SHOP:
            self.names.append(obj["metadata"]["name"])


@pytest.mark.parametrize("order", [("w", "d"), ("d", "w")])
def test_disks_of_both_are_captured_and_exported_once(world: Slot, order: tuple[str, str]) -> None:
    cuts = Cuts(world)
    world.add_both()
    world.drive(*order)
    assert [world.status(name).phase for name in order] == ["Completed", "Completed"]
    assert sorted(world.exports) == sorted(DISKS.values())
    assert len(cuts.names) == 3 and world.freezes() == 1
    assert world.leftovers() == []
    shared = world.status("d").shared_cut
    assert shared is not None and (shared.name, shared.given_up) == ("w", None)
    assert world.status("w").shared_cut is None
    assert "shares the cut and the export of DiskBackup 'w'" in world.condition(name="d").message


def test_each_has_manifests_and_an_expiry_of_its_own(world: Slot) -> None:
    world.add_both()
    world.drive("w", "d")
    repository = world.repository()
    weekly, daily = find_backup(repository, "w"), find_backup(repository, "d")
    assert weekly is not None and daily is not None
    assert [each.disk for each in daily.disks] == ["data"] and len(weekly.disks) == 3
    its = next(each for each in weekly.disks if each.disk == "data")
    assert daily.disks[0].disk_key == its.disk_key and daily.disks[0].manifest != its.manifest
    assert (daily.expiry, weekly.expiry) == (
        {"retention": {"keepFor": "30d", "keepNewest": True}, "hold": False},
        {"retention": {"keepFor": "90d", "keepNewest": True}, "hold": False},
    )
    assert daily.created == weekly.created
    assert world.status("d").expires_at != world.status("w").expires_at
    assert disk(world, "data", "d").manifest == daily.disks[0].manifest


def test_what_is_stored_once_is_counted_once(world: Slot) -> None:
    world.add_both()
    world.drive("w", "d")
    assert (world.status("d").stored_bytes, world.status("d").read_bytes) == (0, 0)
    assert (world.status("w").stored_bytes or 0) > 0
    assert [each.stored_bytes for each in usage([world.backup("d")])] == [0]
    daily = find_backup(world.repository(), "d")
    assert daily is not None and daily.disks[0].stored_bytes == 0
    assert world.status("d").logical_bytes == disk(world, "data", "w").logical_bytes


@pytest.mark.parametrize("gone", ["w", "d"])
def test_either_is_whole_when_the_other_is_removed_for_good(world: Slot, gone: str) -> None:
    world.add_both()
    world.drive("w", "d")
    repository = world.repository()
    now = datetime.now(UTC)  # The folder's stamps are those of the real clock.
    write_tombstone(repository, gone, now, "test")
    sweep_tombstones(repository, now + timedelta(days=400), timedelta(days=7))
    left = find_backup(repository, {"w": "d", "d": "w"}[gone])
    assert left is not None and find_backup(repository, gone) is None
    for each in left.disks:
        assert read_disk_manifest(repository, each.manifest, each.object_id).object_id == each.object_id


def test_what_is_said_of_the_moment_is_that_of_the_shared_cut(world: Slot) -> None:
    world.add_both()
    world.drive("w", "d")
    weekly, daily = world.status("w"), world.status("d")
    assert (daily.consistency, daily.same_moment) == ("Application", True)
    assert daily.cut == weekly.cut and daily.started_at is not None
    assert disk(world, "data", "d").cut_time == disk(world, "data", "w").cut_time


def test_nothing_is_claimed_that_the_shared_cut_does_not_prove(world: Slot) -> None:
    world.set_agent(False)
    world.add_both(daily=WHOLE)
    world.drive("w", "d")
    assert world.status("w").shared_cut is not None, "of equals the one whose name comes first leads"
    for name in ("w", "d"):
        assert (world.status(name).consistency, world.status(name).same_moment) == ("Crash", False)


def test_a_run_of_one_disk_says_of_its_disk_alone_that_it_has_one_moment(world: Slot) -> None:
    world.set_agent(False)
    world.add_both()
    world.drive("w", "d")
    assert (world.status("w").same_moment, world.status("d").same_moment) == (False, True)
    assert world.status("d").same_moment_reason == "there is just one disk"


def test_a_larger_run_that_is_not_made_yet_is_waited_for(world: Slot) -> None:
    """The policies of a slot are looked at one after the other."""
    world.slot = format_time(world.clock().replace(microsecond=0))
    world.add_policy("weekly", WHOLE)
    world.add_policy("daily", ONE)
    _due(world, "weekly")
    world.add_run("d", "daily")
    for _ in range(3):
        world.reconcile("d")
    assert world.status("d").cut is None
    world.add_run("w", "weekly")
    world.drive("d", "w")
    assert sorted(world.exports) == sorted(DISKS.values())


def test_a_larger_run_that_never_comes_holds_up_nobody_for_long(world: Slot) -> None:
    world.slot = format_time(world.clock().replace(microsecond=0))
    world.add_policy("weekly", WHOLE)
    world.add_policy("daily", ONE)
    _due(world, "weekly")
    world.add_run("d", "daily")
    begun = world.clock()
    until(world, lambda status: status.cut is not None, "d")
    assert world.clock() - begun <= PATIENCE + timedelta(seconds=10)
    world.drive("d")
    assert world.status("d").phase == "Completed" and world.status("d").shared_cut is None


def _due(world: Slot, policy: str) -> None:
    operation = {"op": "add", "path": "/status", "value": {"nextSlot": world.slot}}
    world.cluster.patch(BACKUP_POLICY, policy, [operation], SHOP)


@pytest.mark.parametrize("slot", ["another", "none"])
def test_runs_of_other_slots_and_ad_hoc_ones_share_nothing(world: Slot, slot: str) -> None:
    world.slot = format_time(world.clock().replace(microsecond=0))
    world.add_policy("weekly", WHOLE)
    world.add_policy("daily", ONE)
    world.add_run("w", "weekly")
    later = {"slot": format_time(world.clock().replace(microsecond=0) - timedelta(minutes=10))}
    world.add_backup("d", "daily", **(later if slot == "another" else {}))
    world.drive("w", "d")
    assert world.exports.count("db-data") == 2
    assert world.status("d").shared_cut is None


def test_runs_into_another_store_share_nothing(world: Slot) -> None:
    world.add_store("elsewhere")
    world.add_both(storeRef={"name": "elsewhere"})
    world.drive("w", "d")
    assert world.exports.count("db-data") == 2
    assert world.status("d").shared_cut is None


def test_a_run_with_a_disk_that_the_other_one_lacks_captures_its_own(world: Slot) -> None:
    world.storage.add_claim(SHOP, "extra", "content of extra", size="4Mi")
    world.add_both(weekly=ONE, daily={"disk": {"persistentVolumeClaim": "extra"}})
    world.drive("w", "d")
    assert sorted(world.exports) == ["db-data", "extra"]
    assert world.status("d").shared_cut is None


def test_a_disk_that_fails_in_the_other_run_is_captured_anew(world: Slot) -> None:
    world.job_failures = [_HopelessError("broken")] * 3
    world.add_both()
    world.drive("w", "d")
    assert world.status("w").phase == "Failed"
    status = world.status("d")
    assert status.phase == "Completed"
    assert status.shared_cut is not None and "does not have disk 'data'" in (status.shared_cut.given_up or "")
    assert "shares" not in world.condition(name="d").message
    assert (status.stored_bytes or 0) > 0 and world.freezes() == 2
    assert status.cut is not None and status.cut != world.status("w").cut
    assert world.leftovers() == []


class _HopelessError(MoverError):
    reason = "SourceUnreadable"


def test_the_other_run_is_deleted_while_it_is_waited_for(world: Slot) -> None:
    world.add_both()
    until(world, lambda status: status.cut is not None, "w")
    until(world, lambda status: status.shared_cut is not None, "d")
    while not disk_backup.abandon(world.context(), world.backup("w")):
        world.storage.settle()
    world.cluster.delete(DISK_BACKUP, "w", SHOP)
    world.drive("d")
    status = world.status("d")
    assert status.phase == "Completed" and status.shared_cut is not None and status.shared_cut.given_up
    assert world.exports == ["db-data"]
    assert world.leftovers() == []


def test_another_run_of_the_same_name_is_not_the_one_that_was_followed(world: Slot) -> None:
    world.add_both()
    world.reconcile("w")
    until(world, lambda status: status.shared_cut is not None, "d")
    world.cluster.delete(DISK_BACKUP, "w", SHOP)
    world.add_run("w", "weekly")
    world.reconcile("d")
    shared = world.status("d").shared_cut
    assert shared is not None and shared.given_up == "DiskBackup 'w' is gone"


def test_the_other_run_is_gone_once_its_disks_are_exported(world: Slot) -> None:
    """What was taken over rests on the store alone; its data is still in the trash, or its packs are condemned."""
    world.add_both()
    _stop_when_taken_over(world)
    write_tombstone(world.repository(), "w", world.clock(), "test")
    world.cluster.delete(DISK_BACKUP, "w", SHOP)
    world.drive("d")
    status = world.status("d")
    assert status.phase == "Completed" and world.exports.count("db-data") == 1
    assert status.shared_cut is not None and status.shared_cut.given_up is None


def test_what_was_taken_over_is_removed_from_the_store_before_it_has_a_second_manifest(world: Slot) -> None:
    world.add_both()
    _stop_when_taken_over(world)
    for manifest in list_disk_manifests(world.repository(), _key(world)):
        world.repository().store.delete(manifest.name)
    world.drive("d")
    status = world.status("d")
    assert status.phase == "Completed" and world.exports.count("db-data") == 2
    assert status.shared_cut is not None and status.shared_cut.given_up
    assert status.cut is not None and status.cut != world.status("w").cut


def _key(world: Slot) -> str:
    backup = find_backup(world.repository(), "w")
    assert backup is not None
    return next(each.disk_key for each in backup.disks if each.disk == "data")


def _stop_when_taken_over(world: Slot) -> None:
    """Let the weekly run end, and kill the operator right after the daily one has noted what it takes over."""
    world.drive("w")
    for _ in range(20):
        with contextlib.suppress(Killed):
            world.reconcile("d", bomb=Grenade(2))
        shared = world.status("d").shared_cut
        if shared is not None and shared.taken_over:
            assert disk(world, "data", "d").manifest is None
            return
    raise AssertionError("nothing was taken over")


def test_a_run_that_may_have_stored_something_is_known_to_have_data(world: Slot) -> None:
    """Else its deletion would leave no mark, and what it stored would stay for ever."""
    world.add_both()
    world.reconcile("w")
    until(world, lambda status: status.shared_cut is not None, "d")
    assert not has_data(world.backup("d"))
    _stop_when_taken_over(world)
    assert has_data(world.backup("d"))


def test_a_run_that_waits_for_another_one_says_so_and_how_far_that_is(world: Slot) -> None:
    world.add_both()
    until(world, lambda status: status.cut is not None, "w")
    until(world, lambda status: status.disks is not None and status.disks[0].message is not None, "d")
    assert "waiting for DiskBackup 'w'" in world.condition(name="d").message
    assert world.condition("Stalled", "d") is None
    assert world.cluster.list(VOLUME_SNAPSHOT, SHOP) and not list(world.cluster.list(JOB, SHOP))


def test_a_late_run_takes_what_the_punctual_one_has_captured_for_the_slot(world: Slot) -> None:
    world.add_both()
    world.drive("w")
    world.clock.advance(minutes=40)
    world.drive("d")
    assert world.exports.count("db-data") == 1
    assert world.status("d").cut == world.status("w").cut


def test_a_run_that_was_taken_over_from_the_store_is_not_followed(world: Slot) -> None:
    world.add_both()
    world.drive("w")
    operation = {"op": "add", "path": "/status/adopted", "value": True}
    world.cluster.patch(DISK_BACKUP, "w", [operation], SHOP)
    world.drive("d")
    assert world.exports.count("db-data") == 2


def test_three_policies_of_one_slot_share_one_cut(world: Slot) -> None:
    world.add_both()
    world.add_policy("monthly", WHOLE, retention={"keepFor": "52w"})
    world.add_run("m", "monthly")
    world.drive("d", "w", "m")
    assert sorted(world.exports) == sorted(DISKS.values())
    assert [world.status(name).phase for name in "dwm"] == ["Completed"] * 3
    assert {shared.name for name in "dw" if (shared := world.status(name).shared_cut)} == {"m"}


def _follow(world: Slot, name: str, other: str) -> None:
    """Note that a run follows another one, as it decided by what it had seen a moment before."""
    note = {"name": other, "uid": world.backup(other).uid, "since": format_time(world.clock())}
    world.cluster.patch(DISK_BACKUP, name, [{"op": "add", "path": "/status/sharedCut", "value": note}], SHOP)


@pytest.mark.parametrize("members", ["wd", "wdm"])
def test_runs_that_came_to_follow_each_other_do_not_wait_for_ever(world: Slot, members: str) -> None:
    world.add_both(weekly=ONE)
    world.add_policy("monthly", ONE)
    world.add_run("m", "monthly")
    for name in members:
        world.cluster.patch(DISK_BACKUP, name, [_begun(world, name)], SHOP)
    for name, other in zip(members, members[1:] + members[0], strict=True):
        _follow(world, name, other)
    world.drive(*members)
    assert [world.status(name).phase for name in members] == ["Completed"] * len(members)
    assert world.exports == ["db-data"]
    own = [name for name in members if (shared := world.status(name).shared_cut) and shared.given_up]
    assert own == [max(members, key=lambda name: world.backup(name).uid)]


def _begun(world: Slot, name: str) -> Object:
    """Return the change of a status by which a run has said which disks it has."""
    twin = world.add_run(f"{name}-twin", "daily")["metadata"]["name"]
    until(world, lambda status: status.disks is not None, twin)
    status = world.get(DISK_BACKUP, twin)["status"]
    world.cluster.delete(DISK_BACKUP, twin, SHOP)
    status.pop("sharedCut", None)
    status.pop("cut", None)
    return {"op": "add", "path": "/status", "value": status}


def test_who_captures_nothing_is_not_followed_for_ever(world: Slot) -> None:
    """Disks that are not wanted may hold it up, or it is never looked at."""
    world.add_both()
    while world.status("w").disks is None:
        with contextlib.suppress(Killed):
            world.reconcile("w", bomb=Grenade(2))
    assert world.status("w").cut is None
    until(world, lambda status: status.shared_cut is not None, "d")
    shared = world.status("d").shared_cut
    assert shared is not None and shared.since is not None
    begun = shared.since
    until(world, lambda status: bool(status.disks and status.disks[0].message), "d")
    told = f"waiting for DiskBackup 'w' since {format_time(begun.replace(microsecond=0))}"
    assert told in world.condition(name="d").message
    world.clock.advance(seconds=(CUT_PATIENCE - timedelta(minutes=1)).total_seconds())
    world.reconcile("d")
    shared = world.status("d").shared_cut
    assert shared is not None and shared.given_up is None
    world.drive("d")
    assert world.status("d").phase == "Completed" and world.exports == ["db-data"]
    assert world.clock() - begun < CUT_PATIENCE + timedelta(minutes=5)
    shared = world.status("d").shared_cut
    assert shared is not None and "captured nothing within 30 minutes" in (shared.given_up or "")


def test_who_has_captured_the_disks_is_waited_for_however_long_its_export_takes(world: Slot) -> None:
    world.add_both()
    until(world, lambda status: status.cut is not None and status.cut.ended_at is not None, "w")
    until(world, lambda status: status.shared_cut is not None, "d")
    world.clock.advance(seconds=4 * CUT_PATIENCE.total_seconds())
    world.reconcile("d")
    shared = world.status("d").shared_cut
    assert shared is not None and shared.given_up is None


def test_who_waits_to_learn_what_the_others_have_asks_ever_less_often(world: Slot) -> None:
    world.slot = format_time(world.clock().replace(microsecond=0))
    world.add_policy("weekly", WHOLE)
    world.add_policy("daily", ONE)
    _due(world, "weekly")
    world.add_run("d", "daily")
    until(world, lambda status: status.disks is not None, "d")
    begun, looks = world.clock(), 0
    while world.status("d").cut is None:
        delay = world.reconcile("d")
        assert delay is not None
        looks += 1
        world.clock.advance(seconds=delay.total_seconds())
    assert looks <= 14 and world.clock() - begun <= PATIENCE + timedelta(seconds=10)
