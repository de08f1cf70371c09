"""The world of backups with an operator that prunes and verifies, by the real programs on a repository in a folder."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from longboat.api import BackupStore
from longboat.kube.kinds import BACKUP_STORE, CONFIG_MAP, JOB, NAMESPACE, SECRET
from longboat.kube.port import Object
from longboat.mover import PruneJob, VerifyJob
from longboat.mover.jobs import merge
from longboat.mover.prune import run_prune
from longboat.mover.results import failure_of, message_bytes
from longboat.mover.verify import run_verify
from longboat.plan.conditions import find
from longboat.plan.maintenance import RepositoryRecord
from longboat.plan.mover import ROLE
from longboat.plan.names import digest
from longboat.reconcile import maintenance, maintenance_records
from longboat.reconcile.maintenance import Memory
from longboat.repository import StoreSettings
from tests.fakes.cluster import KillAt, Killed
from tests.unit.reconcile.backup_world import SHOP, SYSTEM, BackupWorld

STORE = "offsite"
NOBODY = {"suspend": True}
SELDOM = {"every": "9999d"}
"""Prunes come when somebody asks for them: a store whose prunes are suspended does not heed that."""


@dataclass
class UpkeepWorld(BackupWorld):
    """See BackupWorld. ``trouble`` are exceptions that the next runs end with; ``runs`` are the jobs that ended."""

    trouble: list[Exception] = field(default_factory=list)
    runs: list[tuple[str, PruneJob | VerifyJob]] = field(default_factory=list)
    logs_are_lost: bool = False
    killed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.set(cluster_id="cluster")
        data = {name: base64.b64encode(b"x").decode() for name in ("accessKeyID", "secretAccessKey")}
        self._create(SECRET, "s3", SYSTEM, {"data": data})
        self.memory: dict[str, Memory] = {}
        self.tokens = 0
        self.told({"available": "Yes"})

    def told(self, changes: dict[str, Any]) -> None:
        """Change what the store's status says."""
        found = self.get(BACKUP_STORE, STORE)
        self.cluster.update_status(found | {"status": (found.get("status") or {}) | changes})

    def ask(self, **maintenance: Any) -> None:
        """Change what the store asks for."""
        operation = {"op": "add", "path": "/spec/maintenance", "value": maintenance}
        self.cluster.patch(BACKUP_STORE, STORE, [operation])

    def annotate(self, name: str, value: str) -> None:
        """Set an annotation of the store."""
        meta = self.get(BACKUP_STORE, STORE)["metadata"]
        value_ = (meta.get("annotations") or {}) | {name: value}
        self.cluster.patch(BACKUP_STORE, STORE, [{"op": "add", "path": "/metadata/annotations", "value": value_}])

    def look(self, bomb: KillAt | None = None) -> timedelta | None:
        """See to the upkeep once; an operator that was killed starts anew. The Jobs run afterwards."""
        try:
            return maintenance.reconcile(
                self.context(bomb), "", STORE, memory=self.memory, inside=self._inside, token=self._token
            )
        except Killed:
            self.memory, self.killed = {}, True
            return timedelta(seconds=1)
        finally:
            self.storage.settle()

    def until_idle(self, bomb: KillAt | None = None, rounds: int = 40) -> None:
        """Look until nothing is under way any more."""
        for _ in range(rounds):
            delay = self.look(None if self.killed else bomb)
            if delay is not None and delay >= self.settings.full_resync_period and not self.jobs():
                return
            self.clock.advance(seconds=min(delay.total_seconds(), 5) if delay else 1)
        raise AssertionError(f"still at work: {self.jobs()}")

    def pass_a_day(self, bomb: KillAt | None = None) -> None:
        """Let everything that is due in a day run."""
        self.until_idle(bomb)
        self.clock.advance(days=1)
        self.until_idle(bomb)

    def jobs(self) -> list[Object]:
        """Return the Jobs of prune and verify that are there."""
        found = self.cluster.list(JOB, SYSTEM)
        return [each for each in found if each["metadata"]["labels"].get(ROLE) in ("prune", "verify")]

    def uid(self, namespace: str = SHOP) -> str:
        return str(self.get(NAMESPACE, namespace, "")["metadata"]["uid"])

    def record(self, uid: str = "") -> RepositoryRecord:
        """Return what is noted of a repository."""
        every = maintenance_records.all_records(self.cluster, SYSTEM)
        return next(each for each in every if each.namespace_uid == (uid or self.uid()))

    def store(self) -> BackupStore:
        return BackupStore.model_validate(self.get(BACKUP_STORE, STORE))

    def store_condition(self, type_: str) -> tuple[str, str]:
        found = find(self.store().status.conditions, type_)
        return (found.status, found.reason) if found else ("", "")

    def config_map(self) -> Object:
        return self.get(CONFIG_MAP, f"longboat-maintenance-{digest(STORE, self.uid(), length=16)}", SYSTEM)

    def work(self, job: Object) -> str:
        return str(job["metadata"]["labels"][ROLE])

    def store_time(self) -> datetime:
        """Return the time of movers: the folder's time stamps are those of the real clock."""
        return datetime.now(UTC)

    def _inside(self, settings: StoreSettings, path: str) -> list[str]:
        top = self.folder / "store" / path
        return sorted(each.name for each in top.iterdir() if each.is_dir()) if top.exists() else []

    def _token(self) -> str:
        self.tokens += 1
        return f"token-{self.tokens}"

    def _export(self, job: Object, content: str | None) -> tuple[bool, str, str | None]:
        work = job["metadata"]["labels"][ROLE]
        if work not in ("prune", "verify"):
            return super()._export(job, content)
        told = self._told_to(job)
        lines: list[str] = []
        try:
            if self.trouble:
                raise self.trouble.pop(0)
            now = self.store_time()
            if isinstance(told, PruneJob):
                message = message_bytes(run_prune(told, emit=lines.append, now=lambda: now))
            else:
                message = message_bytes(run_verify(told, emit=lines.append, now=lambda: now))
        except Exception as error:
            return False, message_bytes(failure_of(error)).decode(), None
        finally:
            if not self.logs_are_lost:
                self.cluster.pod_logs[SYSTEM, f"{job['metadata']['name']}-pod"] = "\n".join(lines)
        self.runs.append((work, told))
        return True, message.decode(), None

    def _told_to(self, job: Object) -> PruneJob | VerifyJob:
        data = self.get(SECRET, job["metadata"]["name"], SYSTEM)["data"]
        plain, secret = (json.loads(base64.b64decode(data[key])) for key in ("job.json", "secret.json"))
        model = PruneJob if self.work(job) == "prune" else VerifyJob
        return model.model_validate_json(json.dumps(merge(plain, secret)))
