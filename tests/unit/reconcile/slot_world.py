"""A machine with a policy on it and one on a disk of it, both due now."""

from __future__ import annotations

from typing import Any

from longboat.api.common import format_time
from longboat.api.disk_backup import DiskBackupStatus
from longboat.kube.port import Object
from tests.unit.reconcile.backup_world import BackupWorld

WHOLE = {"virtualMachine": {"name": "db"}}
ONE = {"disk": {"virtualMachine": "db", "name": "data"}}


class Slot(BackupWorld):
    """A weekly policy on the machine and a daily one on a disk of it, both due now."""

    def add_both(self, weekly: dict[str, Any] | None = None, daily: dict[str, Any] | None = None, **spec: Any) -> None:
        self.slot = format_time(self.clock().replace(microsecond=0))
        self.add_policy("weekly", weekly or WHOLE, retention={"keepFor": "90d"})
        self.add_policy("daily", daily or ONE, **spec)
        self.add_run("w", "weekly")
        self.add_run("d", "daily")

    def add_run(self, name: str, policy: str) -> Object:
        return self.add_backup(name, policy, slot=self.slot)

    def status(self, name: str) -> DiskBackupStatus:
        return self.backup(name).status

    def freezes(self) -> int:
        return sum(verb == "freeze" for verb, *_ in self.machines.calls)
