"""DiskSnapshot: one disk at one moment, local."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from longboat.api.common import (
    AGE,
    DiskRef,
    Duration,
    Model,
    PrinterColumn,
    Resource,
    Status,
    Time,
    column,
    rule,
    rules,
)
from longboat.api.disk_backup import ClaimIdentity


class DiskSnapshotSpec(Model):
    """What the user asks for. Immutable."""

    model_config = rules(
        rule("self == oldSelf", "a DiskSnapshot is immutable: create another one"),
        rule(
            "self.origin != 'Automatic' || !has(self.expiresAfter)",
            "an automatic snapshot has no expiresAfter: the next one replaces it",
        ),
    )
    disk: DiskRef = Field(description="The disk.")
    origin: Literal["AdHoc", "Automatic"] = Field(
        "AdHoc", description="AdHoc: made by a user. Automatic: made daily by the operator, which alone may say so."
    )
    expires_after: Duration | None = Field(
        None, description="Delete the snapshot after this time; absent: keep it until it is deleted."
    )


class DiskSnapshotStatus(Status):
    """What the operator sees."""

    phase: Literal["Pending", "Ready", "Failed"] | None = Field(None, description="How far the snapshot is.")
    target: str | None = Field(None, description="The disk in words, for tables.")
    virtual_machine: str | None = Field(None, description="The virtual machine that the disk belongs to, if any.")
    claim: ClaimIdentity | None = Field(None, description="The disk's PersistentVolumeClaim.")
    volume_mode: Literal["Block", "Filesystem"] | None = Field(None, description="Volume mode of the claim.")
    storage_class_name: str | None = Field(None, description="StorageClass of the claim.")
    volume_snapshot: str | None = Field(
        None, description="The VolumeSnapshot that holds the data; it has the same life as this object."
    )
    snapshot_handle: str | None = Field(None, description="The storage system's id of the snapshot.")
    taken_at: Time | None = Field(None, description="Moment of the snapshot, by the CSI driver's clock.")
    size_bytes: int | None = Field(None, description="Bytes that a disk restored from it needs.")
    size: str | None = Field(None, description="sizeBytes, for tables.")
    expires_at: Time | None = Field(None, description="When the snapshot is deleted.")


class DiskSnapshot(Resource):
    """A local snapshot of one disk: automatic (daily, replaced by the next) or ad hoc."""

    plural: ClassVar[str] = "disksnapshots"
    short_names: ClassVar[tuple[str, ...]] = ("lbs",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        column("Disk", ".status.target", "The disk."),
        column("Origin", ".spec.origin", "AdHoc or Automatic."),
        column("Phase", ".status.phase", "How far the snapshot is."),
        column("Taken", ".status.takenAt", "Age of the data.", "date"),
        column("Size", ".status.size", "What a restored disk needs."),
        column("Expires", ".status.expiresAt", "When it is deleted."),
        AGE,
    )

    kind: str = "DiskSnapshot"
    spec: DiskSnapshotSpec
    status: DiskSnapshotStatus = Field(default_factory=DiskSnapshotStatus)
