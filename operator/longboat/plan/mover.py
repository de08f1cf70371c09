"""The objects of a mover: a Job that reads or writes one volume, or none, and the Secret that tells it how.

The Job comes first and owns its Secret, so that a Secret never outlives its Job; the pod waits for the Secret. Both lie
in the operator's namespace.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic.alias_generators import to_camel

from longboat.mover import Failure
from longboat.plan.names import OWNER_NAMESPACE
from longboat.repository import SECRETS

Object = dict[str, Any]

Role = Literal["export", "restore", "prune", "verify"]

HUNG_AFTER = timedelta(minutes=30)
"""A mover that is midway and has come no further for this long is given up."""
QUIET_WORK = timedelta(hours=2)
"""The same before its first byte and after its last one: what it does there (maps, checks) counts no bytes."""
IDLE_AFTER = timedelta(minutes=15)
"""A mover whose pod does not run after this, for want of its volume or a node, takes no place from other namespaces."""
LOST = frozenset({"JobDeleted", "PodLost", "ResultLost"})
"""Failures of a mover that was taken away: nothing has to recover before another one is made."""
DEVICE_PATH = "/dev/longboat-disk"
VOLUME_PATH = "/volume"
ROLE = "longboat.dev/role"
ATTEMPT = "longboat.dev/attempt"
JOB_NAME = "batch.kubernetes.io/job-name"
CONTROLLER_UID = "batch.kubernetes.io/controller-uid"

TOKEN_PATH = "/var/run/secrets/longboat.dev/snapshot-metadata/token"
"""Where a mover that asks for changed blocks finds its token; the kubelet renews it."""
TOKEN_SECONDS = 3600

_CONFIG = "/etc/longboat"
_LEFTOVER_SECONDS = 86400
_SECRET_FIELDS = ("masterKey",)
_SECRET_STORE_FIELDS = tuple(to_camel(name) for name in SECRETS)
_READABLE_BY_GROUP = 0o440


@dataclass(frozen=True)
class MoverSettings:
    """How movers run in this cluster."""

    namespace: str
    image: str
    image_pull_policy: str = "IfNotPresent"
    user: int = 107
    """User, group and fsGroup: the owner of disk.img files of KubeVirt."""
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pull_secrets: tuple[str, ...] = ()
    service_account: str = "default"
    at_once: int = 10
    """Exports that may be under way at once, and restores as well."""


@dataclass(frozen=True)
class Mover:
    """One run of a mover. ``job`` is its job file (ExportJob, RestoreJob, … as JSON), secrets included.

    ``name`` is the Job's and ``secret_name`` the Secret's, which must not be used twice: a Secret that is about to be
    collected with its Job must not tell the next one what to do.
    """

    role: Role
    name: str
    secret_name: str
    labels: Mapping[str, str]
    job: Mapping[str, Any]
    claim: str = ""
    """Its volume; prune and verify have none."""
    volume_mode: Literal["Block", "Filesystem"] = "Filesystem"
    node_affinity: Mapping[str, Any] | None = None
    """spec.nodeAffinity.required of the PersistentVolume near which the mover has to run."""
    token_audience: str = ""
    """For whom the mover gets a token of its service account; it gets none for the API server in any case."""
    deadline: timedelta | None = None
    """It is ended after this; None: its owner sees to it."""

    @property
    def read_only(self) -> bool:
        """Whether the mover only reads its volume."""
        return self.role == "export"

    @property
    def takes_group(self) -> bool:
        """Whether every file of the volume, a copy, is given to the mover's group, not only those of a new volume.

        The files of a machine's state may belong to other users, and be of a mode that lets nobody else read them.
        """
        return self.read_only and self.job.get("content") == "Archive"


def standing_since(done: int | None, before: int | None, since: datetime | None, now: datetime) -> datetime:
    """Return since when a mover has come no further.

    ``done`` are its bytes as seen now (None: it has told nothing), ``before`` those seen before, and ``since`` what
    this function returned then; None for a mover that is seen running for the first time.
    """
    moved = done is not None and done != before
    return now.replace(microsecond=0) if since is None or moved else since


def hung(done: int | None, total: int | None, since: datetime, now: datetime) -> Failure | None:
    """Return the failure of a mover that has come no further for too long; a new one may be luckier."""
    midway = done is not None and total is not None and done < total
    if now - since < (HUNG_AFTER if midway else QUIET_WORK):
        return None
    minutes = int((now - since).total_seconds() // 60)
    message = (
        f"the mover has come no further for {minutes} min: its volume, its node or the store does not answer; "
        "see the pod's node and the CSI driver"
    )
    return Failure(reason="MoverHung", message=message, retryable=True)


def no_room(role: Role, namespace: str, jobs: Iterable[Object], most: int, now: datetime) -> str:
    """Return what a mover waits for, in words, nothing if there is room for it.

    ``jobs`` are the others of its role that have not ended, ``namespace`` is that of its owner, which may not take
    every place: what one namespace asks for must not hold up all others.
    """
    jobs = list(jobs)
    count, share = sum(_takes_place(each, now) for each in jobs), most - _kept_free(most)
    if count >= most:
        return f"waiting for room: {count} {role}s are under way, at most {most} are (movers.atOnce)"
    own = sum((each["metadata"].get("labels") or {}).get(OWNER_NAMESPACE) == namespace for each in jobs)
    if own >= share:
        return f"waiting for room: {own} {role}s of this namespace are under way, at most {share} are (movers.atOnce)"
    return ""


def _kept_free(most: int) -> int:
    """Return how many of the places one namespace can't have."""
    return 0 if most == 1 else max(1, most // 4)


def _takes_place(job: Object, now: datetime) -> bool:
    young = now - datetime.fromisoformat(job["metadata"]["creationTimestamp"]) < IDLE_AFTER
    return young or bool((job.get("status") or {}).get("ready"))


def mount_path(volume_mode: str) -> str:
    """Return where a mover finds its volume: the path of the device, or the folder of the file system."""
    return DEVICE_PATH if volume_mode == "Block" else VOLUME_PATH


def mover_job(mover: Mover, settings: MoverSettings) -> Object:
    """Return the Job of a mover. It never tries again by itself: the operator decides about that."""
    spec: Object = {
        "backoffLimit": 0,
        "completions": 1,
        "parallelism": 1,
        "template": {"metadata": {"labels": _labels(mover)}, "spec": _pod(mover, settings)},
    }
    if mover.deadline is not None:
        spec["activeDeadlineSeconds"] = int(mover.deadline.total_seconds())
        # Should nobody be left who looks at its result.
        spec["ttlSecondsAfterFinished"] = _LEFTOVER_SECONDS
    meta = {"name": mover.name, "namespace": settings.namespace, "labels": _labels(mover)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def mover_secret(mover: Mover, job: Object) -> Object:
    """Return the Secret of a mover's Job (as created): it is deleted with it."""
    plain, secret = split_secret(mover.job)
    meta = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": mover.secret_name,
            "namespace": meta["namespace"],
            "labels": _labels(mover),
            "ownerReferences": [owner],
        },
        "type": "Opaque",
        "immutable": True,
        "data": {"job.json": _encoded(plain), "secret.json": _encoded(secret)},
    }


