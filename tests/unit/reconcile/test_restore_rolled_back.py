"""A Restore whose status says less than has happened: its object came from an old backup, or somebody changed it."""

from __future__ import annotations

import contextlib
import copy
import itertools
from typing import Any

import pytest

from longboat.kube.kinds import JOB, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, RESTORE, VIRTUAL_MACHINE
from longboat.kube.port import Object
from longboat.reconcile import restore_cleanup
from longboat.reconcile.restore import reconcile
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.disk_world import SHOP, SYSTEM, World
from tests.unit.reconcile.restore_world import (
    OLD,
    disks_of,
    fill_only,
    leftovers,
    message,
    run,
    shop,
    snapshot,
    status,
    wish,
)

USERS = "what the user has written since"


def statuses(spec: dict[str, Any], *, running: bool = True) -> tuple[World, list[Object]]:
    """Return a world with a finished restore, and every status that it had before, the first one empty."""
    world = shop(running=running)
    if "diskSnapshot" in spec["source"]:
        snapshot(world)
    seen: list[Object] = [{}]

    def note(verb: str, obj: Object) -> None:
        if obj["kind"] == "Restore" and (found := obj.get("status") or {}) != seen[-1]:
            seen.append(copy.deepcopy(found))

    world.cluster.hooks.append(note)
    world.add_restore("r", spec)
    run(world)
    assert status(world)["phase"] == "Completed"
    return world, [each for each in seen if each.get("phase") != "Completed"]


def roll_back(world: World, to: Object) -> None:
    found = world.get(RESTORE, "r")
    world.cluster.update_status(found | {"status": to})


def jobs(world: World) -> int:
    return len(world.storage.run_job.jobs)  # type: ignore[union-attr]


WAYS = {"running": (True, True), "stopped": (True, False), "without a machine": (False, True)}


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_is_in_use_is_neither_filled_nor_attached_again(way: str) -> None:
    """From every status that it had before the last one, beginning with none."""
    attach, running = WAYS[way]
    world, before = statuses(wish(attach=attach), running=running)
    world.storage.data[world.storage.volume_handle(SHOP, "db-restored")] = USERS
    volume = world.storage.claim(SHOP, "db-restored")["spec"]["volumeName"]
    as_it_was = {key: copy.deepcopy(each) for key, each in world.cluster.objects.items() if key[0] != RESTORE}
    ran, calls, ends = jobs(world), list(world.machines.calls), []
    for each in before:
        roll_back(world, each)
        run(world)
        ends.append(status(world)["phase"])
        assert world.storage.content(SHOP, "db-restored") == USERS
        assert (jobs(world), world.machines.calls) == (ran, calls) and leftovers(world) == []
        assert world.get(PERSISTENT_VOLUME, volume, "") == as_it_was[PERSISTENT_VOLUME, "", volume]
        assert {key: obj for key, obj in world.cluster.objects.items() if key[0] != RESTORE} == as_it_was
    assert set(ends) == {"Failed", "Completed"} and ends == sorted(ends, reverse=True)


def test_what_is_said_of_a_claim_that_has_its_volume_already_is_so() -> None:
    world, before = statuses(wish())
    roll_back(world, next(each for each in before if each.get("phase") == "Restoring"))
    run(world)
    assert "this status is older" in message(world) and "left as it is" in message(world)


