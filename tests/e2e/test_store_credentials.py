"""A store whose three users can do only what is documented, in a bucket with Object Lock: seen on the whole cluster."""

from __future__ import annotations

from typing import Any

import pytest

from longboat.repository import StoreSettings, generate_store_key, open_store
from tests.cluster.cluster import Cluster
from tests.contract.buckets import Bucket, make_bucket
from tests.e2e.workloads import Namespace, claim
from tests.installation import STORE, apply, secret, store

pytestmark = pytest.mark.cluster
NAME = "write-once"
LOCK: dict[str, Any] = {"deleteVersions": True, "objectLock": {"mode": "Governance", "days": 30}}


def keys(settings: StoreSettings) -> dict[str, str]:
    return {"accessKeyID": settings.access_key_id, "secretAccessKey": settings.secret_access_key}


@pytest.fixture
def write_once(longboat: Cluster) -> Bucket:
    """A BackupStore in a bucket of its own, with a Secret for each purpose."""
    bucket = make_bucket(longboat.remote, "locked")
    spec = store(longboat, NAME, default=False)["spec"]
    spec["s3"] |= {"bucket": bucket.root.bucket, "prefix": bucket.root.prefix, **LOCK}
    spec["s3"]["caBundleRef"] = {"name": f"{STORE}-ca"}
    for purpose in ("restore", "maintenance"):
        spec[f"{purpose}CredentialsSecretRef"] = {"name": f"{NAME}-{purpose}"}
    spec["namespaceCredentials"] = "Required"
    apply(
        longboat,
        secret(f"{NAME}-key", {"key": generate_store_key()}),
        secret(f"{NAME}-s3", keys(bucket.export)),
        secret(f"{NAME}-restore", keys(bucket.restore)),
        secret(f"{NAME}-maintenance", keys(bucket.maintenance)),
        store(longboat, NAME) | {"spec": spec},
    )
    longboat.kubectl("wait", "--for=condition=Ready", f"backupstore/{NAME}", "--timeout=90s")
    return bucket


def test_backup_restore_and_deletion_with_credentials_of_their_own(
    longboat: Cluster, namespace: Namespace, write_once: Bucket
) -> None:
    namespace.apply(claim("disk"))
    namespace.write("disk", seed=1)
    before = namespace.checksum("disk")
    namespace.policy("daily", "disk", storeRef={"name": NAME})
    name = namespace.create(namespace.ours("DiskBackup", "daily-", {"policyRef": {"name": "daily"}}))
    # The namespace has to have credentials of its own, and has none yet.
    namespace.condition("diskbackup", name, "Ready")("CredentialsNotFound")
    for purpose, settings in (("s3", write_once.export), ("restore", write_once.restore)):
        apply(longboat, secret(f"{NAME}-{purpose}.{namespace.name}", keys(settings)))
    backup = namespace.ended("diskbackup", name)
    assert backup["status"]["phase"] == "Completed", backup["status"]
    restored = namespace.restore("restored", {"diskBackup": {"name": name}})
    assert restored["status"]["phase"] == "Completed", restored["status"]
    assert namespace.checksum("restored") == before
    namespace.kubectl("delete", "diskbackup", name, "--timeout=60s")
    seen = [info.name for info in open_store(write_once.root).list("")]
    assert any("/tombstones/" in each for each in seen), seen
    # The lease could not be removed by the export: it is left to die of age.
    assert any("/leases/" in each for each in seen), seen
    # Applied again it is taken over: exports may not delete the tombstone, maintenance does.
    namespace.apply(namespace.ours("DiskBackup", name, backup["spec"]))
    again = namespace.ended("diskbackup", name)
    assert (again["status"]["phase"], again["status"].get("adopted")) == ("Completed", True), again["status"]
    assert not any("/tombstones/" in each.name for each in open_store(write_once.root).list(""))
