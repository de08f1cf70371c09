"""What end-to-end tests put into a namespace: claims, Jobs that write and read them, and our own objects."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from longboat.kube.client import ApiServer, connect
from longboat.kube.kinds import (
    BACKUP_POLICY,
    BACKUP_STORE,
    DISK_BACKUP,
    DISK_SNAPSHOT,
    PERSISTENT_VOLUME_CLAIM,
    RESTORE,
    VOLUME_SNAPSHOT,
    VOLUME_SNAPSHOT_CONTENT,
)
from longboat.kube.port import KubeError, UnavailableError
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.progress import ClusterError, wait_until
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE

Object = dict[str, Any]
T = TypeVar("T")
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 107,
    "runAsGroup": 107,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# Deterministic data with repetition in it: compressible, and different for each seed.
WRITE = (
    "import os,random; r=random.Random({seed}); f=os.open('{path}',os.O_RDWR|os.O_CREAT); os.lseek(f,{offset},0); "
    "[os.write(f,r.randbytes(1<<19)+bytes([i%251])*(1<<19)) for i in range({mebibytes})]; {end}os.fsync(f)"
)
READ = (
    "import hashlib; h=hashlib.sha256(); f=open('{path}','rb'); "
    "[h.update(b) for b in iter(lambda: f.read(1<<20), b'')]; print(f.tell(), h.hexdigest())"
)


# What is looked at again and again: a kubectl for each look would keep a processor busy.
_OURS = (BACKUP_POLICY, BACKUP_STORE, DISK_BACKUP, DISK_SNAPSHOT, RESTORE)
_LOOKED_AT = (*_OURS, PERSISTENT_VOLUME_CLAIM, VOLUME_SNAPSHOT, VOLUME_SNAPSHOT_CONTENT)
KINDS = {name: kind for kind in _LOOKED_AT for name in (kind.name.lower(), kind.plural)}
KINDS["pvc"] = PERSISTENT_VOLUME_CLAIM


@cache
def api(cluster: Cluster) -> ApiServer:
    """The administrator's connection to a cluster."""
    return ApiServer(connect(str(cluster.state / "kubeconfig")))


def _patiently(read: Callable[[], T]) -> T:
    """Read; an API server that is too busy to answer is asked again, as kubectl waits for it."""
    for _ in range(5):
        try:
            return read()
        except UnavailableError as error:
            last: KubeError = error
        except KubeError as error:
            raise ClusterError(str(error)) from error
    raise ClusterError(str(last)) from last


def claim(
    name: str, size: str = "64Mi", mode: str = "Block", storage_class: str = "reflink", snapshot: str = ""
) -> Object:
    """A PersistentVolumeClaim, empty or from a VolumeSnapshot."""
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": mode,
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": size}},
    }
    if snapshot:
        spec["dataSource"] = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def job(name: str, script: str, disk: str = "", mode: str = "Block") -> Object:
    """A Job that runs Python as user 107 under the restricted pod security standard, with a claim in it if named."""
    container: Object = {"name": "main", "image": images.ensure_base().reference, "imagePullPolicy": "Never"}
    container |= {"command": ["python3", "-c", script], "securityContext": RESTRICTED}
    if disk and mode == "Block":
        container["volumeDevices"] = [{"name": "disk", "devicePath": "/dev/disk"}]
    elif disk:
        container["volumeMounts"] = [{"name": "disk", "mountPath": "/disk"}]
    pod: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"fsGroup": 107},
        "containers": [container],
    }
    if disk:
        pod["volumes"] = [{"name": "disk", "persistentVolumeClaim": {"claimName": disk}}]
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def of_backup(backup: Object) -> Object:
    """The source of a Restore: the only disk of a DiskBackup."""
    return {"diskBackup": {"name": backup["metadata"]["name"]}}


