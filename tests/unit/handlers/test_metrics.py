"""The page of metrics and who serves it: named by the failures that each test prevents."""

from __future__ import annotations

import gzip
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from longboat import __version__
from longboat.handlers.metrics import MetricsServer
from longboat.handlers.metrics_page import Page
from longboat.kube.kinds import BACKUP_POLICY
from longboat.plan.metrics import METRICS
from longboat.reconcile.figures import Figures
from tests.unit.reconcile.policy_world import SHOP, World

USAGE = [{"store": "offsite", "virtualMachine": "db", "disk": "data", "claim": "db-data", "storedBytes": 7}]


def policy(name: str = "daily", version: str = "1", **status: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"backups": 3, "usage": USAGE, "totals": {"completed": 4, "failed": 1, "seconds": 90}}
    meta = {"namespace": SHOP, "name": name, "resourceVersion": version}
    return {"kind": "BackupPolicy", "metadata": meta, "spec": {}, "status": told | status}


def seen(figures: Figures, *policies: dict[str, Any]) -> None:
    list(figures.policies(policies, 100.0))


@pytest.fixture
def figures() -> Figures:
    figures = Figures()
    seen(figures, policy())
    list(figures.backups([], all_of_them=True))
    return figures


@pytest.fixture
def server(figures: Figures) -> Iterator[MetricsServer]:
    server = MetricsServer(figures, 0)
    yield server
    server.stop()


def get(server: MetricsServer, path: str = "/metrics", **headers: str) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    return urllib.request.urlopen(request, timeout=10)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family must not be told in two places"
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def test_prometheus_can_read_the_page(server: MetricsServer) -> None:
    answer = get(server)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = samples(answer.read().decode())
    its = {("namespace", SHOP), ("policy", "daily")}
    assert found["longboat_backups_total", frozenset({*its, ("result", "Completed")})] == 4
    assert found["longboat_backup_duration_seconds_count", frozenset(its)] == 5
    assert found["longboat_backup_duration_seconds_sum", frozenset(its)] == 90
    assert found["longboat_backups_kept", frozenset(its)] == 3
    assert found["longboat_build_info", frozenset({("version", __version__)})] == 1
    disk = {("store", "offsite"), ("vm", "db"), ("disk", "data"), ("claim", "db-data")}
    assert found["longboat_stored_bytes", frozenset({*its, *disk})] == 7
    assert any(name == "process_resident_memory_bytes" for name, _ in found)


def test_every_metric_says_what_it_is(figures: Figures) -> None:
    text = Page(figures).text().decode()
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE longboat_")}
    assert told <= {metric.name for metric in METRICS} and "longboat_backups_total" in told


def test_label_cannot_end_its_line_and_forge_another(figures: Figures) -> None:
    seen(figures, policy(version="2", target='x"} 1\nlongboat_store_up{store="y', schedule="\\"))
    found = samples(Page(figures).text().decode())
    assert not any(name == "longboat_store_up" for name, _ in found)
    [labels] = [dict(labels) for name, labels in found if name == "longboat_policy_info"]
    assert labels["target"] == 'x"} 1\nlongboat_store_up{store="y' and labels["schedule"] == "\\"


def test_change_of_one_policy_is_told_and_what_is_gone_is_not(figures: Figures) -> None:
    page = Page(figures)
    seen(figures, policy("a"), policy("b"))
    page.text()
    seen(figures, policy("b", version="2", backups=9))
    found = samples(page.text().decode())
    kept = {dict(labels)["policy"]: value for (name, labels), value in found.items() if name == "longboat_backups_kept"}
    assert kept == {"b": 9}


def test_page_is_the_same_however_it_came_about(figures: Figures) -> None:
    """Remembered lines are those that would be written now."""
    page = Page(figures)
    for version in range(3):
        seen(figures, policy("a"), policy("b", version=str(version), backups=version))
        assert samples(page.text().decode()).keys() == samples(Page(figures).text().decode()).keys()


def test_large_page_is_compressed_for_who_can_read_that(server: MetricsServer) -> None:
    answer = get(server, **{"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b"longboat_policy_info" in gzip.decompress(answer.read())


def test_half_of_the_policies_is_not_served() -> None:
    figures = Figures()
    server = MetricsServer(figures, 0)
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server)
        assert caught.value.code == 503
        seen(figures)
        assert get(server).status == 200
    finally:
        server.stop()


def test_nothing_else_is_served(server: MetricsServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(server, "/")
    assert caught.value.code == 404


def test_client_that_says_nothing_holds_up_nobody(server: MetricsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)):
        assert get(server).status == 200


def test_world_of_one_policy_has_no_metric_that_is_not_listed() -> None:
    """What is yielded by a name that METRICS does not hold would end the page."""
    world = World()
    world.add_vm("db", "data")
    world.add_store()
    world.add_policy()
    world.run()
    figures = Figures()
    seen(figures, world.cluster.get(BACKUP_POLICY, "daily", SHOP) or {})
    assert b"longboat_policy_expected_interval_seconds" in Page(figures).text()
