"""`python -m tests.cluster`: the local cluster from the command line."""

from __future__ import annotations

import argparse
import os
import sys

from tests.cluster import host, lifecycle
from tests.cluster.cluster import DEMO, Cluster
from tests.cluster.progress import ClusterError


def main() -> int:
    """Run one command; a ClusterError is told in its own words, without a traceback."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(Cluster(arguments.name), arguments) or 0)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="Longboat's local cluster")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--name", default=DEMO, help=f"which cluster of this checkout (default: {DEMO})")
        added.set_defaults(run=run)
        return added

    start = command("up", _up, "start the cluster, or do nothing if it runs")
    start.add_argument("--no-kubevirt", action="store_true", help="without KubeVirt: up in half a minute")
    start.add_argument("--renew", action="store_true", help="replace a cluster of other versions")
    command("stop", lambda cluster, _: lifecycle.stop(cluster), "stop it; the remote object store stays")
    command("clean", lambda cluster, _: lifecycle.clean(cluster), "stop it and delete the remote object store")
    command("status", _status, "tell whether it runs, and where everything is")
    command("shell", _shell, "a shell inside the node")
    inside = command("in", _in, "run a command inside the node: in -- ls /dev")
    inside.add_argument("command", nargs="+")
    parts = command("build", _build, "build everything into the cache")
    parts.add_argument("--no-kubevirt", action="store_true", help="without KubeVirt")
    logs = command("logs", _logs, "print the last lines of every service's log")
    logs.add_argument("--lines", type=int, default=20, help="how many of each (default: 20)")
    command("s3", lambda cluster, _: print(cluster.s3_settings().as_json()), "how to reach the remote object store")
    return parser


def _up(cluster: Cluster, arguments: argparse.Namespace) -> None:
    lifecycle.up(cluster, kubevirt=not arguments.no_kubevirt, renew=arguments.renew)


def _build(_: Cluster, arguments: argparse.Namespace) -> None:
    host.check_node_host()
    lifecycle.build(kubevirt=not arguments.no_kubevirt)


def _status(cluster: Cluster, _: argparse.Namespace) -> int:
    """Exit with 0 only if the cluster runs."""
    healthy = lifecycle.is_healthy(cluster)
    state = "running" if healthy else "broken: `up` replaces it" if cluster.is_known() else "not running"
    print(f"cluster {cluster.name}: {state}")
    if healthy:
        print(f"kubeconfig: {cluster.kubeconfig}\nstate: {cluster.state}")
        print(f"services: {', '.join(sorted(cluster.service_pids()))}")
    print(f"remote object store: {'running' if cluster.remote.is_running() else 'not running'}")
    return 0 if healthy else 1


def _shell(cluster: Cluster, _: argparse.Namespace) -> None:
    _exec(cluster, ["bash"])


def _in(cluster: Cluster, arguments: argparse.Namespace) -> None:
    _exec(cluster, arguments.command)


def _exec(cluster: Cluster, command: list[str]) -> None:
    """Become the command, so that its exit code and signals are its own."""
    line = cluster.enter_command(command)
    os.execvp(line[0], line)


def _logs(cluster: Cluster, arguments: argparse.Namespace) -> None:
    for path in cluster.logs():
        print(f"==> {path}")
        print("\n".join(path.read_text(errors="replace").splitlines()[-arguments.lines :]))


if __name__ == "__main__":
    sys.exit(main())
