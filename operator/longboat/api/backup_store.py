"""BackupStore: the administrator's object store off site."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from longboat.api.common import (
    AGE,
    AskedTime,
    Dedupe,
    LabelSelector,
    Model,
    ObjectName,
    PrinterColumn,
    Quantity,
    Resource,
    Status,
    Time,
    column,
    rule,
    rules,
)
from longboat.api.maintenance import Maintenance, MaintenanceStatus

KeyName = Field(max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key in the object's data.")


_NUMBER = "(0x[0-9a-f]+|[0-9]+)"
_END = r"\.?([:/]|$)"
LOCAL_ENDPOINT = (
    r"(?i)^https://(127\.|0\.|169\.254\.|100\.100\.100\.200"
    rf"|localhost|metadata(\.|[:/]|$)|instance-data|\[fe[89ab][0-9a-f]:|\[ff|\[fd00:ec2::254\]|\[::|\[0|\[64:ff9b:"
    # Resolvers take other forms for addresses: numbers with fewer dots, octal and hexadecimal ones.
    rf"|({_NUMBER}\.){{0,2}}{_NUMBER}{_END}|([0-9]+\.)*0[0-9x][0-9a-f]*(\.{_NUMBER})*{_END})"
)
"""Endpoints that are refused as they are written: the API server's share of repository.settings.forbidden_host."""


