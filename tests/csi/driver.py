"""A driver in a mount namespace of its own, and a client that calls it: what every test here starts from."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import grpc

from tests.cluster.csi.cleanup import detach_all
from tests.cluster.csi.faults import Faults
from tests.cluster.csi.stubs import activate, default_cache

activate(default_cache())

import csi_pb2 as csi  # noqa: E402  (the stubs are made a line above)
import csi_pb2_grpc  # noqa: E402

TOP = Path(__file__).parents[2]
MIB = 1 << 20


class Driver:
    """The driver on a temporary folder. `node` keeps the mount namespace alive while the driver is restarted."""

    def __init__(self, folder: Path, pool_size: str = "4Gi") -> None:
        self.folder, self._pool_size = folder, pool_size
        self.state, self.socket = folder / "state", folder / "csi.sock"
        self.registration_socket = folder / "registration.sock"
        self.faults = Faults(self.state)
        self._node = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "infinity"])
        self._wait_for_namespace()
        self._driver: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    def _wait_for_namespace(self) -> None:
        ours = Path("/proc/self/ns/mnt").readlink()
        while Path(f"/proc/{self._node.pid}/ns/mnt").readlink() == ours:
            time.sleep(0.01)

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs a program in the driver's mount namespace."""
        return ["nsenter", f"--mount=/proc/{self._node.pid}/ns/mnt", "--", *map(str, command)]

    def run(self, *command: str | Path) -> str:
        return subprocess.run(self.inside(*command), check=True, capture_output=True, text=True).stdout

    def path(self, path: Path) -> Path:
        """A path of the driver's mount namespace, as this process can open it."""
        return Path(f"/proc/{self._node.pid}/root{path}")

    def start(self) -> None:
        sockets = ("--socket", self.socket, "--registration-socket", self.registration_socket)
        storage = ("--state", self.state, "--pool", self.folder / "pool.img", "--pool-size", self._pool_size)
        command = self.inside(sys.executable, "-m", "tests.cluster.csi", *sockets, *storage, "--node-id", "node1")
        with (self.folder / "driver.log").open("ab") as log:
            self._driver = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONPATH": str(TOP)})
        self._channel = grpc.insecure_channel(f"unix:{self.socket}")
        self._wait_until_serving(time.monotonic() + 20)

    def _wait_until_serving(self, deadline: float) -> None:
        while True:
            try:
                csi_pb2_grpc.IdentityStub(self._channel).Probe(csi.ProbeRequest(), timeout=2)
                return
            except grpc.RpcError:
                assert self._driver and self._driver.poll() is None, (self.folder / "driver.log").read_text()
                assert time.monotonic() < deadline, (self.folder / "driver.log").read_text()
                time.sleep(0.05)

    def kill(self) -> None:
        """Ends the driver as a crash would; its mounts stay, for the namespace does."""
        assert self._driver and self._channel
        self._channel.close()
        self._driver.send_signal(signal.SIGKILL)
        self._driver.wait()

    def close(self) -> None:
        if self._driver and self._driver.poll() is None:
            self.kill()
        self._node.kill()
        self._node.wait()
        detach_all(self.state)

    @property
    def controller(self) -> Any:
        return csi_pb2_grpc.ControllerStub(self._channel)

    @property
    def node(self) -> Any:
        return csi_pb2_grpc.NodeStub(self._channel)

    @property
    def metadata(self) -> Any:
        return csi_pb2_grpc.SnapshotMetadataStub(self._channel)

    def create_volume(self, name: str = "", size: int = 64 * MIB, snapshot: str = "", **more: Any) -> str:
        """Creates a volume and answers its id."""
        request = csi.CreateVolumeRequest(name=name or f"pvc-{uuid.uuid4()}", volume_capabilities=[block()], **more)
        request.capacity_range.required_bytes = size
        if snapshot:
            request.volume_content_source.snapshot.snapshot_id = snapshot
        return str(self.controller.CreateVolume(request).volume.volume_id)

    def snapshot(self, volume: str, name: str = "", **more: Any) -> Any:
        request = csi.CreateSnapshotRequest(name=name or f"snap-{uuid.uuid4()}", source_volume_id=volume, **more)
        return self.controller.CreateSnapshot(request).snapshot

    def publish(self, volume: str, capability: Any = None, readonly: bool = False, target: str = "target") -> Path:
        """Stages and publishes a volume; answers where, as the driver sees it."""
        capability = capability or block()
        names = {
            "volume_id": volume,
            "staging_target_path": str(self._staging(volume)),
            "volume_capability": capability,
        }
        self.node.NodeStageVolume(csi.NodeStageVolumeRequest(**names))
        point = self.folder / "publish" / volume / target
        self.node.NodePublishVolume(csi.NodePublishVolumeRequest(**names, target_path=str(point), readonly=readonly))
        return point

    def unpublish(self, volume: str, target: str = "target", unstage: bool = True) -> None:
        point = self.folder / "publish" / volume / target
        self.node.NodeUnpublishVolume(csi.NodeUnpublishVolumeRequest(volume_id=volume, target_path=str(point)))
        if unstage:
            staging = str(self._staging(volume))
            self.node.NodeUnstageVolume(csi.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=staging))

    def delete(self, *ids: str) -> None:
        for each in ids:
            if each.startswith("snap-"):
                self.controller.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id=each))
            else:
                self.controller.DeleteVolume(csi.DeleteVolumeRequest(volume_id=each))

    def _staging(self, volume: str) -> Path:
        return self.folder / "staging" / volume

    def image(self, id_: str) -> Path:
        """The file behind a volume or snapshot, as this process can open it."""
        kind = "snapshots" if id_.startswith("snap-") else "volumes"
        return self.path(self.state / "pool" / kind / f"{id_}.img")

    def record(self, id_: str) -> Any:
        return json.loads(self.image(id_).with_suffix(".json").read_text())


def block(mode: str = "SINGLE_NODE_WRITER") -> Any:
    modes = csi.VolumeCapability.AccessMode
    access = modes(mode=modes.Mode.Value(mode))
    return csi.VolumeCapability(block=csi.VolumeCapability.BlockVolume(), access_mode=access)


def mount(fs_type: str = "ext4", mode: str = "SINGLE_NODE_WRITER") -> Any:
    modes = csi.VolumeCapability.AccessMode
    access = modes(mode=modes.Mode.Value(mode))
    return csi.VolumeCapability(mount=csi.VolumeCapability.MountVolume(fs_type=fs_type), access_mode=access)
