"""The page of metrics and who serves it: named by the failures that each test prevents."""

from __future__ import annotations

import gzip
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from longboat import __version__
from longboat.handlers.metrics import CLIENT_PATIENCE, CONNECTIONS, FRESH, Application, MetricsServer
from longboat.handlers.metrics_page import Page
from longboat.kube.kinds import BACKUP_POLICY
from longboat.plan.metrics import METRICS, store_samples
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


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


ASKING = {
    "says nothing": b"",
    "never comes to its end": b"GET /metrics HTTP/1.0\r\nX-More: ",
    "does not read": b"GET /metrics HTTP/1.0\r\n\r\n",
}


def _clients(server: MetricsServer, stack: ExitStack, asking: bytes) -> list[socket.socket]:
    """As many clients as there are places, of which none will ever be done."""
    clients = []
    for _ in range(CONNECTIONS):
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(asking)
        clients.append(client)
    return clients


def _turned_away(server: MetricsServer) -> bool:
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as client:
        try:
            return not client.recv(1)
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
def test_clients_without_number_or_end_take_neither_threads_nor_memory_of_backups(
    figures: Figures, asking: bytes
) -> None:
    """More than a few are closed unheard; those few make room at their deadline, though each sends a byte at times."""
    clock = Clock()
    seen(figures, policy(version="2", target="x" * 20_000_000))
    server = MetricsServer(figures, 0, clock)
    with ExitStack() as stack:
        stack.callback(server.stop)
        clients = _clients(server, stack, asking)
        assert _turned_away(server)
        clock.now = CLIENT_PATIENCE
        for _ in range(50):
            for client in clients:
                with suppress(OSError):
                    client.send(b"x")
            with suppress(OSError):
                assert get(server, **{"Accept-Encoding": "gzip"}).status == 200
                return
            time.sleep(0.1)
        pytest.fail("clients hold their places for longer than CLIENT_PATIENCE")


def test_place_of_an_answered_client_is_given_to_the_next(server: MetricsServer) -> None:
    for _ in range(3 * CONNECTIONS):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"HEAD /metrics HTTP/1.0\r\n\r\n")
            # To the end of the connection: that of the answer comes before its place is free.
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert b" 200 OK" in answer


def test_scrapes_of_one_moment_share_one_page(figures: Figures) -> None:
    """A page for each of them is their number times 19 MB where there are many policies."""
    clock = Clock()
    app = Application(figures, clock)

    def scrape(**more: str) -> bytes:
        [body] = app({"PATH_INFO": "/metrics", "REQUEST_METHOD": "GET", **more}, lambda *_: None)
        return body

    first, packed = scrape(), scrape(HTTP_ACCEPT_ENCODING="gzip")
    seen(figures, policy("new"))
    assert scrape() is first and scrape(HTTP_ACCEPT_ENCODING="gzip") is packed
    clock.now += FRESH
    assert b'policy="new"' in scrape() and b'policy="new"' in gzip.decompress(scrape(HTTP_ACCEPT_ENCODING="gzip"))


def test_no_pod_reads_where_the_backups_are() -> None:
    status = {"url": "s3://the-bucket/its-prefix"}
    store = {"metadata": {"name": "offsite"}, "spec": {"location": "the-site"}, "status": status}
    told = repr(list(store_samples(store)))
    assert "offsite" in told and not any(word in told for word in ("the-bucket", "its-prefix", "the-site"))