class CABundleRef(Model):
    """A PEM bundle in a ConfigMap of the operator's namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap in the operator's namespace.")
    key: str = Field("ca.crt", max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key of the PEM bundle.")


_BUCKET_FIXED = "bucket is immutable: its backups would be lost; make another BackupStore"
_PREFIX_FIXED = rule(
    "self.prefix == oldSelf.prefix", "prefix is immutable: its backups would be lost; make another BackupStore"
)
_NO_ENDPOINT = "!has(self.endpoint) || "


def _endpoint_rules(optional: bool = False) -> tuple[dict[str, str], ...]:
    given = _NO_ENDPOINT if optional else ""
    return (
        rule(
            f"{given}self.endpoint.startsWith('https://')",
            "endpoint must begin with https://: backups never travel unencrypted",
        ),
        rule(
            f"{given}!self.endpoint.matches(r'{LOCAL_ENDPOINT}')",
            "endpoint must not be a link-local, loopback or metadata address",
        ),
        rule(
            f"{given}(!self.endpoint.contains('@') && !self.endpoint.contains('?'))",
            "endpoint must hold no credentials and no query",
        ),
    )


class Bucket(Model):
    """What every kind of bucket has."""

    prefix: str = Field(
        "",
        max_length=256,
        pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$",
        description="Folder in the bucket under which the backups lie.",
    )
    ca_bundle_ref: CABundleRef | None = Field(
        None, description="Certificate authorities that sign the endpoint's certificate; the system's if absent."
    )


class ObjectLock(Model):
    """Locks of objects, in a bucket that was made with Object Lock and has a default retention."""

    mode: Literal["Governance", "Compliance"] = Field(
        description="Governance: who has a special right can still remove an object; Compliance: nobody can."
    )
    days: int = Field(
        ge=2,
        le=36500,
        description="For how long what backups need is locked, again and again while they need it; as many days as the "
        "bucket's default retention.",
    )


class S3(Bucket):
    """An S3 bucket."""

    model_config = rules(*_endpoint_rules(), rule("self.bucket == oldSelf.bucket", _BUCKET_FIXED), _PREFIX_FIXED)
    endpoint: str = Field(min_length=9, max_length=512, description="URL of the S3 service, https only.")
    region: str = Field("us-east-1", min_length=1, max_length=64, description="Region of the bucket.")
    bucket: str = Field(
        min_length=3,
        max_length=63,
        pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
        description="Name of the bucket; it must exist.",
    )
    delete_versions: bool = Field(
        False,
        description="Whether maintenance removes every version of what it removes. Without it a bucket with versions "
        "needs a lifecycle rule that expires noncurrent ones.",
    )
    read_versions: Literal["Latest", "Oldest"] = Field(
        "Latest",
        description="Which versions restores read. Oldest: as if nothing had been overwritten or deleted since it was "
        "written, to restore after an attack on the bucket.",
    )
    object_lock: ObjectLock | None = Field(
        None, description="Locks that maintenance extends for what backups still need."
    )


class GCS(Bucket):
    """A bucket of Google Cloud Storage."""

    model_config = rules(
        *_endpoint_rules(optional=True), rule("self.bucket == oldSelf.bucket", _BUCKET_FIXED), _PREFIX_FIXED
    )
    endpoint: str | None = Field(
        None, min_length=9, max_length=512, description="URL of the service, https only; Google's own if absent."
    )
    bucket: str = Field(
        min_length=3,
        max_length=222,
        pattern=r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$",
        description="Name of the bucket; it must exist.",
    )


class Azure(Bucket):
    """A container of Azure Blob Storage."""

    model_config = rules(
        *_endpoint_rules(optional=True),
        rule(
            "self.storageAccount == oldSelf.storageAccount && self.container == oldSelf.container",
            "storageAccount and container are immutable: their backups would be lost; make another BackupStore",
        ),
        _PREFIX_FIXED,
    )
    endpoint: str | None = Field(
        None,
        min_length=9,
        max_length=512,
        description="URL of the service, https only; https://<storageAccount>.blob.core.windows.net if absent.",
    )
    storage_account: str = Field(
        min_length=3, max_length=24, pattern=r"^[a-z0-9]+$", description="Name of the storage account."
    )
    container: str = Field(
        min_length=3,
        max_length=63,
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        description="Name of the container; it must exist.",
    )


class CredentialsSecretRef(Model):
    """A Secret of the operator's namespace with credentials.

    Its keys: accessKeyID and secretAccessKey for S3; serviceAccountKey for Google Cloud Storage; for Azure accountKey,
    or sasToken, or tenantID, clientID and clientSecret.
    """

    name: ObjectName = Field(
        description="Name of the Secret in the operator's namespace. Keys for S3: accessKeyID, secretAccessKey; "
        "for Google Cloud Storage: serviceAccountKey; for Azure: accountKey, or sasToken, or tenantID, clientID and "
        "clientSecret."
    )


class KeySecretRef(Model):
    """A Secret of the operator's namespace with the store's key."""

    name: ObjectName = Field(description="Name of the Secret in the operator's namespace.")
    key: str = Field(
        "key", max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key of the Secret that holds the store's key."
    )


class Encryption(Model):
    """How the repositories' master keys are wrapped."""

    model_config = rules(
        rule(
            "!has(oldSelf.newMasterKeysAfter) || !has(self.newMasterKeysAfter) ||"
            " self.newMasterKeysAfter >= oldSelf.newMasterKeysAfter",
            "newMasterKeysAfter may only move forward, or be removed: keys made before it were given up",
        )
    )
    key_secret_ref: KeySecretRef = Field(description="The store's key, as made by `longboat key generate`.")
    recovery_recipient: str | None = Field(
        None,
        max_length=200,
        # The secret half, pasted here by mistake, would lie in the cluster and in every copy of its objects.
        pattern=r"^longboat-recovery-public-1-[a-z2-7]+$",
        description="Public key of an offline recovery pair, as made by `longboat key generate --recovery`. "
        "Without one, losing the Secret means losing the backups.",
    )
    new_master_keys_after: AskedTime | None = Field(
        None,
        description="Each namespace whose master key is older than this moment, by the store's clock, gets a new one: "
        "set it to the moment at which a leak was ended. Backups made under the old key stay readable until they "
        "expire; the next one of each disk is a full one. Nothing happens before the moment is over.",
    )