def split_secret(job: Mapping[str, Any]) -> tuple[Object, Object]:
    """Return a job file without its secret fields, and these alone, in the same shape.

    >>> split_secret({"masterKey": "k", "store": {"bucket": "b", "accessKeyId": "a"}})
    ({'store': {'bucket': 'b'}}, {'masterKey': 'k', 'store': {'accessKeyId': 'a'}})
    """
    store = job.get("store", {})
    plain = {key: value for key, value in job.items() if key not in _SECRET_FIELDS}
    plain["store"] = {key: value for key, value in store.items() if key not in _SECRET_STORE_FIELDS}
    secret = {key: job[key] for key in _SECRET_FIELDS if key in job}
    secret["store"] = {key: store[key] for key in _SECRET_STORE_FIELDS if key in store}
    return plain, secret


def _encoded(data: Object) -> str:
    return base64.b64encode(json.dumps(data, sort_keys=True).encode()).decode()


def _labels(mover: Mover) -> dict[str, str]:
    return {**mover.labels, ROLE: mover.role}


def _pod(mover: Mover, settings: MoverSettings) -> Object:
    spec: Object = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(settings.user, "Always" if mover.takes_group else "OnRootMismatch"),
        "containers": [_container(mover, settings)],
        "volumes": [{"name": "config", "secret": {"secretName": mover.secret_name, "defaultMode": _READABLE_BY_GROUP}}],
    }
    if mover.claim:
        spec["volumes"].append({"name": "disk", "persistentVolumeClaim": {"claimName": mover.claim}})
    if mover.token_audience:
        spec["volumes"].append({"name": "token", "projected": _token(mover.token_audience)})
        mount = {"name": "token", "mountPath": str(PurePosixPath(TOKEN_PATH).parent), "readOnly": True}
        spec["containers"][0]["volumeMounts"].append(mount)
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    if mover.node_affinity:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": dict(mover.node_affinity)}
        spec["affinity"] = {"nodeAffinity": required}
    return spec


def _token(audience: str) -> Object:
    token = {"audience": audience, "expirationSeconds": TOKEN_SECONDS, "path": PurePosixPath(TOKEN_PATH).name}
    return {"sources": [{"serviceAccountToken": token}], "defaultMode": _READABLE_BY_GROUP}


def _container(mover: Mover, settings: MoverSettings) -> Object:
    container: Object = {
        "name": "mover",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": [mover.role, "--job", f"{_CONFIG}/job.json", "--secret", f"{_CONFIG}/secret.json"],
        "terminationMessagePolicy": "File",
        "resources": {key: dict(value) for key, value in settings.resources.items()},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": _CONFIG, "readOnly": True}],
    }
    if not mover.claim:
        return container
    if mover.volume_mode == "Block":
        container["volumeDevices"] = [{"name": "disk", "devicePath": DEVICE_PATH}]
    else:
        container["volumeMounts"].append({"name": "disk", "mountPath": VOLUME_PATH, "readOnly": mover.read_only})
    return container


def _pod_security(user: int, change_group: Literal["Always", "OnRootMismatch"]) -> Object:
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": change_group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
