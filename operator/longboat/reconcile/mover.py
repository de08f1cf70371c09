"""Runs movers and observes them: what a Job, its pod, its log and its termination message say."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from longboat.kube.kinds import JOB, POD, SECRET
from longboat.kube.port import AlreadyExistsError, Cluster, ConflictError, Object, UnavailableError
from longboat.mover import Failure
from longboat.plan.mover import (
    CONTROLLER_UID,
    JOB_NAME,
    ROLE,
    Mover,
    MoverSettings,
    Role,
    mover_job,
    mover_secret,
    no_room,
)
from longboat.plan.names import OWNER_NAMESPACE, OWNER_UID
from longboat.reconcile.context import Settings

_ROOM = threading.Lock()
"""Between counting the movers and making another one: the workers are threads of one process."""

MoverPhase = Literal["Absent", "Pending", "Running", "Succeeded", "Failed"]


@dataclass(frozen=True)
class Progress:
    """How far a mover is, in bytes of the disk."""

    done: int
    total: int


@dataclass(frozen=True)
class MoverState:
    """What is seen of a mover. ``result`` is its report if it succeeded, ``failure`` is set if it failed.

    ``message`` says in words what a mover that is not running yet waits for.
    """

    phase: MoverPhase
    job: Object | None = None
    progress: Progress | None = None
    result: Mapping[str, Any] | None = None
    failure: Failure | None = None
    message: str = ""


class NoRoomError(Exception):
    """As many movers as may be are under way; the message says so."""


def mover_settings(settings: Settings) -> MoverSettings:
    """Return how movers run, out of the operator's settings."""
    return MoverSettings(
        namespace=settings.namespace,
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        user=settings.mover_user,
        resources=settings.mover_resources,
        pull_secrets=settings.mover_pull_secrets,
        service_account=settings.mover_service_account,
        at_once=settings.movers_at_once,
    )


def start(cluster: Cluster, mover: Mover, settings: MoverSettings, now: datetime) -> Object | None:
    """Make sure that a mover's Job exists; return it, None if its name is not free (yet). Raises NoRoomError.

    Its pod is scheduled, and its volume made, but it does not run before it is equipped.
    """
    try:
        with _ROOM:
            if full := crowded(cluster, mover.role, mover.name, mover.labels.get(OWNER_NAMESPACE, ""), settings, now):
                raise NoRoomError(full)
            return cluster.create(mover_job(mover, settings))
    except AlreadyExistsError:
        found = cluster.get(JOB, mover.name, settings.namespace)
        free = found is None or "deletionTimestamp" in found["metadata"]
        return None if free or found is None or not _same_run(found, mover) else found


def crowded(cluster: Cluster, role: Role, name: str, namespace: str, settings: MoverSettings, now: datetime) -> str:
    """Return in words why the Job of this name has to wait for others of its role, nothing if it need not.

    ``namespace`` is that of the object that it is made for.
    """
    jobs = cluster.list(JOB, settings.namespace, {ROLE: role})
    others = (each for each in jobs if active(each) and each["metadata"]["name"] != name)
    return no_room(role, namespace, others, settings.at_once, now)


def equip(cluster: Cluster, mover: Mover, job: Object) -> None:
    """Make sure that a Job has its Secret, so that it runs: only once it is known what its claim's volume is."""
    if cluster.get(SECRET, mover.secret_name, job["metadata"]["namespace"]) is None:
        with contextlib.suppress(AlreadyExistsError):
            cluster.create(mover_secret(mover, job))


def stop(cluster: Cluster, job: Object) -> None:
    """Delete this very Job, its pods and its Secret."""
    meta = job["metadata"]
    with contextlib.suppress(ConflictError):
        cluster.delete(JOB, meta["name"], meta["namespace"], uid=meta["uid"])


