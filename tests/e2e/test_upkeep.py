"""Prune and verify by themselves, on real parts: what has expired goes, damage is told, and a backup heals it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.api.common import format_time
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
from tests.e2e.workloads import Namespace, Object, claim, of_backup
from tests.installation import NAMESPACE as OPERATOR_NAMESPACE
from tests.installation import ensure_store, store

pytestmark = pytest.mark.cluster
NAME = "upkeep"
MIB = 1 << 20


@dataclass
class Upkeep:
    """A store with the repository of one namespace, and time in it that passes at the test's word."""

    cluster: Cluster
    namespace: Namespace

    def path(self) -> str:
        """The repository's path: <cluster id>/<UID of the namespace>."""
        uids = ("-o", "jsonpath={.metadata.uid}")
        of_cluster = self.cluster.kubectl("get", "namespace", "kube-system", *uids)
        return f"{of_cluster}/{self.cluster.kubectl('get', 'namespace', self.namespace.name, *uids)}"

    def repository(self) -> Repository:
        remote = self.cluster.s3_settings()
        settings = StoreSettings(
            type="s3",
            endpoint=remote.endpoint,
            region=remote.region,
            bucket=remote.bucket,
            prefix=NAME,
            access_key_id=remote.access_key_id,
            secret_access_key=remote.secret_access_key,
            ca_pem=remote.ca_pem,
        )
        secret = ("-n", OPERATOR_NAMESPACE, "get", "secret", f"{NAME}-key", "-o", "jsonpath={.data.key}")
        key = parse_store_key(base64.b64decode(self.cluster.kubectl(*secret)).decode())
        return open_repository(open_store(settings), self.path(), key)

    def files(self, folder: str) -> list[Path]:
        """The files of the repository in the object store, largest first."""
        remote = self.cluster.remote
        top = remote.directory / "data" / remote.settings().bucket / NAME / self.path() / folder
        return sorted((each for each in top.rglob("*") if each.is_file()), key=lambda each: -each.stat().st_size)

    def days_pass(self) -> None:
        """Ten days pass: the trash period of what was deleted ends, and the grace of what was condemned."""
        repository, later = self.repository(), datetime.now(UTC) + timedelta(days=10)
        sweep_tombstones(repository, later, timedelta(days=7))
        for each in read_condemned(repository):
            # A list says itself when it was made, too.
            earlier = each.content.marked - timedelta(days=10)
            write_condemned(repository, each.content.model_copy(update={"marked": earlier}))
            repository.store.delete(each.info.name)
        for path in self.files("."):
            os.utime(path, (path.stat().st_mtime - timedelta(days=10).total_seconds(),) * 2)

    def run(self, work: str) -> Object:
        """Ask for a run, and return what the store says of it in the end."""
        asked = datetime.now(UTC)
        annotation = f"longboat.dev/{work}-requested-at={format_time(asked)}"
        self.cluster.kubectl("annotate", "backupstore", NAME, "--overwrite", annotation)

        def look() -> Object | None:
            found = self.status().get("maintenance", {}).get(work, {})
            ended = found.get("lastRunTime")
            return found if ended and datetime.fromisoformat(ended) >= asked.replace(microsecond=0) else None

        found = self.namespace.until(f"the {work} that was asked for ends", look, 90)
        assert found
        return found

    def status(self) -> Object:
        """The store's status."""
        found: Object = json.loads(self.cluster.kubectl("get", "backupstore", NAME, "-o", "json"))["status"]
        return found

    def reason(self, type_: str) -> str:
        """The reason of a condition of the store."""
        return next((str(each["reason"]) for each in self.status()["conditions"] if each["type"] == type_), "")

    def verified(self, backup: Object) -> Any:
        """What a DiskBackup says of its last verification."""
        found = self.namespace.get("diskbackup", backup["metadata"]["name"])
        return ((found or {}).get("status") or {}).get("verified")


@pytest.fixture
def upkeep(longboat: Cluster, namespace: Namespace) -> Iterator[Upkeep]:
    """A BackupStore of the test's own, in which nothing runs but what it asks for."""
    bucket = store(longboat, NAME)["spec"]["s3"] | {"prefix": NAME}
    off = {"prune": {"suspend": True}, "verify": {"suspend": True}}
    ensure_store(longboat, NAME, default=False, s3=bucket, maintenance=off)
    yield Upkeep(longboat, namespace)
    longboat.kubectl("delete", "backupstore", NAME, "--wait=false")


def test_expired_data_goes_and_damage_is_told_and_healed(upkeep: Upkeep, namespace: Namespace) -> None:
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=1, mebibytes=16)
    namespace.policy("daily", "disk", storeRef={"name": NAME})
    kept = namespace.backup("daily")
    of_kept = upkeep.files("packs")
    namespace.write("disk", seed=2, mebibytes=4, offset=32 * MIB)
    namespace.kubectl("delete", "diskbackup", namespace.backup("daily")["metadata"]["name"], "--timeout=60s")
    (gone,) = set(upkeep.files("packs")) - set(of_kept)

    upkeep.days_pass()
    condemned = upkeep.run("prune")
    assert condemned["waitingBytes"] > 2 * MIB and gone.exists(), condemned
    upkeep.days_pass()
    freed = upkeep.run("prune")
    assert freed["freedBytes"] > 2 * MIB and not gone.exists(), freed
    assert upkeep.files("packs") == of_kept

    damaged = bytearray(of_kept[0].read_bytes())
    damaged[MIB] ^= 0xFF
    namespace.restore("restored", of_backup(kept))
    assert namespace.checksum("restored") == before
    of_kept[0].write_bytes(damaged)
    upkeep.run("verify")
    assert (upkeep.verified(kept), upkeep.reason("Verified")) == ("Damaged", "Damaged")
    assert "disk disk:" in namespace.condition("diskbackup", kept["metadata"]["name"], "Verified")("Damaged")["message"]

    healing = namespace.backup("daily")
    upkeep.run("verify")
    assert (upkeep.verified(healing), upkeep.verified(kept)) == ("Yes", "Recoverable")
