"""What is needed to find out why a test on the cluster failed, added to its report: a pytest plugin.

A test that passes costs nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cluster.cluster import TEST, Cluster
from tests.cluster.progress import ClusterError
from tests.installation import NAMESPACE

OBJECTS = "longboat,jobs,pods,pvc,volumesnapshots,volumesnapshotcontents"
OPERATOR = "app.kubernetes.io/component=operator"
STORAGE_SERVICES = ("csi-driver", "csi-provisioner", "csi-snapshotter", "snapshot-controller")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the cluster's evidence to the report of a test that failed on it."""
    report = yield
    if report.failed and "cluster" in getattr(item, "fixturenames", ()):
        report.sections.extend(collect(Cluster(TEST)))
    return report


def collect(cluster: Cluster) -> list[tuple[str, str]]:
    """Titles and texts, newest lines last; what can't be had says why, so that the failure itself is always told."""
    if not cluster.is_known():
        return [("cluster", f"cluster {cluster.name} does not run")]
    logs = ("-n", NAMESPACE, "logs", "--prefix", f"--selector={OPERATOR}")
    sections = [
        ("objects", _kubectl(cluster, 200, "get", OBJECTS, "-A", "-o", "wide")),
        ("events", _kubectl(cluster, 120, "get", "events", "-A", "--sort-by=.metadata.creationTimestamp")),
        ("operator", _kubectl(cluster, 200, *logs, "--tail=200")),
        ("operator before its last restart", _kubectl(cluster, 200, *logs, "--tail=200", "--previous")),
        ("movers", _kubectl(cluster, 120, "-n", NAMESPACE, "logs", "--prefix", "--tail=40", "--selector=job-name")),
    ]
    services = [path for path in cluster.logs() if path.stem in STORAGE_SERVICES]
    return sections + [(path.stem, _tail(path, 60)) for path in services]


def _kubectl(cluster: Cluster, lines: int, *arguments: str) -> str:
    try:
        text = cluster.kubectl("--request-timeout=20s", *arguments)
    except (ClusterError, subprocess.SubprocessError, OSError) as error:
        text = str(error)
    return "\n".join(text.splitlines()[-lines:])


def _tail(path: Path, lines: int) -> str:
    """The last lines of a log, however long it is."""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - lines * 400))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
