"""The Node service: loop devices, file systems and bind mounts on this machine."""
# ruff: noqa: N802  (the method names are those of the CSI specification)

import os
from pathlib import Path
from typing import Any

import csi_pb2 as csi
import csi_pb2_grpc
import grpc

from tests.cluster.csi import loop, mounts
from tests.cluster.csi.errors import CsiError, Locks, not_found
from tests.cluster.csi.faults import Injector
from tests.cluster.csi.identity import require
from tests.cluster.csi.pool import Pool, Volume
from tests.cluster.csi.requests import check_capability, file_system, reads_only

_Rpc = csi.NodeServiceCapability.RPC
CAPABILITIES = (_Rpc.STAGE_UNSTAGE_VOLUME, _Rpc.EXPAND_VOLUME, _Rpc.GET_VOLUME_STATS)


class Node(csi_pb2_grpc.NodeServicer):  # type: ignore[misc]
    def __init__(self, pool: Pool, faults: Injector, locks: Locks, node_id: str) -> None:
        self._pool, self._faults, self._locks, self._node_id = pool, faults, locks, node_id

    def NodeGetCapabilities(self, request: Any, context: grpc.ServicerContext) -> Any:
        capabilities = [csi.NodeServiceCapability(rpc=_Rpc(type=each)) for each in CAPABILITIES]
        return csi.NodeGetCapabilitiesResponse(capabilities=capabilities)

    def NodeGetInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return csi.NodeGetInfoResponse(node_id=self._node_id)

    def NodeStageVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "staging_target_path", "volume_capability")
        check_capability(request.volume_capability)
        with self._locks.hold(request.volume_id):
            volume = self._begin("NodeStageVolume", request)
            if request.volume_capability.HasField("mount"):
                self._stage(volume, Path(request.staging_target_path), request.volume_capability)
            else:
                loop.attach(self._image(volume), reads_only(request.volume_capability))
        return csi.NodeStageVolumeResponse()

    def _stage(self, volume: Volume, point: Path, capability: Any) -> None:
        """Mounts the volume's file system, made if the volume is empty and grown if the volume is larger than it."""
        # Also for readers: the journal of a clone has to be replayed once, and that writes.
        device = loop.attach(self._image(volume)).path
        fs_type = file_system(capability)
        if not mounts.mount_at(point):
            mounts.make_file_system(device, fs_type)
            mounts.grow_unmounted(device, fs_type)
            point.mkdir(parents=True, exist_ok=True)
            mounts.mount(device, point, fs_type, tuple(capability.mount.mount_flags))
            mounts.grow_mounted(device, point, fs_type)

    def NodeUnstageVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "staging_target_path")
        with self._locks.hold(request.volume_id):
            mounts.unmount(Path(request.staging_target_path))
            self._detach(request.volume_id)
        return csi.NodeUnstageVolumeResponse()

    def NodePublishVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "target_path", "volume_capability", "staging_target_path")
        check_capability(request.volume_capability)
        with self._locks.hold(request.volume_id):
            volume = self._begin("NodePublishVolume", request)
            if request.volume_capability.HasField("mount"):
                self._publish_mount(request)
            else:
                self._publish_block(volume, request)
        return csi.NodePublishVolumeResponse()

    def _publish_mount(self, request: Any) -> None:
        staged, target = Path(request.staging_target_path), Path(request.target_path)
        at = mounts.mount_at(staged)
        if not at:
            raise CsiError(grpc.StatusCode.FAILED_PRECONDITION, f"{request.volume_id} is not staged at {staged}")
        read_only = request.readonly or reads_only(request.volume_capability)
        existing = mounts.mount_at(target)
        if existing:
            _check_published(existing.device == at.device and ("ro" in existing.options) == read_only, request)
            return
        target.mkdir(parents=True, exist_ok=True)
        mounts.bind(staged, target, read_only)

    def _publish_block(self, volume: Volume, request: Any) -> None:
        target = Path(request.target_path)
        # A read-only bind mount does not keep a device from being written to; a read-only loop device does.
        device = loop.attach(self._image(volume), request.readonly or reads_only(request.volume_capability))
        if mounts.mount_at(target):
            _check_published(target.stat().st_rdev == device.device_number, request)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        mounts.bind(device.path, target)

    def NodeUnpublishVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "target_path")
        target = Path(request.target_path)
        with self._locks.hold(request.volume_id):
            mounts.unmount(target)
            if target.is_dir():
                target.rmdir()
            target.unlink(missing_ok=True)
            self._detach(request.volume_id, only_read_only=True)
        return csi.NodeUnpublishVolumeResponse()

    def _detach(self, volume_id: str, only_read_only: bool = False) -> None:
        """Detaches the volume's loop devices that nothing uses any more."""
        if not self._pool.volumes.get(volume_id):
            return
        for device in loop.over(self._pool.volumes.image(volume_id)):
            if (device.read_only or not only_read_only) and not mounts.uses(device):
                loop.detach(device)

    def NodeExpandVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "volume_path")
        with self._locks.hold(request.volume_id):
            volume = self._begin("NodeExpandVolume", request)
            point = Path(request.volume_path)
            if not point.exists():
                raise not_found(f"volume_path {point} does not exist")
            for device in loop.over(self._image(volume)):
                loop.grow(device)
            self._grow_file_system(volume, point)
        return csi.NodeExpandVolumeResponse(capacity_bytes=volume.size)

    def _grow_file_system(self, volume: Volume, point: Path) -> None:
        at = mounts.mount_at(point)
        device = loop.find(self._image(volume))
        if at and device and at.device == device.device_number:
            mounts.grow_mounted(device.path, point, at.type)

    def NodeGetVolumeStats(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "volume_path")
        volume = self._volume(request.volume_id)
        point = Path(request.volume_path)
        if not point.exists() or not mounts.mount_at(point):
            raise not_found(f"{volume.id} is not published at {point}")
        if point.is_dir():
            return csi.NodeGetVolumeStatsResponse(usage=_file_system_usage(point))
        usage = csi.VolumeUsage(unit=csi.VolumeUsage.BYTES, total=volume.size)
        return csi.NodeGetVolumeStatsResponse(usage=[usage])

    def _begin(self, operation: str, request: Any) -> Volume:
        volume = self._volume(request.volume_id)
        self._faults.before(operation, name=volume.name, volume=volume.id, claim=volume.claim)
        return volume

    def _volume(self, id_: str) -> Volume:
        volume = self._pool.volumes.get(id_)
        if not volume:
            raise not_found(f"volume {id_} does not exist")
        return volume

    def _image(self, volume: Volume) -> Path:
        return self._pool.volumes.image(volume.id)


def _check_published(same: bool, request: Any) -> None:
    if not same:
        wanted = f"{request.target_path} is published already, as something else than {request.volume_id} like this"
        raise CsiError(grpc.StatusCode.ALREADY_EXISTS, wanted)


def _file_system_usage(point: Path) -> list[Any]:
    status, usage = os.statvfs(point), csi.VolumeUsage
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    inodes = {"available": status.f_favail, "total": status.f_files, "used": status.f_files - status.f_ffree}
    return [
        usage(unit=usage.BYTES, available=free, total=total, used=used),
        usage(unit=usage.INODES, **inodes),
    ]
