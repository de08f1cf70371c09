"""One look at a DiskBackup: what all its steps share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from longboat.api import DiskBackup
from longboat.api.disk_backup import DiskBackupStatus, DiskPhase, DiskResult
from longboat.kube.kinds import DISK_BACKUP
from longboat.kube.port import ConflictError, NotFoundError
from longboat.plan import kstatus
from longboat.plan.driver_trust import is_distrusted
from longboat.plan.problem import Problem
from longboat.reconcile.context import Context
from longboat.reconcile.objects import load, reference
from longboat.reconcile.outcome import save

SOON = timedelta(seconds=3)
LATER = timedelta(seconds=30)
_REBASES = 3


@dataclass
class Run:
    """The backup as it is now; ``waits`` are the delays after which steps want to be looked at again.

    ``problem`` is what somebody has to act on before the run can go on.
    """

    ctx: Context
    backup: DiskBackup
    waits: list[timedelta] = field(default_factory=list)
    problem: Problem | None = None

    @property
    def status(self) -> DiskBackupStatus:
        """The status as last written."""
        return self.backup.status

    @property
    def disks(self) -> list[DiskResult]:
        """The disks as last written."""
        return self.status.disks or []

    def in_phase(self, *phases: DiskPhase) -> list[DiskResult]:
        """Return the disks in one of these phases."""
        return [disk for disk in self.disks if disk.phase in phases]

    def write(self, **changes: Any) -> None:
        """Write changes to the status. What others wrote meanwhile stays, unless it is of this flow: ConflictError."""
        for attempt in range(_REBASES):
            try:
                self.backup = save(self.ctx, self.backup, self.status.model_copy(update=changes))
                return
            except ConflictError:
                if attempt == _REBASES - 1 or not self._rebase():
                    raise

    def update(self, disk: DiskResult, **changes: Any) -> DiskResult:
        """Write changes to one disk, and return it as it is then."""
        changed = disk.model_copy(update=changes)
        if changed != disk:
            disks = replaced(self.disks, [changed])
            self.write(disks=disks, driver_distrusted=is_distrusted(disks))
        return changed

    def fail(self, disk: DiskResult, problem: Problem) -> DiskResult:
        """Write that a disk could not be backed up, and tell."""
        message = problem.message
        self.event("Warning", problem.reason, f"disk {disk.name!r}: {message}")
        return self.update(disk, phase="Failed", reason=problem.reason, message=message, retry_at=None)

    def wait(self, delay: timedelta, problem: Problem | None = None) -> None:
        """Ask to be looked at again after a delay; a problem is shown meanwhile."""
        self.waits.append(delay)
        self.problem = self.problem or problem

    def event(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Record an Event about the backup."""
        self.ctx.cluster.event(reference(self.backup), kind, reason, message)

    def under_way(self, reason: str, message: str, **changes: Any) -> None:
        """Write that the run goes on, or what it is stalled by."""
        before, now, generation = self.status.conditions, self.ctx.now(), self.backup.metadata.generation
        if self.problem:
            conditions = kstatus.stalled(before, self.problem, now=now, generation=generation)
        else:
            conditions = kstatus.under_way(before, reason, message, now=now, generation=generation)
        self.write(conditions=conditions, **changes)

    def _rebase(self) -> bool:
        """Take over what others (retention, for one) wrote; return whether it leaves this flow as it was."""
        now = load(self.ctx.cluster, DISK_BACKUP, DiskBackup, self.backup.namespace, self.backup.name)
        if now is None or now.uid != self.backup.uid:
            raise NotFoundError(f"DiskBackup {self.backup.name!r} is gone")
        same = _flow(now.status) == _flow(self.status)
        self.backup = now if same else self.backup
        return same


def replaced(disks: Iterable[DiskResult], changed: Iterable[DiskResult]) -> list[DiskResult]:
    """Return the disks with some of them, by name, in their changed form."""
    new = {disk.name: disk for disk in changed}
    return [new.get(disk.name, disk) for disk in disks]


def _flow(status: DiskBackupStatus) -> tuple[Any, ...]:
    return status.phase, status.cut, status.cut_attempts, status.disks, status.manifest
