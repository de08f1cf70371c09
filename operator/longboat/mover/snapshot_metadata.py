"""Changed blocks from a CSI driver's SnapshotMetadata service: gRPC over TLS, as the sidecar of Kubernetes serves it.

Only an export with change information imports this module: gRPC costs memory that no other mover has to spend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from .changes import BaseSnapshotMissingError, ChangeTrackingError, ChangeTrackingUnavailableError, SnapshotMetadata
from .snapshot_metadata_messages import SERVICE, AllocatedRequest, Answer, DeltaRequest

# The sidecar itself ends a stream after ten minutes; it is then taken up where it ended.
CALL_SECONDS = 600.0
# Failures in a row without a new range, and how long they may last in all.
ATTEMPTS = 5
PATIENCE_SECONDS = 600.0
RANGES_PER_MESSAGE = 4096

_Code = grpc.StatusCode
_REFUSED = {_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED}
_UNSUPPORTED = {_Code.UNIMPLEMENTED, _Code.FAILED_PRECONDITION}
_WRONG = {_Code.NOT_FOUND, _Code.INVALID_ARGUMENT, _Code.OUT_OF_RANGE}
_OPTIONS = (
    # The service is in this cluster; a proxy for the way out of it would only be in the way.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 4 << 20),
)


class ChangeTrackingRefusedError(ChangeTrackingError):
    """The service does not accept the mover's token, or its account may not read VolumeSnapshots."""

    reason = "ChangeTrackingRefused"


@dataclass
class _Told:
    """What one question has brought so far, over all its attempts; offsets in bytes."""

    end: int = 0
    capacity: int | None = None
    failures: int = 0
    failing_since: float | None = None

    def advance(self, end: int) -> None:
        self.end, self.failures, self.failing_since = end, 0, None


@dataclass(frozen=True)
class _Question:
    """A method with the fields of its request but the token, the offset to begin at and the size of messages."""

    method: str
    request: Any
    fields: dict[str, str]


@dataclass
class SnapshotMetadataSource:
    """The ChangeSource of one snapshot; `size` is that of the exported disk in bytes. Each call has its own channel."""

    settings: SnapshotMetadata
    size: int
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    monotonic: Callable[[], float] = field(default=time.monotonic, repr=False)

    def allocated(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what may hold data; raises ChangeTrackingError."""
        fields = {"namespace": self.settings.namespace, "snapshot_name": self.settings.snapshot_name}
        return self._answer(_Question("GetMetadataAllocated", AllocatedRequest, fields))

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what may differ from the snapshot with this handle; raises ChangeTrackingError."""
        fields = {"namespace": self.settings.namespace, "target_snapshot_name": self.settings.snapshot_name}
        return self._answer(_Question("GetMetadataDelta", DeltaRequest, fields | {"base_snapshot_id": base_handle}))

    def _answer(self, question: _Question) -> Iterator[tuple[int, int]]:
        told = _Told()
        while True:
            try:
                yield from self._attempt(question, told)
                break
            except grpc.RpcError as error:
                self._judge(question, told, error)
        # What the disk has beyond the snapshot's end, the service says nothing about: it is read.
        if told.capacity is not None and told.capacity < self.size:
            yield told.capacity, self.size - told.capacity

    def _attempt(self, question: _Question, told: _Told) -> Iterator[tuple[int, int]]:
        """Ask from where the last answer ended; a stream without any message says that there is nothing (more)."""
        if told.capacity is not None and told.end >= told.capacity:
            return
        first = told.end > 0
        with self._stream(question, told.end) as answers:
            for answer in answers:
                _note_capacity(told, answer.volume_capacity_bytes, self.size)
                for each in answer.block_metadata:
                    found = _accepted(told, each.byte_offset, each.size_bytes, resumed=first)
                    if found is not None:
                        first = False
                        told.advance(found[0] + found[1])
                        yield found

    @contextmanager
    def _stream(self, question: _Question, begin: int) -> Iterator[Any]:
        request = question.request(
            **question.fields, security_token=self._token(), starting_offset=begin, max_results=RANGES_PER_MESSAGE
        )
        credentials = grpc.ssl_channel_credentials(root_certificates=self.settings.ca_pem.encode())
        # The scheme keeps an odd address from being taken for a socket's path.
        with grpc.secure_channel(f"dns:///{self.settings.address}", credentials, _OPTIONS) as channel:
            method = channel.unary_stream(
                f"/{SERVICE}/{question.method}",
                request_serializer=question.request.SerializeToString,
                response_deserializer=Answer.FromString,
            )
            call = method(request, timeout=CALL_SECONDS)
            try:
                yield call
            finally:
                call.cancel()

    def _token(self) -> str:
        try:
            return Path(self.settings.token_path).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            message = f"token file {self.settings.token_path}: expected a service account token: {error}"
            raise ChangeTrackingUnavailableError(message) from None

    def _judge(self, question: _Question, told: _Told, error: grpc.RpcError) -> None:
        """Raise what a failed call means, or wait until it is time for the next attempt."""
        message = f"{question.method} of {self.settings.address}: {_words(error)}"
        final = _final(error.code(), question, message)
        if final is not None:
            raise final from None
        now = self.monotonic()
        told.failures += 1
        told.failing_since = now if told.failing_since is None else told.failing_since
        if told.failures >= ATTEMPTS or now - told.failing_since >= PATIENCE_SECONDS:
            raise ChangeTrackingUnavailableError(f"{message} (attempt {told.failures}, at byte {told.end})") from None
        self.sleep(float(1 << (told.failures - 1)))


def open_snapshot_metadata(settings: SnapshotMetadata, size: int) -> SnapshotMetadataSource:
    """Return the ChangeSource of the snapshot that the settings name; nothing is asked yet."""
    return SnapshotMetadataSource(settings, size)


def _final(code: grpc.StatusCode, question: _Question, message: str) -> ChangeTrackingError | None:
    """Return the failure that another attempt would meet again, None for one that may pass."""
    if code in _REFUSED:
        return ChangeTrackingRefusedError(message)
    if code in _UNSUPPORTED:
        return ChangeTrackingUnavailableError(message)
    if code not in _WRONG:
        return None
    # Snapshots of two volumes are an invalid argument; the one that is exported is known to be there.
    lost = code is not _Code.OUT_OF_RANGE and question.method == "GetMetadataDelta"
    return BaseSnapshotMissingError(message) if lost else ChangeTrackingError(message)


def _words(error: grpc.RpcError) -> str:
    # A driver's words may be of any length.
    return f"{error.code().name}: {' '.join((error.details() or 'no details').split())[:300]}"


def _note_capacity(told: _Told, capacity: int, size: int) -> None:
    if told.capacity not in (None, capacity) or not 0 < capacity <= size:
        raise ChangeTrackingError(
            f"the service speaks of a volume of {capacity} bytes, expected {told.capacity or f'at most {size}'}"
        )
    told.capacity = capacity


def _accepted(told: _Told, offset: int, length: int, resumed: bool) -> tuple[int, int] | None:
    """Return what of a reported range is new, None if nothing is; ChangeTrackingError if it can't be true.

    The first range after a resumption may begin before the offset asked for, and the last block of a volume, where all
    are of one length, may end beyond it.
    """
    capacity = told.capacity or 0
    if length <= 0 or not 0 <= offset < capacity or (offset < told.end and not resumed):
        raise ChangeTrackingError(
            f"the service reported {length} bytes at {offset}, after byte {told.end} of {capacity}: "
            "expected ascending ranges within the volume"
        )
    start, end = max(offset, told.end), min(offset + length, capacity)
    return (start, end - start) if start < end else None
