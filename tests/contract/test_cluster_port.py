"""The fake and the real API server are held to one suite: what unit tests believe of Kubernetes is true."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from longboat.kube.client import ApiServer, connect
from longboat.kube.kinds import BACKUP_POLICY, CONFIG_MAP, CUSTOM_RESOURCE_DEFINITION, DISK_BACKUP, STORAGE_PROFILE
from longboat.kube.port import AlreadyExistsError, Cluster, ConflictError, NotFoundError, RefusedError
from tests.cluster.apiserver import ApiServer as Server
from tests.fakes.cluster import FakeCluster

NAMESPACE = "contract"
CRDS = Path(__file__).parent.parent.parent / "crds"


@pytest.fixture(params=["fake", "api-server"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "fake":
        yield FakeCluster(namespaces=[NAMESPACE])
        return
    server = ApiServer(connect(str(request.getfixturevalue("apiserver").kubeconfig)))
    _prepare(server)
    yield server
    for kind in (CONFIG_MAP, BACKUP_POLICY, DISK_BACKUP):
        for obj in list(server.list(kind, NAMESPACE)):
            _release(server, kind, obj["metadata"]["name"])


def _prepare(server: ApiServer) -> None:
    for path in CRDS.glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        if server.get(CUSTOM_RESOURCE_DEFINITION, definition["metadata"]["name"]) is None:
            server.create(definition)
    with contextlib.suppress(AlreadyExistsError):
        server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    _wait_until_served(server)


def _wait_until_served(server: ApiServer) -> None:
    for _ in range(100):
        try:
            server.create(policy("probe"))
            server.delete(BACKUP_POLICY, "probe", NAMESPACE)
            return
        except NotFoundError:
            time.sleep(0.1)
    raise AssertionError("the CRDs are not served after 10 s")


def _release(server: ApiServer, kind: Any, name: str) -> None:
    obj = server.get(kind, name, NAMESPACE)
    if obj and obj["metadata"].get("finalizers"):
        server.patch(kind, name, [{"op": "remove", "path": "/metadata/finalizers"}], NAMESPACE)
    server.delete(kind, name, NAMESPACE)


def config(name: str, **more: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": NAMESPACE} | more
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "1"}}


def policy(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "longboat.dev/v1alpha1",
        "kind": "BackupPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "target": {"disk": {"persistentVolumeClaim": "data"}},
            "schedule": {"cron": "* * * * *"},
            "retention": {"keepFor": "1d"},
        },
        "status": {"protected": "Yes"},
    }


def test_absent_object_and_absent_kind_are_none_and_not_an_error(cluster: Cluster) -> None:
    assert cluster.get(CONFIG_MAP, "absent", NAMESPACE) is None
    assert cluster.get(STORAGE_PROFILE, "absent") is None
    assert list(cluster.list(STORAGE_PROFILE)) == []


def test_the_time_is_that_of_what_is_created_just_then(cluster: Cluster) -> None:
    before = cluster.server_time()
    stamp = datetime.fromisoformat(cluster.create(config("timed"))["metadata"]["creationTimestamp"])
    assert before - timedelta(seconds=1) <= stamp <= cluster.server_time() + timedelta(seconds=1)
    assert before.tzinfo is not None


def test_second_create_never_replaces_the_first(cluster: Cluster) -> None:
    cluster.create(config("one"))
    with pytest.raises(AlreadyExistsError):
        cluster.create(config("one"))


def test_create_in_an_absent_namespace_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError):
        cluster.create(config("one") | {"metadata": {"name": "one", "namespace": "nowhere"}})


def test_generated_names_differ(cluster: Cluster) -> None:
    made = [config("") | {"metadata": {"generateName": "g-", "namespace": NAMESPACE}} for _ in range(2)]
    names = {cluster.create(each)["metadata"]["name"] for each in made}
    assert len(names) == 2
    assert all(name.startswith("g-") for name in names)


def test_list_selects_by_all_labels_and_names_the_kind(cluster: Cluster) -> None:
    cluster.create(config("both", labels={"a": "1", "b": "2"}))
    cluster.create(config("one", labels={"a": "1"}))
    found = list(cluster.list(CONFIG_MAP, NAMESPACE, {"a": "1", "b": "2"}))
    assert [each["metadata"]["name"] for each in found] == ["both"]
    assert (found[0]["kind"], found[0]["apiVersion"]) == ("ConfigMap", "v1")


def test_patch_with_a_failed_test_changes_nothing(cluster: Cluster) -> None:
    cluster.create(config("one"))
    operations = [{"op": "test", "path": "/data/a", "value": "2"}, {"op": "replace", "path": "/data/a", "value": "3"}]
    with pytest.raises(ConflictError):
        cluster.patch(CONFIG_MAP, "one", operations, NAMESPACE)
    unchanged = cluster.get(CONFIG_MAP, "one", NAMESPACE)
    assert unchanged and unchanged["data"] == {"a": "1"}


def test_patch_whose_test_holds_is_applied(cluster: Cluster) -> None:
    cluster.create(config("one"))
    operations = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/data/b", "value": "3"}]
    assert cluster.patch(CONFIG_MAP, "one", operations, NAMESPACE)["data"] == {"a": "1", "b": "3"}


def test_patch_reaches_keys_with_a_slash(cluster: Cluster) -> None:
    cluster.create(config("one", annotations={"longboat.dev/x": "1"}))
    operations = [{"op": "replace", "path": "/metadata/annotations/longboat.dev~1x", "value": "2"}]
    assert cluster.patch(CONFIG_MAP, "one", operations, NAMESPACE)["metadata"]["annotations"]["longboat.dev/x"] == "2"


def test_patch_of_a_path_that_is_gone_is_a_conflict(cluster: Cluster) -> None:
    cluster.create(config("one"))
    with pytest.raises(ConflictError):
        cluster.patch(CONFIG_MAP, "one", [{"op": "remove", "path": "/data/gone"}], NAMESPACE)


@pytest.mark.parametrize("cluster", ["api-server"], indirect=True)
def test_invalid_patch_is_refused_and_not_a_conflict(cluster: Cluster) -> None:
    cluster.create(policy("p"))
    with pytest.raises(RefusedError, match="keepFor"):
        cluster.patch(
            BACKUP_POLICY, "p", [{"op": "replace", "path": "/spec/retention/keepFor", "value": "x"}], NAMESPACE
        )


def test_patch_of_an_absent_object_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError):
        cluster.patch(CONFIG_MAP, "absent", [{"op": "add", "path": "/data", "value": {}}], NAMESPACE)


def test_delete_spares_another_object_of_the_same_name(cluster: Cluster) -> None:
    made = cluster.create(config("one"))
    with pytest.raises(ConflictError):
        cluster.delete(CONFIG_MAP, "one", NAMESPACE, uid="00000000-0000-0000-0000-000000000000")
    assert cluster.delete(CONFIG_MAP, "one", NAMESPACE, uid=made["metadata"]["uid"])
    assert not cluster.delete(CONFIG_MAP, "one", NAMESPACE)


def test_finalizer_holds_an_object_until_it_is_removed(cluster: Cluster) -> None:
    cluster.create(config("held", finalizers=["longboat.dev/keep-data"]))
    cluster.delete(CONFIG_MAP, "held", NAMESPACE)
    held = cluster.get(CONFIG_MAP, "held", NAMESPACE)
    assert held and held["metadata"]["deletionTimestamp"]
    cluster.patch(CONFIG_MAP, "held", [{"op": "remove", "path": "/metadata/finalizers"}], NAMESPACE)
    assert cluster.get(CONFIG_MAP, "held", NAMESPACE) is None


def test_status_is_written_by_its_own_call_only_and_never_over_a_newer_one(cluster: Cluster) -> None:
    made = cluster.create(policy("p"))
    assert "status" not in made
    status = {"protected": "No"}
    written = cluster.update_status(made | {"status": status})
    assert written["status"]["protected"] == "No"
    with pytest.raises(ConflictError):
        cluster.update_status(made | {"status": {"protected": "Yes"}})
    assert written["metadata"]["generation"] == made["metadata"]["generation"]


def test_generation_counts_changes_of_the_spec(cluster: Cluster) -> None:
    made = cluster.create(policy("p"))
    patched = cluster.patch(BACKUP_POLICY, "p", [{"op": "add", "path": "/spec/suspend", "value": True}], NAMESPACE)
    assert patched["metadata"]["generation"] == made["metadata"]["generation"] + 1


def backup(cluster: Cluster, name: str, policy: str, **status: Any) -> None:
    meta = {"name": name, "namespace": NAMESPACE}
    obj = {"apiVersion": "longboat.dev/v1alpha1", "kind": "DiskBackup", "metadata": meta}
    made = cluster.create(obj | {"spec": {"policyRef": {"name": policy}}})
    if status:
        cluster.update_status(made | {"status": status})


def test_fields_select_what_a_namespace_full_of_history_is_not_read_for(cluster: Cluster) -> None:
    backup(cluster, "a", "daily")
    backup(cluster, "b", "daily", phase="Completed", cleanedUp=True, virtualMachine="db")
    backup(cluster, "c", "daily", phase="Completed", cleanedUp=False, virtualMachine="web")
    backup(cluster, "d", "weekly", phase="Exporting")

    def names(*fields: str, namespace: str = NAMESPACE) -> str:
        return "".join(each["metadata"]["name"] for each in cluster.list(DISK_BACKUP, namespace, fields=fields))

    assert names("spec.policyRef.name=daily") == "abc"
    assert names("spec.policyRef.name=monthly") == ""
    assert names("status.cleanedUp!=true") == "acd"
    assert names("status.cleanedUp!=true", namespace="") == "acd"
    assert next(cluster.list(DISK_BACKUP, fields=("spec.policyRef.name=weekly",), cached=True))["kind"] == "DiskBackup"
    assert names("status.virtualMachine=db", "spec.policyRef.name=daily") == "b"


def test_an_api_server_without_these_fields_is_asked_for_everything(apiserver: Server) -> None:
    """As one before Kubernetes 1.31 is, or one that has the CRDs of an earlier version."""
    server = ApiServer(connect(str(apiserver.kubeconfig)))
    _prepare(server)
    for name in "ab":
        server.create(policy(name))
    server.patch(BACKUP_POLICY, "b", [{"op": "add", "path": "/spec/suspend", "value": True}], NAMESPACE)
    for _ in range(2):
        assert [each["metadata"]["name"] for each in server.list(BACKUP_POLICY, fields=("spec.suspend=true",))] == ["b"]
    for name in "ab":
        server.delete(BACKUP_POLICY, name, NAMESPACE)
