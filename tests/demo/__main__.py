"""`make demo`: set up what is needed, tell the story, leave it running, say what to try next."""

from __future__ import annotations

import argparse
import json
import sys

from tests import installation
from tests.cluster import host, lifecycle
from tests.cluster.cluster import DEMO, Cluster
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import ClusterError
from tests.demo.narrator import Narrator
from tests.demo.objects import NAMESPACE, run_of
from tests.demo.story import Story, StoryError

NEXT = f"""
The cluster is still running. Try next:
  export KUBECONFIG=$PWD/build/kubeconfig
  kubectl get longboat -n {NAMESPACE}                  # policies, backups, snapshots, restores
  kubectl explain backuppolicy.spec.schedule       # the schema teaches
  kubectl describe diskbackup -n {NAMESPACE}           # how consistent, how large, until when
  kubectl create -f build/run-now.yaml                 # run the weekly policy now …
  kubectl get diskbackups -n {NAMESPACE} -w            # … and watch it
  make shell                                       # into the node
  make cluster-stop                                # stop; backups stay in the remote store until make clean
"""


def main() -> int:
    """Tell the story; return the exit code: not 0 if anything is not as told."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--cluster", choices=("local", "kind", "current"), default="local")
    arguments = parser.parse_args()
    try:
        return _run(arguments.cluster)
    except (ClusterError, StoryError) as error:
        print(f"\n✗ {error}", file=sys.stderr)
        return 1


def _run(kind: str) -> int:
    narrator = Narrator()
    narrator.chapter("A cluster with KubeVirt, a remote object store, and the operator")
    host.check_node_host()
    cluster = Cluster(DEMO)
    lifecycle.up(cluster, kubevirt=True)
    installation.install(cluster)
    installation.ensure_store(cluster)
    Story(cluster, narrator).run()
    (CHECKOUT / "build" / "run-now.yaml").write_text(json.dumps(run_of("db-weekly"), indent=2))
    print(NEXT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
