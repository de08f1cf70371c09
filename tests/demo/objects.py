"""The objects of the story: what a user would write into YAML files. The namespace is given when they are applied."""

from __future__ import annotations

from typing import Any

from tests.cluster.kubevirt.images import GUEST_DISK

API_VERSION = "longboat.dev/v1alpha1"
VM = "db"
OURS = {"app.kubernetes.io/part-of": "longboat-demo"}
"""On the story's namespace: whoever tells it again may remove what carries it."""
_USER = 107  # KubeVirt's: the disk is its machine's.
Object = dict[str, Any]


def ours(kind: str, name: str, spec: Object) -> Object:
    """One of our kinds; a name that ends in a dash is completed by the API server."""
    naming = {"generateName": name} if name.endswith("-") else {"name": name}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": naming, "spec": spec}


def policy(name: str, target: Object, schedule: Object, **more: Any) -> Object:
    """A BackupPolicy that keeps backups for 30 days."""
    return ours("BackupPolicy", name, {"target": target, "schedule": schedule, "retention": {"keepFor": "30d"}} | more)


def weekly_on_machine() -> Object:
    """Every disk of the machine, at one moment, once a week."""
    return policy("db-weekly", {"virtualMachine": {"name": VM}}, {"weekly": {"day": "Sunday", "at": "02:00"}})


def daily_on_disk(disk: str) -> Object:
    """One disk of the machine, every day."""
    return policy(f"db-{disk}-daily", disk_of_machine(disk), {"daily": {"at": "03:30"}}, timeZone="Europe/London")


def minutely_on_disk(disk: str) -> Object:
    """One disk every minute: for those who want to see a schedule at work."""
    return policy(f"db-{disk}-minutely", disk_of_machine(disk), {"cron": "* * * * *"})


def disk_of_machine(disk: str) -> Object:
    """The target of a policy on one disk."""
    return {"disk": {"virtualMachine": VM, "name": disk}}


def run_of(policy_name: str) -> Object:
    """An ad-hoc run."""
    return ours("DiskBackup", f"{policy_name}-", {"policyRef": {"name": policy_name}})


def snapshot(name: str, disk: str) -> Object:
    """An ad-hoc snapshot that is kept for a week."""
    return ours("DiskSnapshot", name, {"disk": {"virtualMachine": VM, "name": disk}, "expiresAfter": "7d"})


def restore(name: str, source: Object, disk_name: str) -> Object:
    """A Restore into the claim of the same name, attached to the machine."""
    attach = {"virtualMachine": VM, "diskName": disk_name}
    return ours("Restore", name, {"source": source, "claim": {"name": name}, "attach": attach})


def namespace(name: str) -> Object:
    """The story's namespace; KubeVirt's pods do not pass the restricted standard."""
    labels = OURS | {"pod-security.kubernetes.io/enforce": "baseline"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def fill_root_disk(claim: str, image: str) -> Object:
    """The Job that copies the guest's disk out of its container image onto a Block claim."""
    command = ["dd", f"if={GUEST_DISK}", "of=/dev/disk", "bs=1M", "conv=sparse,notrunc,fsync"]
    container: Object = {"name": "fill", "image": image, "imagePullPolicy": "IfNotPresent", "command": command}
    container |= {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    container |= {"volumeDevices": [{"name": "disk", "devicePath": "/dev/disk"}]}
    pod: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER},
        "containers": [container],
        "volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": claim}}],
    }
    spec = {"backoffLimit": 0, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"fill-{claim}"}, "spec": spec}
