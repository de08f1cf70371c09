"""Volumes must be where the kubelet asks for them, as large and as writable as asked, and leave nothing behind."""

import errno
import os
import time
from pathlib import Path

import grpc
import pytest

from tests.cluster.csi import loop
from tests.csi.driver import MIB, Driver, block, csi, mount


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    return error.value.code()


def size_of(device: Path) -> int:
    fd = os.open(device, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def expand(driver: Driver, volume: str, size: int, point: Path) -> None:
    request = csi.ControllerExpandVolumeRequest(volume_id=volume)
    request.capacity_range.required_bytes = size
    answer = driver.controller.ControllerExpandVolume(request)
    assert (answer.capacity_bytes, answer.node_expansion_required) == (size, True)
    driver.node.NodeExpandVolume(csi.NodeExpandVolumeRequest(volume_id=volume, volume_path=str(point)))


def test_more_volumes_than_the_eight_loop_devices_of_a_fresh_kernel_can_be_used_at_once(driver: Driver) -> None:
    volumes = [driver.create_volume(size=8 * MIB) for _ in range(12)]
    for number, volume in enumerate(volumes):
        driver.path(driver.publish(volume)).write_bytes(bytes([number]) * MIB)
    for number, volume in enumerate(volumes):
        assert len(loop.over(driver.image(volume))) == 1
        driver.unpublish(volume)
        assert driver.image(volume).read_bytes()[:MIB] == bytes([number]) * MIB
        assert not loop.over(driver.image(volume))
    driver.delete(*volumes)


def test_a_device_node_that_this_dev_folder_lacks_is_made(driver: Driver) -> None:
    volume = driver.create_volume()
    # A tmpfs over /dev, as containers have it, knows no loop device.
    driver.run("sh", "-c", "mount -t tmpfs none /dev && mknod /dev/loop-control c 10 237 && mknod /dev/null c 1 3")
    try:
        assert size_of(driver.path(driver.publish(volume))) == 64 * MIB
        driver.unpublish(volume)
    finally:
        driver.run("umount", "/dev")
    driver.delete(volume)


def test_loop_devices_use_direct_io_or_snapshots_would_depend_on_the_page_cache(driver: Driver) -> None:
    volume = driver.create_volume()
    driver.publish(volume)
    (device,) = loop.over(driver.image(volume))
    assert (loop.SYS / device.path.name / "loop" / "dio").read_text().strip() == "1"
    driver.unpublish(volume)
    driver.delete(volume)


def test_a_block_volume_published_read_only_cannot_be_written(driver: Driver) -> None:
    volume = driver.create_volume()
    writable = driver.path(driver.publish(volume, target="writable"))
    device = driver.path(driver.publish(volume, readonly=True, target="read-only"))
    with writable.open("r+b", buffering=0) as file:
        file.write(b"z" * 4096)
        os.fsync(file.fileno())
    assert device.read_bytes()[:4096] == b"z" * 4096
    with device.open("r+b", buffering=0) as file, pytest.raises(OSError, match=os.strerror(errno.EPERM)):
        file.write(b"a" * 4096)
    driver.unpublish(volume, target="read-only", unstage=False)
    assert [each.read_only for each in loop.over(driver.image(volume))] == [False]
    driver.unpublish(volume, target="writable")
    driver.delete(volume)


def test_a_file_system_published_read_only_cannot_be_written_also_by_a_reader_of_a_clone(driver: Driver) -> None:
    volume = driver.create_volume()
    (driver.path(driver.publish(volume, mount())) / "file").write_text("text")
    snapshot = driver.snapshot(volume).snapshot_id
    clone = driver.create_volume(snapshot=snapshot)
    point = driver.path(driver.publish(clone, mount(mode="MULTI_NODE_READER_ONLY")))
    assert (point / "file").read_text() == "text"
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (point / "other").touch()
    for each in (clone, volume):
        driver.unpublish(each)
    driver.delete(snapshot, clone, volume)


def size_of_file_system(driver: Driver, point: Path) -> int:
    status = os.statvfs(driver.path(point))
    return status.f_blocks * status.f_frsize


def test_xfs_grows_while_it_is_mounted(driver: Driver) -> None:
    volume = driver.create_volume(size=320 * MIB)
    point = driver.publish(volume, mount("xfs"))
    expand(driver, volume, 640 * MIB, point)
    assert size_of_file_system(driver, point) > 500 * MIB
    driver.unpublish(volume)
    driver.delete(volume)


def test_ext4_grows_while_it_is_mounted_or_says_that_it_will_at_the_next_mount(driver: Driver) -> None:
    volume = driver.create_volume()
    point = driver.publish(volume, mount("ext4"))
    (driver.path(point) / "file").write_text("text")
    try:
        expand(driver, volume, 640 * MIB, point)
    except grpc.RpcError as error:
        # The machine withholds CAP_SYS_RESOURCE. The kubelet takes this code as: later, when no pod uses the volume.
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
        driver.unpublish(volume)
        point = driver.publish(volume, mount("ext4"))
        expand(driver, volume, 640 * MIB, point)
    assert size_of_file_system(driver, point) > 500 * MIB
    assert (driver.path(point) / "file").read_text() == "text"
    driver.unpublish(volume)
    driver.delete(volume)


def test_a_block_volume_grows_while_it_is_open_and_never_shrinks(driver: Driver) -> None:
    volume = driver.create_volume()
    point = driver.publish(volume)
    with driver.path(point).open("rb"):
        expand(driver, volume, 128 * MIB, point)
        assert size_of(driver.path(point)) == 128 * MIB
    request = csi.ControllerExpandVolumeRequest(volume_id=volume)
    request.capacity_range.required_bytes = 32 * MIB
    assert driver.controller.ControllerExpandVolume(request).capacity_bytes == 128 * MIB
    driver.unpublish(volume)
    driver.delete(volume)


def test_a_clone_may_be_larger_than_its_snapshot_but_not_smaller(driver: Driver) -> None:
    volume = driver.create_volume()
    (driver.path(driver.publish(volume, mount())) / "file").write_text("text")
    snapshot = driver.snapshot(volume).snapshot_id
    clone = driver.create_volume(size=256 * MIB, snapshot=snapshot)
    point = driver.path(driver.publish(clone, mount()))
    assert (point / "file").read_text() == "text"
    assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize > 200 * MIB
    with pytest.raises(grpc.RpcError) as error:
        driver.create_volume(snapshot=snapshot, size=MIB, capacity_range={"limit_bytes": MIB})
    assert code_of(error) == grpc.StatusCode.OUT_OF_RANGE
    for each in (clone, volume):
        driver.unpublish(each)
    driver.delete(snapshot, clone, volume)


@pytest.mark.parametrize("capability", [block(), mount()], ids=["block", "mount"])
def test_a_volume_in_use_is_not_deleted_and_one_left_attached_is_detached(driver: Driver, capability: object) -> None:
    volume = driver.create_volume()
    driver.publish(volume, capability)
    with pytest.raises(grpc.RpcError) as error:
        driver.delete(volume)
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
    assert driver.image(volume).exists()
    driver.unpublish(volume)
    device = loop.attach(driver.image(volume))
    driver.delete(volume)
    assert not loop.wait_gone([device], 1)


def test_a_foreign_file_system_is_never_formatted_over(driver: Driver) -> None:
    volume = driver.create_volume(size=320 * MIB)
    driver.publish(volume, mount("xfs"))
    driver.unpublish(volume)
    with pytest.raises(grpc.RpcError) as error:
        driver.publish(volume, mount("ext4"))
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
    driver.unpublish(volume)
    driver.delete(volume)


def test_freed_blocks_are_given_back_down_to_the_pool_file(driver: Driver) -> None:
    pool = driver.folder / "pool.img"
    volume = driver.create_volume()
    with driver.image(volume).open("r+b") as file:
        file.write(os.urandom(48 * MIB))
        os.fsync(file.fileno())
    full = pool.stat().st_blocks
    driver.delete(volume)
    deadline = time.monotonic() + 10
    while (full - pool.stat().st_blocks) * 512 < 40 * MIB:
        assert time.monotonic() < deadline, f"{full} blocks before, {pool.stat().st_blocks} after"
        # XFS frees the blocks of a deleted file in the background, and discards them when its log is next written.
        driver.run("sync", "-f", driver.state / "pool")
        time.sleep(0.05)
