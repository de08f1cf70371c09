"""What an observation means: pure functions from what was seen to findings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from longboat.api import KINDS, BackupStore
from longboat.api.common import GROUP
from longboat.api.crd import definition
from longboat.cli.disk_verdicts import disk_findings
from longboat.cli.findings import EVERYTHING, Ability, Finding, Verdict
from longboat.cli.observation import OUR_DEFINITIONS, SNAPSHOT_DEFINITIONS, Observation
from longboat.kube.port import Object
from longboat.plan.conditions import find
from longboat.plan.stores import default_stores, several_defaults

SNAPSHOT_PATIENCE = timedelta(minutes=2)
DEFAULT_STORAGE_CLASS = "storageclass.kubernetes.io/is-default-class"
HOTPLUG_GATES = ("HotplugVolumes", "DeclarativeHotplugVolumes")
# From this version of KubeVirt on, declarative hot-plug needs no gate.
HOTPLUG_WITHOUT_GATE = (1, 9)
_CAPTURE = (Ability.SNAPSHOTS, Ability.BACKUPS, Ability.CONSISTENCY)


def judge(seen: Observation, now: datetime) -> list[Finding]:
    """Return everything that can be said about a cluster, in the order in which it matters."""
    return [
        *definition_findings(seen),
        *operator_findings(seen),
        *store_findings(seen),
        *snapshot_findings(seen, now),
        *storage_findings(seen),
        *kubevirt_findings(seen),
        *disk_findings(seen),
    ]


def definition_findings(seen: Observation) -> Iterator[Finding]:
    """Are our CRDs there, and those that this version of the program knows?"""
    if "customresourcedefinitions" in seen.unseen:
        yield _unseen("CRDs", "customresourcedefinitions", EVERYTHING)
        return
    remedy = "install them: helm upgrade --install with crds.enabled=true, or kubectl apply -f crds/"
    missing = [name for name in OUR_DEFINITIONS if name not in seen.definitions]
    if missing:
        yield Finding("CRDs", GROUP, Verdict.ERROR, f"missing: {', '.join(missing)}", remedy, EVERYTHING)
    wanted = {f"{kind.plural}.{GROUP}": definition(kind) for kind in KINDS}
    other = [name for name, found in seen.definitions.items() if name in wanted and not _same(found, wanted[name])]
    if other:
        message = f"of another version than this program: {', '.join(sorted(other))}"
        yield Finding("CRDs", GROUP, Verdict.WARNING, message, remedy, EVERYTHING)
    if not missing and not other:
        yield Finding("CRDs", GROUP, Verdict.OK, "installed, of this program's version", "", EVERYTHING)


def _same(found: Object, wanted: Object) -> bool:
    versions = {each["name"]: each["schema"] for each in found["spec"]["versions"]}
    return all(versions.get(each["name"]) == each["schema"] for each in wanted["spec"]["versions"])


def operator_findings(seen: Observation) -> Iterator[Finding]:
    """Is one operator running?"""
    if "deployments" in seen.unseen:
        yield _unseen("operator", "deployments", EVERYTHING)
    elif not seen.operators:
        message = "no Deployment of Longboat in the namespace that was looked at"
        remedy = "install the chart, or name the operator's namespace with -n"
        yield Finding("operator", "deployment", Verdict.ERROR, message, remedy, EVERYTHING)
    for each in seen.operators:
        name, namespace = each["metadata"]["name"], each["metadata"]["namespace"]
        if (each.get("status") or {}).get("readyReplicas"):
            yield Finding("operator", name, Verdict.OK, "running", "", EVERYTHING)
            continue
        remedy = f"see kubectl -n {namespace} describe pods, and kubectl -n {namespace} logs deploy/{name}"
        yield Finding("operator", name, Verdict.ERROR, "not ready", remedy, EVERYTHING)


def store_findings(seen: Observation) -> Iterator[Finding]:
    """Is there a store, can it be used, and does one of them serve as the default?"""
    affects = (Ability.BACKUPS, Ability.CONSISTENCY)
    if "backupstores" in seen.unseen:
        yield _unseen("stores", "backupstores", affects)
        return
    stores = [BackupStore.model_validate(each) for each in seen.stores]
    if not stores:
        yield _no_store(seen, affects)
        return
    yield from (_store_finding(store, affects) for store in stores)
    defaults = default_stores(stores)
    if len(defaults) > 1:
        yield Finding("stores", "default", Verdict.ERROR, several_defaults(defaults), "", affects)
    elif not defaults:
        message = "no BackupStore is the default: every policy has to name one in spec.storeRef"
        yield Finding("stores", "default", Verdict.WARNING, message, "set spec.default: true on one", affects)


def _no_store(seen: Observation, affects: tuple[Ability, ...]) -> Finding:
    """Right after an installation it is the next step; an error once somebody counts on backups."""
    remedy = "make one: docs/how-to/install.md#the-store, kubectl explain backupstores.spec"
    if waiting := [f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in seen.policies]:
        more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
        message = f"there is no BackupStore, and a policy backs nothing up without one: {waiting[0]}{more}"
        return Finding("stores", "none", Verdict.ERROR, message, remedy, affects)
    message = "there is no BackupStore yet: the next step of the installation; local snapshots need none"
    return Finding("stores", "none", Verdict.NOT_YET, message, remedy, affects)


def _store_finding(store: BackupStore, affects: tuple[Ability, ...]) -> Finding:
    condition = find(store.status.conditions, "Available")
    if condition is None:
        return Finding("stores", store.name, Verdict.UNKNOWN, "not tried out yet", "wait for the operator", affects)
    if condition.status != "True":
        verdict = Verdict.WARNING if condition.status == "Unknown" else Verdict.ERROR
        # The message of the condition carries the remedy.
        return Finding("stores", store.name, verdict, f"{condition.reason}: {condition.message}", "", affects)
    warnings = [each for each in store.status.conditions or () if each.type in ("SameSite", "NoRecoveryRecipient")]
    if warnings:
        return Finding("stores", store.name, Verdict.WARNING, " | ".join(w.message for w in warnings), "", affects)
    return Finding("stores", store.name, Verdict.OK, "available", "", affects)


def snapshot_findings(seen: Observation, now: datetime) -> Iterator[Finding]:
    """Are the snapshot CRDs there, does somebody act on VolumeSnapshots, are there classes?"""
    if "customresourcedefinitions" not in seen.unseen:
        missing = [name for name in SNAPSHOT_DEFINITIONS if name not in seen.definitions]
        if missing:
            remedy = "install the CRDs and the snapshot-controller of kubernetes-csi/external-snapshotter"
            message = f"missing: {', '.join(missing)}"
            yield Finding("snapshots", "CRDs", Verdict.ERROR, message, remedy, _CAPTURE)
            return
    if not seen.snapshot_classes and "volumesnapshotclasses" not in seen.unseen:
        remedy = "make one for each CSI driver that can snapshot"
        message = "there is no VolumeSnapshotClass"
        yield Finding("snapshots", "classes", Verdict.ERROR, message, remedy, _CAPTURE)
    yield _controller(seen, now)


def _controller(seen: Observation, now: datetime) -> Finding:
    """The controller itself goes by many names; that VolumeSnapshots are acted on shows that it is there."""
    subject = "snapshot-controller"
    waiting = [each for each in seen.snapshots if not each.get("status") and _age(each, now) > SNAPSHOT_PATIENCE]
    if any((each.get("status") or {}).get("readyToUse") for each in seen.snapshots):
        return Finding("snapshots", subject, Verdict.OK, "at work: there are ready VolumeSnapshots", "", _CAPTURE)
    if waiting:
        name = f"{waiting[0]['metadata']['namespace']}/{waiting[0]['metadata']['name']}"
        message = f"nobody acts on VolumeSnapshots: {name} has no status"
        remedy = "install the snapshot-controller, and the CSI driver's csi-snapshotter beside it"
        return Finding("snapshots", subject, Verdict.ERROR, message, remedy, _CAPTURE)
    message = "there is no VolumeSnapshot to tell by"
    return Finding("snapshots", subject, Verdict.UNKNOWN, message, "make a DiskSnapshot and check again", _CAPTURE)


def _age(obj: Object, now: datetime) -> timedelta:
    return now - datetime.fromisoformat(obj["metadata"]["creationTimestamp"])


def storage_findings(seen: Observation) -> Iterator[Finding]:
    """Is there a StorageClass for restores whose original one is gone?"""
    if "storageclasses" in seen.unseen:
        yield _unseen("storage", "storageclasses", (Ability.RESTORES,))
        return
    defaults = [
        each["metadata"]["name"]
        for each in seen.storage_classes
        if (each["metadata"].get("annotations") or {}).get(DEFAULT_STORAGE_CLASS) == "true"
    ]
    if defaults:
        yield Finding("storage", "default StorageClass", Verdict.OK, ", ".join(defaults), "", (Ability.RESTORES,))
        return
    message = "there is none: where a disk's own StorageClass is gone, a Restore must name one"
    remedy = f"annotate one with {DEFAULT_STORAGE_CLASS}=true, or set spec.claim.storageClassName"
    verdict = Verdict.WARNING if seen.storage_classes else Verdict.ERROR
    yield Finding("storage", "default StorageClass", verdict, message, remedy, (Ability.RESTORES,))


def kubevirt_findings(seen: Observation) -> Iterator[Finding]:
    """Is KubeVirt there, in which version, and can disks be plugged into running machines?"""
    needs = (Ability.CONSISTENCY, Ability.HOTPLUG)
    if "kubevirts" in seen.unseen:
        yield _unseen("KubeVirt", "kubevirts", needs)
    elif not seen.kubevirts:
        message = "not installed: only disks that are named by their PersistentVolumeClaim can be backed up"
        yield Finding("KubeVirt", "KubeVirt", Verdict.WARNING, message, "install KubeVirt", needs)
    for each in seen.kubevirts:
        status = each.get("status") or {}
        version = str(status.get("observedKubeVirtVersion") or "unknown version")
        if status.get("phase") != "Deployed":
            message = f"{version}, phase {status.get('phase') or 'unknown'}, expected Deployed"
            yield Finding("KubeVirt", "KubeVirt", Verdict.ERROR, message, "see its conditions", needs)
        else:
            yield Finding("KubeVirt", "KubeVirt", Verdict.OK, version, "", needs)
        yield _hotplug(each, version)


def _hotplug(kubevirt: Object, version: str) -> Finding:
    developer = ((kubevirt.get("spec") or {}).get("configuration") or {}).get("developerConfiguration") or {}
    on = [gate for gate in HOTPLUG_GATES if gate in (developer.get("featureGates") or ())]
    off = developer.get("disabledFeatureGates") or ()
    number = re.match(r"v?(\d+)\.(\d+)", version)
    by_default = number and (int(number[1]), int(number[2])) >= HOTPLUG_WITHOUT_GATE and HOTPLUG_GATES[1] not in off
    if on or by_default:
        message = f"on ({', '.join(on) or 'the default of this version'})"
        return Finding("KubeVirt", "hot-plug", Verdict.OK, message, "", (Ability.HOTPLUG,))
    message = "off: a restored disk can be attached to a stopped machine only"
    remedy = f"add {HOTPLUG_GATES[0]} to spec.configuration.developerConfiguration.featureGates of the KubeVirt object"
    return Finding("KubeVirt", "hot-plug", Verdict.WARNING, message, remedy, (Ability.HOTPLUG,))


def _unseen(area: str, plural: str, affects: tuple[Ability, ...]) -> Finding:
    message = f"you may not list {plural}"
    return Finding(area, plural, Verdict.UNKNOWN, message, "run the check with more rights", affects)
