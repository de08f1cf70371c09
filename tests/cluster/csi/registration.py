"""Registration with the kubelet: it watches its plugins_registry folder for sockets that serve this."""
# ruff: noqa: N802  (the method names are those of the kubelet's protocol)

import logging
from typing import Any

import grpc
import pluginregistration_pb2 as registration
import pluginregistration_pb2_grpc

from tests.cluster.csi import DRIVER_NAME

log = logging.getLogger("longboat.csi")


class Registration(pluginregistration_pb2_grpc.RegistrationServicer):  # type: ignore[misc]
    def __init__(self, endpoint: str) -> None:
        """`endpoint`: the path of the driver's own socket, as the kubelet sees it."""
        self._endpoint = endpoint

    def GetInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        versions = ["1.0.0"]
        return registration.PluginInfo(
            type="CSIPlugin", name=DRIVER_NAME, endpoint=self._endpoint, supported_versions=versions
        )

    def NotifyRegistrationStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.plugin_registered:
            log.info("registered with the kubelet")
        else:
            log.error("the kubelet refused the registration: %s", request.error)
        return registration.RegistrationStatusResponse()
