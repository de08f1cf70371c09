"""The controllers around a FakeCluster that snapshots and restores meet: snapshots, volumes, Jobs, KubeVirt.

Nothing runs by itself: ``Storage.settle`` lets every controller act until nothing changes, when a test wants it. The
bytes of a volume or snapshot are a text in ``data``, by storage handle; what is not referred to is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from longboat.kube.kinds import (
    EVENT,
    JOB,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SECRET,
    STORAGE_CLASS,
    VIRTUAL_MACHINE_INSTANCE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
    Kind,
)
from longboat.kube.port import Object
from longboat.plan.quantities import bytes_of
from tests.fakes.cluster import FakeCluster

DRIVER = "csi.example.com"
PROTECTION = "kubernetes.io/pvc-protection"
JobRun = Callable[[Object, str | None], tuple[bool, str, str | None]]
"""Runs a Job on the content of its volume: (succeeded, termination message, new content)."""


class Storage:
    """Snapshot controller, CSI provisioner, PersistentVolume controller, Jobs and KubeVirt's hot-plug."""

    def __init__(self, cluster: FakeCluster, run_job: JobRun | None = None) -> None:
        self.cluster = cluster
        self.run_job = run_job
        self.data: dict[str, str] = {}
        self.snapshot_error: str | None = None
        self.ignores_data_source_ref = False
        self.full = ""
        """What the storage answers to whoever asks for a volume; empty: it makes one."""
        self._handles = 0

    def settle(self) -> None:
        """Let every controller act until none has anything to do."""
        before = -1
        while before != self.cluster.writes:
            before = self.cluster.writes
            for controller in (self._snapshots, self._claims, self._volumes, self._jobs, self._hot_plug):
                controller()

    def add_class(self, name: str, *, driver: str = DRIVER, late: bool = False, policy: str = "Delete") -> None:
        """Add a StorageClass; ``late`` is WaitForFirstConsumer."""
        mode = "WaitForFirstConsumer" if late else "Immediate"
        body = {"provisioner": driver, "volumeBindingMode": mode, "reclaimPolicy": policy}
        self.cluster.create(_object(STORAGE_CLASS, name) | body)

    def add_snapshot_class(self, name: str, driver: str = DRIVER) -> None:
        """Add a VolumeSnapshotClass."""
        head = {"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": name}}
        self.cluster.create(head | {"driver": driver, "deletionPolicy": "Delete"})

    def add_claim(self, namespace: str, name: str, content: str, *, size: str = "1Gi", storage: str = "fast") -> Object:
        """Add a bound claim whose volume holds the content."""
        claim = _object(PERSISTENT_VOLUME_CLAIM, name, namespace)
        claim["spec"] = {
            "storageClassName": storage,
            "volumeMode": "Block",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        }
        created = self.cluster.create(claim)
        self._provision(created, content)
        self.settle()
        return self.claim(namespace, name)

    def free(self, namespace: str, name: str, *, policy: str = "Retain") -> str:
        """Delete a claim whose volume is kept, and let that be available to others; return the volume's name."""
        volume = self.claim(namespace, name)["spec"]["volumeName"]
        keep = {"op": "replace", "path": "/spec/persistentVolumeReclaimPolicy", "value": "Retain"}
        self.cluster.patch(PERSISTENT_VOLUME, volume, [keep])
        self.cluster.delete(PERSISTENT_VOLUME_CLAIM, name, namespace)
        self.settle()
        free = {"op": "remove", "path": "/spec/claimRef"}
        self.cluster.patch(PERSISTENT_VOLUME, volume, [free, keep | {"value": policy}])
        return str(volume)

    def claim(self, namespace: str, name: str) -> Object:
        """Return a claim that must exist."""
        found = self.cluster.get(PERSISTENT_VOLUME_CLAIM, name, namespace)
        assert found is not None, f"no claim {namespace}/{name}"
        return found

    def content(self, namespace: str, name: str) -> str | None:
        """Return the content of the volume that a claim is bound to, as whoever mounts it would see it."""
        claim = self.claim(namespace, name)
        if (claim.get("status") or {}).get("phase") != "Bound":
            return None
        return self.data.get(self.volume_handle(namespace, name))

    def volume_handle(self, namespace: str, name: str) -> str:
        """Return the storage system's id of the volume that a claim is bound to."""
        volume = self.cluster.get(PERSISTENT_VOLUME, self.claim(namespace, name)["spec"]["volumeName"])
        assert volume is not None
        return str(volume["spec"]["csi"]["volumeHandle"])

    def _snapshots(self) -> None:
        for each in self.cluster.list(VOLUME_SNAPSHOT):
            if not (each.get("status") or {}).get("readyToUse"):
                self._cut(each)
        for content in self.cluster.list(VOLUME_SNAPSHOT_CONTENT):
            ref = content["spec"]["volumeSnapshotRef"]
            if self.cluster.get(VOLUME_SNAPSHOT, ref["name"], ref["namespace"]) is None:
                self.data.pop(content["status"]["snapshotHandle"], None)
                self.cluster.delete(VOLUME_SNAPSHOT_CONTENT, content["metadata"]["name"])

    def _cut(self, each: Object) -> None:
        meta = each["metadata"]
        if self.snapshot_error:
            self._status(VOLUME_SNAPSHOT, each, {"readyToUse": False, "error": {"message": self.snapshot_error}})
            return
        source = each["spec"]["source"]["persistentVolumeClaimName"]
        handle = self._handle("snap")
        self.data[handle] = self.content(meta["namespace"], source) or ""
        content = _object(VOLUME_SNAPSHOT_CONTENT, f"snapcontent-{meta['uid']}")
        content["spec"] = {
            "driver": DRIVER,
            "deletionPolicy": "Delete",
            "volumeSnapshotRef": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        }
        content["status"] = {"snapshotHandle": handle, "readyToUse": True}
        self.cluster.create(content)
        self._status(
            VOLUME_SNAPSHOT,
            each,
            {
                "boundVolumeSnapshotContentName": content["metadata"]["name"],
                "readyToUse": True,
                "creationTime": self._now(),
                "restoreSize": self.claim(meta["namespace"], source)["status"]["capacity"]["storage"],
            },
        )

    def _claims(self) -> None:
        for each in self.cluster.list(PERSISTENT_VOLUME_CLAIM):
            meta = each["metadata"]
            if "deletionTimestamp" in meta:
                if PROTECTION in meta.get("finalizers", ()) and not self._used(each):
                    self._patch(PERSISTENT_VOLUME_CLAIM, each, "replace", "/metadata/finalizers", [])
                continue
            if PROTECTION not in (meta.get("finalizers") or ()):
                self._patch(PERSISTENT_VOLUME_CLAIM, each, "add", "/metadata/finalizers", [PROTECTION])
            elif "volumeName" not in each["spec"]:
                self._bind(each)
            else:
                self._check_lost(each)

    def _bind(self, claim: Object) -> None:
        for volume in self.cluster.list(PERSISTENT_VOLUME):
            if _claims(volume, claim):
                self._bound(claim, volume)
                return
        if picked := next((each for each in self.cluster.list(PERSISTENT_VOLUME) if _fits(each, claim)), None):
            self._pick(claim, picked)
            return
        source = claim["spec"].get("dataSourceRef") or {}
        if source.get("apiGroup") == "longboat.dev" and not self.ignores_data_source_ref:
            return
        storage = self.cluster.get(STORAGE_CLASS, claim["spec"]["storageClassName"])
        if storage is None or (storage["volumeBindingMode"] == "WaitForFirstConsumer" and not self._used(claim)):
            return
        content = self._source_content(claim)
        if content is not None:
            self._provision(claim, content)

    def _pick(self, claim: Object, volume: Object) -> None:
        # The binder takes a volume that is there before it lets one be made, whatever the claim's data source is.
        ref = {"kind": "PersistentVolumeClaim"} | {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
        notes = volume["metadata"]["annotations"] | {"pv.kubernetes.io/bound-by-controller": "yes"}
        self._patch(PERSISTENT_VOLUME, volume, "add", "/spec/claimRef", ref)
        self._patch(PERSISTENT_VOLUME, volume, "add", "/metadata/annotations", notes)
        self._bound(claim, volume)

    def _source_content(self, claim: Object) -> str | None:
        source = claim["spec"].get("dataSource")
        if not source:
            return ""
        snapshot = self.cluster.get(VOLUME_SNAPSHOT, source["name"], claim["metadata"]["namespace"])
        status = (snapshot or {}).get("status") or {}
        wanted = bytes_of(claim["spec"]["resources"]["requests"]["storage"])
        if not status.get("readyToUse") or wanted < bytes_of(status["restoreSize"]):
            return None
        content = self.cluster.get(VOLUME_SNAPSHOT_CONTENT, status["boundVolumeSnapshotContentName"])
        assert content is not None
        return self.data[content["status"]["snapshotHandle"]]

    def _provision(self, claim: Object, content: str) -> None:
        if self.full:
            self._refuse(claim)
            return
        meta, handle = claim["metadata"], self._handle("vol")
        self.data[handle] = content
        storage = self.cluster.get(STORAGE_CLASS, claim["spec"]["storageClassName"]) or {}
        volume = _object(PERSISTENT_VOLUME, f"pvc-{meta['uid']}")
        driver = storage.get("provisioner", DRIVER)
        volume["metadata"]["annotations"] = {"pv.kubernetes.io/provisioned-by": driver}
        volume["spec"] = {
            "csi": {"driver": driver, "volumeHandle": handle},
            "storageClassName": claim["spec"]["storageClassName"],
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "persistentVolumeReclaimPolicy": storage.get("reclaimPolicy", "Delete"),
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
        }
        volume["status"] = {"phase": "Bound"}
        self._bound(claim, self.cluster.create(volume))

    def _bound(self, claim: Object, volume: Object) -> None:
        self._patch(PERSISTENT_VOLUME_CLAIM, claim, "add", "/spec/volumeName", volume["metadata"]["name"])
        self._status(PERSISTENT_VOLUME_CLAIM, claim, {"phase": "Bound", "capacity": volume["spec"]["capacity"]})

    def _check_lost(self, claim: Object) -> None:
        volume = self.cluster.get(PERSISTENT_VOLUME, claim["spec"]["volumeName"])
        if (volume is None or not _claims(volume, claim)) and claim["status"]["phase"] != "Lost":
            self._status(PERSISTENT_VOLUME_CLAIM, claim, {"phase": "Lost"})

    def _volumes(self) -> None:
        for volume in self.cluster.list(PERSISTENT_VOLUME):
            ref = volume["spec"].get("claimRef")
            if ref is None:
                continue
            claim = self.cluster.get(PERSISTENT_VOLUME_CLAIM, ref["name"], ref["namespace"])
            if claim is not None and ref.get("uid") in (None, claim["metadata"]["uid"]):
                continue
            if volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
                self.data.pop(volume["spec"]["csi"]["volumeHandle"], None)
                self.cluster.delete(PERSISTENT_VOLUME, volume["metadata"]["name"])

    def _jobs(self) -> None:
        for job in self.cluster.list(JOB):
            if not (job.get("status") or {}).get("conditions") and self.run_job:
                self._run(job)
        for pod in self.cluster.list(POD):
            name = (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name")
            if name and self.cluster.get(JOB, name, pod["metadata"]["namespace"]) is None:
                self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])

    def _run(self, job: Object) -> None:
        namespace = job["metadata"]["namespace"]
        # A pod does not start before its claim is bound and its Secrets exist.
        ready = all(self.cluster.get(SECRET, name, namespace) for name in _secrets_of(job))
        if not _claims_of(job):
            if ready and self.run_job is not None:
                self._finish(job, *self.run_job(job, None)[:2])
            return
        claim = self.claim(namespace, _claims_of(job)[0])
        if (claim.get("status") or {}).get("phase") != "Bound" or self.run_job is None or not ready:
            return
        volume = self.cluster.get(PERSISTENT_VOLUME, claim["spec"]["volumeName"])
        assert volume is not None
        handle = volume["spec"]["csi"]["volumeHandle"]
        succeeded, message, content = self.run_job(job, self.data[handle])
        if content is not None:
            self.data[handle] = content
        self._finish(job, succeeded, message)

    def _finish(self, job: Object, succeeded: bool, message: str) -> None:
        meta = job["metadata"]
        pod = _object(POD, f"{meta['name']}-pod", meta["namespace"])
        pod["metadata"]["labels"] = {"batch.kubernetes.io/job-name": meta["name"]}
        ended = {"exitCode": 0 if succeeded else 1, "message": message, "finishedAt": self._now()}
        phase = "Succeeded" if succeeded else "Failed"
        pod["status"] = {"phase": phase, "containerStatuses": [{"name": "mover", "state": {"terminated": ended}}]}
        # The pod of an earlier Job of this name may not have been collected yet; real ones have names of their own.
        self.cluster.delete(POD, pod["metadata"]["name"], meta["namespace"])
        self.cluster.create(pod)
        condition = {"type": "Complete" if succeeded else "Failed", "status": "True"}
        self._status(JOB, job, {"succeeded": int(succeeded), "failed": int(not succeeded), "conditions": [condition]})

    def _used(self, claim: Object) -> bool:
        meta = claim["metadata"]
        users = [*self.cluster.list(JOB, meta["namespace"]), *self.cluster.list(VIRTUAL_MACHINE_INSTANCE)]
        return any(meta["name"] in _claims_of(each) for each in users if _namespace(each) == meta["namespace"])

    def _hot_plug(self) -> None:
        for vmi in self.cluster.list(VIRTUAL_MACHINE_INSTANCE):
            known = {each["name"] for each in vmi["status"].get("volumeStatus", ())}
            for volume in vmi["spec"]["volumes"]:
                if volume["name"] not in known and self._plugged(vmi, volume):
                    added = {"name": volume["name"], "phase": "Ready", "target": f"sd{'abcdefgh'[len(known)]}"}
                    self._patch(VIRTUAL_MACHINE_INSTANCE, vmi, "add", "/status/volumeStatus/-", added)
                    return

    def _plugged(self, vmi: Object, volume: Object) -> bool:
        name = volume["persistentVolumeClaim"]["claimName"]
        return bool(self.content(vmi["metadata"]["namespace"], name) is not None)

    def _patch(self, kind: Kind, obj: Object, op: str, path: str, value: Any) -> None:
        meta = obj["metadata"]
        self.cluster.patch(kind, meta["name"], [{"op": op, "path": path, "value": value}], meta.get("namespace", ""))

    def _refuse(self, claim: Object) -> None:
        name = f"{claim['metadata']['name']}.failed"
        if self.cluster.get(EVENT, name, claim["metadata"]["namespace"]) is None:
            about = {"involvedObject": {"uid": claim["metadata"]["uid"]}, "type": "Warning", "message": self.full}
            self.cluster.create(_object(EVENT, name, claim["metadata"]["namespace"]) | about)

    def _status(self, kind: Kind, obj: Object, status: Object) -> None:
        meta = obj["metadata"]
        now = self.cluster.get(kind, meta["name"], meta.get("namespace", ""))
        if now is not None and now.get("status") != status:
            self._patch(kind, obj, "add", "/status", status)

    def _handle(self, prefix: str) -> str:
        self._handles += 1
        return f"{prefix}-{self._handles}"

    def _now(self) -> str:
        return self.cluster.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(kind: Kind, name: str, namespace: str = "") -> Object:
    meta: Object = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta}


def _namespace(obj: Object) -> str:
    return str(obj["metadata"].get("namespace", ""))


def _claims(volume: Object, claim: Object) -> bool:
    ref, meta = volume["spec"].get("claimRef"), claim["metadata"]
    if ref is None:
        return False
    same = (ref["namespace"], ref["name"]) == (meta["namespace"], meta["name"])
    return same and ref.get("uid") in (None, meta["uid"])


def _fits(volume: Object, claim: Object) -> bool:
    spec, wanted = volume["spec"], claim["spec"]
    same = spec.get("claimRef") is None and spec.get("storageClassName") == wanted["storageClassName"]
    return same and bytes_of(spec["capacity"]["storage"]) >= bytes_of(wanted["resources"]["requests"]["storage"])


def _claims_of(user: Object) -> list[str]:
    """The claims that a Job's pods, or a virtual machine's, use."""
    spec = user["spec"]["template"]["spec"] if user["kind"] == "Job" else user["spec"]
    found = (each.get("persistentVolumeClaim") for each in spec.get("volumes") or ())
    return [each["claimName"] for each in found if each]


def _secrets_of(job: Object) -> list[str]:
    found = (each.get("secret") for each in job["spec"]["template"]["spec"].get("volumes") or ())
    return [each["secretName"] for each in found if each]


class Clock:
    """A clock that tests set: call it for the time, ``advance`` it.

    It begins long before the real one, by which folders stamp: a test that mixes the two fails at once, not one day.
    """

    def __init__(self, moment: datetime = datetime(2025, 11, 22, 3, 30, tzinfo=UTC)) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **parts: float) -> None:
        """Move on by a timedelta's keyword arguments."""
        self.moment += timedelta(**parts)
