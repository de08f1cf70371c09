"""How the commands reach the API server."""

from __future__ import annotations

import argparse

from longboat.kube.client import ApiServer, connect
from longboat.kube.port import UnavailableError

NO_ANSWER = 3
"""Exit code when the API server can't be reached."""


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --kubeconfig and --context."""
    parser.add_argument("--kubeconfig", help="path of the kubeconfig; absent: the pod's account, or the usual file")
    parser.add_argument("--context", help="context of the kubeconfig")


def cluster_of(arguments: argparse.Namespace) -> ApiServer:
    """Return the API server that the arguments name. Raises UnavailableError if there is no way to it."""
    try:
        return ApiServer(connect(arguments.kubeconfig, arguments.context), "longboat-cli")
    except Exception as error:
        # The client raises whatever its parsers raise; all of it means that the configuration is of no use.
        raise UnavailableError(f"no connection: {error}; name a kubeconfig with --kubeconfig") from error