def observe(cluster: Cluster, namespace: str, job_name: str) -> MoverState:
    """Return what is seen of the mover whose Job has this name."""
    job = cluster.get(JOB, job_name, namespace)
    if job is None or job["metadata"].get("deletionTimestamp"):
        return MoverState("Absent")
    pods = list(_pods(cluster, namespace, job))
    if _ended(job, "Complete"):
        return _succeeded(job, pods)
    if _ended(job, "Failed"):
        return MoverState("Failed", job, failure=_failure(job, pods))
    pod = next((each for each in pods if (each.get("status") or {}).get("phase") == "Running"), None)
    if pod is None:
        return MoverState("Pending", job, message=_waits_for(pods))
    log = ""
    with contextlib.suppress(UnavailableError):
        # A node that is lost gives no log away; a mover that is not seen to come further is given up in time.
        log = cluster.logs(pod["metadata"]["name"], namespace)
    return MoverState("Running", job, progress=_progress(log.splitlines()))


def running_pod(cluster: Cluster, namespace: str, owner_uid: str) -> str | None:
    """Return the name of a pod, of whichever of the owner's Jobs, that may still touch its volume; None if none may."""
    for pod in cluster.list(POD, namespace, {OWNER_UID: owner_uid}):
        if (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            return str(pod["metadata"]["name"])
    return None


def active(job: Object) -> bool:
    """Return whether a Job has not ended yet."""
    return not _ended(job, "Complete") and not _ended(job, "Failed")


def _same_run(job: Object, mover: Mover) -> bool:
    labels = job["metadata"].get("labels") or {}
    wanted = {**mover.labels}
    return labels.get(OWNER_UID) == wanted.get(OWNER_UID) and all(labels.get(key) == wanted[key] for key in wanted)


def _ended(job: Object, type_: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(each["type"] == type_ and each["status"] == "True" for each in conditions)


def _pods(cluster: Cluster, namespace: str, job: Object) -> Iterable[Object]:
    uid = job["metadata"]["uid"]
    for pod in cluster.list(POD, namespace, {JOB_NAME: job["metadata"]["name"]}):
        # Pods of an earlier Job of this name may not have been collected yet.
        if pod["metadata"]["labels"].get(CONTROLLER_UID, uid) == uid:
            yield pod


def _succeeded(job: Object, pods: list[Object]) -> MoverState:
    result = next((found for found in map(_report, pods) if found and found.get("ok") is True), None)
    if result is not None:
        return MoverState("Succeeded", job, result=result)
    # The pod is gone with its message; another run finds what this one has finished.
    lost = Failure(reason="ResultLost", message="the mover ended well, but its result is lost", retryable=True)
    return MoverState("Failed", job, failure=lost)


def _failure(job: Object, pods: list[Object]) -> Failure:
    for report in map(_report, pods):
        with contextlib.suppress(ValidationError):
            return Failure.model_validate(report)
    for pod in pods:
        status = pod.get("status") or {}
        terminated = _terminated(pod)
        why = status.get("message") or status.get("reason") or terminated.get("reason") or "no reason given"
        code = f", exit code {terminated['exitCode']}" if "exitCode" in terminated else ""
        message = f"the mover's pod {pod['metadata']['name']!r} failed: {why}{code}"
        return Failure(reason="PodFailed", message=message, retryable=True)
    message = f"the pod of Job {job['metadata']['name']!r} is gone (evicted, its node lost, or deleted)"
    return Failure(reason="PodLost", message=message, retryable=True)


def _terminated(pod: Object) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    found = (each.get("state", {}).get("terminated") for each in statuses)
    return next((each for each in found if each), {})


def _report(pod: Object) -> dict[str, Any] | None:
    try:
        report = json.loads(_terminated(pod).get("message") or "")
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def _waits_for(pods: list[Object]) -> str:
    for pod in pods:
        status = pod.get("status") or {}
        for each in status.get("conditions") or ():
            if each["type"] == "PodScheduled" and each["status"] == "False":
                return f"the mover's pod can't be scheduled: {each.get('message') or each.get('reason')}"
        for container in status.get("containerStatuses") or ():
            waiting = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating"):
                return f"the mover's pod waits: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return "the mover's pod is being started" if pods else "the mover's pod is not there yet"


def _progress(lines: Iterable[str]) -> Progress | None:
    latest = None
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            counts = json.loads(line)["progress"]
            latest = Progress(int(counts["bytesDone"]), int(counts["bytesTotal"]))
    return latest
