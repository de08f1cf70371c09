"""The operator's process against a real API server without controllers: schedules, bad input, kills, liveness."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from kopf.testing import KopfRunner

from tests.cluster.apiserver import ApiServer
from tests.cluster.s3 import free_port

TOP = Path(__file__).parent.parent.parent
SYSTEM = "longboat-process"
T = TypeVar("T")
Object = dict[str, Any]


class Server:
    """The API server as tests use it: objects in and out as dictionaries."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api

    def apply(self, *objects: Object) -> None:
        self.api.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, what: str, name: str, namespace: str) -> Object:
        found: Object = json.loads(self.api.kubectl("get", what, name, "-n", namespace, "-o", "json"))
        return found

    def list(self, what: str, namespace: str) -> list[Object]:
        found: list[Object] = json.loads(self.api.kubectl("get", what, "-n", namespace, "-o", "json"))["items"]
        return found

    def merge(self, what: str, name: str, namespace: str, patch: Object, *more: str) -> None:
        self.api.kubectl("patch", what, name, "-n", namespace, "--type=merge", *more, "-p", json.dumps(patch))

    def namespace(self, name: str) -> None:
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def claim(self, name: str, namespace: str) -> None:
        """Make a claim that is bound, as a provisioner would leave it."""
        resources = {"requests": {"storage": "1Gi"}}
        spec = {"accessModes": ["ReadWriteOnce"], "resources": resources, "volumeName": f"pv-{name}"}
        kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        self.apply(kind | {"metadata": {"name": name, "namespace": namespace}, "spec": spec})
        self.merge("pvc", name, namespace, {"status": {"phase": "Bound"}}, "--subresource=status")


@pytest.fixture(scope="module")
def server(apiserver: ApiServer) -> Server:
    server = Server(apiserver)
    for path in sorted((TOP / "crds").glob("*.yaml")):
        server.apply(yaml.safe_load(path.read_text()))
    server.api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    server.namespace(SYSTEM)
    return server


