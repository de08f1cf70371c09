"""`longboat check` tells what is wrong with a cluster, and does not cry wolf."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from longboat.api import KINDS
from longboat.api.crd import definition
from longboat.cli.findings import Ability, Finding, Verdict, abilities
from longboat.cli.observation import OUR_DEFINITIONS, SNAPSHOT_DEFINITIONS, Observation
from longboat.cli.verdicts import judge

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
Object = dict[str, Any]


def _meta(name: str, namespace: str | None = None, **more: Any) -> Object:
    place = {"namespace": namespace} if namespace else {}
    return {"name": name, "creationTimestamp": "2026-11-22T11:00:00Z", **place, **more}


def _machine(claim: str = "db-data") -> Object:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return {"metadata": _meta("db", "shop"), "spec": {"template": {"spec": {"volumes": volumes}}}}


def _instance(agent: bool = True) -> Object:
    conditions = [{"type": "AgentConnected", "status": "True"}] if agent else []
    return {"metadata": _meta("db", "shop"), "spec": {}, "status": {"phase": "Running", "conditions": conditions}}


def _kubevirt(version: str = "v1.7.0", phase: str = "Deployed", gates: tuple[str, ...] = ("HotplugVolumes",)) -> Object:
    developer = {"featureGates": list(gates)}
    return {
        "metadata": _meta("kubevirt", "kubevirt"),
        "spec": {"configuration": {"developerConfiguration": developer}},
        "status": {"phase": phase, "observedKubeVirtVersion": version},
    }


def _store(name: str = "offsite", *, default: bool = True, available: bool | None = True, **extra: str) -> Object:
    def condition(type_: str, status: str, message: str) -> Object:
        stamp = "2026-11-22T11:00:00Z"
        return {"type": type_, "status": status, "reason": type_, "message": message, "lastTransitionTime": stamp}

    conditions = [condition(type_, "True", message) for type_, message in extra.items()]
    if available is not None:
        conditions.append(condition("Available", str(available), "the bucket does not exist: create it"))
    spec = {
        "default": default,
        "s3": {"endpoint": "https://objects.example.net", "bucket": "backups"},
        "credentialsSecretRef": {"name": "c"},
        "encryption": {"keySecretRef": {"name": "k"}},
    }
    return {"metadata": _meta(name), "spec": spec, "status": {"conditions": conditions}}


def _policy(name: str) -> Object:
    return {"metadata": _meta(name, "shop")}


def _operator(ready: int = 1) -> Object:
    return {"metadata": _meta("longboat", "longboat-system"), "status": {"readyReplicas": ready}}


def _snapshot(status: Object | None) -> Object:
    return {"metadata": _meta("s", "shop")} | ({"status": status} if status else {})


DEFAULT_CLASS = {"storageclass.kubernetes.io/is-default-class": "true"}
GOOD = Observation(
    definitions={
        **{f"{kind.plural}.longboat.dev": definition(kind) for kind in KINDS},
        **{name: {"spec": {"versions": []}} for name in SNAPSHOT_DEFINITIONS},
    },
    kubevirts=(_kubevirt(),),
    operators=(_operator(),),
    stores=(_store(),),
    storage_classes=({"metadata": _meta("fast", annotations=DEFAULT_CLASS)},),
    snapshot_classes=({"metadata": _meta("fast"), "driver": "csi.example.com"},),
    volumes=({"metadata": _meta("pv-1"), "spec": {"csi": {"driver": "csi.example.com"}}},),
    claims=({"metadata": _meta("db-data", "shop"), "spec": {"volumeName": "pv-1", "volumeMode": "Filesystem"}},),
    machines=(_machine(),),
    instances=(_instance(),),
    snapshots=(_snapshot({"readyToUse": True}),),
)


def _judged(**changes: Any) -> list[Finding]:
    return judge(dataclasses.replace(GOOD, **changes), NOW)


def _faults(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each.verdict != Verdict.OK]


def test_a_good_cluster_has_no_faults() -> None:
    assert _faults(_judged()) == []
    assert set(abilities(_judged()).values()) == {Verdict.OK}


def _without(*names: str) -> dict[str, Object]:
    return {name: each for name, each in GOOD.definitions.items() if name not in names}


def _older() -> dict[str, Object]:
    name = OUR_DEFINITIONS[0]
    older: Object = {"spec": {"versions": [{"name": "v1alpha1", "schema": {"openAPIV3Schema": {"type": "object"}}}]}}
    return {**GOOD.definitions, name: older}


@pytest.mark.parametrize(
    ("changes", "verdict", "message", "remedy"),
    [
        ({"definitions": _without(*OUR_DEFINITIONS)}, "error", "missing: backuppolicies.longboat.dev", "crds.enabled"),
        ({"definitions": _older()}, "warning", "of another version than this program: backuppolicies", "crds.enabled"),
        ({"operators": ()}, "error", "no Deployment of Longboat", "-n"),
        ({"operators": (_operator(ready=0),)}, "error", "not ready", "kubectl -n longboat-system logs"),
        ({"stores": ()}, "not-yet", "there is no BackupStore yet: the next step", "install.md#the-store"),
        (
            {"stores": (), "policies": (_policy("a"), _policy("b"))},
            "error",
            "no BackupStore, and a policy",
            "install.md",
        ),
        ({"stores": (_store(available=False),)}, "error", "the bucket does not exist: create it", ""),
        ({"stores": (_store(available=None),)}, "unknown", "not tried out yet", "wait"),
        ({"stores": (_store(SameSite="the store is in 'lon'"),)}, "warning", "the store is in 'lon'", ""),
        ({"stores": (_store(default=False),)}, "warning", "no BackupStore is the default", "spec.default: true"),
        ({"stores": (_store("a"), _store("b"))}, "error", "so that none is the default", ""),
        (
            {"definitions": _without(*SNAPSHOT_DEFINITIONS)},
            "error",
            "missing: volumesnapshots.snapshot.storage.k8s.io",
            "snapshot-controller",
        ),
        ({"snapshots": ()}, "unknown", "there is no VolumeSnapshot to tell by", "make a DiskSnapshot"),
        ({"snapshots": (_snapshot(None),)}, "error", "nobody acts on VolumeSnapshots: shop/s", "csi-snapshotter"),
        ({"storage_classes": ()}, "error", "there is none", "spec.claim.storageClassName"),
        ({"storage_classes": ({"metadata": _meta("fast")},)}, "warning", "there is none", "annotate one"),
        ({"kubevirts": ()}, "warning", "not installed", "install KubeVirt"),
        ({"kubevirts": (_kubevirt(phase="Deploying"),)}, "error", "phase Deploying, expected Deployed", "conditions"),
        ({"kubevirts": (_kubevirt(gates=()),)}, "warning", "stopped machine only", "add HotplugVolumes"),
        ({"instances": (_instance(agent=False),)}, "warning", "without the guest agent", "qemu-guest-agent"),
        ({"machines": (_machine("gone"),)}, "warning", "PersistentVolumeClaim 'gone' does not exist", ""),
        ({"volumes": ()}, "warning", "is not bound yet", ""),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_fault_is_named_with_its_remedy(changes: Object, verdict: str, message: str, remedy: str) -> None:
    (fault,) = _faults(_judged(**changes))
    assert fault.verdict == verdict
    assert message in fault.message
    assert remedy in fault.remedy
    assert fault.affects


def test_the_policies_that_wait_for_a_store_are_named() -> None:
    (fault,) = _faults(_judged(stores=(), policies=(_policy("daily"), _policy("weekly"))))
    assert "shop/daily and 1 more" in fault.message


def test_what_works_without_a_store_is_not_called_broken() -> None:
    found = abilities(_judged(stores=()))
    assert found[Ability.BACKUPS] == found[Ability.CONSISTENCY] == Verdict.NOT_YET
    assert found[Ability.SNAPSHOTS] == found[Ability.RESTORES] == Verdict.OK


def test_a_driver_without_a_snapshot_class_is_named_at_each_of_its_disks() -> None:
    other = ({"metadata": _meta("other"), "driver": "other.example.com"},)
    (fault,) = _faults(_judged(snapshot_classes=other))
    assert fault.subject == "shop/db: data"
    assert "there is no VolumeSnapshotClass for the CSI driver 'csi.example.com'" in fault.message


def test_a_disk_that_can_never_be_backed_up_is_named() -> None:
    machine = _machine()
    machine["spec"]["template"]["spec"]["volumes"].append({"name": "local", "hostDisk": {"path": "/x"}})
    (fault,) = _faults(_judged(machines=(machine,)))
    assert fault.subject == "shop/db: local"


def test_the_state_of_a_machine_that_cannot_be_backed_up_is_named() -> None:
    machine = _machine()
    machine["spec"]["template"]["spec"]["domain"] = {"devices": {"tpm": {"persistent": True}}}
    assert _faults(_judged(machines=(machine,), instances=())) == [], "never started, it has none yet"
    state = {"metadata": _meta("persistent-state-for-db-x", "shop"), "spec": {"volumeName": "gone"}}
    state["metadata"]["labels"] = {"persistent-state-for": "db"}
    claims = (*GOOD.claims, state)
    (fault,) = _faults(_judged(machines=(machine,), instances=(), claims=claims))
    assert fault.subject == "shop/db: tpm-efi.state" and "persistent-state-for-db-x" in fault.message


@pytest.mark.parametrize("version", ["v1.9.0", "v1.10.2", "v2.0.0"])
def test_hot_plug_needs_no_gate_from_1_9_on(version: str) -> None:
    assert _faults(_judged(kubevirts=(_kubevirt(version, gates=()),))) == []


def test_a_young_snapshot_without_status_is_no_fault_yet() -> None:
    young = {"metadata": _meta("s", "shop") | {"creationTimestamp": "2026-11-22T11:59:30Z"}}
    (fault,) = _faults(_judged(snapshots=(young,)))
    assert fault.verdict == Verdict.UNKNOWN


def test_whether_movers_may_read_block_devices_is_not_claimed_without_evidence() -> None:
    claim = {"metadata": _meta("db-data", "shop"), "spec": {"volumeName": "pv-1", "volumeMode": "Block"}}
    (fault,) = _faults(_judged(claims=(claim,)))
    assert (fault.verdict, fault.remedy) == (Verdict.UNKNOWN, "find out with: longboat check --trial")
    done = {"metadata": _meta("b", "shop"), "status": {"disks": [{"phase": "Completed", "volumeMode": "Block"}]}}
    assert _faults(_judged(claims=(claim,), backups=(done,))) == []


UNSEEN = ["customresourcedefinitions", "deployments", "backupstores", "storageclasses", "kubevirts"]


@pytest.mark.parametrize("plural", UNSEEN)
def test_what_may_not_be_listed_is_unknown_not_missing(plural: str) -> None:
    field = {"customresourcedefinitions": "definitions", "deployments": "operators", "backupstores": "stores"}
    empty = {field.get(plural, {"storageclasses": "storage_classes", "kubevirts": "kubevirts"}.get(plural, "")): ()}
    if plural == "customresourcedefinitions":
        empty = {"definitions": {}}
    (fault,) = _faults(_judged(**empty, unseen=frozenset({plural})))
    assert (fault.verdict, fault.subject) == (Verdict.UNKNOWN, plural)


def test_one_faulty_store_does_not_take_snapshots_away() -> None:
    found = abilities(_judged(stores=(_store(available=False),)))
    assert found[Ability.BACKUPS] == Verdict.ERROR
    assert found[Ability.SNAPSHOTS] == Verdict.OK
