"""A store whose three users can do only what is documented, in a bucket with Object Lock: seen on the whole cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from longboat.repository import StoreSettings, generate_store_key, open_store
from longboat.repository.errors import AccessDeniedError, ObjectLockedError
from longboat.repository.s3_versions import S3Versions, Version
from tests.cluster.cluster import Cluster
from tests.contract.buckets import LOCK_DAYS, Bucket, make_bucket
from tests.e2e.upkeep import OFF, Upkeep
from tests.e2e.workloads import Namespace, claim, of_backup
from tests.installation import STORE, apply, secret, store

pytestmark = pytest.mark.cluster
LOCK: dict[str, Any] = {"deleteVersions": True, "objectLock": {"mode": "Governance", "days": LOCK_DAYS}}


def keys(settings: StoreSettings) -> dict[str, str]:
    return {"accessKeyID": settings.access_key_id, "secretAccessKey": settings.secret_access_key}


@dataclass(frozen=True)
class WriteOnce:
    """A BackupStore in a bucket of its own, with a Secret for each purpose; namespaces need their own ones."""

    cluster: Cluster
    name: str
    bucket: Bucket

    def admit(self, namespace: str) -> None:
        """Give a namespace credentials of its own."""
        for purpose, settings in (("s3", self.bucket.export), ("restore", self.bucket.restore)):
            apply(self.cluster, secret(f"{self.name}-{purpose}.{namespace}", keys(settings)))


@pytest.fixture
def write_once(longboat: Cluster) -> Iterator[WriteOnce]:
    bucket = make_bucket(longboat.remote, "locked")
    name = f"write-once-{bucket.root.bucket}"
    spec = store(longboat, name, default=False)["spec"]
    spec["s3"] |= {"bucket": bucket.root.bucket, "prefix": bucket.root.prefix, **LOCK}
    spec["s3"]["caBundleRef"] = {"name": f"{STORE}-ca"}
    for purpose in ("restore", "maintenance"):
        spec[f"{purpose}CredentialsSecretRef"] = {"name": f"{name}-{purpose}"}
    spec |= {"namespaceCredentials": "Required", "maintenance": OFF}
    apply(
        longboat,
        secret(f"{name}-key", {"key": generate_store_key()}),
        secret(f"{name}-s3", keys(bucket.export)),
        secret(f"{name}-restore", keys(bucket.restore)),
        secret(f"{name}-maintenance", keys(bucket.maintenance)),
        store(longboat, name) | {"spec": spec},
    )
    longboat.kubectl("wait", "--for=condition=Ready", f"backupstore/{name}", "--timeout=90s")
    yield WriteOnce(longboat, name, bucket)
    longboat.kubectl("delete", "backupstore", name, "--wait=false")


def test_backup_restore_and_deletion_with_credentials_of_their_own(
    longboat: Cluster, namespace: Namespace, write_once: WriteOnce
) -> None:
    namespace.apply(claim("disk"))
    namespace.write("disk", seed=1)
    before = namespace.checksum("disk")
    namespace.policy("daily", "disk", storeRef={"name": write_once.name})
    name = namespace.create(namespace.ours("DiskBackup", "daily-", {"policyRef": {"name": "daily"}}))
    # The namespace has to have credentials of its own, and has none yet.
    namespace.condition("diskbackup", name, "Ready")("CredentialsNotFound")
    write_once.admit(namespace.name)
    backup = namespace.ended("diskbackup", name)
    assert backup["status"]["phase"] == "Completed", backup["status"]
    restored = namespace.restore("restored", {"diskBackup": {"name": name}})
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == before
    namespace.kubectl("delete", "diskbackup", name, "--timeout=60s")
    seen = [info.name for info in open_store(write_once.bucket.root).list("")]
    assert any("/tombstones/" in each for each in seen), seen
    # The lease could not be removed by the export: it is left to die of age.
    assert any("/leases/" in each for each in seen), seen
    # Applied again it is taken over: exports may not delete the tombstone, maintenance does.
    namespace.apply(namespace.ours("DiskBackup", name, backup["spec"]))
    again = namespace.ended("diskbackup", name)
    assert (again["status"]["phase"], again["status"].get("adopted")) == ("Completed", True), again["status"]
    assert not any("/tombstones/" in each.name for each in open_store(write_once.bucket.root).list(""))


def test_locks_of_what_backups_need_are_extended_and_all_else_goes_after_its_lock(
    longboat: Cluster, namespace: Namespace, write_once: WriteOnce
) -> None:
    bucket, versions = write_once.bucket, S3Versions(write_once.bucket.root)
    upkeep = Upkeep(longboat, namespace, write_once.name, bucket.root)
    write_once.admit(namespace.name)
    namespace.apply(claim("disk"))
    before = namespace.write("disk", seed=1, mebibytes=16)
    namespace.policy("daily", "disk", storeRef={"name": write_once.name})
    kept = namespace.backup("daily")
    packs = f"{upkeep.path()}/packs/"
    needed = {each.name for each in versions.below(packs)}
    namespace.write("disk", seed=2, mebibytes=4, offset=32 << 20)
    namespace.kubectl("delete", "diskbackup", namespace.backup("daily")["metadata"]["name"], "--timeout=60s")
    (gone,) = {each.name for each in versions.below(packs)} - needed
    with pytest.raises(AccessDeniedError):
        open_store(bucket.export).delete(gone)

    def days_left() -> dict[str, int | None]:
        return {each.name: _days(versions, each) for each in versions.below(packs) if not each.marker}

    # The first run locks whatever is there; what is not half over then is left as it is.
    upkeep.run("prune")
    assert upkeep.given == {bucket.maintenance.access_key_id}
    assert set(days_left().values()) == {LOCK_DAYS}
    upkeep.days_pass(10)
    upkeep.run("prune")
    assert set(days_left().values()) == {LOCK_DAYS - 10}
    # What was condemned then is hidden now, so that its lock is not extended with the others.
    upkeep.days_pass(10)
    upkeep.run("prune")
    assert days_left() == dict.fromkeys(needed, LOCK_DAYS) | {gone: LOCK_DAYS - 20}
    assert versions.of(gone)[0].marker
    with pytest.raises(ObjectLockedError):
        S3Versions(bucket.maintenance).delete(versions.of(gone)[-1])
    upkeep.days_pass(8)
    upkeep.run("prune")
    assert [each.marker for each in versions.of(gone)] == [True, False]
    upkeep.days_pass(3)
    upkeep.run("prune")
    assert versions.of(gone) == [] and set(days_left()) == needed

    upkeep.run("verify")
    assert (upkeep.verified(kept), upkeep.given) == ("Yes", {bucket.export.access_key_id})
    namespace.restore("restored", of_backup(kept))
    assert namespace.checksum("restored") == before


def _days(versions: S3Versions, version: Version) -> int | None:
    until = versions.locked_until(version)
    return None if until is None else round((until - datetime.now(UTC)) / timedelta(days=1))
