"""Tries whether a mover, which is not root, may open a block device: a claim, a Job, and away with both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from longboat.cli.findings import Ability, Finding, Verdict
from longboat.kube.kinds import JOB, PERSISTENT_VOLUME_CLAIM, POD
from longboat.kube.port import Cluster, KubeError, Object
from longboat.plan.mover import DEVICE_PATH, JOB_NAME, Mover, MoverSettings, mover_job
from longboat.plan.names import MANAGED_BY, MANAGER

NAME = "longboat-check-trial"
PATIENCE = timedelta(minutes=3)
_STEP = 2.0
_LABELS = {MANAGED_BY: MANAGER, "longboat.dev/owner-kind": "Check"}
_AFFECTS = (Ability.BACKUPS, Ability.RESTORES)
# What a backup and a restore do first, without changing a byte.
_PROGRAM = f"import os; fd = os.open({DEVICE_PATH!r}, os.O_RDWR); os.pread(fd, 4096, 0); print('opened')"
_DEVICE_REMEDY = (
    "set device_ownership_from_security_context = true in the configuration of containerd or CRI-O on every node, and "
    "restart it"
)


@dataclass(frozen=True)
class Trial:
    """What is tried: where, as whom, and on which storage."""

    movers: MoverSettings
    storage_class: str | None
    size: str = "1Gi"


def movers_of(operator: Object) -> MoverSettings:
    """Return how an operator's Deployment has its movers run."""
    pod = operator["spec"]["template"]["spec"]
    container = pod["containers"][0]
    environment = {each["name"]: each.get("value", "") for each in container.get("env", ())}
    return MoverSettings(
        namespace=operator["metadata"]["namespace"],
        image=container["image"],
        image_pull_policy=container.get("imagePullPolicy", "IfNotPresent"),
        user=int(environment.get("LONGBOAT_MOVER_USER") or MoverSettings.user),
        pull_secrets=tuple(each["name"] for each in pod.get("imagePullSecrets", ())),
        service_account=environment.get("LONGBOAT_MOVER_SERVICE_ACCOUNT") or MoverSettings.service_account,
    )


def run(cluster: Cluster, trial: Trial, sleep: Callable[[float], None]) -> Finding:
    """Try it, remove what was made for it, and return what came of it."""
    try:
        cluster.create(_claim(trial))
        cluster.create(_job(trial))
        return _verdict(trial, _wait(cluster, trial.movers.namespace, sleep), _said(cluster, trial.movers.namespace))
    except KubeError as error:
        return Finding("movers", "trial", Verdict.UNKNOWN, f"could not be tried: {error}", "", _AFFECTS)
    finally:
        _remove(cluster, trial.movers.namespace)


def _claim(trial: Trial) -> Object:
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Block",
        "resources": {"requests": {"storage": trial.size}},
    }
    if trial.storage_class:
        spec["storageClassName"] = trial.storage_class
    meta = {"name": NAME, "namespace": trial.movers.namespace, "labels": _LABELS}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _job(trial: Trial) -> Object:
    mover = Mover("export", NAME, NAME, _LABELS, {}, NAME, "Block")
    job = mover_job(mover, trial.movers)
    pod = job["spec"]["template"]["spec"]
    pod["volumes"] = [each for each in pod["volumes"] if each["name"] == "disk"]
    (container,) = pod["containers"]
    container.pop("args")
    container |= {"command": ["python3", "-c", _PROGRAM], "volumeMounts": []}
    job["spec"]["activeDeadlineSeconds"] = int(PATIENCE.total_seconds())
    return job


def _wait(cluster: Cluster, namespace: str, sleep: Callable[[float], None]) -> Object:
    status: Object = {}
    for _ in range(int(PATIENCE.total_seconds() / _STEP)):
        status = (cluster.get(JOB, NAME, namespace) or {}).get("status") or {}
        if status.get("succeeded") or status.get("failed"):
            break
        sleep(_STEP)
    return status


def _said(cluster: Cluster, namespace: str) -> str:
    pods = list(cluster.list(POD, namespace, {JOB_NAME: NAME}))
    return cluster.logs(pods[0]["metadata"]["name"], namespace).strip() if pods else ""


def _verdict(trial: Trial, status: Object, said: str) -> Finding:
    storage = f"of StorageClass {trial.storage_class}" if trial.storage_class else "of the default StorageClass"
    last = said.splitlines()[-1] if said else "it wrote nothing"
    if status.get("succeeded"):
        message = f"user {trial.movers.user} could open a block device {storage}"
        return Finding("movers", "trial", Verdict.OK, message, "", _AFFECTS)
    if "PermissionError" in said:
        message = f"user {trial.movers.user} may not open a block device {storage}: {last}"
        return Finding("movers", "trial", Verdict.ERROR, message, _DEVICE_REMEDY, _AFFECTS)
    if status.get("failed"):
        message = f"the trial with a block device {storage} failed: {last}"
        return Finding("movers", "trial", Verdict.ERROR, message, "", _AFFECTS)
    message = f"the trial with a block device {storage} did not end within {int(PATIENCE.total_seconds())} s"
    remedy = "can the StorageClass make Block volumes, and the image be pulled? Name another with --storage-class"
    return Finding("movers", "trial", Verdict.UNKNOWN, message, remedy, _AFFECTS)


def _remove(cluster: Cluster, namespace: str) -> None:
    """A claim can't go while a finished pod refers to it: the Job goes first."""
    for kind in (JOB, PERSISTENT_VOLUME_CLAIM):
        try:
            found = cluster.get(kind, NAME, namespace)
            if found and (found["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGER:
                cluster.delete(kind, NAME, namespace, uid=found["metadata"]["uid"])
        except KubeError:
            # What is left is overwritten by nobody, and told apart by its label.
            continue
