"""BackupStore: the administrator's object store off site."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from longboat.api.common import (
    AGE,
    LabelSelector,
    Model,
    ObjectName,
    PrinterColumn,
    Resource,
    Status,
    Time,
    column,
    rule,
    rules,
)

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


class S3(Model):
    """An S3 bucket."""

    model_config = rules(
        rule(
            "self.endpoint.startsWith('https://')",
            "endpoint must begin with https://: backups never travel unencrypted",
        ),
        rule(
            f"!self.endpoint.matches(r'{LOCAL_ENDPOINT}')",
            "endpoint must not be a link-local, loopback or metadata address",
        ),
        rule(
            "!self.endpoint.contains('@') && !self.endpoint.contains('?')",
            "endpoint must hold no credentials and no query",
        ),
    )
    endpoint: str = Field(min_length=9, max_length=512, description="URL of the S3 service, https only.")
    region: str = Field("us-east-1", min_length=1, max_length=64, description="Region of the bucket.")
    bucket: str = Field(
        min_length=3,
        max_length=63,
        pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$",
        description="Name of the bucket; it must exist.",
    )
    prefix: str = Field(
        "",
        max_length=256,
        pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$",
        description="Folder in the bucket under which the backups lie.",
    )
    ca_bundle_ref: CABundleRef | None = Field(
        None, description="Certificate authorities that sign the endpoint's certificate; the system's if absent."
    )


class CredentialsSecretRef(Model):
    """A Secret of the operator's namespace with the keys accessKeyID and secretAccessKey."""

    name: ObjectName = Field(
        description="Name of the Secret in the operator's namespace (keys accessKeyID, secretAccessKey)."
    )


class KeySecretRef(Model):
    """A Secret of the operator's namespace with the store's key."""

    name: ObjectName = Field(description="Name of the Secret in the operator's namespace.")
    key: str = Field(
        "key", max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key of the Secret that holds the store's key."
    )


class Encryption(Model):
    """How the repositories' master keys are wrapped."""

    key_secret_ref: KeySecretRef = Field(description="The store's key, as made by `longboat key generate`.")
    recovery_recipient: str | None = Field(
        None,
        max_length=200,
        description="Public key of an offline recovery pair, as made by `longboat key generate --recovery`. "
        "Without one, losing the Secret means losing the backups.",
    )


class BackupStoreSpec(Model):
    """What the administrator asks for."""

    model_config = rules(
        rule(
            "self.s3.bucket == oldSelf.s3.bucket",
            "bucket is immutable: its backups would be lost; make another BackupStore",
        ),
        rule(
            "self.s3.prefix == oldSelf.s3.prefix",
            "prefix is immutable: its backups would be lost; make another BackupStore",
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
    s3: S3 = Field(description="The S3 bucket.")
    credentials_secret_ref: CredentialsSecretRef = Field(description="Credentials for the bucket.")
    encryption: Encryption = Field(description="Keys of the backups.")
    allowed_namespaces: LabelSelector | None = Field(
        None, description="Namespaces that may use the store, by label; all if absent."
    )


class BackupStoreStatus(Status):
    """What the operator sees."""

    last_check_time: Time | None = Field(None, description="When the store was last tried out.")
    available: str | None = Field(None, description="Yes, or the reason why not.")
    clock_skew_seconds: int | None = Field(None, description="The store's time minus the cluster's, if it is known.")
    stored_bytes: int | None = Field(None, description="Bytes that this cluster's backups added to the store.")


class BackupStore(Resource):
    """An object store off site into which backups go."""

    plural: ClassVar[str] = "backupstores"
    short_names: ClassVar[tuple[str, ...]] = ("lbstore",)
    scope: ClassVar[str] = "Cluster"
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        column("Default", ".spec.default", "Used by policies that name no store.", "boolean"),
        column("Available", ".status.available", "Can backups be written and read?"),
        column("Location", ".spec.location", "Where the store is."),
        column("Bucket", ".spec.s3.bucket", "The bucket."),
        column("Checked", ".status.lastCheckTime", "Time since the last check.", "date"),
        column("Endpoint", ".spec.s3.endpoint", "The S3 service.", priority=1),
        AGE,
    )

    kind: str = "BackupStore"
    spec: BackupStoreSpec
    status: BackupStoreStatus = Field(default_factory=BackupStoreStatus)
