"""The Controller service: volumes, snapshots, clones, expansion, lists."""
# ruff: noqa: N802  (the method names are those of the CSI specification)

from typing import Any

import csi_pb2 as csi
import csi_pb2_grpc
import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from tests.cluster.csi import loop, mounts
from tests.cluster.csi.errors import CsiError, Locks, invalid, not_found
from tests.cluster.csi.faults import Injector
from tests.cluster.csi.identity import require
from tests.cluster.csi.pool import LARGEST_VOLUME, Pool, Snapshot, Volume, snapshot_id, volume_id
from tests.cluster.csi.requests import check_capabilities, check_range, fits, page, size_for, smallest, source_of

_Rpc = csi.ControllerServiceCapability.RPC
CAPABILITIES = (
    _Rpc.CREATE_DELETE_VOLUME,
    _Rpc.CREATE_DELETE_SNAPSHOT,
    _Rpc.CLONE_VOLUME,
    _Rpc.EXPAND_VOLUME,
    _Rpc.LIST_VOLUMES,
    _Rpc.LIST_SNAPSHOTS,
    _Rpc.GET_CAPACITY,
)
_METADATA = "csi.storage.k8s.io/"


class Controller(csi_pb2_grpc.ControllerServicer):  # type: ignore[misc]
    def __init__(self, pool: Pool, faults: Injector, locks: Locks) -> None:
        """`locks` are shared with the node service: both keep others off the volume they work on."""
        self._pool, self._faults, self._locks = pool, faults, locks

    def ControllerGetCapabilities(self, request: Any, context: grpc.ServicerContext) -> Any:
        capabilities = [csi.ControllerServiceCapability(rpc=_Rpc(type=each)) for each in CAPABILITIES]
        return csi.ControllerGetCapabilitiesResponse(capabilities=capabilities)

    def CreateVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "name")
        check_capabilities(request.volume_capabilities)
        _check_parameters(request.parameters)
        source = source_of(request)
        wanted = Volume("", request.name, 0, 0, source, dict(request.parameters))
        with self._locks.hold(volume_id(request.name)):
            self._faults.before("CreateVolume", name=request.name, volume=source, claim=wanted.claim)
            existing = self._pool.volumes.get(volume_id(request.name))
            if existing:
                _check_same(existing, request, source)
            volume = existing or self._create_volume(request, source)
        return csi.CreateVolumeResponse(volume=_volume_message(volume, request))

    def _create_volume(self, request: Any, source: str) -> Volume:
        least = smallest(request.volume_capabilities)
        if source:
            least = max(least, self._source_size(request, source))
        size = size_for(request.capacity_range, least, default=least if source else 1 << 30)
        parameters = dict(request.parameters)
        if request.volume_content_source.HasField("volume"):
            with self._locks.hold(source):
                volume = self._pool.create_volume(request.name, size, parameters, source)
        else:
            volume = self._pool.create_volume(request.name, size, parameters, source)
        self._faults.after("CreateVolume", name=request.name, volume=source, claim=volume.claim)
        return volume

    def _source_size(self, request: Any, source: str) -> int:
        """The size of the source in bytes; raises if it is missing or a fault says it is not ready."""
        if request.volume_content_source.HasField("volume"):
            return self._volume(source).size
        snapshot = self._pool.snapshots.get(source)
        if not snapshot:
            raise not_found(f"snapshot {source} does not exist")
        if not self._ready(snapshot):
            raise CsiError(grpc.StatusCode.UNAVAILABLE, f"snapshot {source} is not ready to use yet")
        return snapshot.size

    def DeleteVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id")
        with self._locks.hold(request.volume_id):
            volume = self._pool.volumes.get(request.volume_id)
            if volume:
                self._faults.before("DeleteVolume", name=volume.name, volume=volume.id, claim=volume.claim)
                self._release(volume)
                self._pool.volumes.delete(volume.id)
        return csi.DeleteVolumeResponse()

    def _release(self, volume: Volume) -> None:
        """Detaches the volume's loop devices, or raises FAILED_PRECONDITION while they are mounted."""
        devices = loop.over(self._pool.volumes.image(volume.id))
        for device in devices:
            for mount in mounts.uses(device):
                raise CsiError(grpc.StatusCode.FAILED_PRECONDITION, f"{volume.id} is still in use at {mount.point}")
        for device in devices:
            loop.detach(device)

    def CreateSnapshot(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "name", "source_volume_id")
        _check_parameters(request.parameters)
        # The lock of the name is kept for as long as a fault delays the call, that of the volume for the cut alone:
        # a slow snapshot must not stop a pod from starting.
        with self._locks.hold(snapshot_id(request.name)):
            snapshot = self._pool.snapshots.get(snapshot_id(request.name))
            if snapshot and snapshot.volume != request.source_volume_id:
                taken = f"snapshot {request.name} exists, of volume {snapshot.volume}, not {request.source_volume_id}"
                raise CsiError(grpc.StatusCode.ALREADY_EXISTS, taken)
            snapshot = self._cut(request, snapshot)
        return csi.CreateSnapshotResponse(snapshot=self._snapshot_message(snapshot))

    def _cut(self, request: Any, existing: Snapshot | None) -> Snapshot:
        volume = None if existing else self._volume(request.source_volume_id)
        wanted = existing or Snapshot(
            "", request.name, 0, 0, request.source_volume_id, volume.claim if volume else "", dict(request.parameters)
        )
        self._faults.before("CreateSnapshot", **_subject(wanted))
        if existing:
            return existing
        with self._locks.hold(wanted.volume):
            snapshot = self._pool.create_snapshot(wanted.name, self._volume(wanted.volume), wanted.parameters)
        self._faults.after("CreateSnapshot", **_subject(snapshot))
        return snapshot

    def DeleteSnapshot(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "snapshot_id")
        with self._locks.hold(request.snapshot_id):
            snapshot = self._pool.snapshots.get(request.snapshot_id)
            if snapshot:
                self._faults.before("DeleteSnapshot", **_subject(snapshot))
                self._pool.snapshots.delete(snapshot.id)
        return csi.DeleteSnapshotResponse()

    def ControllerExpandVolume(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id", "capacity_range")
        with self._locks.hold(request.volume_id):
            volume = self._volume(request.volume_id)
            self._faults.before("ControllerExpandVolume", name=volume.name, volume=volume.id, claim=volume.claim)
            check_range(request.capacity_range.required_bytes, request.capacity_range.limit_bytes)
            if request.capacity_range.required_bytes > volume.size:
                volume = self._pool.grow_volume(volume, size_for(request.capacity_range, volume.size))
        return csi.ControllerExpandVolumeResponse(capacity_bytes=volume.size, node_expansion_required=True)

    def ValidateVolumeCapabilities(self, request: Any, context: grpc.ServicerContext) -> Any:
        require(request, "volume_id")
        if not request.volume_capabilities:
            raise invalid("volume_capabilities is missing")
        self._volume(request.volume_id)
        response = csi.ValidateVolumeCapabilitiesResponse
        try:
            check_capabilities(request.volume_capabilities)
        except CsiError as error:
            return response(message=str(error))
        return response(confirmed=response.Confirmed(volume_capabilities=request.volume_capabilities))

    def ListVolumes(self, request: Any, context: grpc.ServicerContext) -> Any:
        shown, token = page(self._pool.volumes.all(), request.starting_token, request.max_entries)
        entry = csi.ListVolumesResponse.Entry
        messages = [entry(volume=csi.Volume(volume_id=each.id, capacity_bytes=each.size)) for each in shown]
        return csi.ListVolumesResponse(entries=messages, next_token=token)

    def ListSnapshots(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = [
            each
            for each in self._pool.snapshots.all()
            if request.snapshot_id in ("", each.id) and request.source_volume_id in ("", each.volume)
        ]
        shown, token = page(found, request.starting_token, request.max_entries)
        entry = csi.ListSnapshotsResponse.Entry
        messages = [entry(snapshot=self._snapshot_message(each)) for each in shown]
        return csi.ListSnapshotsResponse(entries=messages, next_token=token)

    def GetCapacity(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = csi.GetCapacityResponse(available_capacity=self._pool.free())
        response.maximum_volume_size.value = LARGEST_VOLUME
        return response

    def _volume(self, id_: str) -> Volume:
        volume = self._pool.volumes.get(id_)
        if not volume:
            raise not_found(f"volume {id_} does not exist")
        return volume

    def _ready(self, snapshot: Snapshot) -> bool:
        return self._faults.ready(**_subject(snapshot))

    def _snapshot_message(self, snapshot: Snapshot) -> Any:
        seconds, nanos = divmod(snapshot.created, 10**9)
        return csi.Snapshot(
            snapshot_id=snapshot.id,
            source_volume_id=snapshot.volume,
            size_bytes=snapshot.size,
            creation_time=Timestamp(seconds=seconds, nanos=nanos),
            ready_to_use=self._ready(snapshot),
        )


def _subject(snapshot: Snapshot) -> dict[str, str]:
    names = {"name": snapshot.name, "volume": snapshot.volume}
    return {**names, "claim": snapshot.claim, "object": snapshot.object}


def _check_parameters(parameters: Any) -> None:
    unknown = sorted(key for key in parameters if not key.startswith(_METADATA))
    if unknown:
        raise invalid(f"parameters {', '.join(unknown)}: this driver has none; remove them from the class")


def _check_same(existing: Volume, request: Any, source: str) -> None:
    if existing.source != source or not fits(existing.size, request.capacity_range):
        facts = f"{existing.size} bytes from {existing.source or 'nothing'}"
        raise CsiError(grpc.StatusCode.ALREADY_EXISTS, f"volume {existing.name} exists with {facts}")


def _volume_message(volume: Volume, request: Any) -> Any:
    message = csi.Volume(volume_id=volume.id, capacity_bytes=volume.size)
    if volume.source:
        message.content_source.CopyFrom(request.volume_content_source)
    return message
