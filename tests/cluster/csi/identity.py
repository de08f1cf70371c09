"""The Identity service, and what all services share: logs, and errors as gRPC status."""
# ruff: noqa: N802  (the method names are those of the CSI specification)

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import csi_pb2 as csi
import csi_pb2_grpc
import grpc

from tests.cluster.csi import DRIVER_NAME, VERSION
from tests.cluster.csi.errors import CsiError, invalid

log = logging.getLogger("longboat.csi")


class Identity(csi_pb2_grpc.IdentityServicer):  # type: ignore[misc]
    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return csi.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=VERSION)

    def GetPluginCapabilities(self, request: Any, context: grpc.ServicerContext) -> Any:
        service, expansion = csi.PluginCapability.Service, csi.PluginCapability.VolumeExpansion
        capabilities = [
            csi.PluginCapability(service=service(type=service.CONTROLLER_SERVICE)),
            csi.PluginCapability(service=service(type=service.SNAPSHOT_METADATA_SERVICE)),
            csi.PluginCapability(volume_expansion=expansion(type=expansion.ONLINE)),
        ]
        return csi.GetPluginCapabilitiesResponse(capabilities=capabilities)

    def Probe(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = csi.ProbeResponse()
        response.ready.value = True
        return response


def require(request: Any, *names: str) -> None:
    """Raises INVALID_ARGUMENT for the first of the named fields that is empty."""
    for name in names:
        value = getattr(request, name)
        missing = not request.HasField(name) if hasattr(value, "ListFields") else not value
        if missing:
            raise invalid(f"{type(request).__name__}.{name} is missing")


class Interceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Logs every call, and turns what a service raises into a status."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        method = details.method.rsplit("/", 1)[-1]
        if handler and handler.unary_unary:
            answer = partial(_call, method, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(
                answer, handler.request_deserializer, handler.response_serializer
            )
        if handler and handler.unary_stream:
            answer = partial(_stream, method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(
                answer, handler.request_deserializer, handler.response_serializer
            )
        return handler


def _call(method: str, serve: Callable[[Any, Any], Any], request: Any, context: grpc.ServicerContext) -> Any:
    with _watched(method, request, context):
        return serve(request, context)


def _stream(
    method: str, serve: Callable[[Any, Any], Iterator[Any]], request: Any, context: grpc.ServicerContext
) -> Iterator[Any]:
    with _watched(method, request, context):
        yield from serve(request, context)


@contextmanager
def _watched(method: str, request: Any, context: grpc.ServicerContext) -> Iterator[None]:
    """Logs how a call ends, and ends a failed one with its status."""
    start = time.monotonic()
    try:
        yield
    except Exception as error:
        code, message = _status(error)
        log.warning("%s %s: %s %s (%.3f s)", method, _object(request), code.name, message, time.monotonic() - start)
        context.abort(code, message)
        raise
    level = logging.DEBUG if method.startswith(("Probe", "List", "Get", "NodeGet")) else logging.INFO
    log.log(level, "%s %s: OK (%.3f s)", method, _object(request), time.monotonic() - start)


def _object(request: Any) -> str:
    names = ("name", "volume_id", "snapshot_id", "target_snapshot_id")
    return next((value for value in (getattr(request, name, "") for name in names) if value), "")


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, CsiError):
        return error.code, str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, f"the pool is full: {error}"
    log.error("unexpected", exc_info=error)
    return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