class Namespace:
    """A namespace of one test, under a pod security standard."""

    def __init__(self, cluster: Cluster, name: str, standard: str = "restricted") -> None:
        self.cluster, self.name = cluster, name
        labels = {"pod-security.kubernetes.io/enforce": standard}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        self.until("the namespace has a service account", lambda: "default" in self.kubectl("get", "serviceaccounts"))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in this namespace."""
        return self.cluster.kubectl(f"--namespace={self.name}", *arguments, stdin=stdin)

    def apply(self, *objects: Object) -> None:
        """Apply objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*objects]})
        namespaced = [] if objects[0]["kind"] == "Namespace" else [f"--namespace={self.name}"]
        self.cluster.kubectl(*namespaced, "apply", "--filename=-", stdin=text)

    def create(self, obj: Object) -> str:
        """Create an object and return its name."""
        made = json.loads(self.kubectl("create", "-o", "json", "-f", "-", stdin=json.dumps(obj)))
        return str(made["metadata"]["name"])

    def get(self, kind: str, name: str) -> Object | None:
        """An object, or None."""
        return _patiently(lambda: api(self.cluster).get(KINDS[kind.lower()], name, self.name))

    def items(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return _patiently(lambda: list(api(self.cluster).list(KINDS[kind.lower()], self.name)))

    def ours(self, kind: str, name: str, spec: Object) -> Object:
        """One of our kinds; a name that ends in a dash is completed by the API server."""
        naming = {"generateName": name} if name.endswith("-") else {"name": name}
        return {"apiVersion": "longboat.dev/v1alpha1", "kind": kind, "metadata": naming, "spec": spec}

    def run(self, name: str, script: str, disk: str = "", mode: str = "Block") -> str:
        """Run a Job on a claim to its end, remove it, and return what it printed."""
        self.apply(job(name, script, disk, mode))
        try:
            self.kubectl("wait", "--for=condition=Complete", "--timeout=90s", f"job/{name}")
        except ClusterError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'job,pod,pvc')}") from None
        printed = self.kubectl("logs", f"job/{name}").strip()
        self.kubectl("delete", "job", name, "--cascade=foreground")
        return printed

    def write(self, disk: str, *, seed: int, mebibytes: int = 8, offset: int = 0, mode: str = "Block") -> str:
        """Write data, and return size and SHA-256 of the disk as it is then.

        A filesystem volume gets a disk.img of 64 MiB, as KubeVirt makes it.
        """
        path, end = ("/dev/disk", "") if mode == "Block" else ("/disk/disk.img", "os.truncate(f,64<<20); ")
        script = WRITE.format(seed=seed, path=path, offset=offset, mebibytes=mebibytes, end=end)
        # In the same pod: another one takes seconds to start.
        script = f"{script}; {READ.format(path=path)}"
        return self.run(f"write-{disk}-{time.monotonic_ns():x}", script, disk, mode)

    def checksum(self, disk: str, mode: str = "Block", length: int | None = None) -> str:
        """Size and SHA-256 of a disk, or of its first bytes."""
        script = READ.format(path="/dev/disk" if mode == "Block" else "/disk/disk.img")
        if length is not None:
            script = (
                f"import hashlib; print({length}, hashlib.sha256(open('/dev/disk','rb').read({length})).hexdigest())"
            )
        return self.run(f"read-{disk}-{time.monotonic_ns():x}", script, disk, mode)

    def until(self, what: str, look: Callable[[], T], seconds: float = 60) -> T:
        """Look until something is there; fail after the time (tests.evidence shows then what there is)."""
        return wait_until(look, seconds, what, 0.3, error=AssertionError)

    def ended(self, kind: str, name: str, seconds: float = 180) -> Object:
        """Wait until one of our objects is in a last phase."""
        last = ("Completed", "PartiallyFailed", "Failed", "Ready")

        def look() -> Object | None:
            found = self.get(kind, name)
            return found if found and (found.get("status") or {}).get("phase") in last else None

        found = self.until(f"{kind} {name} ends", look, seconds)
        assert found
        return found

    def condition(self, kind: str, name: str, type_: str, seconds: float = 60) -> Callable[..., Object]:
        """Return a function that waits for a reason of a condition, or, without one, for the condition to be True."""

        def wait(reason: str = "") -> Object:
            def look() -> Object | None:
                found = (self.get(kind, name) or {}).get("status") or {}
                each = next((each for each in found.get("conditions") or () if each["type"] == type_), None)
                return each if each and (each["reason"] == reason if reason else each["status"] == "True") else None

            found = self.until(f"{kind} {name} has {type_} with reason {reason or 'any'}", look, seconds)
            assert found
            return found

        return wait

    def policy(self, name: str, disk: str, **more: Any) -> None:
        """A policy on a claim, so far in the future that only ad-hoc runs happen."""
        spec = {
            "target": {"disk": {"persistentVolumeClaim": disk}},
            "schedule": {"monthly": {"every": 12, "day": 1}},
            "retention": {"keepFor": "30d"},
        }
        self.apply(self.ours("BackupPolicy", name, spec | more))

    def backup(self, policy: str, seconds: float = 180) -> Object:
        """Run a policy by hand and wait for the end."""
        name = self.create(self.ours("DiskBackup", f"{policy}-", {"policyRef": {"name": policy}}))
        return self.ended("diskbackup", name, seconds)

    def restore(self, name: str, source: Object, seconds: float = 180, **claim_: Any) -> Object:
        """Restore into the claim of the same name and wait for the end."""
        self.apply(self.ours("Restore", name, {"source": source, "claim": {"name": name} | claim_}))
        return self.ended("restore", name, seconds)

    def assert_nothing_left(self) -> None:
        """Nothing that was made for this namespace is left in the operator's, nor any content of a snapshot."""
        kinds = "jobs,pvc,secrets,volumesnapshots,volumesnapshotcontents"
        # What a disk keeps for its next backup is no leftover.
        label = f"longboat.dev/owner-namespace={self.name},longboat.dev/owner-kind!=Disk"

        def left() -> str:
            return self.cluster.kubectl("-n", OPERATOR_NAMESPACE, "get", kinds, "-l", label, "-o", "name")

        self.until("nothing is left in the operator's namespace", lambda: not left(), 60)
