"""`make demo`: set up what is needed, tell the story, leave it running, say what to try next."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping

from tests import installation
from tests.cluster import host, lifecycle
from tests.cluster.cluster import DEMO, Cluster
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import ClusterError
from tests.demo import current, kind
from tests.demo.narrator import Narrator
from tests.demo.objects import run_of
from tests.demo.place import LOCAL_NAMESPACE, Place, local
from tests.demo.story import Story, StoryError

RUN_NOW = CHECKOUT / "build" / "run-now.yaml"
TRY = {
    "kubectl get longboat -n {0}": "policies, backups, snapshots, restores",
    "kubectl explain backuppolicy.spec.schedule": "the schema teaches",
    "kubectl describe diskbackup -n {0}": "how consistent, how large, until when",
    "kubectl create -n {0} -f build/run-now.yaml": "run the weekly policy now …",
    "kubectl get diskbackups -n {0} -w": "… and watch it",
}
TRY_LOCAL = {
    "export KUBECONFIG=$PWD/build/kubeconfig": "kubectl reaches the cluster",
    **TRY,
    "make shell": "into the node",
    "make cluster-stop": "stop; backups stay in the remote store until make clean",
}
TRY_CURRENT = {**TRY, "kubectl delete namespace {0}": "remove it all; the backups' data stays in the store"}


def main() -> int:
    """Tell the story; return the exit code: not 0 if anything is not as told."""
    try:
        return _run(_parser().parse_args())
    except (ClusterError, StoryError) as error:
        print(f"\n✗ {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo")
    add = parser.add_argument
    add("--cluster", choices=("local", "kind", "current"), default="local", help="where to tell the story")
    add("--namespace", help=f"the namespace to make (local: {LOCAL_NAMESPACE}, current: longboat-demo)")
    only = parser.add_argument_group("with --cluster=current")
    only.add_argument("--storage-class", help="makes Block volumes with snapshots; absent: the cluster's default")
    only.add_argument("--guest-image", help="what `make guest-image` makes")
    only.add_argument("--operator-namespace", default=installation.NAMESPACE, help="%(default)s if absent")
    only.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.cluster == "kind":
        kind.prepare()
        # The exit code says that the story was not told.
        raise ClusterError(kind.LEFT.strip())
    if arguments.cluster == "current":
        arguments.namespace = arguments.namespace or "longboat-demo"
        return _tell(current.place(arguments), Narrator(), TRY_CURRENT)
    narrator = Narrator()
    narrator.chapter("A cluster with KubeVirt, a remote object store, and the operator")
    host.check_node_host()
    cluster = Cluster(DEMO)
    lifecycle.up(cluster, kubevirt=True)
    installation.install(cluster)
    installation.ensure_store(cluster)
    return _tell(local(cluster, arguments.namespace or LOCAL_NAMESPACE), narrator, TRY_LOCAL)


def _tell(place: Place, narrator: Narrator, then: Mapping[str, str]) -> int:
    Story(place, narrator).run()
    RUN_NOW.parent.mkdir(exist_ok=True)
    RUN_NOW.write_text(json.dumps(run_of("db-weekly"), indent=2))
    print("\nThe cluster is still running. Try next:")
    for command, why in then.items():
        print(f"  {command.format(place.namespace):60} # {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
