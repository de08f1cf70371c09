"""A volume changes hands only when no pod of a mover can touch it any more."""

from __future__ import annotations

import pytest

from longboat.kube.kinds import POD, RESTORE
from longboat.kube.port import Object
from tests.unit.reconcile.disk_world import SYSTEM, World
from tests.unit.reconcile.restore_world import assert_restored, message, run, shop, status, wish


def straggler(world: World, phase: str) -> Object:
    """A pod of an earlier Job of the Restore, which nobody stopped in time."""
    labels = {"longboat.dev/owner-uid": world.get(RESTORE, "r")["metadata"]["uid"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "early", "namespace": SYSTEM, "labels": labels}}
    return world.cluster.create(pod | {"status": {"phase": phase}})


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_volume_waits_for_the_pod_of_an_earlier_mover(phase: str) -> None:
    world = shop()
    world.add_restore("r", wish())
    straggler(world, phase)
    run(world)
    assert status(world)["phase"] == "Binding" and "'early'" in message(world)
    world.cluster.delete(POD, "early", SYSTEM)
    run(world)
    assert_restored(world)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_not_waited_for(phase: str) -> None:
    world = shop()
    world.add_restore("r", wish())
    straggler(world, phase)
    run(world)
    assert_restored(world)
