"""The faults that other tests rely on must happen as told, and stop when told."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.cluster.csi.faults import Fault, Faults
from tests.csi.driver import Driver, csi

CLAIM = {"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop"}
OBJECT = {"csi.storage.k8s.io/volumesnapshot/name": "daily", "csi.storage.k8s.io/volumesnapshot/namespace": "shop"}


def status(call: object) -> str:
    try:
        call()  # type: ignore[operator]
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_a_snapshot_fails_as_often_as_told_and_then_succeeds(driver: Driver) -> None:
    volume = driver.create_volume()
    driver.faults.inject("f", operation="CreateSnapshot", code="INTERNAL", message="broken array", times=2)
    outcomes = [status(lambda: driver.snapshot(volume, "again")) for _ in range(3)]
    assert outcomes == ["INTERNAL", "INTERNAL", "OK"]
    assert driver.faults.used("f") == 2
    driver.delete(csi_id(driver, volume), volume)


def csi_id(driver: Driver, volume: str) -> str:
    (entry,) = driver.controller.ListSnapshots(csi.ListSnapshotsRequest(source_volume_id=volume)).entries
    return str(entry.snapshot.snapshot_id)


def test_a_fault_hits_only_the_disk_it_is_meant_for(driver: Driver) -> None:
    mine, other = driver.create_volume(parameters=CLAIM), driver.create_volume()
    no_space = {"operation": "CreateSnapshot", "code": "RESOURCE_EXHAUSTED"}
    driver.faults.inject("claim", **no_space, match={"claim": "shop/da*"})
    assert status(lambda: driver.snapshot(mine)) == "RESOURCE_EXHAUSTED"
    driver.faults.remove("claim")
    driver.faults.inject("object", **no_space, match={"object": "shop/daily"})
    assert status(lambda: driver.snapshot(mine, parameters=OBJECT)) == "RESOURCE_EXHAUSTED"
    driver.faults.inject("name", operation="CreateVolume", code="UNAVAILABLE", match={"name": "pvc-bad"})
    assert status(lambda: driver.create_volume("pvc-bad")) == "UNAVAILABLE"
    snapshot = driver.snapshot(other).snapshot_id
    driver.delete(snapshot, mine, other)


def test_a_snapshot_is_not_ready_for_as_long_as_told(driver: Driver) -> None:
    volume = driver.create_volume()
    driver.faults.inject("never", operation="CreateSnapshot", ready=False, match={"volume": volume})
    snapshot = driver.snapshot(volume)
    listed = driver.controller.ListSnapshots(csi.ListSnapshotsRequest(snapshot_id=snapshot.snapshot_id)).entries
    assert [snapshot.ready_to_use, listed[0].snapshot.ready_to_use] == [False, False]
    assert status(lambda: driver.create_volume(snapshot=snapshot.snapshot_id)) == "UNAVAILABLE"
    driver.faults.remove("never")
    assert driver.snapshot(volume, snapshot.snapshot_id).ready_to_use
    entries = driver.controller.ListSnapshots(csi.ListSnapshotsRequest(source_volume_id=volume)).entries
    driver.delete(*(each.snapshot.snapshot_id for each in entries), volume)


def test_an_answer_that_is_lost_after_the_cut_leads_to_the_same_snapshot(driver: Driver) -> None:
    volume = driver.create_volume()
    driver.faults.inject("lost", operation="CreateSnapshot", phase="after", code="DEADLINE_EXCEEDED")
    before = time.time()
    assert status(lambda: driver.snapshot(volume, "lost-answer")) == "DEADLINE_EXCEEDED"
    middle = time.time()
    snapshot = driver.snapshot(volume, "lost-answer")
    assert before - 0.1 < snapshot.creation_time.seconds + snapshot.creation_time.nanos / 1e9 < middle
    driver.delete(snapshot.snapshot_id, volume)


def test_a_delayed_snapshot_holds_up_neither_its_volume_nor_is_it_cut_twice(driver: Driver) -> None:
    volume = driver.create_volume()
    driver.faults.inject("slow", operation="CreateSnapshot", delay=3.0, times=1)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(driver.snapshot, volume, "slow-cut")
        while not driver.faults.used("slow"):
            time.sleep(0.01)
        start = time.monotonic()
        driver.publish(volume)
        assert time.monotonic() - start < 1.0
        assert status(lambda: driver.snapshot(volume, "slow-cut")) == "ABORTED"
        snapshot = first.result()
    assert driver.snapshot(volume, "slow-cut") == snapshot
    driver.unpublish(volume)
    driver.delete(snapshot.snapshot_id, volume)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"code": "NO_SUCH"}, "code"),
        ({"phase": "during"}, "phase"),
        ({"match": {"pvc": "a"}}, "match"),
        ({"lie": "much"}, "lie"),
    ],
)
def test_a_fault_with_a_typing_error_is_refused_where_it_is_written(tmp_path: Path, wrong: dict, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Faults(tmp_path).inject("f", operation="CreateSnapshot", **wrong)
    assert not list(tmp_path.rglob("*.json"))


def test_a_fault_of_one_operation_or_phase_does_not_hit_another() -> None:
    fault = Fault("CreateSnapshot", phase="after", match={"claim": "shop/*"})
    assert fault.fits("CreateSnapshot", "after", {"claim": "shop/data"})
    assert not fault.fits("CreateSnapshot", "before", {"claim": "shop/data"})
    assert not fault.fits("CreateVolume", "after", {"claim": "shop/data"})
    assert not fault.fits("CreateSnapshot", "after", {"name": "shop/data"})
