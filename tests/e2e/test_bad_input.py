"""Bad input is refused by the API server, or lands as a condition that names field and remedy; the rest goes on.

The rows, with the messages seen, are written to build/bad-input.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import installation
from tests.cluster.cluster import Cluster
from tests.cluster.paths import CHECKOUT
from tests.cluster.progress import ClusterError
from tests.e2e.workloads import Namespace, Object, claim

pytestmark = pytest.mark.cluster
HEAD = "| input | where it lands | message |\n|---|---|---|\n"
TABLE = CHECKOUT / "build" / "bad-input.md"


def target(**disk: str) -> Object:
    return {"target": {"disk": disk}}


def policy(**changes: Any) -> Object:
    spec: Object = target(persistentVolumeClaim="disk") | {"schedule": {"daily": {}}, "retention": {"keepFor": "7d"}}
    return {key: value for key, value in (spec | changes).items() if value is not None}


def backup(name: str) -> Object:
    return {"policyRef": {"name": name}}


def snapshot(**more: str) -> Object:
    return {"disk": {"persistentVolumeClaim": "disk"}} | more


def restore(source: Object, **claim_: Any) -> Object:
    return {"source": source, "claim": {"name": "new"} | claim_}


GOOD = {"diskBackup": {"name": "good"}}


@dataclass(frozen=True)
class Row:
    """One bad input: ``reason`` is that of the condition, or empty if the API server refuses the object."""

    title: str
    kind: str
    spec: Object
    message: str
    reason: str = ""
    type: str = "Ready"
    name: str = field(default="bad")


ROWS = [
    Row("no schedule", "BackupPolicy", policy(schedule={}), "exactly one of hourly, daily"),
    Row("two schedules", "BackupPolicy", policy(schedule={"daily": {}, "weekly": {}}), "exactly one of hourly, daily"),
    Row("no keepFor", "BackupPolicy", policy(retention={"keepLast": 3}), r"retention.*missing required field .keepFor"),
    Row("no target", "BackupPolicy", policy(target={}), "exactly one of disk, virtualMachine and selector"),
    Row("no policy named", "DiskBackup", {}, r"spec.*missing required field .policyRef"),
    Row("no source", "Restore", restore({}), "exactly one of diskBackup and diskSnapshot"),
    Row("unknown machine", "BackupPolicy", policy(**target(virtualMachine="none", name="a")),
        "spec.target.*'none'", "VirtualMachineNotFound"),
    Row("unknown claim", "BackupPolicy", policy(**target(persistentVolumeClaim="none")), "'none'", "ClaimNotFound"),
    Row("unknown store", "BackupPolicy", policy(storeRef={"name": "none"}), "storeRef.*none", "StoreNotFound"),
    Row("unknown time zone", "BackupPolicy", policy(timeZone="Mars/Olympus"), "timeZone.*Mars/Olympus",
        "TimeZoneUnknown"),
    Row("impossible cron", "BackupPolicy", policy(schedule={"cron": "61 * * * *"}), "cron.*61", "CronInvalid"),
    Row("backup of no policy", "DiskBackup", backup("none"), "policyRef.*none", "PolicyNotFound"),
    Row("snapshot of an unknown claim", "DiskSnapshot", {"disk": {"persistentVolumeClaim": "none"}}, "'none'",
        "ClaimNotFound"),
    Row("expiry that is no moment", "DiskBackup", backup("good") | {"expiresAt": "tomorrow"},
        r"spec.expiresAt.*tomorrow"),
    Row("expiry beyond the calendar", "DiskBackup", backup("good") | {"expiresAt": "9999-12-31T23:59:59Z"},
        r"spec.expiresAt.*should match"),
    Row("slot before all time", "DiskBackup", backup("good") | {"slot": "0001-01-01T00:00:00+14:00"},
        r"spec.slot.*should match"),
    Row("slot of long ago", "DiskBackup", backup("good") | {"slot": "2020-02-29T03:30:00Z"},
        r"spec.slot.*2020-02-29T03:30Z", "SlotMissed"),
    Row("snapshot that expires never", "DiskSnapshot", snapshot(expiresAfter="99999999d"), r"spec.expiresAfter"),
    Row("snapshot that expires at once", "DiskSnapshot", snapshot(expiresAfter="0d"),
        r"spec.expiresAfter.*should match"),
    Row("snapshot that calls itself automatic", "DiskSnapshot", snapshot(origin="Automatic"),
        "automatic snapshots are made by the operator alone"),
    Row("restore of an unknown backup", "Restore", restore({"diskBackup": {"name": "none"}}), "'none'",
        "SourceNotFound"),
    Row("restore onto an existing claim", "Restore", restore(GOOD, name="disk"), "'disk'", "ClaimExists"),
    Row("volume smaller than the backup", "Restore", restore(GOOD, size="16Mi"), r"size.*16Mi", "VolumeTooSmall"),
    Row("unknown storage class", "Restore", restore(GOOD, storageClassName="none"), "none", "StorageClassNotFound"),
    Row("unknown disk of a backup", "Restore", restore({"diskBackup": {"name": "good", "disk": "none"}}), "'none'",
        "DiskNotFound"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(longboat: Cluster) -> Iterator[Namespace]:
    """A namespace with one good policy and one good backup of one disk."""
    found = Namespace(longboat, f"bad-{time.time_ns():x}")
    found.apply(claim("disk"))
    found.write("disk", seed=1)
    found.policy("good", "disk")
    found.apply(found.ours("DiskBackup", "good", backup("good")))
    assert found.ended("diskbackup", "good")["status"]["phase"] == "Completed"
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(HEAD)
    yield found
    longboat.kubectl("delete", "namespace", found.name, "--wait=false")


def seen(title: str, where: str, message: str) -> None:
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("a") as table:
        table.write(f"| {title} | {where} | {message.strip().replace('|', '/')} |\n")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_bad_input_is_told_with_field_and_remedy(place: Namespace, row: Row) -> None:
    obj = place.ours(row.kind, row.title.replace(" ", "-"), row.spec)
    if not row.reason:
        with pytest.raises(ClusterError, match=row.message) as refused:
            place.apply(obj)
        said = re.split("invalid: |data: |denied request: ", str(refused.value))[-1]
        seen(row.title, "refused by the API server", said.strip().splitlines()[0])
        return
    place.apply(obj)
    condition = place.condition(row.kind, obj["metadata"]["name"], row.type)(row.reason)
    assert re.search(row.message, condition["message"]), condition
    seen(row.title, f"{row.kind}: {row.type}={condition['status']}, {row.reason}", condition["message"])


def test_claim_that_is_no_disk_is_named_in_the_backup(place: Namespace) -> None:
    place.apply(claim("files", "64Mi", mode="Filesystem"))
    place.run("touch", "open('/disk/readme','w').write('x')", "files", "Filesystem")
    place.policy("files", "files")
    ended = place.backup("files")
    disk = ended["status"]["disks"][0]
    assert ended["status"]["phase"] == "Failed"
    assert disk["reason"] == "NoDiskImage", disk
    seen("a claim that is no disk", "DiskBackup: disk NoDiskImage", disk["message"])


STORES = [
    ("wrong credentials", {"secret": ("s3", {"accessKeyID": "wrong", "secretAccessKey": "wrong"})}, "WrongCredentials"),
    ("unknown bucket", {"s3": {"bucket": "no-such-bucket"}}, "BucketNotFound"),
    ("wrong CA", {"s3": {"caBundleRef": None}}, "TLSFailure"),
    ("key that is none", {"secret": ("key", {"key": "not a key"})}, "KeyInvalid"),
    ("no credentials", {"credentialsSecretRef": {"name": "none"}}, "CredentialsNotFound"),
]


@pytest.mark.parametrize(("title", "change", "reason"), STORES, ids=[row[0] for row in STORES])
def test_unusable_store_says_why_and_what_to_do(place: Namespace, title: str, change: Object, reason: str) -> None:
    name = "bad-" + title.lower().replace(" ", "-")
    store = installation.store(place.cluster, name, default=False)
    remote = place.cluster.s3_settings()
    store["spec"]["s3"] = {key: value for key, value in (store["spec"]["s3"] | change.get("s3", {})).items() if value}
    store["spec"] |= {key: value for key, value in change.items() if key not in ("s3", "secret")}
    secrets = {"s3": {"accessKeyID": remote.access_key_id, "secretAccessKey": remote.secret_access_key},
               "key": {"key": installation.generate_store_key()}}  # fmt: skip
    secrets |= dict([change["secret"]]) if "secret" in change else {}
    authorities = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": remote.ca_pem},
                   "metadata": {"name": f"{name}-ca", "namespace": installation.NAMESPACE}}  # fmt: skip
    made = [installation.secret(f"{name}-{part}", data) for part, data in secrets.items()]
    try:
        installation.apply(place.cluster, *made, authorities, store)
        condition = place.condition("backupstore", name, "Ready", 90)(reason)
        assert condition["status"] == "False"
        seen(title, f"BackupStore: {reason}", condition["message"])
    finally:
        place.cluster.kubectl("delete", "backupstore", name)


def test_wrong_encryption_key_fails_closed_and_heals_with_the_right_one(place: Namespace) -> None:
    # A store of its own: others use the run's.
    store = installation.store(place.cluster, "second-key", default=False)
    store["spec"]["s3"] |= {"prefix": place.name, "caBundleRef": {"name": "offsite-ca"}}
    store["spec"]["credentialsSecretRef"] = {"name": "offsite-s3"}
    right, wrong = (installation.secret("second-key-key", {"key": installation.generate_store_key()}) for _ in range(2))
    installation.apply(place.cluster, right, store)
    place.policy("second-key", "disk", storeRef={"name": "second-key"})
    assert place.backup("second-key")["status"]["phase"] == "Completed"
    installation.apply(place.cluster, wrong)
    name = place.create(place.ours("DiskBackup", "wrong-key-", backup("second-key")))
    condition = place.condition("diskbackup", name, "Ready", 60)("WrongKey")
    seen("wrong encryption key", "DiskBackup: WrongKey", condition["message"])
    installation.apply(place.cluster, right)
    assert place.ended("diskbackup", name, 180)["status"]["phase"] == "Completed"


def test_everything_else_went_on(place: Namespace) -> None:
    assert place.backup("good")["status"]["phase"] == "Completed"
    restored = place.restore("at-the-end", GOOD)
    assert restored["status"]["phase"] == "Completed", restored["status"]
