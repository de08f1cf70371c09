"""The client of the SnapshotMetadata service, against a gRPC server with TLS that a test scripts.

That the messages are those of the real service, the tests on the cluster show.
"""

from __future__ import annotations

import datetime
import ipaddress
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from longboat.mover import snapshot_metadata
from longboat.mover.changes import (
    BaseSnapshotMissingError,
    ChangeTrackingError,
    ChangeTrackingUnavailableError,
    SnapshotMetadata,
)
from longboat.mover.snapshot_metadata import ChangeTrackingRefusedError, SnapshotMetadataSource, open_snapshot_metadata
from longboat.mover.snapshot_metadata_messages import SERVICE, AllocatedRequest, Answer, DeltaRequest

SIZE = 1 << 20
NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
Ranges = list[tuple[int, int]]


def certificate(host: str) -> tuple[bytes, bytes]:
    """A self-signed certificate for an address, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "snapshot-metadata")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=10000))
        .not_valid_after(NOW + datetime.timedelta(days=10000))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private


@dataclass
class Call:
    """One call as the script sees it: `send` answers ranges, `fail` ends it."""

    request: Any
    context: grpc.ServicerContext

    def answer(self, ranges: Ranges, capacity: int = SIZE) -> Any:
        message = Answer(volume_capacity_bytes=capacity)
        for offset, length in ranges:
            message.block_metadata.add(byte_offset=offset, size_bytes=length)
        return message

    def fail(self, code: grpc.StatusCode, details: str = "as told") -> None:
        self.context.abort(code, details)


Script = Callable[[Call], Iterator[Any]]


@dataclass
class Service:
    """The server: the script answers each call; requests are kept."""

    script: Script = lambda call: iter([call.answer([])])
    requests: list[Any] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with self.lock:
            self.requests.append(request)
        yield from self.script(Call(request, context))


@dataclass
class Served:
    service: Service
    settings: SnapshotMetadata
    slept: list[float]

    def source(self, **changes: Any) -> SnapshotMetadataSource:
        asked = self.settings.model_copy(update=changes)
        return SnapshotMetadataSource(asked, SIZE, sleep=self.slept.append)

    def delta(self, script: Script) -> Ranges:
        self.service.script = script
        return list(self.source().delta("handle-1"))


@pytest.fixture(scope="module")
def identity() -> tuple[bytes, bytes]:
    return certificate("127.0.0.1")


@pytest.fixture
def served(identity: tuple[bytes, bytes], tmp_path: Path) -> Iterator[Served]:
    ca, key = identity
    service = Service()
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {
        method: grpc.unary_stream_rpc_method_handler(service.serve, kind.FromString, Answer.SerializeToString)
        for method, kind in (("GetMetadataAllocated", AllocatedRequest), ("GetMetadataDelta", DeltaRequest))
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, ca)]))
    server.start()
    token = tmp_path / "token"
    token.write_text("a-token\n")
    settings = SnapshotMetadata(
        address=f"127.0.0.1:{port}",
        ca_pem=ca.decode(),
        token_path=str(token),
        namespace="longboat-system",
        snapshot_name="copy-1",
    )
    yield Served(service, settings, [])
    server.stop(0).wait()


def test_the_request_names_the_snapshot_and_carries_the_token(served: Served) -> None:
    served.service.script = lambda call: iter([call.answer([(0, 4096)]), call.answer([(8192, 4096)])])
    assert list(open_snapshot_metadata(served.settings, SIZE).allocated()) == [(0, 4096), (8192, 4096)]
    assert served.delta(served.service.script) == [(0, 4096), (8192, 4096)]
    allocated, delta = served.service.requests
    assert (allocated.security_token, allocated.namespace, allocated.snapshot_name) == (
        "a-token",
        "longboat-system",
        "copy-1",
    )
    assert (delta.base_snapshot_id, delta.target_snapshot_name) == ("handle-1", "copy-1")
    assert (delta.starting_offset, delta.max_results) == (0, snapshot_metadata.RANGES_PER_MESSAGE)


def test_nothing_is_asked_before_the_first_range_is_wanted(served: Served) -> None:
    served.source().delta("handle-1")
    assert not served.service.requests


def test_a_stream_without_any_message_says_that_nothing_has_changed(served: Served) -> None:
    assert served.delta(lambda call: iter(())) == []


def test_a_broken_stream_goes_on_where_it_ended_with_the_token_as_it_is_then(served: Served) -> None:
    def script(call: Call) -> Iterator[Any]:
        if call.request.starting_offset == 0:
            yield call.answer([(0, 4096), (8192, 4096)])
            Path(served.settings.token_path).write_text("rotated")
            call.fail(grpc.StatusCode.UNAVAILABLE)
        # A range that begins before the offset asked for is allowed by the specification.
        yield call.answer([(8192, 8192), (65536, 4096)])

    assert served.delta(script) == [(0, 4096), (8192, 4096), (12288, 4096), (65536, 4096)]
    _, second = served.service.requests
    assert (second.starting_offset, second.security_token) == (12288, "rotated")
    assert served.slept == [1.0]


def test_a_stream_that_broke_after_its_last_byte_is_not_asked_for_more(served: Served) -> None:
    def script(call: Call) -> Iterator[Any]:
        assert call.request.starting_offset == 0
        yield call.answer([(SIZE - 4096, 4096)])
        call.fail(grpc.StatusCode.DEADLINE_EXCEEDED)

    assert served.delta(script) == [(SIZE - 4096, 4096)]


def test_progress_gives_new_patience_and_a_standstill_ends_it(served: Served) -> None:
    def script(call: Call) -> Iterator[Any]:
        begin = call.request.starting_offset
        if begin < 10 * 4096:
            yield call.answer([(begin, 4096)])
        call.fail(grpc.StatusCode.INTERNAL, "array is busy")

    found: Ranges = []
    served.service.script = script
    with pytest.raises(ChangeTrackingUnavailableError, match=r"array is busy.*attempt 5, at byte 40960"):
        found.extend(served.source().delta("handle-1"))
    assert served.slept == [1.0] * 10 + [2.0, 4.0, 8.0]
    assert len(served.service.requests) == 10 + snapshot_metadata.ATTEMPTS - 1


def test_a_standstill_that_lasts_too_long_ends_before_all_attempts(served: Served) -> None:
    times = iter([0.0, 700.0])
    source = SnapshotMetadataSource(served.settings, SIZE, sleep=served.slept.append, monotonic=lambda: next(times))
    served.service.script = lambda call: iter([call.fail(grpc.StatusCode.DEADLINE_EXCEEDED)])
    with pytest.raises(ChangeTrackingUnavailableError, match="attempt 2"):
        list(source.allocated())


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (grpc.StatusCode.NOT_FOUND, BaseSnapshotMissingError, "BaseSnapshotMissing"),
        (grpc.StatusCode.INVALID_ARGUMENT, BaseSnapshotMissingError, "BaseSnapshotMissing"),
        (grpc.StatusCode.FAILED_PRECONDITION, ChangeTrackingUnavailableError, "ChangeTrackingUnavailable"),
        (grpc.StatusCode.UNIMPLEMENTED, ChangeTrackingUnavailableError, "ChangeTrackingUnavailable"),
        (grpc.StatusCode.UNAUTHENTICATED, ChangeTrackingRefusedError, "ChangeTrackingRefused"),
        (grpc.StatusCode.PERMISSION_DENIED, ChangeTrackingRefusedError, "ChangeTrackingRefused"),
        (grpc.StatusCode.OUT_OF_RANGE, ChangeTrackingError, "ChangeTrackingFailed"),
    ],
)
def test_a_failure_that_stays_is_told_at_once_with_its_reason(
    served: Served, code: grpc.StatusCode, kind: type[ChangeTrackingError], reason: str
) -> None:
    with pytest.raises(ChangeTrackingError, match=f"{code.name}: as told") as caught:
        served.delta(lambda call: iter([call.fail(code)]))
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert "a-token" not in str(caught.value)
    assert not served.slept


def test_the_snapshot_that_is_exported_is_no_lost_base(served: Served) -> None:
    served.service.script = lambda call: iter([call.fail(grpc.StatusCode.NOT_FOUND)])
    with pytest.raises(ChangeTrackingError) as caught:
        list(served.source().allocated())
    assert caught.value.reason == "ChangeTrackingFailed"


def test_a_service_with_another_authority_gets_no_token(served: Served) -> None:
    other, _ = certificate("127.0.0.1")
    with pytest.raises(ChangeTrackingUnavailableError):
        list(served.source(ca_pem=other.decode()).delta("handle-1"))
    assert not served.service.requests


def test_a_service_whose_certificate_is_for_another_host_gets_no_token(served: Served) -> None:
    with pytest.raises(ChangeTrackingUnavailableError):
        list(served.source(address=served.settings.address.replace("127.0.0.1", "127.0.0.2")).delta("handle-1"))
    assert not served.service.requests


def test_a_token_that_is_not_there_is_told(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ChangeTrackingUnavailableError, match=r"token file .*missing"):
        list(served.source(token_path=str(tmp_path / "missing")).delta("handle-1"))


@pytest.mark.parametrize(
    ("ranges", "capacity"),
    [
        ([(SIZE, 4096)], SIZE),
        ([(-4096, 4096)], SIZE),
        ([(0, 0)], SIZE),
        ([(0, -1)], SIZE),
        ([(8192, 4096), (0, 4096)], SIZE),
        ([(0, 8192), (4096, 8192)], SIZE),
        ([(0, 4096)], SIZE + 512),
        ([(0, 4096)], 0),
        ([(0, 4096)], -1),
        ([(1 << 62, 1 << 62)], SIZE),
    ],
)
def test_what_can_not_be_true_is_not_believed(served: Served, ranges: Ranges, capacity: int) -> None:
    with pytest.raises(ChangeTrackingError) as caught:
        served.delta(lambda call: iter([call.answer(ranges, capacity)]))
    assert caught.value.reason == "ChangeTrackingFailed"


def test_a_volume_whose_size_changes_within_an_answer_is_not_believed(served: Served) -> None:
    with pytest.raises(ChangeTrackingError, match="expected 1048576"):
        served.delta(lambda call: iter([call.answer([(0, 4096)]), call.answer([(8192, 4096)], SIZE // 2)]))


def test_a_last_block_of_fixed_length_is_cut_at_the_end_of_the_volume(served: Served) -> None:
    assert served.delta(lambda call: iter([call.answer([(SIZE - 4096, 1 << 22)])])) == [(SIZE - 4096, 4096)]


def test_what_the_disk_has_beyond_the_snapshot_is_read(served: Served) -> None:
    half = SIZE // 2
    assert served.delta(lambda call: iter([call.answer([(0, 4096)], half)])) == [(0, 4096), (half, half)]
    assert served.delta(lambda call: iter([call.answer([(half - 4096, 1 << 22)], half)])) == [
        (half - 4096, 4096),
        (half, half),
    ]


def test_a_reader_that_stops_midway_ends_the_call(served: Served) -> None:
    ended = threading.Event()

    def script(call: Call) -> Iterator[Any]:
        call.context.add_callback(ended.set)
        for number in range(SIZE // 8192):
            yield call.answer([(number * 8192, 4096)])
            ended.wait(0.01)

    served.service.script = script
    ranges = served.source().delta("handle-1")
    assert next(ranges) == (0, 4096)
    ranges.close()  # type: ignore[attr-defined]
    assert ended.wait(30)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_hostile_bytes_are_refused_or_skipped_by_the_decoder(data: bytes) -> None:
    try:
        Answer.FromString(data)
    except Exception as error:
        assert type(error).__name__ == "DecodeError"
