"""A driver that is killed must go on where it was, and one that is stopped must leave nothing in the kernel."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import grpc
import pluginregistration_pb2 as registration
import pluginregistration_pb2_grpc
import pytest

from tests.cluster.csi import loop
from tests.cluster.csi.cleanup import detach_all, devices_of
from tests.cluster.csi.pool import Volume
from tests.cluster.csi.requests import page, size_for
from tests.csi.driver import MIB, Driver, csi, mount
from tests.csi.test_snapshots import expected, numbers, writing


def test_a_killed_driver_goes_on_with_its_volumes_while_they_are_in_use(own_driver: Driver) -> None:
    driver = own_driver
    volume, files = driver.create_volume("pvc-a"), driver.create_volume("pvc-b")
    point = driver.publish(volume)
    driver.publish(files, mount())
    first = driver.snapshot(volume, "one")
    with writing(driver.path(point)):
        driver.kill()
        driver.start()
        assert driver.create_volume("pvc-a") == volume
        assert driver.snapshot(volume, "one") == first
        assert driver.publish(volume) == point
        second = driver.snapshot(volume, "two").snapshot_id
    held = numbers(driver.image(second))
    assert held == expected(max(held.values()))
    assert len(loop.over(driver.image(volume))) == 1
    for each in (volume, files):
        driver.unpublish(each)
    driver.delete(volume, files, first.snapshot_id, second)


def test_what_a_killed_create_or_delete_left_behind_is_swept_at_the_next_start(own_driver: Driver) -> None:
    driver = own_driver
    volume = driver.create_volume("pvc-a")
    half_deleted = driver.create_volume("pvc-b")
    device = loop.attach(driver.image(half_deleted))
    driver.kill()
    driver.image(half_deleted).with_suffix(".json").unlink()
    half_made = driver.image(volume).with_name("vol-c.img.tmp")
    half_made.touch()
    driver.start()
    assert not half_made.exists()
    assert not driver.image(half_deleted).exists()
    assert not loop.wait_gone([device], 1)
    assert [each.volume.volume_id for each in driver.controller.ListVolumes(csi.ListVolumesRequest()).entries] == [
        volume
    ]


def listed(driver: Driver) -> set[str]:
    return {each.volume.volume_id for each in driver.controller.ListVolumes(csi.ListVolumesRequest()).entries}


def test_loop_devices_are_found_and_detached_when_the_node_is_gone_with_its_mounts(own_driver: Driver) -> None:
    driver = own_driver
    pool = driver.folder / "pool.img"
    block, files = driver.create_volume(), driver.create_volume()
    device = driver.publish(block)
    driver.publish(files, mount())
    # The kubelet puts a loop device of its own over each block volume that a pod uses.
    driver.run("losetup", "--find", device)
    assert len(devices_of(pool)) == 4
    driver.kill()
    driver._node.kill()
    driver._node.wait()
    assert devices_of(pool), "nothing was left to clean up: this test shows nothing"
    detach_all(driver.state)
    detach_all(driver.state)
    assert not devices_of(pool)


def test_detaching_spares_the_loop_devices_of_others(own_driver: Driver, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.touch()
    os.truncate(other, MIB)
    device = loop.attach(other)
    try:
        own_driver.publish(own_driver.create_volume())
        own_driver.close()
        assert loop.over(other) == [device]
    finally:
        loop.detach(device)


def test_detaching_says_which_devices_are_still_in_use(own_driver: Driver) -> None:
    volume = own_driver.create_volume()
    own_driver.publish(volume)
    (device,) = loop.over(own_driver.image(volume))
    with device.path.open("rb"):
        own_driver.kill()
        own_driver._node.kill()
        own_driver._node.wait()
        with pytest.raises(RuntimeError, match=f"{device.path} of .*still in use"):
            detach_all(own_driver.state, timeout=0.5)


def test_the_kubelet_is_told_where_the_driver_listens(driver: Driver) -> None:
    with grpc.insecure_channel(f"unix:{driver.registration_socket}") as channel:
        stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info = stub.GetInfo(registration.InfoRequest(), timeout=5)
        stub.NotifyRegistrationStatus(registration.RegistrationStatus(plugin_registered=True), timeout=5)
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", "reflink.csi.longboat.dev", str(driver.socket))
    assert list(info.supported_versions) == ["1.0.0"]


def test_the_claim_of_a_volume_is_kept_for_whoever_debugs(driver: Driver) -> None:
    parameters = {"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop"}
    volume = driver.create_volume(parameters=parameters)
    snapshot = driver.snapshot(volume).snapshot_id
    assert driver.record(volume)["parameters"] == parameters
    assert driver.record(snapshot)["claim"] == "shop/data"
    driver.delete(snapshot, volume)


def fill(file: Path) -> None:
    """Takes all space there is, by pieces that get smaller."""
    with file.open("wb") as opened:
        for piece in (64 * MIB, MIB, 4096):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(opened.fileno(), os.fstat(opened.fileno()).st_size, piece)


def test_a_full_pool_is_called_resource_exhausted_and_shows_no_half_made_volume(own_driver: Driver) -> None:
    driver = own_driver
    made = {driver.create_volume(size=8 << 30)}
    filler = driver.path(driver.state / "pool" / "filler")
    fill(filler)
    assert driver.controller.GetCapacity(csi.GetCapacityRequest()).available_capacity < MIB
    with pytest.raises(grpc.RpcError) as error:
        while True:
            made.add(driver.create_volume("pvc-full"))
            made.add(driver.create_volume())
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    driver.kill()
    driver.start()
    assert listed(driver) == made
    filler.unlink()
    made.add(driver.create_volume("pvc-full"))
    assert listed(driver) == made
    driver.delete(*made)


def _volumes(*moments: int) -> list[Volume]:
    return [Volume(f"vol-{moment}", f"pvc-{moment}", MIB, moment) for moment in moments]


def test_pages_stay_right_when_records_come_and_go_between_them() -> None:
    shown, token = page(_volumes(1, 2, 3, 4), "", 2)
    assert [each.created for each in shown] == [1, 2]
    shown, token = page(_volumes(3, 4, 5), token, 2)
    assert [each.created for each in shown] == [3, 4]
    shown, token = page(_volumes(5), token, 2)
    assert ([each.created for each in shown], token) == ([5], "")


@pytest.mark.parametrize(
    ("required", "limit", "least", "size"),
    [(0, 0, MIB, 1 << 30), (1, 0, MIB, MIB), (MIB + 1, 0, MIB, 2 * MIB), (MIB + 512, MIB + 512, MIB, MIB + 512)],
)
def test_a_volume_is_at_least_as_large_as_required_and_within_its_limit(
    required: int, limit: int, least: int, size: int
) -> None:
    assert size_for(csi.CapacityRange(required_bytes=required, limit_bytes=limit), least) == size


def test_the_driver_starts_without_go_once_the_stubs_are_cached(own_driver: Driver) -> None:
    path = os.environ["PATH"]
    own_driver.kill()
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        assert subprocess.run(["sh", "-c", "command -v go"], capture_output=True, check=False).returncode
        own_driver.start()
    finally:
        os.environ["PATH"] = path
