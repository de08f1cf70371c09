"""A store whose upkeep is asked for by a test, and in which time passes at the test's word."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from longboat.api.common import format_time
from longboat.kube.kinds import SECRET
from longboat.repository import (
    Repository,
    StoreSettings,
    open_repository,
    open_store,
    parse_store_key,
    sweep_tombstones,
)
from longboat.repository.condemned import read_condemned, write_condemned
from tests.cluster.cluster import Cluster
from tests.e2e.workloads import Namespace, Object, api
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE

# Of spec.maintenance: only what is asked for. A prune that is suspended is not begun at a request either.
OFF: Object = {"prune": {"every": "520w"}, "verify": {"suspend": True}}
_RETENTION = "user.object-retention"  # Where the S3 server of the tests keeps the lock of a version.


@dataclass
class Upkeep:
    """A store with the repository of one namespace, and time in it that passes at the test's word.

    `settings` are an administrator's; `given` are the access keys that the Jobs of the last run had.
    """

    cluster: Cluster
    namespace: Namespace
    name: str
    settings: StoreSettings
    given: set[str] = field(default_factory=set)

    def path(self) -> str:
        """The repository's path: <cluster id>/<UID of the namespace>."""
        uids = ("-o", "jsonpath={.metadata.uid}")
        of_cluster = self.cluster.kubectl("get", "namespace", "kube-system", *uids)
        return f"{of_cluster}/{self.cluster.kubectl('get', 'namespace', self.namespace.name, *uids)}"

    def repository(self) -> Repository:
        """The repository as an administrator has it."""
        secret = ("-n", OPERATOR_NAMESPACE, "get", "secret", f"{self.name}-key", "-o", "jsonpath={.data.key}")
        key = parse_store_key(base64.b64decode(self.cluster.kubectl(*secret)).decode())
        return open_repository(open_store(self.settings), self.path(), key)

    def files(self, folder: str) -> list[Path]:
        """The files of the repository in the object store, largest first."""
        top = self._top("data") / self.settings.prefix / self.path() / folder
        return sorted(_files(top), key=lambda each: -each.stat().st_size)

    def days_pass(self, days: int = 10) -> None:
        """Let days pass: trash periods, grace periods, and locks come nearer to their end; the trash is swept."""
        repository, period = self.repository(), timedelta(days=days)
        sweep_tombstones(repository, datetime.now(UTC) + period, timedelta(days=7))
        for each in read_condemned(repository):
            # A list says itself when it was made, too.
            earlier = each.content.marked - period
            write_condemned(repository, each.content.model_copy(update={"marked": earlier}))
            repository.store.delete(each.info.name)
        for path in [*self.files("."), *_files(self._top("versions"))]:
            _age(path, period)

    def run(self, work: str) -> Object:
        """Ask for a run, and return what the store says of it in the end."""
        asked = datetime.now(UTC)
        # Of the same second, perhaps: that is as exact as the store tells it.
        before = self.status().get("maintenance", {}).get(work, {}).get("lastRunTime")
        annotation = f"longboat.dev/{work}-requested-at={format_time(asked)}"
        self.cluster.kubectl("annotate", "backupstore", self.name, "--overwrite", annotation)
        self.given = set()

        def look() -> Object | None:
            self.given |= self._given(work)
            found = self.status().get("maintenance", {}).get(work, {})
            ended = found.get("lastRunTime")
            is_new = ended and ended != before and datetime.fromisoformat(ended) >= asked.replace(microsecond=0)
            return found if is_new else None

        found = self.namespace.until(f"the {work} that was asked for ends", look, 90)
        assert found
        return found

    def status(self) -> Object:
        """The store's status."""
        found: Object = json.loads(self.cluster.kubectl("get", "backupstore", self.name, "-o", "json"))["status"]
        return found

    def reason(self, type_: str) -> str:
        """The reason of a condition of the store."""
        return next((str(each["reason"]) for each in self.status()["conditions"] if each["type"] == type_), "")

    def verified(self, backup: Object) -> Any:
        """What a DiskBackup says of its last verification."""
        found = self.namespace.get("diskbackup", backup["metadata"]["name"])
        return ((found or {}).get("status") or {}).get("verified")

    def _given(self, work: str) -> set[str]:
        """The access keys in the Secrets of this namespace's Jobs that do this work now."""
        labels = {"longboat.dev/role": work}
        secrets = api(self.cluster).list(SECRET, OPERATOR_NAMESPACE, labels)
        jobs = [{key: json.loads(base64.b64decode(each["data"][key])) for key in each["data"]} for each in secrets]
        return {
            str(each["secret.json"]["store"]["accessKeyId"])
            for each in jobs
            if each["job.json"]["repositoryPath"] == self.path()
        }

    def _top(self, part: str) -> Path:
        return self.cluster.remote.directory / part / self.settings.bucket


def _files(top: Path) -> list[Path]:
    return [each for each in top.rglob("*") if each.is_file()]


def _age(path: Path, period: timedelta) -> None:
    """Make an object, or a version of one, older: by its time stamp, and by the end of its lock if it has one."""
    if _RETENTION in os.listxattr(path):
        lock = json.loads(os.getxattr(path, _RETENTION))
        lock["RetainUntilDate"] = (datetime.fromisoformat(lock["RetainUntilDate"]) - period).isoformat()
        os.setxattr(path, _RETENTION, json.dumps(lock).encode())
    os.utime(path, (path.stat().st_mtime - period.total_seconds(),) * 2)