class BackupStoreSpec(Model):
    """What the administrator asks for."""

    model_config = rules(
        rule(
            "[has(self.s3), has(self.gcs), has(self.azure)].filter(set, set).size() == 1",
            "exactly one of s3, gcs and azure is needed",
        ),
        rule(
            "has(self.s3) == has(oldSelf.s3) && has(self.gcs) == has(oldSelf.gcs)",
            "the kind of store is immutable: its backups would be lost; make another BackupStore",
        ),
    )
    default: bool = Field(
        False, description="Used by policies that name no store. At most one store may be the default."
    )
    location: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        description="Where the store is; the same as the cluster's own location gives the condition SameSite.",
    )
    capacity: Quantity | None = Field(
        None,
        description="How much of the store this cluster may fill, such as the bucket's quota, which object stores do "
        "not tell: a metric and an alert are about it (LongboatStoreFillingUp), nothing is refused.",
    )
    s3: S3 | None = Field(None, description="An S3 bucket.")
    gcs: GCS | None = Field(None, description="A bucket of Google Cloud Storage.")
    azure: Azure | None = Field(None, description="A container of Azure Blob Storage.")
    credentials_secret_ref: CredentialsSecretRef = Field(
        description="Credentials of exports, and of whatever has none of its own below. Exports create, read and list "
        "objects; they neither overwrite nor delete."
    )
    restore_credentials_secret_ref: CredentialsSecretRef | None = Field(
        None, description="Credentials of restores, which read and list objects; those of exports if absent."
    )
    maintenance_credentials_secret_ref: CredentialsSecretRef | None = Field(
        None,
        description="Credentials of maintenance (undoing and expiring deletions, prune), which creates, reads, lists, "
        "overwrites and deletes objects; those of exports if absent. No export and no restore is given them.",
    )
    namespace_credentials: Literal["Ignored", "Optional", "Required"] = Field(
        "Ignored",
        description="Whether exports and restores of a namespace use Secrets of that namespace's own, which the "
        "administrator makes beside those named above: <name of the Secret>.<namespace>. Optional: where there is one; "
        "Required: a namespace without them can't be backed up.",
    )
    dedupe: Dedupe = Field(
        "Disk",
        description="What is stored once. Disk: what a disk has in common with its own earlier backups. Namespace: the "
        "first backup of a disk is also compared with the namespace's other disks, which saves the blocks of a common "
        "image; a damaged block then hurts the backups of all of them. Namespaces share nothing in any case.",
    )
    encryption: Encryption = Field(description="Keys of the backups.")
    allowed_namespaces: LabelSelector | None = Field(
        None, description="Namespaces that may use the store, by label; all if absent."
    )
    maintenance: Maintenance = Field(
        default_factory=Maintenance,
        description="Upkeep of what lies in the store, by Jobs in the operator's namespace with the credentials of "
        "maintenance.",
    )


class MasterKeysStatus(Model):
    """How far the new master keys are that spec.encryption.newMasterKeysAfter asks for."""

    after: Time = Field(description="The moment that is meant.")
    renewed: int | None = Field(None, description="Living namespaces with backups here whose key was made after it.")
    pending: int | None = Field(
        None, description="Those whose master key is older still, or not known yet; see MasterKeysRenewed."
    )


class BackupStoreStatus(Status):
    """What the operator sees."""

    last_check_time: Time | None = Field(None, description="When the store was last tried out.")
    available: str | None = Field(None, description="Yes, or the reason why not.")
    writable: bool | None = Field(
        None,
        description="Whether backups could be written with credentialsSecretRef at the last check, whatever may be "
        "wrong with restores and maintenance; those that have not begun wait otherwise, but for namespaces with "
        "credentials of their own.",
    )
    url: str | None = Field(None, description="What the store is: kind, bucket or container, and prefix.")
    clock_skew_seconds: int | None = Field(None, description="The store's time minus the cluster's, if it is known.")
    locks_kept_time: Time | None = Field(
        None, description="When all locks and hidden versions were last looked at, in a bucket that has them."
    )
    locks_reached: str | None = Field(None, description="The object with which the next look at them goes on.")
    maintenance: MaintenanceStatus | None = Field(None, description="What came of prune and verify.")
    master_keys: MasterKeysStatus | None = Field(
        None, description="How far new master keys are; absent if none are asked for."
    )


class BackupStore(Resource):
    """An object store off site into which backups go."""

    plural: ClassVar[str] = "backupstores"
    short_names: ClassVar[tuple[str, ...]] = ("lbstore",)
    scope: ClassVar[str] = "Cluster"
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        column("Default", ".spec.default", "Used by policies that name no store.", "boolean"),
        column("Available", ".status.available", "Can backups be written and read?"),
        column("Verified", ".status.maintenance.verified", "Are the backups whole?"),
        column("Location", ".spec.location", "Where the store is."),
        column("Bucket", ".status.url", "Kind, bucket or container, and prefix."),
        column("Freed", ".status.maintenance.freed", "What the last prunes removed.", priority=1),
        column("Checked", ".status.lastCheckTime", "Time since the last check.", "date"),
        AGE,
    )

    kind: str = "BackupStore"
    spec: BackupStoreSpec
    status: BackupStoreStatus = Field(default_factory=BackupStoreStatus)

    @property
    def bucket_field(self) -> str:
        """The field that says what kind of store it is, for messages: spec.s3, spec.gcs or spec.azure."""
        return "spec.s3" if self.spec.s3 else "spec.gcs" if self.spec.gcs else "spec.azure"
