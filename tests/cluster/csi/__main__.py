"""Runs the driver: `python -m tests.cluster.csi --state DIR --pool FILE --node-id NAME`. README.md tells the rest."""

import argparse
import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from tests.cluster.csi import DRIVER_NAME
from tests.cluster.csi.cleanup import record_pool
from tests.cluster.csi.errors import Locks
from tests.cluster.csi.faults import Injector
from tests.cluster.csi.pool import Pool, open_pool
from tests.cluster.csi.stubs import activate, default_cache

UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of "20Gi" and the like."""
    digits = text.rstrip("KMGTi")
    unit = text[len(digits) :]
    if not digits.isdecimal() or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a size like 20Gi")
    return int(digits) * UNITS[unit]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.cluster.csi", description="The CSI driver of Longboat's tests")
    parser.add_argument("--state", type=Path, required=True, help="folder of the driver's own; faults/ lies in it")
    parser.add_argument("--pool", type=Path, required=True, help="file that holds all volumes, made if missing")
    parser.add_argument("--pool-size", type=parse_size, default=20 << 30, help="size of a new pool (sparse): 20Gi")
    parser.add_argument("--node-id", required=True, help="name of the node, as Kubernetes knows it")
    parser.add_argument("--kubelet-dir", type=Path, default=Path("/var/lib/kubelet"), help="root folder of the kubelet")
    parser.add_argument("--socket", type=Path, help="default: plugins/<driver>/csi.sock of the kubelet's folder")
    parser.add_argument("--registration-socket", type=Path, help="default: plugins_registry/<driver>-reg.sock there")
    parser.add_argument("--verbose", action="store_true", help="log calls that only read, too")
    chosen = parser.parse_args()
    chosen.socket = chosen.socket or chosen.kubelet_dir / "plugins" / DRIVER_NAME / "csi.sock"
    chosen.registration_socket = (
        chosen.registration_socket or chosen.kubelet_dir / "plugins_registry" / f"{DRIVER_NAME}-reg.sock"
    )
    return chosen


def bind(server: grpc.Server, socket: Path) -> None:
    """Listens at `socket`, in place of what a killed driver may have left there."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")


def csi_server(pool: Pool, faults: Injector, node_id: str) -> grpc.Server:
    import csi_pb2_grpc

    from tests.cluster.csi.controller import Controller
    from tests.cluster.csi.identity import Identity, Interceptor
    from tests.cluster.csi.node import Node
    from tests.cluster.csi.snapshot_metadata import SnapshotMetadata

    # Calls that a fault holds up keep their thread.
    server = grpc.server(ThreadPoolExecutor(64), interceptors=[Interceptor()])
    locks = Locks()
    csi_pb2_grpc.add_IdentityServicer_to_server(Identity(), server)
    csi_pb2_grpc.add_ControllerServicer_to_server(Controller(pool, faults, locks), server)
    csi_pb2_grpc.add_SnapshotMetadataServicer_to_server(SnapshotMetadata(pool, faults), server)
    csi_pb2_grpc.add_NodeServicer_to_server(Node(pool, faults, locks, node_id), server)
    return server


def registration_server(endpoint: Path) -> grpc.Server:
    import pluginregistration_pb2_grpc

    from tests.cluster.csi.registration import Registration

    server = grpc.server(ThreadPoolExecutor(2))
    pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(Registration(str(endpoint)), server)
    return server


def main() -> None:
    """Serves until SIGTERM or SIGINT. Mounts and loop devices stay: the next driver goes on with them."""
    chosen = parse_arguments()
    logging.basicConfig(level=logging.DEBUG if chosen.verbose else logging.INFO, format="%(asctime)s %(message)s")
    activate(default_cache())
    chosen.state.mkdir(parents=True, exist_ok=True)
    # First, so that detach_all finds what a driver has attached that is killed a moment later.
    record_pool(chosen.state, chosen.pool)
    pool = Pool(open_pool(chosen.pool, chosen.state / "pool", chosen.pool_size))
    pool.sweep()
    csi, registration = csi_server(pool, Injector(chosen.state), chosen.node_id), registration_server(chosen.socket)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for server, socket in ((csi, chosen.socket), (registration, chosen.registration_socket)):
        bind(server, socket)
        server.start()
    logging.getLogger("longboat.csi").info("%s serves at %s", DRIVER_NAME, chosen.socket)
    stop.wait()
    registration.stop(0)
    csi.stop(1).wait()


if __name__ == "__main__":
    main()
