"""`longboat release-finalizers`: stops the operator and takes its finalizers away, before it is uninstalled.

Nothing waits then for an operator that is gone. No object and no backup is deleted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from longboat.cli.connection import NO_ANSWER, add_connection_arguments, cluster_of
from longboat.kube.kinds import BACKUP_POLICY, BACKUP_STORE, DEPLOYMENT, DISK_BACKUP, DISK_SNAPSHOT, POD, RESTORE, Kind
from longboat.kube.port import Cluster, ConflictError, KubeError, NotFoundError, Object

OURS = (BACKUP_POLICY, DISK_BACKUP, DISK_SNAPSHOT, RESTORE, BACKUP_STORE)
PREFIX = "longboat.dev/"
PATIENCE = timedelta(minutes=2)
_STEP = 2.0
_TRIES = 5


class OperatorRunsError(Exception):
    """The operator did not stop in time: it would put its finalizers back."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0: done, 1: the operator did not stop, 2: usage, 3: no answer from the API server."""
    arguments = _parser().parse_args(argv)
    try:
        cluster = cluster_of(arguments)
        if arguments.deployment:
            stop(cluster, arguments.namespace, arguments.deployment, time.sleep)
        print(f"released {release(cluster)} objects; nothing was deleted")
    except OperatorRunsError as error:
        print(f"longboat release-finalizers: {error}", file=sys.stderr)
        return 1
    except KubeError as error:
        print(f"longboat release-finalizers: {error}", file=sys.stderr)
        return NO_ANSWER
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longboat release-finalizers", description=__doc__)
    add_connection_arguments(parser)
    namespace = os.environ.get("LONGBOAT_NAMESPACE", "longboat-system")
    parser.add_argument("-n", "--namespace", default=namespace, help="the operator's namespace (%(default)s)")
    parser.add_argument(
        "--deployment", help="the operator's Deployment, to be stopped first; absent: it is gone already"
    )
    return parser


def stop(cluster: Cluster, namespace: str, name: str, sleep: Callable[[float], None]) -> None:
    """Scale the operator to nothing and wait until its pods are gone. Raises OperatorRunsError, KubeError."""
    deployment = cluster.get(DEPLOYMENT, name, namespace)
    if deployment is None:
        return
    cluster.patch(DEPLOYMENT, name, [{"op": "add", "path": "/spec/replicas", "value": 0}], namespace)
    labels = deployment["spec"]["selector"]["matchLabels"]
    for _ in range(int(PATIENCE.total_seconds() / _STEP)):
        if not list(cluster.list(POD, namespace, labels)):
            return
        sleep(_STEP)
    raise OperatorRunsError(
        f"the pods of Deployment {name!r} in {namespace!r} are still there after {int(PATIENCE.total_seconds())} s; "
        "see why with kubectl describe, and try again"
    )


def release(cluster: Cluster) -> int:
    """Take our finalizers from every object of ours and return how many had some. Raises KubeError."""
    return sum(_release(cluster, kind, obj) for kind in OURS for obj in cluster.list(kind))


def _release(cluster: Cluster, kind: Kind, obj: Object) -> bool:
    """Finalizers of others stay. What changes meanwhile is read again."""
    name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace", "")
    current: Object | None = obj
    for _ in range(_TRIES):
        finalizers = ((current or {}).get("metadata") or {}).get("finalizers") or []
        if not any(each.startswith(PREFIX) for each in finalizers):
            return False
        rest = [each for each in finalizers if not each.startswith(PREFIX)]
        operations = [
            {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
            {"op": "replace", "path": "/metadata/finalizers", "value": rest},
        ]
        try:
            cluster.patch(kind, name, operations, namespace)
            return True
        except NotFoundError:
            return False
        except ConflictError:
            current = cluster.get(kind, name, namespace)
    raise ConflictError(f"{kind.plural} {namespace}/{name} changes all the time; is an operator still running?")