@pytest.mark.parametrize("earlier", range(4))
def test_a_volume_on_its_way_to_the_user_is_not_filled_again(earlier: int) -> None:
    """The operator is killed after each write from the filled volume on, and the status is from before that."""
    for nth in itertools.count(1):
        world, before = shop(), []
        world.cluster.hooks.append(lambda verb, obj, seen=before: note(seen, obj))  # type: ignore[misc]
        world.add_restore("r", wish())
        bomb = KillAt(nth, before=bool(earlier % 2))
        with contextlib.suppress(Killed):
            run(world, bomb=bomb)
        if earlier % 2:
            world.storage.settle()
        if status(world).get("phase") == "Completed":
            break
        if "filledAt" not in status(world):
            continue
        unfilled = [each for each in before if "filledAt" not in each]
        claim = world.storage.claim(SHOP, "db-restored")
        theirs = [each for each in world.cluster.list(PERSISTENT_VOLUME) if is_of(each, claim)]
        for volume in theirs:
            world.storage.data[volume["spec"]["csi"]["volumeHandle"]] = USERS
        ran = jobs(world)
        roll_back(world, [{}, *unfilled][earlier * len(unfilled) // 3])
        # The controllers may be slow to see that the volume has left the claim through which it was filled.
        reconcile(world.context(), SHOP, "r")
        assert not (theirs and list(world.cluster.list(JOB, SYSTEM))), (nth, status(world))
        run(world)
        if theirs:
            assert world.storage.content(SHOP, "db-restored") == USERS and jobs(world) == ran, (nth, status(world))
        else:
            # Nobody has had it yet: it may be filled once more.
            assert world.storage.content(SHOP, "db-restored") in (None, OLD), (nth, status(world))
        assert status(world)["phase"] in ("Completed", "Failed"), (nth, status(world))


def is_of(volume: Object, claim: Object) -> bool:
    return bool((volume["spec"].get("claimRef") or {}).get("uid") == claim["metadata"]["uid"])


def note(seen: list[Object], obj: Object) -> None:
    if obj["kind"] == "Restore" and (found := obj.get("status") or {}):
        seen.append(copy.deepcopy(found))


def test_a_disk_that_was_moved_to_another_machine_is_not_attached_to_both() -> None:
    world, before = statuses(wish(), running=False)
    world.add_vm("other", {"moved": "db-restored"}, running=False)
    spec = world.get(VIRTUAL_MACHINE, "db")["spec"]["template"]["spec"]
    spec["volumes"], spec["domain"]["devices"]["disks"] = spec["volumes"][:1], spec["domain"]["devices"]["disks"][:1]
    operation = {"op": "replace", "path": "/spec/template/spec", "value": spec}
    world.cluster.patch(VIRTUAL_MACHINE, "db", [operation], SHOP)
    roll_back(world, before[-1])
    run(world)
    assert "'other'" in message(world) and [name for name, _ in disks_of(world)] == ["data"]


def test_a_disk_from_a_snapshot_is_not_attached_again() -> None:
    world, before = statuses(wish(snapshot="before"))
    world.storage.data[world.storage.volume_handle(SHOP, "db-restored")] = USERS
    calls, disks = list(world.machines.calls), disks_of(world)
    for each in before:
        roll_back(world, each)
        run(world)
        assert world.storage.content(SHOP, "db-restored") == USERS
        assert (world.machines.calls, disks_of(world)) == (calls, disks)
        assert status(world)["phase"] in ("Completed", "Failed")


@pytest.mark.parametrize("deleted", [False, True])
def test_the_way_out_of_an_etcd_that_was_put_back_leaves_the_volume_alone(deleted: bool) -> None:
    """All objects are those of while it was being filled, but the storage is that of today: see two-clusters.md."""
    world = shop()
    world.add_restore("r", wish(attach=False))
    fill_only(world)
    while not world.storage.run_job.jobs:  # type: ignore[union-attr]
        run(world, rounds=1)
    copied = copy.deepcopy(world.cluster.objects)
    run(world)
    handle = world.storage.volume_handle(SHOP, "db-restored")
    world.storage.data[handle] = USERS
    world.cluster.objects = copied
    for job in list(world.cluster.list(JOB, SYSTEM, {"longboat.dev/role": "restore"})):
        world.cluster.delete(JOB, job["metadata"]["name"], SYSTEM)
    for claim in list(world.cluster.list(PERSISTENT_VOLUME_CLAIM, SYSTEM, {"longboat.dev/owner-kind": "Restore"})):
        gone = [f"/metadata/labels/{key.replace('/', '~1')}" for key in LABELS_OFF]
        operations = [{"op": "remove", "path": path} for path in gone]
        world.cluster.patch(PERSISTENT_VOLUME_CLAIM, claim["metadata"]["name"], operations, SYSTEM)
    ran = jobs(world)
    if deleted:
        uid = world.get(RESTORE, "r")["metadata"]["uid"]
        world.cluster.delete(RESTORE, "r", SHOP)
        restore_cleanup.abandon(world.context(), SHOP, uid)
    run(world)
    restore_cleanup.sweep(world.context())
    world.storage.settle()
    assert world.storage.data.get(handle) == USERS and jobs(world) == ran
    assert deleted or "is not ours" in message(world)


LABELS_OFF = ("longboat.dev/owner-kind", "longboat.dev/owner-uid")
