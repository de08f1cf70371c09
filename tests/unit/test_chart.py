"""What the chart renders to: the rights it gives, the CRDs it brings, the values it takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from longboat.cli.observation import OPERATOR_LABELS
from scripts.generated_chart import NAMESPACE, render
from tests.cluster import binaries

TOP = Path(__file__).parents[2]
CHART = TOP / "charts/longboat"
FEATURES = sorted(CHART.glob("ci/*-values.yaml"))

Object = dict[str, Any]


@cache
def _text(*arguments: str) -> str:
    return json.dumps(render(CHART, *arguments))


def _render(*arguments: str) -> list[Object]:
    """The chart's objects; rendered once for each set of arguments, as helm takes a while to start."""
    objects: list[Object] = json.loads(_text(*arguments))
    return objects


def _named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def _rules(kind: str, *arguments: str) -> Iterator[tuple[str, str, str]]:
    """Yield (API group, resource, verb) of everything that roles of a kind allow."""
    for role in _render(*arguments):
        if role["kind"] != kind:
            continue
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                yield from ((group, resource, verb) for resource in rule["resources"] for verb in rule["verbs"])


@pytest.mark.parametrize("values", FEATURES, ids=lambda path: path.name)
def test_every_feature_renders(values: Path) -> None:
    assert _render("--values", str(values))


@pytest.mark.parametrize("values", FEATURES, ids=lambda path: path.name)
def test_every_object_is_labelled_and_in_its_namespace(values: Path) -> None:
    namespaced = {
        *("ServiceAccount", "Role", "RoleBinding", "Deployment", "Job", "NetworkPolicy", "Service"),
        *("ServiceMonitor", "PrometheusRule", "ConfigMap"),
    }
    for obj in _render("--values", str(values)):
        if obj["kind"] == "ConfigMap" and "labels" not in obj["metadata"]:
            # One of the extra objects, which are as they are given.
            continue
        assert obj["metadata"]["labels"]["app.kubernetes.io/instance"] == "longboat", obj["metadata"]
        assert ("namespace" in obj["metadata"]) == (obj["kind"] in namespaced), obj["metadata"]


def test_no_secret_is_readable_cluster_wide() -> None:
    assert not [each for each in _rules("ClusterRole") if each[1].startswith("secrets")]


def test_secrets_are_never_listed_changed_or_deleted() -> None:
    assert {verb for _, resource, verb in _rules("Role") if resource == "secrets"} == {"get", "create"}


@pytest.mark.parametrize("kind", ["ClusterRole", "Role"])
def test_nothing_is_executed_in_pods_and_no_wildcard_is_used(kind: str) -> None:
    rules = set(_rules(kind))
    assert not [each for each in rules if "*" in each]
    assert not [each for each in rules if each[1].split("/")[-1] in ("exec", "attach", "portforward", "proxy", "token")]
    assert not [each for each in rules if each[2] in ("impersonate", "bind", "escalate")]


def test_pods_and_jobs_are_reached_in_the_operators_namespace_only() -> None:
    assert not [each for each in _rules("ClusterRole") if each[1].split("/")[0] in ("pods", "jobs", "deployments")]


def test_claims_of_users_cannot_be_deleted_or_changed() -> None:
    verbs = {verb for _, resource, verb in _rules("ClusterRole") if resource == "persistentvolumeclaims"}
    assert verbs == {"get", "list", "create"}


def test_users_get_no_status_and_no_stores() -> None:
    for name in ("longboat-view", "longboat-edit"):
        role = _named(_render(), "ClusterRole", name)
        resources = {resource for rule in role["rules"] for resource in rule["resources"]}
        assert resources == {"backuppolicies", "diskbackups", "disksnapshots", "restores"}