@pytest.fixture
def environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that the chart would set, for this process and for those it starts."""
    variables = {
        "KUBECONFIG": str(server.api.kubeconfig),
        "LONGBOAT_NAMESPACE": SYSTEM,
        "LONGBOAT_IMAGE": "longboat:test",
        "LONGBOAT_RESYNC_SECONDS": "1",
        "PYTHONPATH": f"{TOP / 'operator'}{os.pathsep}{TOP}",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **variables}


def policy(name: str, namespace: str, **spec: Any) -> Object:
    defaults = {
        "target": {"disk": {"persistentVolumeClaim": "data"}},
        "schedule": {"cron": "* * * * *"},
        "retention": {"keepFor": "1d"},
        "storeRef": {"name": "process"},
    }
    meta = {"name": name, "namespace": namespace}
    # A key that is None is left out: the default of the API server counts.
    merged = {key: value for key, value in (defaults | spec).items() if value is not None}
    return {"apiVersion": "longboat.dev/v1alpha1", "kind": "BackupPolicy", "metadata": meta, "spec": merged}


def store(name: str, **spec: Any) -> Object:
    body = {
        "s3": {"endpoint": "https://objects.invalid", "bucket": "backups"},
        "credentialsSecretRef": {"name": "nowhere"},
        "encryption": {"keySecretRef": {"name": "no-key"}},
    }
    meta = {"name": name}
    return {"apiVersion": "longboat.dev/v1alpha1", "kind": "BackupStore", "metadata": meta, "spec": body | spec}


def reason(obj: Object, type_: str = "Ready") -> str | None:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((each["reason"] for each in conditions if each["type"] == type_), None)


def eventually(what: Callable[[], T], holds: Callable[[T], bool], seconds: float) -> T:
    """Return what is there once it is as it should be; fail with what is there otherwise."""
    deadline = time.monotonic() + seconds
    while not holds(found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {found}")
        time.sleep(0.3)
    return found


@contextlib.contextmanager
def operator(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the operator's process; it is killed at the end unless it has ended."""
    command = [sys.executable, "-m", "longboat", "operator", "--liveness", f"http://127.0.0.1:{free_port()}/healthz"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def slots(server: Server, namespace: str, name: str) -> list[datetime]:
    found = [each for each in server.list("diskbackups", namespace) if each["spec"]["policyRef"]["name"] == name]
    return sorted(datetime.fromisoformat(each["spec"]["slot"]) for each in found)


def finish(server: Server, namespace: str) -> None:
    """End every run as a failed one: this API server has no storage, and runs must not pile up."""
    for each in server.list("diskbackups", namespace):
        if each.get("status", {}).get("phase") not in ("Completed", "Failed"):
            status = {"status": {"phase": "Failed", "cleanedUp": True}}
            server.merge("diskbackups", each["metadata"]["name"], namespace, status, "--subresource=status")


def test_a_disk_backup_per_slot_though_the_operator_is_killed(
    server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    namespace, log = "slots", tmp_path / "operator.log"
    server.namespace(namespace)
    server.claim("data", namespace)
    server.apply(store("process"), policy("minutely", namespace))

    def seen() -> list[datetime]:
        finish(server, namespace)
        return slots(server, namespace, "minutely")

    with operator(environment, log) as process:
        eventually(seen, lambda found: len(found) >= 1, 75)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with operator(environment, log):
        found = eventually(seen, lambda found: len(found) >= 2, 90)
    gaps = [b - a for a, b in pairwise(found)]
    assert gaps == [timedelta(minutes=1)] * len(gaps), log.read_text()
    assert "Traceback" not in log.read_text()
    for each in server.list("diskbackups", namespace):
        annotations = each["metadata"].get("annotations", {})
        assert annotations == {}, "kopf leaves nothing on objects"
    assert server.get("backuppolicy", "minutely", namespace)["metadata"].get("finalizers") is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "zone": ({"timeZone": "Europe/Nowhere"}, "TimeZoneUnknown"),
    "cron": ({"schedule": {"cron": "61 * * * *"}}, "CronInvalid"),
    "claim": ({"target": {"disk": {"persistentVolumeClaim": "none"}}}, "ClaimNotFound"),
    "machine": ({"target": {"virtualMachine": {"name": "none"}}}, "VirtualMachineNotFound"),
    "selector": ({"target": {"selector": {"matchLabels": {"a": "b"}}}}, "NothingSelected"),
    "store": ({"storeRef": {"name": "none"}}, "StoreNotFound"),
    "default": ({"storeRef": None}, "NoDefaultStore"),
    "closed": ({"storeRef": {"name": "closed"}}, "StoreNotFound"),
}


def test_bad_input_lands_as_conditions_and_good_policies_go_on(server: Server, environment: dict[str, str]) -> None:
    namespace = "bad-input"
    server.namespace(namespace)
    server.claim("data", namespace)
    server.apply(store("process"), store("closed", allowedNamespaces={"matchLabels": {"backups": "yes"}}))
    for name, (spec, _) in BAD.items():
        server.apply(policy(name, namespace, **spec))
    server.apply(policy("good", namespace, schedule={"daily": {"at": "03:30"}}))
    port = free_port()
    arguments = ["run", "-A", "--standalone", "-m", "longboat.handlers.operator"]
    with KopfRunner([*arguments, f"--liveness=http://127.0.0.1:{port}/healthz"], timeout=60) as runner:
        expected = {name: why for name, (_, why) in BAD.items()} | {"good": "Scheduled"}
        eventually(
            lambda: {each["metadata"]["name"]: reason(each) for each in server.list("backuppolicies", namespace)},
            lambda found: found == expected,
            30,
        )
        eventually(lambda: reason(server.get("backupstore", "process", "")), lambda why: why == "KeyNotFound", 10)
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).status == 200
        # What was missing is made: the policy goes on without a restart, and without an edit.
        server.apply(store("none"))
        eventually(lambda: reason(server.get("backuppolicy", "store", namespace)), lambda why: why == "Scheduled", 75)
    assert runner.exit_code == 0
    assert runner.exception is None
    assert "Traceback" not in runner.output


def test_the_liveness_probe_fails_when_the_tick_stands_still(
    server: Server, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longboat.reconcile.tick.Tick.age", lambda tick: 1000.0)
    port = free_port()
    arguments = ["run", "-A", "--standalone", "-m", "longboat.handlers.operator"]
    with KopfRunner([*arguments, f"--liveness=http://127.0.0.1:{port}/healthz"], timeout=60):

        def status() -> int:
            try:
                return int(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0

        eventually(status, lambda code: code == 500, 20)


def test_a_wrong_environment_is_said_in_one_line(environment: dict[str, str]) -> None:
    wrong = environment | {"LONGBOAT_TRASH_PERIOD": "soon"}
    command = [sys.executable, "-m", "longboat", "operator"]
    found = subprocess.run(command, env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("longboat operator: LONGBOAT_TRASH_PERIOD: 'soon'")
    assert "Traceback" not in found.stderr
