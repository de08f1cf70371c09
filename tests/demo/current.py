"""`make demo CLUSTER=current`: the story on the cluster that kubectl's current context names, once the user agrees."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from longboat.cli.findings import Finding, Verdict
from longboat.cli.observation import Observation, observe
from longboat.cli.verdicts import DEFAULT_STORAGE_CLASS, judge
from longboat.kube.client import ApiServer, connect
from longboat.kube.port import KubeError
from tests.cluster.progress import ClusterError
from tests.demo.place import Place

# What `longboat check` says of these areas decides; what it says of other people's disks does not.
AREAS = ("CRDs", "operator", "stores", "snapshots", "KubeVirt")
# With these the operator works, but the story can't be told.
NEEDED = {("stores", "default"), ("KubeVirt", "KubeVirt"), ("KubeVirt", "hot-plug")}


@dataclass(frozen=True)
class Context:
    """A context of the kubeconfig: named on each call, so that switching contexts meanwhile changes nothing."""

    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return its output. Raises ClusterError if it fails."""
        return _kubectl(f"--context={self.name}", *arguments, stdin=stdin)


def place(arguments: argparse.Namespace) -> Place:
    """Ask, look, and return where to tell the story. Raises ClusterError saying what is missing and how to get it."""
    if not arguments.guest_image:
        raise ClusterError("no guest image: name one that the nodes can pull with --guest-image. "
                           "`make guest-image` makes it (docs/how-to/demo-elsewhere.md)")  # fmt: skip
    if not shutil.which("kubectl"):
        raise ClusterError("kubectl is missing: https://kubernetes.io/docs/tasks/tools")
    context = Context(_kubectl("config", "current-context").strip())
    _ask(question(context.name, arguments), arguments.yes)
    seen = _look(context, arguments.operator_namespace)
    missing = problems(judge(seen, datetime.now(UTC)))
    storage_class = arguments.storage_class or default_class(seen)
    if not storage_class:
        missing.append("no default StorageClass: name one that makes Block volumes with --storage-class")
    if missing:
        raise ClusterError("the story can't be told on this cluster; README.md says how to install:\n- "
                           + "\n- ".join(missing))  # fmt: skip
    return Place(context, arguments.namespace, storage_class, arguments.guest_image, arguments.operator_namespace)


def question(context: str, arguments: argparse.Namespace) -> str:
    """What the user is asked to agree to."""
    return f"""
This will use the cluster of kubectl's current context: {context}
  - make the namespace {arguments.namespace}; what an earlier demo has left in it is removed
  - in it a virtual machine with three disks of up to 256 MiB, StorageClass {arguments.storage_class or "(default)"},
    three policies with their backups, snapshots of the disks, two restored disks
  - write about 50 MiB into the default BackupStore
  - kill the operator's pod in {arguments.operator_namespace} once: its Deployment starts another
Nothing else is changed, and everything stays until you delete the namespace.
Go on? Type yes: """


def problems(findings: Iterable[Finding]) -> list[str]:
    """What stands against the story, each with its remedy."""
    return [
        f"{each.area}, {each.subject}: {each.message}" + (f" → {each.remedy}" if each.remedy else "")
        for each in findings
        if (each.verdict in (Verdict.ERROR, Verdict.NOT_YET) and each.area in AREAS)
        or (each.verdict == Verdict.WARNING and (each.area, each.subject) in NEEDED)
    ]


def default_class(seen: Observation) -> str:
    """The name of the cluster's default StorageClass, or an empty text."""
    for each in seen.storage_classes:
        if (each["metadata"].get("annotations") or {}).get(DEFAULT_STORAGE_CLASS) == "true":
            return str(each["metadata"]["name"])
    return ""


def _ask(text: str, agreed: bool) -> None:
    if agreed:
        return
    if not sys.stdin.isatty():
        raise ClusterError("there is no terminal to ask on: run it on one, or agree beforehand with --yes")
    if input(text).strip().lower() != "yes":
        raise ClusterError("nothing was changed")


def _look(context: Context, namespace: str) -> Observation:
    try:
        return observe(ApiServer(connect(None, context.name), "longboat-demo"), namespace)
    except KubeError as error:
        raise ClusterError(f"context {context.name}: {error}") from error


def _kubectl(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout
