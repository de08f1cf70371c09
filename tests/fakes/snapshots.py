"""Snapshot controller and CSI snapshotter in detail: static contents, deletion policies, delays and failures."""

from __future__ import annotations

from collections import Counter
from typing import Any

from longboat.kube.kinds import PERSISTENT_VOLUME_CLAIM, SECRET, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT
from longboat.kube.port import Object
from tests.fakes.cluster import FakeCluster
from tests.fakes.storage import DRIVER, JobRun, Storage, _object


class SnapshotStorage(Storage):
    """Storage whose snapshots are cut first and ready later, and whose contents delete what their policy says.

    ``cut_errors``, ``never_cut`` and ``never_ready`` are by name of the claim. ``deleters`` counts, at every moment,
    how many contents would delete a snapshot; ``most_deleters`` is the most there ever were.
    """

    def __init__(self, cluster: FakeCluster, run_job: JobRun | None = None) -> None:
        super().__init__(cluster, run_job)
        self.cut_errors: dict[str, str] = {}
        self.never_cut: set[str] = set()
        self.never_ready: set[str] = set()
        self.class_policy = "Delete"
        self.static_ready = True
        self.most_deleters = 0
        self.deleted_under_a_claim = False
        self.cut_while_frozen: dict[str, bool] = {}
        self.is_frozen: Any = lambda: False
        self.annotations: dict[str, str] = {}
        cluster.hooks.append(self._watch)

    def snapshots(self) -> set[str]:
        """Return the handles of the snapshots in the storage system."""
        return {handle for handle in self.data if handle.startswith("snap-")}

    def _run(self, job: Object) -> None:
        meta, volumes = job["metadata"], job["spec"]["template"]["spec"]["volumes"]
        claims = [each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each]
        secrets = [each["secret"]["secretName"] for each in volumes if "secret" in each]
        # A pod waits for what it mounts.
        there = [self.cluster.get(PERSISTENT_VOLUME_CLAIM, name, meta["namespace"]) for name in claims]
        there += [self.cluster.get(SECRET, name, meta["namespace"]) for name in secrets]
        if all(there):
            super()._run(job)

    def _watch(self, verb: str, obj: Object) -> None:
        if obj["kind"] != VOLUME_SNAPSHOT_CONTENT.name:
            return
        if verb == "delete" and obj["spec"]["deletionPolicy"] == "Delete":
            ref = obj["spec"]["volumeSnapshotRef"]
            claims = self.cluster.list(PERSISTENT_VOLUME_CLAIM, ref["namespace"])
            sources = {(each["spec"].get("dataSource") or {}).get("name") for each in claims}
            self.deleted_under_a_claim |= ref["name"] in sources
            self.data.pop(handle_of(obj) or "", None)
        deleters = Counter(
            (handle_of(each), each["spec"]["deletionPolicy"]) for each in self.cluster.list(VOLUME_SNAPSHOT_CONTENT)
        )
        most = max((n for (_, policy), n in deleters.items() if policy == "Delete"), default=0)
        self.most_deleters = max(self.most_deleters, most)

    def _snapshots(self) -> None:
        for each in self.cluster.list(VOLUME_SNAPSHOT):
            if "volumeSnapshotContentName" in each["spec"]["source"]:
                self._bind_static(each)
            elif not (each.get("status") or {}).get("creationTime"):
                self._cut_dynamic(each)
            elif not each["status"]["readyToUse"] and _source(each) not in self.never_ready:
                self._status(VOLUME_SNAPSHOT, each, each["status"] | {"readyToUse": True})
        for content in self.cluster.list(VOLUME_SNAPSHOT_CONTENT):
            ref = content["spec"]["volumeSnapshotRef"]
            found = self.cluster.get(VOLUME_SNAPSHOT, ref["name"], ref["namespace"])
            gone = found is None or found["metadata"]["uid"] != ref.get("uid")
            if gone and ref.get("uid") and content["spec"]["deletionPolicy"] == "Delete":
                self.cluster.delete(VOLUME_SNAPSHOT_CONTENT, content["metadata"]["name"])

    def _cut_dynamic(self, each: Object) -> None:
        meta, source = each["metadata"], _source(each)
        if source in self.never_cut:
            return
        if source in self.cut_errors:
            self._status(VOLUME_SNAPSHOT, each, {"readyToUse": False, "error": {"message": self.cut_errors[source]}})
            return
        handle = self._handle("snap")
        self.data[handle] = self.content(meta["namespace"], source) or ""
        self.cut_while_frozen[source] = self.is_frozen()
        size = self.claim(meta["namespace"], source)["status"]["capacity"]["storage"]
        content = _object(VOLUME_SNAPSHOT_CONTENT, f"snapcontent-{meta['uid']}")
        content["metadata"]["annotations"] = dict(self.annotations)
        content["spec"] = {
            "driver": DRIVER,
            "deletionPolicy": self.class_policy,
            "source": {"volumeHandle": self.volume_handle(meta["namespace"], source)},
            "sourceVolumeMode": "Block",
            "volumeSnapshotClassName": each["spec"]["volumeSnapshotClassName"],
            "volumeSnapshotRef": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        }
        content["status"] = {"snapshotHandle": handle, "readyToUse": True}
        self.cluster.create(content)
        status = {"boundVolumeSnapshotContentName": content["metadata"]["name"], "readyToUse": False}
        self._status(VOLUME_SNAPSHOT, each, status | {"creationTime": self._now(), "restoreSize": size})

    def _bind_static(self, each: Object) -> None:
        meta = each["metadata"]
        name = each["spec"]["source"]["volumeSnapshotContentName"]
        content = self.cluster.get(VOLUME_SNAPSHOT_CONTENT, name)
        if content is None or (each.get("status") or {}).get("readyToUse"):
            return
        ref = content["spec"]["volumeSnapshotRef"]
        if (ref["name"], ref["namespace"]) != (meta["name"], meta["namespace"]):
            return
        if "uid" not in ref:
            self._patch(VOLUME_SNAPSHOT_CONTENT, content, "add", "/spec/volumeSnapshotRef/uid", meta["uid"])
        handle = content["spec"]["source"]["snapshotHandle"]
        self._status(VOLUME_SNAPSHOT_CONTENT, content, {"snapshotHandle": handle, "readyToUse": True})
        status = {"boundVolumeSnapshotContentName": name, "readyToUse": self.static_ready, "restoreSize": "4Mi"}
        self._status(VOLUME_SNAPSHOT, each, status)


def handle_of(content: Object) -> str | None:
    """Return the storage system's snapshot that a content stands for."""
    given = (content["spec"].get("source") or {}).get("snapshotHandle")
    return given or (content.get("status") or {}).get("snapshotHandle")


def _source(snapshot: Object) -> str:
    return str(snapshot["spec"]["source"]["persistentVolumeClaimName"])
