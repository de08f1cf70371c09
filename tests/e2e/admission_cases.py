"""What the CRDs must refuse and accept: a valid object of each kind, and single changes of it.

A change is (field, value); the field is a path with dots, the value ABSENT removes it. A refusal names the keyword of
the schema that refuses, or the message of a CEL rule, so that a test can tell whether every rule has a case.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = object()

Object = dict[str, Any]
Change = tuple[str, Any]

VALID: Mapping[str, Object] = {
    "BackupPolicy": {
        "target": {"disk": {"virtualMachine": "db", "name": "data"}},
        "schedule": {"daily": {"every": 2, "at": "03:30"}},
        "retention": {"keepFor": "30d"},
    },
    "DiskBackup": {"policyRef": {"name": "db-data-daily"}},
    "DiskSnapshot": {"disk": {"virtualMachine": "db", "name": "data"}},
    "Restore": {"source": {"diskSnapshot": {"name": "before-upgrade"}}, "claim": {"name": "db-data-restored"}},
    "BackupStore": {
        "s3": {"endpoint": "https://objects.example.net", "bucket": "backups"},
        "credentialsSecretRef": {"name": "offsite-s3"},
        "encryption": {"keySecretRef": {"name": "offsite-key"}},
    },
}


GCS: Object = {"bucket": "backups"}
AZURE: Object = {"storageAccount": "longboat", "container": "backups"}
_ENDPOINT = [("https://", "minLength"), ("https://" + "a" * 505, "maxLength")]
_PRUNE: tuple[Change, ...] = (("maintenance", {"prune": {}}),)
_REPACK: tuple[Change, ...] = (("maintenance", {"prune": {"repack": {"budget": "1Gi"}}}),)
_VERIFY: tuple[Change, ...] = (("maintenance", {"verify": {}}),)
_AS_GCS: tuple[Change, ...] = (("s3", ABSENT), ("gcs", GCS))
_AS_AZURE: tuple[Change, ...] = (("s3", ABSENT), ("azure", AZURE))


@dataclass(frozen=True)
class Case:
    """Changes of a valid object; ``field`` and ``refusal`` say by what it is refused, None if it is accepted."""

    kind: str
    changes: tuple[Change, ...]
    field: str = ""
    refusal: str | None = None

    def spec(self) -> Object:
        """Return the changed spec."""
        spec = copy.deepcopy(VALID[self.kind])
        for path, value in self.changes:
            _set(spec, path, value)
        return spec

    def __str__(self) -> str:
        shown = ",".join(f"{path}={'absent' if value is ABSENT else str(value)[:24]}" for path, value in self.changes)
        return f"{self.kind}-{shown}" + (f"-{self.refusal[:40]}" if self.refusal else "")


def _set(spec: Object, path: str, value: Any) -> None:
    *above, last = path.split(".")
    for name in above:
        spec = spec.setdefault(name, {})
    if value is ABSENT:
        spec.pop(last)
    else:
        spec[last] = copy.deepcopy(value)


# What each type of value refuses, by keyword, and what it accepts.
OBJECT_NAME = ([("Db_Data", "pattern"), ("", "minLength"), ("a" * 254, "maxLength")], ["a", "db-data.v2", "a" * 253])
LABEL = ([("a.b", "pattern"), ("", "minLength"), ("a" * 64, "maxLength")], ["data", "a" * 63])
DURATION = (
    [("30", "pattern"), ("0d", "pattern"), ("1y", "pattern"), ("1h30m", "pattern"), ("100000d", "maxLength")],
    ["1m", "24h", "99999d", "52w"],
)
QUANTITY = (
    [("0", "pattern"), ("-1Gi", "pattern"), ("10 GB", "pattern"), ("10Zi", "pattern"), ("1" * 33, "maxLength")],
    ["1", "10Gi", "1.5Ti", "20G"],
)
TIME_OF_DAY = ([("24:00", "pattern"), ("3:30", "pattern"), ("03:30:00", "maxLength")], ["00:00", "23:59"])
TIME = (
    [
        ("2026-11-24T10:00:00+99:99", "pattern"),
        ("2026-11-24T10:00:00+14:60", "pattern"),
        ("0000-01-01T00:00:00Z", "pattern"),
        ("0001-01-01T00:00:00+14:00", "pattern"),
        ("1999-12-31T23:59:59Z", "pattern"),
        ("2200-01-01T00:00:00Z", "pattern"),
        ("9999-12-31T23:59:59-14:00", "pattern"),
        ("2026-11-24T24:00:00Z", "pattern"),
        ("2026-11-24T10:00:60Z", "pattern"),
        ("2026-11-24t10:00:00z", "pattern"),
        ("2026-11-24", "pattern"),
        ("2026-02-30T10:00:00Z", "date-time"),
    ],
    ["2000-01-01T00:00:00Z", "2026-11-24T10:00:00.123456789+14:00", "2199-12-31T23:59:59-14:00"],
)
KEY = ([("a key", "pattern"), ("a" * 254, "maxLength")], ["ca.crt", "KEY_1"])
LABELS = ([({}, "minProperties"), (ABSENT, "required")], [{"backups": "yes"}])


def between(least: int, most: int) -> tuple[list[tuple[Any, str]], list[Any]]:
    """What a number with bounds refuses and accepts."""
    return [(least - 1, "minimum"), (most + 1, "maximum")], [least, most]


# (kind, field): changes without which the field would not be there, and its type.
Typed = tuple[tuple[Change, ...], tuple[list[tuple[Any, str]], list[Any]]]


def _schedule(name: str) -> tuple[Change, ...]:
    return (("schedule", {name: {}}),)


_WHOLE_VM = (("target", {"virtualMachine": {"name": "db"}}),)
_CLAIM = (("target", {"disk": {"persistentVolumeClaim": "db-data"}}),)
_SELECTOR = (("target", {"selector": {"matchLabels": {"tier": "prod"}}}),)
_FROM_BACKUP = (("source", {"diskBackup": {"name": "b"}}),)
_ATTACH = (("attach", {"virtualMachine": "db", "diskName": "restored"}),)
_DAYS = [("sunday", "enum"), ("7", "enum")]

TYPED: Mapping[tuple[str, str], Typed] = {
    ("BackupPolicy", "target.disk.virtualMachine"): ((), OBJECT_NAME),
    ("DiskBackup", "slot"): ((), TIME),
    ("DiskBackup", "expiresAt"): ((), TIME),
    ("BackupPolicy", "target.disk.name"): ((), LABEL),
    ("BackupPolicy", "target.disk.persistentVolumeClaim"): (_CLAIM, OBJECT_NAME),
    ("BackupPolicy", "target.virtualMachine.name"): (_WHOLE_VM, OBJECT_NAME),
    ("BackupPolicy", "target.selector.matchLabels"): (_SELECTOR, LABELS),
    ("BackupPolicy", "schedule.hourly.every"): (_schedule("hourly"), between(1, 168)),
    ("BackupPolicy", "schedule.hourly.minute"): (_schedule("hourly"), between(0, 59)),
    ("BackupPolicy", "schedule.daily.every"): ((), between(1, 366)),
    ("BackupPolicy", "schedule.daily.at"): ((), TIME_OF_DAY),
    ("BackupPolicy", "schedule.weekly.every"): (_schedule("weekly"), between(1, 52)),
    ("BackupPolicy", "schedule.weekly.day"): (_schedule("weekly"), (_DAYS, ["Sunday", "Monday"])),
    ("BackupPolicy", "schedule.weekly.at"): (_schedule("weekly"), TIME_OF_DAY),
    ("BackupPolicy", "schedule.monthly.every"): (_schedule("monthly"), between(1, 12)),
    ("BackupPolicy", "schedule.monthly.day"): (_schedule("monthly"), between(1, 31)),
    ("BackupPolicy", "schedule.monthly.at"): (_schedule("monthly"), TIME_OF_DAY),
    ("BackupPolicy", "schedule.cron"): (
        (("schedule", {}),),
        (
            [("* * * *    ", "pattern"), ("0 0 * * * *", "pattern"), ("@daily", "minLength"), ("*" * 201, "maxLength")],
            ["30 3 * * *", "*/5 * * * mon-fri"],
        ),
    ),
    ("BackupPolicy", "timeZone"): (
        (),
        (
            [("Europe/London;", "pattern"), ("", "minLength"), ("a" * 65, "maxLength")],
            ["UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+1"],
        ),
    ),
    ("BackupPolicy", "retention.keepFor"): ((), DURATION),
    ("BackupPolicy", "retention.keepLast"): ((), between(1, 1000)),
    ("BackupPolicy", "storeRef.name"): ((), OBJECT_NAME),
    ("BackupPolicy", "startingDeadline"): ((), DURATION),
    ("DiskBackup", "policyRef.name"): ((), OBJECT_NAME),
    ("DiskBackup", "virtualMachine"): ((), OBJECT_NAME),
    ("DiskSnapshot", "disk.virtualMachine"): ((), OBJECT_NAME),
    ("DiskSnapshot", "disk.name"): ((), LABEL),
    ("DiskSnapshot", "disk.persistentVolumeClaim"): ((("disk", {}),), OBJECT_NAME),
    ("DiskSnapshot", "origin"): ((), ([("automatic", "enum")], ["AdHoc", "Automatic"])),
    ("DiskSnapshot", "expiresAfter"): ((), DURATION),
    ("Restore", "source.diskSnapshot.name"): ((), OBJECT_NAME),
    ("Restore", "source.diskBackup.name"): (_FROM_BACKUP, OBJECT_NAME),
    ("Restore", "source.diskBackup.disk"): (_FROM_BACKUP, OBJECT_NAME),
    ("Restore", "claim.name"): ((), OBJECT_NAME),
    ("Restore", "claim.storageClassName"): ((), OBJECT_NAME),
    ("Restore", "claim.size"): ((), QUANTITY),
    ("Restore", "claim.accessModes"): (
        (),
        ([([], "minItems"), (["ReadWriteOnce"] * 4, "maxItems")], [["ReadWriteOnce", "ReadWriteMany"]]),
    ),
    ("Restore", "attach.virtualMachine"): (_ATTACH, OBJECT_NAME),
    ("Restore", "attach.diskName"): (_ATTACH, LABEL),
    ("Restore", "attach.bus"): (_ATTACH, ([("sata", "enum")], ["scsi", "virtio"])),
    ("BackupStore", "dedupe"): ((), ([("Parent", "enum"), ("Cluster", "enum")], ["Disk", "Namespace"])),
    ("BackupStore", "capacity"): ((), QUANTITY),
    ("BackupStore", "location"): ((), ([("", "minLength"), ("a" * 64, "maxLength")], ["lon-2"])),
    ("BackupStore", "s3.endpoint"): (
        (),
        (
            [("https:/", "minLength"), ("https://" + "a" * 505, "maxLength")],
            ["https://s3.eu-west-2.amazonaws.com", "https://10.0.0.9:9000", "https://[2001:db8::1]:9000/s3"],
        ),
    ),
    ("BackupStore", "s3.region"): ((), ([("", "minLength"), ("a" * 65, "maxLength")], ["lon"])),
    ("BackupStore", "s3.bucket"): (
        (),
        ([("My_Bucket", "pattern"), ("-ab", "pattern"), ("ab", "minLength"), ("a" * 64, "maxLength")], ["a.b-c"]),
    ),
    ("BackupStore", "s3.prefix"): (
        (),
        (
            [("/a", "pattern"), ("a/", "pattern"), ("a//b", "pattern"), ("../a", "pattern"), ("a" * 257, "maxLength")],
            ["", "prod", "prod/cluster_1"],
        ),
    ),
    ("BackupStore", "s3.caBundleRef.name"): ((), OBJECT_NAME),
    ("BackupStore", "s3.caBundleRef.key"): ((("s3.caBundleRef", {"name": "ca"}),), KEY),
    ("BackupStore", "s3.readVersions"): ((), ([("Newest", "enum")], ["Latest", "Oldest"])),
    ("BackupStore", "s3.objectLock.mode"): ((("s3.objectLock", {"days": 30}),), ([("None", "enum")], ["Governance"])),
    ("BackupStore", "s3.objectLock.days"): (
        (("s3.objectLock", {"mode": "Compliance"}),),
        ([(1, "minimum"), (36501, "maximum")], [2, 36500]),
    ),
    ("BackupStore", "gcs.bucket"): (
        _AS_GCS,
        ([("ab", "minLength"), ("Backups", "pattern"), ("a" * 223, "maxLength")], ["backups", "a_b.c"]),
    ),
    ("BackupStore", "gcs.prefix"): (_AS_GCS, ([("/a", "pattern"), ("a" * 257, "maxLength")], ["", "prod"])),
    ("BackupStore", "gcs.endpoint"): (_AS_GCS, (_ENDPOINT, ["https://storage.example.net"])),
    ("BackupStore", "gcs.caBundleRef.name"): (_AS_GCS, OBJECT_NAME),
    ("BackupStore", "gcs.caBundleRef.key"): ((*_AS_GCS, ("gcs.caBundleRef", {"name": "ca"})), KEY),
    ("BackupStore", "azure.storageAccount"): (
        _AS_AZURE,
        ([("ab", "minLength"), ("my-account", "pattern"), ("a" * 25, "maxLength")], ["longboat1"]),
    ),
    ("BackupStore", "azure.container"): (
        _AS_AZURE,
        ([("ab", "minLength"), ("a.b", "pattern"), ("a" * 64, "maxLength")], ["backups-1"]),
    ),
    ("BackupStore", "azure.prefix"): (_AS_AZURE, ([("/a", "pattern"), ("a" * 257, "maxLength")], ["", "prod"])),
    ("BackupStore", "azure.endpoint"): (_AS_AZURE, (_ENDPOINT, ["https://blob.example.net/acct"])),
    ("BackupStore", "azure.caBundleRef.name"): (_AS_AZURE, OBJECT_NAME),
    ("BackupStore", "azure.caBundleRef.key"): ((*_AS_AZURE, ("azure.caBundleRef", {"name": "ca"})), KEY),
    ("BackupStore", "credentialsSecretRef.name"): ((), OBJECT_NAME),
    ("BackupStore", "restoreCredentialsSecretRef.name"): ((), OBJECT_NAME),
    ("BackupStore", "maintenanceCredentialsSecretRef.name"): ((), OBJECT_NAME),
    ("BackupStore", "namespaceCredentials"): ((), ([("Always", "enum")], ["Ignored", "Optional", "Required"])),
    ("BackupStore", "encryption.keySecretRef.name"): ((), OBJECT_NAME),
    ("BackupStore", "encryption.keySecretRef.key"): ((), KEY),
    ("BackupStore", "encryption.newMasterKeysAfter"): ((), TIME),
    ("BackupStore", "encryption.recoveryRecipient"): (
        (),
        (
            [
                ("longboat-recovery-public-1-" + "a" * 201, "maxLength"),
                ("longboat-recovery-secret-1-a", "pattern"),
                ("longboat-recovery-public-1-…", "pattern"),
            ],
            ["longboat-recovery-public-1-a"],
        ),
    ),
    ("BackupStore", "maintenance.parallelism"): (
        (("maintenance", {}),),
        ([(0, "minimum"), (101, "maximum")], [1, 100]),
    ),
    ("BackupStore", "maintenance.prune.every"): (_PRUNE, (DURATION[0], ["60m", "1h", "7d"])),
    ("BackupStore", "maintenance.prune.gracePeriod"): (_PRUNE, (DURATION[0], ["1h", "2w"])),
    ("BackupStore", "maintenance.prune.repack.budget"): (_REPACK, QUANTITY),
    ("BackupStore", "maintenance.prune.repack.livingBelow"): (
        _REPACK,
        ([(-1, "minimum"), (91, "maximum")], [0, 60, 90]),
    ),
    ("BackupStore", "maintenance.prune.repack.goneAfter"): (_REPACK, (DURATION[0], ["1440m", "24h", "9w"])),
    ("BackupStore", "maintenance.verify.every"): (_VERIFY, (DURATION[0], ["90m", "1w"])),
    ("BackupStore", "maintenance.verify.share"): (_VERIFY, ([(-1, "minimum"), (101, "maximum")], [0, 100])),
    ("BackupStore", "allowedNamespaces.matchLabels"): (
        (("allowedNamespaces", {}),),
        ([({}, "minProperties")], [{"a": "b"}]),
    ),
}

# Fields without which an object is refused: what to change so that nothing but the field is missing.
REQUIRED: Mapping[tuple[str, str], tuple[Change, ...]] = {
    ("BackupPolicy", "target"): (("target", ABSENT),),
    ("BackupPolicy", "schedule"): (("schedule", ABSENT),),
    ("BackupPolicy", "retention"): (("retention", ABSENT),),
    ("BackupPolicy", "retention.keepFor"): (("retention.keepFor", ABSENT),),
    ("BackupPolicy", "target.virtualMachine.name"): (("target", {"virtualMachine": {}}),),
    ("BackupPolicy", "storeRef.name"): (("storeRef", {}),),
    ("DiskBackup", "policyRef"): (("policyRef", ABSENT),),
    ("DiskBackup", "policyRef.name"): (("policyRef", {}),),
    ("DiskSnapshot", "disk"): (("disk", ABSENT),),
    ("Restore", "source"): (("source", ABSENT),),
    ("Restore", "source.diskBackup.name"): (("source", {"diskBackup": {}}),),
    ("Restore", "source.diskSnapshot.name"): (("source", {"diskSnapshot": {}}),),
    ("Restore", "claim"): (("claim", ABSENT),),
    ("Restore", "claim.name"): (("claim", {}),),
    ("Restore", "attach.virtualMachine"): (("attach", {"diskName": "restored"}),),
    ("Restore", "attach.diskName"): (("attach", {"virtualMachine": "db"}),),
    ("BackupStore", "s3.endpoint"): (("s3.endpoint", ABSENT),),
    ("BackupStore", "s3.bucket"): (("s3.bucket", ABSENT),),
    ("BackupStore", "s3.caBundleRef.name"): (("s3.caBundleRef", {}),),
    ("BackupStore", "s3.objectLock.mode"): (("s3.objectLock", {"days": 30}),),
    ("BackupStore", "s3.objectLock.days"): (("s3.objectLock", {"mode": "Governance"}),),
    ("BackupStore", "gcs.bucket"): (("s3", ABSENT), ("gcs", {})),
    ("BackupStore", "gcs.caBundleRef.name"): (("s3", ABSENT), ("gcs", {"bucket": "backups", "caBundleRef": {}})),
    ("BackupStore", "azure.storageAccount"): (("s3", ABSENT), ("azure", {"container": "backups"})),
    ("BackupStore", "azure.container"): (("s3", ABSENT), ("azure", {"storageAccount": "longboat"})),
    ("BackupStore", "azure.caBundleRef.name"): (
        ("s3", ABSENT),
        ("azure", {"container": "backups", "storageAccount": "longboat", "caBundleRef": {}}),
    ),
    ("BackupStore", "restoreCredentialsSecretRef.name"): (("restoreCredentialsSecretRef", {}),),
    ("BackupStore", "maintenanceCredentialsSecretRef.name"): (("maintenanceCredentialsSecretRef", {}),),
    ("BackupStore", "credentialsSecretRef"): (("credentialsSecretRef", ABSENT),),
    ("BackupStore", "credentialsSecretRef.name"): (("credentialsSecretRef", {}),),
    ("BackupStore", "encryption"): (("encryption", ABSENT),),
    ("BackupStore", "encryption.keySecretRef"): (("encryption", {}),),
    ("BackupStore", "encryption.keySecretRef.name"): (("encryption", {"keySecretRef": {}}),),
    ("BackupStore", "maintenance.prune.repack.budget"): (*_PRUNE, ("maintenance.prune.repack", {})),
    ("BackupStore", "allowedNamespaces.matchLabels"): (("allowedNamespaces", {}),),
}

_ONE_TARGET = "exactly one of disk, virtualMachine and selector is needed"
_ONE_SCHEDULE = "exactly one of hourly, daily, weekly, monthly and cron is needed"
_DISK_BY = "name the disk either by virtualMachine and name, or by persistentVolumeClaim"
_DISK_BOTH = "virtualMachine and name belong together: name is the volume's name in the virtual machine"
_ONE_SOURCE = "exactly one of diskBackup and diskSnapshot is needed"
_HTTPS = "endpoint must begin with https://: backups never travel unencrypted"
_LOCAL = "endpoint must not be a link-local, loopback or metadata address"
_PLAIN = "endpoint must hold no credentials and no query"
_BUCKET = "bucket is immutable: its backups would be lost; make another BackupStore"
_PREFIX = "prefix is immutable: its backups would be lost; make another BackupStore"
_S3 = VALID["BackupStore"]["s3"]
_ENCRYPTION = VALID["BackupStore"]["encryption"]
_NEW_KEYS: tuple[Change, ...] = (("encryption.newMasterKeysAfter", "2026-11-23T22:00:00Z"),)
_GCS_SPEC = Case("BackupStore", _AS_GCS).spec()
_ONE_STORE = "exactly one of s3, gcs and azure is needed"
_STORE_KIND = "the kind of store is immutable: its backups would be lost; make another BackupStore"
_CONTAINER = "storageAccount and container are immutable: their backups would be lost; make another BackupStore"
_AUTOMATIC = "an automatic snapshot has no expiresAfter: the next one replaces it"
_OFTEN = "every must be 1h or more: each run reads what all backups of a namespace refer to"
_A_DAY = "goneAfter must be 1d or more: a disk's own backups store such blocks anew, from local data"
_GRACE = "gracePeriod must be 1h or more: a backup that is under way may still refer to what is to be removed"
_BOTH_WAYS = {"virtualMachine": "db", "name": "data", "persistentVolumeClaim": "db-data"}

LOCAL_HOSTS = (
    "169.254.169.254",
    "[fe80::1]",
    "127.0.0.1:9000",
    "localhost",
    "LOCALHOST:9000",
    "[::1]",
    "[::ffff:169.254.169.254]",
    "metadata.google.internal",
    "0.0.0.0",
    "100.100.100.200",
    "2852039166",
    "0x7f000001",
    "0251.0376.0251.0376",
    "169.16689662",
)

RULES: list[Case] = [
    Case("BackupPolicy", (("target", {}),), "target", _ONE_TARGET),
    Case("BackupPolicy", (("target.virtualMachine", {"name": "db"}),), "target", _ONE_TARGET),
    Case("BackupPolicy", (("target.selector", {"matchLabels": {"a": "b"}}),), "target", _ONE_TARGET),
    Case("BackupPolicy", (("target.disk", _BOTH_WAYS),), "target.disk", _DISK_BY),
    Case("BackupPolicy", (("target.disk", {}),), "target.disk", _DISK_BY),
    Case("BackupPolicy", (("target.disk", {"name": "data"}),), "target.disk", _DISK_BOTH),
    Case("BackupPolicy", (("schedule", {}),), "schedule", _ONE_SCHEDULE),
    Case("BackupPolicy", (("schedule.hourly", {}),), "schedule", _ONE_SCHEDULE),
    Case("BackupPolicy", (("schedule.cron", "0 0 * * *"),), "schedule", _ONE_SCHEDULE),
    Case("DiskSnapshot", (("disk", _BOTH_WAYS),), "disk", _DISK_BY),
    Case("DiskSnapshot", (("disk", {"virtualMachine": "db"}),), "disk", _DISK_BOTH),
    Case("DiskSnapshot", (("origin", "Automatic"), ("expiresAfter", "7d")), "", _AUTOMATIC),
    Case("Restore", (("source", {}),), "source", _ONE_SOURCE),
    Case("Restore", (("source.diskBackup", {"name": "b"}),), "source", _ONE_SOURCE),
    Case("Restore", (("salvage", True),), "", "salvage is for backups: a snapshot has no damaged parts"),
    Case("BackupStore", (("s3", ABSENT),), "", _ONE_STORE),
    Case("BackupStore", (("gcs", GCS),), "", _ONE_STORE),
    Case("BackupStore", (("s3", ABSENT), ("gcs", GCS), ("azure", AZURE)), "", _ONE_STORE),
    Case("BackupStore", (*_PRUNE, ("maintenance.prune.every", "59m")), "maintenance.prune", _OFTEN),
    Case("BackupStore", (*_PRUNE, ("maintenance.prune.gracePeriod", "59m")), "maintenance.prune", _GRACE),
    Case("BackupStore", (*_REPACK, ("maintenance.prune.repack.goneAfter", "23h")), "maintenance.prune.repack", _A_DAY),
    Case("BackupStore", (*_VERIFY, ("maintenance.verify.every", "1m")), "maintenance.verify", _OFTEN),
    *(
        Case("BackupStore", (*before, (f"{kind}.endpoint", value)), kind, rule)
        for kind, before in (("gcs", _AS_GCS), ("azure", _AS_AZURE))
        for value, rule in (
            ("http://objects.example.net", _HTTPS),
            ("https://169.254.169.254", _LOCAL),
            ("https://key:secret@objects.example.net", _PLAIN),
        )
    ),
    Case("BackupStore", (("s3.endpoint", "http://objects.example.net"),), "s3", _HTTPS),
    Case("BackupStore", (("s3.endpoint", "objects.example.net"),), "s3", _HTTPS),
    *(Case("BackupStore", (("s3.endpoint", f"https://{host}/"),), "s3", _LOCAL) for host in LOCAL_HOSTS),
    Case("BackupStore", (("s3.endpoint", "https://key:secret@objects.example.net"),), "s3", _PLAIN),
    Case("BackupStore", (("s3.endpoint", "https://objects.example.net/?x=1"),), "s3", _PLAIN),
]

# (kind, the spec's first form, what is changed, the message): None means that the change is allowed; without a name
# the spec is changed as a whole.
CHANGES: list[tuple[Case, Change, str | None]] = [
    (Case("BackupPolicy", ()), ("retention", {"keepFor": "1d"}), None),
    (Case("BackupPolicy", ()), ("suspend", True), None),
    (Case("DiskBackup", ()), ("hold", True), None),
    (Case("DiskBackup", ()), ("expiresAt", "2030-01-01T00:00:00Z"), None),
    (Case("DiskBackup", ()), ("policyRef", {"name": "other"}), "policyRef is immutable: create another DiskBackup"),
    (Case("DiskBackup", ()), ("virtualMachine", "db"), "virtualMachine is immutable: create another DiskBackup"),
    (
        Case("DiskBackup", (("virtualMachine", "db"),)),
        ("virtualMachine", "other"),
        "virtualMachine is immutable: create another DiskBackup",
    ),
    (Case("DiskBackup", ()), ("slot", "2026-11-22T03:30:00Z"), "slot is immutable: create another DiskBackup"),
    (
        Case("DiskBackup", (("slot", "2026-11-22T03:30:00Z"),)),
        ("slot", "2026-11-23T03:30:00Z"),
        "slot is immutable: create another DiskBackup",
    ),
    (Case("DiskSnapshot", ()), ("expiresAfter", "7d"), "a DiskSnapshot is immutable: create another one"),
    (Case("DiskSnapshot", ()), ("origin", "Automatic"), "a DiskSnapshot is immutable: create another one"),
    (Case("Restore", ()), ("claim", {"name": "other"}), "a Restore is immutable: create another one"),
    (Case("BackupStore", ()), ("default", True), None),
    (Case("BackupStore", ()), ("s3", _S3 | {"endpoint": "https://other.example.net"}), None),
    (Case("BackupStore", ()), ("s3", _S3 | {"bucket": "other"}), _BUCKET),
    (Case("BackupStore", ()), ("s3", _S3 | {"prefix": "prod"}), _PREFIX),
    (Case("BackupStore", (("s3.prefix", "prod"),)), ("s3", _S3), _PREFIX),
    (Case("BackupStore", _AS_GCS), ("gcs", GCS | {"endpoint": "https://other.example.net"}), None),
    (Case("BackupStore", _AS_GCS), ("gcs", GCS | {"bucket": "other"}), _BUCKET),
    (Case("BackupStore", _AS_GCS), ("gcs", GCS | {"prefix": "prod"}), _PREFIX),
    (Case("BackupStore", _AS_AZURE), ("azure", AZURE | {"container": "other"}), _CONTAINER),
    (Case("BackupStore", _AS_AZURE), ("azure", AZURE | {"storageAccount": "other"}), _CONTAINER),
    (Case("BackupStore", _AS_AZURE), ("azure", AZURE | {"prefix": "prod"}), _PREFIX),
    (Case("BackupStore", ()), ("", _GCS_SPEC), _STORE_KIND),
    (Case("BackupStore", _AS_AZURE), ("", _GCS_SPEC), _STORE_KIND),
    (Case("BackupStore", ()), ("restoreCredentialsSecretRef", {"name": "read"}), None),
    (Case("BackupStore", ()), ("encryption", _ENCRYPTION | {"newMasterKeysAfter": "2026-11-23T22:00:00Z"}), None),
    (
        Case("BackupStore", _NEW_KEYS),
        ("encryption", _ENCRYPTION | {"newMasterKeysAfter": "2026-11-23T22:00:01Z"}),
        None,
    ),
    (Case("BackupStore", _NEW_KEYS), ("encryption", _ENCRYPTION), None),
    (
        Case("BackupStore", _NEW_KEYS),
        ("encryption", _ENCRYPTION | {"newMasterKeysAfter": "2026-11-23T21:59:59Z"}),
        "newMasterKeysAfter may only move forward, or be removed: keys made before it were given up",
    ),
    (Case("BackupStore", ()), ("maintenance", {"prune": {"suspend": True}, "verify": {"suspend": True}}), None),
]


def refused() -> Iterator[Case]:
    """Yield every case that must be refused on creation."""
    for (kind, field), (before, (bad, _)) in TYPED.items():
        for value, keyword in bad:
            yield Case(kind, (*before, (field, value)), field, keyword)
    for (kind, field), changes in REQUIRED.items():
        yield Case(kind, changes, field, "required")
    yield Case("Restore", (("claim.accessModes", ["ReadOnlyMany"]),), "claim.accessModes[]", "enum")
    yield from RULES


def accepted() -> Iterator[Case]:
    """Yield every case that must be accepted."""
    for kind in VALID:
        yield Case(kind, ())
    yield Case("Restore", (*_FROM_BACKUP, ("salvage", True)))
    for (kind, field), (before, (_, good)) in TYPED.items():
        for value in good:
            of_bundle = field.endswith(".caBundleRef.key")
            needed = (*before, (field.replace(".key", ".name"), "ca")) if of_bundle else before
            yield Case(kind, (*needed, (field, value)))