def _bound(*arguments: str) -> set[str]:
    bindings = [each for each in _render(*arguments) if each["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    return {subject["name"] for each in bindings for subject in each["subjects"]}


def test_only_the_operator_the_movers_and_the_cleanup_are_bound() -> None:
    assert _bound() == {"longboat", "longboat-mover", "longboat-cleanup"}
    assert _bound("--set", "changedBlocks.enabled=false") == {"longboat", "longboat-cleanup"}


def test_movers_may_get_snapshots_in_their_namespace_and_nothing_else() -> None:
    manifests = _render()
    [rule] = _named(manifests, "Role", "longboat-mover")["rules"]
    assert rule == {"apiGroups": ["snapshot.storage.k8s.io"], "resources": ["volumesnapshots"], "verbs": ["get"]}
    roles = [
        each["roleRef"] for each in manifests if {"longboat-mover"} & {s["name"] for s in each.get("subjects", ())}
    ]
    assert [(role["kind"], role["name"]) for role in roles] == [("Role", "longboat-mover")]


def test_change_tracking_can_be_turned_off() -> None:
    assert _environment("--set", "changedBlocks.enabled=false")["LONGBOAT_CHANGED_BLOCKS"] == "false"
    assert _environment("--set", "changedBlocks.keepSnapshotsFor=8d")["LONGBOAT_BASE_SNAPSHOT_LONGEST"] == "8d"
    assert _environment("--set", "changedBlocks.auditPercent=0.5")["LONGBOAT_AUDIT_PERCENT"] == "0.5"
    assert _environment("--set", "changedBlocks.fullReadEvery=0")["LONGBOAT_FULL_READ_EVERY"] == "0"


def test_metrics_are_served_on_the_port_that_is_scraped_and_let_in() -> None:
    objects = _render("--values", str(CHART / "ci/monitoring-values.yaml"), "--set", "metrics.port=9000")
    deployment = _named(objects, "Deployment", "longboat")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "metrics", "containerPort": 9000} in container["ports"]
    assert {"name": "LONGBOAT_METRICS_PORT", "value": "9000"} in container["env"]
    service, monitor = _named(objects, "Service", "longboat-metrics"), _named(objects, "ServiceMonitor", "longboat")
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [endpoint], [port] = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"] and port["targetPort"] == "metrics"
    assert endpoint["honorLabels"] is True, "the namespace of a policy would be called exported_namespace"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert {"ports": [{"port": 9000, "protocol": "TCP"}]} in _ingress(objects)


def test_metrics_can_be_kept_from_all_but_prometheus_and_the_probes_still_come_through() -> None:
    objects = _render("--values", str(CHART / "ci/network-policy-values.yaml"))
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    [probes, scrapes] = _ingress(objects)
    assert probes == {"ports": [{"port": 8080, "protocol": "TCP"}]}
    assert scrapes == {"ports": [{"port": 8081, "protocol": "TCP"}], "from": [monitoring]}


def _ingress(objects: list[Object]) -> list[Object]:
    rules: list[Object] = _named(objects, "NetworkPolicy", "longboat")["spec"]["ingress"]
    return rules


def test_without_metrics_no_port_is_open_and_nothing_to_scrape_is_an_error() -> None:
    arguments = ("--values", str(CHART / "ci/no-metrics-values.yaml"))
    assert _environment(*arguments)["LONGBOAT_METRICS_PORT"] == "0"
    [container] = _named(_render(*arguments), "Deployment", "longboat")["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in container["ports"]] == ["health"]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(CHART, *arguments, "--set", "serviceMonitor.enabled=true")
    assert "serviceMonitor.enabled needs metrics.enabled" in caught.value.stderr


def test_the_charts_crds_are_the_generated_ones() -> None:
    rendered = {each["metadata"]["name"]: each for each in _render() if each["kind"] == "CustomResourceDefinition"}
    for crd in rendered.values():
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        crd["metadata"].pop("labels")
    generated = [yaml.safe_load(path.read_text()) for path in (TOP / "crds").glob("*.yaml")]
    assert rendered == {each["metadata"]["name"]: each for each in generated}


def test_a_crd_stays_below_what_an_annotation_can_hold() -> None:
    """kubectl apply keeps the whole object in an annotation, which may have 262,144 bytes."""
    for path in (TOP / "crds").glob("*.yaml"):
        assert len(json.dumps(yaml.safe_load(path.read_text()))) < 200_000, path.name


def test_crds_can_be_left_out_or_left_to_be_deleted() -> None:
    off = _render("--values", str(CHART / "ci/crds-off-values.yaml"))
    assert not [each for each in off if each["kind"] == "CustomResourceDefinition"]
    for each in _render("--values", str(CHART / "ci/crds-not-kept-values.yaml")):
        assert "helm.sh/resource-policy" not in each["metadata"].get("annotations", {})


def _pods(*arguments: str) -> list[Object]:
    return [each["spec"]["template"]["spec"] for each in _render(*arguments) if each["kind"] in ("Deployment", "Job")]


def test_pods_keep_to_the_restricted_pod_security_standard() -> None:
    pods = _pods()
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def _environment(*arguments: str) -> dict[str, str | None]:
    deployment = _named(_render(*arguments), "Deployment", "longboat")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value") for each in container["env"]}


def test_movers_run_the_operators_own_image() -> None:
    arguments = ("--values", str(CHART / "ci/private-registry-values.yaml"))
    environment = _environment(*arguments)
    for pod in _pods(*arguments):
        assert pod["containers"][0]["image"] == environment["LONGBOAT_IMAGE"]
        assert [each["name"] for each in pod["imagePullSecrets"]] == ["registry", "mirror"]
    assert environment["LONGBOAT_MOVER_PULL_SECRETS"] == "registry,mirror"


def test_large_user_ids_are_passed_as_whole_numbers() -> None:
    assert _environment("--set", "movers.user=1000660000")["LONGBOAT_MOVER_USER"] == "1000660000"
    assert _environment("--set", "movers.atOnce=3")["LONGBOAT_MOVERS_AT_ONCE"] == "3"


def test_there_is_one_operator_at_a_time() -> None:
    spec = _named(_render(), "Deployment", "longboat")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_automatic_snapshots_are_for_the_very_account_that_the_operator_runs_as() -> None:
    objects = _render("--values", str(CHART / "ci/own-service-account-values.yaml"))
    policy = _named(objects, "ValidatingAdmissionPolicy", "longboat-automatic-snapshots")
    pod = _named(objects, "Deployment", "longboat")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "backup-operator"
    expression = policy["spec"]["validations"][0]["expression"]
    assert f"'system:serviceaccount:{NAMESPACE}:backup-operator'" in expression


def test_statuses_are_written_by_the_very_account_that_the_operator_runs_as() -> None:
    objects = _render("--values", str(CHART / "ci/own-service-account-values.yaml"))
    policy = _named(objects, "ValidatingAdmissionPolicy", "longboat-statuses")
    account = f"system:serviceaccount:{NAMESPACE}:backup-operator"
    assert policy["spec"]["validations"][0]["expression"] == f"request.userInfo.username == '{account}'"
    assert policy["spec"]["matchConstraints"]["resourceRules"][0]["resources"] == ["*/status"]
    assert _named(objects, "ValidatingAdmissionPolicyBinding", "longboat-statuses")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("nonsense=1", "nonsense"),
        ("automaticSnapshots.nonsense=1", "nonsense"),
        ("trashPeriod=7", "/trashPeriod"),
        ("trashPeriod=7y", "/trashPeriod"),
        ("workers=0", "/workers"),
        ("logLevel=info", "/logLevel"),
        ("image.digest=latest", "/image/digest"),
        ("movers.user=0", "/movers/user"),
        ("movers.atOnce=0", "/movers/atOnce"),
        ("metrics.port=80", "/metrics/port"),
        ("serviceMonitor.interval=1", "/serviceMonitor/interval"),
        ("changedBlocks.auditPercent=101", "/changedBlocks/auditPercent"),
        ("changedBlocks.fullReadEvery=-1", "/changedBlocks/fullReadEvery"),
        ("imagePullSecrets[0]=registry", "/imagePullSecrets/0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, words: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(CHART, "--set", setting)
    assert words in caught.value.stderr


def test_every_value_is_described() -> None:
    def undescribed(path: str, node: Object) -> Iterator[str]:
        for name, child in node.get("properties", {}).items():
            if not child.get("description") and not path.endswith("resources"):
                yield f"{path}.{name}"
            yield from undescribed(f"{path}.{name}", child)

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert list(undescribed("", schema)) == []
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - set(values) == {"global", "enabled"}


def _notes(*arguments: str) -> str:
    helm = str(binaries.program("helm"))
    command = [helm, "install", "longboat", str(CHART), "-n", NAMESPACE, "--dry-run=client", *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return text.split("NOTES:", 1)[1]


def test_the_notes_say_that_automatic_snapshots_start_and_how_to_opt_out() -> None:
    notes = _notes()
    assert "AUTOMATIC SNAPSHOTS START NOW" in notes
    assert "longboat.dev/automatic-snapshots=disabled" in notes
    assert "Automatic snapshots are off" in _notes("--set", "automaticSnapshots.enabled=false")


def test_hooks_only_clean_up() -> None:
    for each in _render():
        hook = each["metadata"].get("annotations", {}).get("helm.sh/hook")
        assert (hook == "pre-delete") == each["metadata"]["name"].endswith("-cleanup"), each["metadata"]


def test_two_releases_do_not_share_cluster_scoped_names() -> None:
    names = [
        {(each["kind"], each["metadata"]["name"]) for each in _render("--namespace", namespace, "--no-hooks")}
        for namespace in ("longboat-system", "staging")
    ]
    shared = {kind for kind, name in names[0] & names[1]}
    assert shared <= {"CustomResourceDefinition", "ServiceAccount", "Deployment", "Role", "RoleBinding"}


def test_the_operator_is_told_nothing_that_it_does_not_read() -> None:
    source = "".join(path.read_text() for path in (TOP / "operator/longboat/handlers").glob("*.py"))
    assert [name for name in _environment() if f'"{name}"' not in source] == []


def test_longboat_check_finds_the_operator() -> None:
    labels = _named(_render(), "Deployment", "longboat")["metadata"]["labels"]
    assert OPERATOR_LABELS.items() <= labels.items()
