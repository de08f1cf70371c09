"""The commands as people and hooks call them: output, exit codes, and what they change in the cluster."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml

from longboat.cli import check, key, release_finalizers
from longboat.cli.findings import Ability, Finding, Verdict
from longboat.cli.observation import observe
from longboat.cli.trial import NAME, Trial, movers_of, run
from longboat.kube.kinds import DEPLOYMENT, DISK_BACKUP, JOB, PERSISTENT_VOLUME_CLAIM, Kind
from longboat.kube.port import RefusedError, UnavailableError
from longboat.plan.mover import JOB_NAME, MoverSettings
from longboat.repository import parse_recovery_public, parse_recovery_secret, parse_store_key
from tests.fakes.cluster import FakeCluster

SYSTEM = "longboat-system"
Object = dict[str, Any]

FINDINGS = [
    Finding("stores", "offsite", Verdict.OK, "available", "", (Ability.BACKUPS,)),
    Finding("KubeVirt", "hot-plug", Verdict.WARNING, "off", "add the gate", (Ability.HOTPLUG,)),
]


def test_the_table_says_what_to_do_and_what_works() -> None:
    out = io.StringIO()
    check.print_table(FINDINGS, out)
    assert "warn  KubeVirt: hot-plug\n      off\n      → add the gate\n" in out.getvalue()
    assert "yes       backups off site" in out.getvalue()
    assert "in part   attaching restored disks" in out.getvalue()


def test_json_is_whole_for_machines() -> None:
    out = io.StringIO()
    check.print_json(FINDINGS, out)
    data = json.loads(out.getvalue())
    assert data["verdict"] == "warning"
    assert data["findings"][1]["remedy"] == "add the gate"
    assert data["abilities"]["backups off site"] == "ok"


class Forbidden(FakeCluster):
    """A cluster whose caller may list nothing."""

    def list(
        self, kind: Kind, namespace: str = "", labels: Any = None, fields: Any = (), *, cached: bool = False
    ) -> Any:
        raise RefusedError(f"forbidden: {kind.plural}")

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        raise RefusedError(f"forbidden: {kind.plural}")


class Away(FakeCluster):
    """A cluster whose API server does not answer."""

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        raise UnavailableError("no answer")


def _use(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> None:
    for module in (check, release_finalizers):
        monkeypatch.setattr(module, "cluster_of", lambda arguments: cluster)


def test_a_user_without_rights_gets_answers_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, Forbidden())
    assert check.main([]) == 0
    assert "you may not list deployments" in capsys.readouterr().out


@pytest.mark.parametrize(("cluster", "code"), [(FakeCluster(), 1), (Away(), 3)])
def test_the_exit_code_tells_faults_from_no_answer(
    monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster, code: int
) -> None:
    _use(monkeypatch, cluster)
    assert check.main(["-o", "json"]) == code


@pytest.mark.parametrize(("verdict", "code"), [(each, int(each == Verdict.ERROR)) for each in Verdict])
def test_a_fresh_installation_without_a_store_is_no_failure_of_a_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: Verdict, code: int
) -> None:
    _use(monkeypatch, FakeCluster())
    monkeypatch.setattr(check, "judge", lambda seen, now: [Finding("stores", "none", verdict, "said", "", ())])
    assert check.main([]) == code
    assert capsys.readouterr().out.startswith({"not-yet": "next  ", "error": "ERROR "}.get(verdict, ""))


def test_no_kubeconfig_is_said_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--kubeconfig", "/nowhere/kubeconfig"]) == 3
    assert "name a kubeconfig with --kubeconfig" in capsys.readouterr().err


def test_a_key_is_a_secret_on_stdout_and_its_recovery_half_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert key.main(["generate", "--recovery", "--secret", "offsite-key", "-n", SYSTEM]) == 0
    printed = capsys.readouterr()
    secret = yaml.safe_load(printed.out)
    assert secret["metadata"] == {"name": "offsite-key", "namespace": SYSTEM}
    assert len(parse_store_key(secret["stringData"]["key"])) == 32
    words = printed.err.split()
    recovery = next(each for each in words if each.startswith("longboat-recovery-secret-"))
    recipient = next(each for each in words if each.startswith("longboat-recovery-public-"))
    assert parse_recovery_secret(recovery)
    assert parse_recovery_public(recipient)
    assert recovery not in printed.out
    assert recipient in printed.out


def test_each_key_is_a_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    key.main(["generate"])
    key.main(["generate"])
    first, second = capsys.readouterr().out.split()
    assert parse_store_key(first) != parse_store_key(second)


def test_a_namespace_without_a_secret_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert key.main(["generate", "-n", SYSTEM]) == 2


def _backup(name: str, *finalizers: str) -> Object:
    meta = {"name": name, "namespace": "shop", "finalizers": list(finalizers)}
    return {"apiVersion": "longboat.dev/v1alpha1", "kind": "DiskBackup", "metadata": meta, "spec": {}}


def _deployment() -> Object:
    environment = [{"name": "LONGBOAT_MOVER_USER", "value": "1000660000"}]
    container = {"name": "operator", "image": "registry.example.com/longboat:1", "env": environment}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "longboat", "namespace": SYSTEM},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "longboat"}},
            "template": {"spec": {"containers": [container], "imagePullSecrets": [{"name": "registry"}]}},
        },
    }


def _pod(name: str, **labels: str) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM, "labels": labels}}


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(namespaces=[SYSTEM, "shop"])


def test_our_finalizers_go_and_those_of_others_stay(cluster: FakeCluster) -> None:
    cluster.create(_backup("ours", "longboat.dev/keep-data"))
    cluster.create(_backup("mixed", "example.com/theirs", "longboat.dev/keep-data"))
    cluster.create(_backup("theirs", "example.com/theirs"))
    assert release_finalizers.release(cluster) == 2
    left = {each["metadata"]["name"]: each["metadata"].get("finalizers") for each in cluster.list(DISK_BACKUP)}
    assert left == {"ours": [], "mixed": ["example.com/theirs"], "theirs": ["example.com/theirs"]}


def test_an_object_that_waits_for_the_operator_can_go(cluster: FakeCluster) -> None:
    cluster.create(_backup("waiting", "longboat.dev/keep-data"))
    cluster.delete(DISK_BACKUP, "waiting", "shop")
    assert release_finalizers.release(cluster) == 1
    assert cluster.get(DISK_BACKUP, "waiting", "shop") is None


def test_the_operator_is_stopped_before_its_finalizers_are_taken(cluster: FakeCluster) -> None:
    cluster.create(_deployment())
    cluster.create(_pod("longboat-1", app="longboat"))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            cluster.objects = {key: each for key, each in cluster.objects.items() if each["kind"] != "Pod"}

    release_finalizers.stop(cluster, SYSTEM, "longboat", sleep)
    stopped = cluster.get(DEPLOYMENT, "longboat", SYSTEM)
    assert stopped is not None
    assert stopped["spec"]["replicas"] == 0
    assert len(slept) == 3


def test_an_operator_that_does_not_stop_keeps_its_finalizers(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.create(_deployment())
    cluster.create(_pod("longboat-1", app="longboat"))
    cluster.create(_backup("ours", "longboat.dev/keep-data"))
    _use(monkeypatch, cluster)
    monkeypatch.setattr(release_finalizers.time, "sleep", lambda seconds: None)
    assert release_finalizers.main(["-n", SYSTEM, "--deployment", "longboat"]) == 1
    assert "are still there" in capsys.readouterr().err
    (backup,) = cluster.list(DISK_BACKUP)
    assert backup["metadata"]["finalizers"] == ["longboat.dev/keep-data"]


def test_without_a_deployment_there_is_nothing_to_stop(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, cluster)
    assert release_finalizers.main(["-n", SYSTEM, "--deployment", "longboat"]) == 0
    assert capsys.readouterr().out == "released 0 objects; nothing was deleted\n"


def _try(cluster: FakeCluster, status: Object, said: str) -> Finding:
    def act(verb: str, obj: Object) -> None:
        if verb == "create" and obj["kind"] == "Job":
            cluster.create(_pod("trial-1", **{JOB_NAME: NAME}))
            cluster.pod_logs[(SYSTEM, "trial-1")] = said
            cluster.objects[(JOB, SYSTEM, NAME)]["status"] = status

    cluster.hooks.append(act)
    return run(cluster, Trial(MoverSettings(SYSTEM, "image"), "fast"), lambda seconds: None)


@pytest.mark.parametrize(
    ("status", "said", "verdict", "words"),
    [
        ({"succeeded": 1}, "opened", Verdict.OK, "user 107 could open a block device of StorageClass fast"),
        ({"failed": 1}, "PermissionError: [Errno 13]", Verdict.ERROR, "user 107 may not open a block device"),
        ({"failed": 1}, "Traceback\nOSError: odd", Verdict.ERROR, "OSError: odd"),
        ({}, "", Verdict.UNKNOWN, "did not end within 180 s"),
    ],
)
def test_a_trial_tells_whether_movers_can_work_and_leaves_nothing(
    cluster: FakeCluster, status: Object, said: str, verdict: Verdict, words: str
) -> None:
    finding = _try(cluster, status, said)
    assert finding.verdict == verdict
    assert words in finding.message
    assert ("device_ownership_from_security_context" in finding.remedy) == ("PermissionError" in said)
    assert not [*cluster.list(JOB), *cluster.list(PERSISTENT_VOLUME_CLAIM)]


def test_a_trial_runs_as_the_operators_movers_would(cluster: FakeCluster) -> None:
    made: list[Object] = []
    cluster.hooks.append(lambda verb, obj: made.append(obj) if verb == "create" else None)
    movers = movers_of(_deployment())
    run(cluster, Trial(movers, None), lambda seconds: None)
    (pod,) = [each["spec"]["template"]["spec"] for each in made if each["kind"] == "Job"]
    assert pod["securityContext"]["runAsUser"] == 1000660000
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example.com/longboat:1"
    assert container["volumeDevices"][0]["devicePath"] in container["command"][2]
    assert [each["name"] for each in pod["volumes"]] == ["disk"]


def test_a_trial_removes_no_claim_that_it_did_not_make(cluster: FakeCluster) -> None:
    meta = {"name": NAME, "namespace": SYSTEM}
    cluster.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": {}})
    finding = run(cluster, Trial(MoverSettings(SYSTEM, "image"), None), lambda seconds: None)
    assert finding.verdict == Verdict.UNKNOWN
    assert cluster.get(PERSISTENT_VOLUME_CLAIM, NAME, SYSTEM)


def test_what_is_observed_comes_from_the_operators_namespace(cluster: FakeCluster) -> None:
    labels = {"app.kubernetes.io/name": "longboat", "app.kubernetes.io/component": "operator"}
    deployment = _deployment()
    deployment["metadata"]["labels"] = labels
    cluster.create(deployment)
    assert len(observe(cluster, SYSTEM).operators) == 1
    assert observe(cluster, "shop").operators == ()
