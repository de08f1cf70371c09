"""The objects of the story: what a user would write into YAML files."""

from __future__ import annotations

from typing import Any

API_VERSION = "longboat.dev/v1alpha1"
NAMESPACE = "shop"
VM = "db"
Object = dict[str, Any]


def ours(kind: str, name: str, spec: Object) -> Object:
    """One of our kinds in the story's namespace; a name that ends in a dash is completed by the API server."""
    naming = {"generateName": name} if name.endswith("-") else {"name": name}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": naming | {"namespace": NAMESPACE}, "spec": spec}


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
