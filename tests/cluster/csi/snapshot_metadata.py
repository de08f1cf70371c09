"""The SnapshotMetadata service: what a snapshot has allocated, and what has changed between two of one volume."""
# ruff: noqa: N802  (the method names are those of the CSI specification)

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import csi_pb2 as csi
import csi_pb2_grpc
import grpc

from tests.cluster.csi import extents
from tests.cluster.csi.errors import CsiError, invalid, not_found
from tests.cluster.csi.extents import Range
from tests.cluster.csi.faults import Injector, Midway
from tests.cluster.csi.identity import require
from tests.cluster.csi.pool import Pool, Snapshot

MOST_RESULTS = 512


class SnapshotMetadata(csi_pb2_grpc.SnapshotMetadataServicer):  # type: ignore[misc]
    def __init__(self, pool: Pool, faults: Injector) -> None:
        self._pool, self._faults = pool, faults

    def GetMetadataAllocated(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        require(request, "snapshot_id")
        snapshot = self._snapshot(request.snapshot_id)
        midway = self._begin("GetMetadataAllocated", request, snapshot)
        with ExitStack() as opened:
            target = self._open(opened, snapshot)
            ranges = extents.allocated(target, request.starting_offset)
            yield from _answers(csi.GetMetadataAllocatedResponse, ranges, request.max_results, snapshot.size, midway)

    def GetMetadataDelta(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        require(request, "base_snapshot_id", "target_snapshot_id")
        base, target = self._snapshot(request.base_snapshot_id), self._snapshot(request.target_snapshot_id)
        if base.volume != target.volume:
            raise invalid(
                f"{base.id} is a snapshot of {base.volume}, {target.id} of {target.volume}: expected one volume"
            )
        if base.created > target.created:
            raise invalid(f"base_snapshot_id {base.id} was cut after target_snapshot_id {target.id}")
        midway = self._begin("GetMetadataDelta", request, target)
        with ExitStack() as opened:
            files = self._open(opened, base), self._open(opened, target)
            ranges = extents.changed(*files, request.starting_offset)
            yield from _answers(csi.GetMetadataDeltaResponse, ranges, request.max_results, target.size, midway)

    def _begin(self, operation: str, request: Any, snapshot: Snapshot) -> Midway:
        """Checks the request's numbers, and asks what a test wants to go wrong."""
        if not 0 <= request.starting_offset <= snapshot.size:
            message = f"starting_offset {request.starting_offset}: expected 0 to {snapshot.size}"
            raise CsiError(grpc.StatusCode.OUT_OF_RANGE, message)
        if request.max_results < 0:
            raise invalid(f"max_results {request.max_results}: expected 0 or more")
        subject = {"name": snapshot.name, "volume": snapshot.volume, "claim": snapshot.claim, "object": snapshot.object}
        self._faults.before(operation, **subject)
        return partial(self._faults.midway, operation, subject)

    def _snapshot(self, id_: str) -> Snapshot:
        found = self._pool.snapshots.get(id_)
        if not found:
            raise not_found(f"snapshot {id_} does not exist")
        return found

    def _open(self, opened: ExitStack, snapshot: Snapshot) -> int:
        # An open file keeps its blocks: none is used for anything else while they are compared.
        try:
            fd = os.open(self._pool.snapshots.image(snapshot.id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise not_found(f"snapshot {snapshot.id} was deleted just now") from None
        opened.callback(os.close, fd)
        return fd


def _answers(kind: Any, ranges: Iterable[Range], most: int, size: int, midway: Midway) -> Iterator[Any]:
    """The messages of a stream: at least one, so that the size of the volume is always told."""
    for batch in _batches(midway(ranges, size), min(most or MOST_RESULTS, MOST_RESULTS)):
        yield kind(
            block_metadata_type=csi.VARIABLE_LENGTH,
            volume_capacity_bytes=size,
            block_metadata=[csi.BlockMetadata(byte_offset=start, size_bytes=end - start) for start, end in batch],
        )


def _batches(ranges: Iterator[Range], most: int) -> Iterator[list[Range]]:
    """The ranges by `most`, at least one batch; what comes before a failure is told, too."""
    batch: list[Range] = []
    failure: CsiError | None = None
    empty = True
    try:
        for each in ranges:
            batch.append(each)
            if len(batch) == most:
                yield batch
                batch, empty = [], False
    except CsiError as error:
        failure = error
    if batch or (empty and not failure):
        yield batch
    if failure:
        raise failure
