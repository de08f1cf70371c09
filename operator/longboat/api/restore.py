"""Restore: a disk of a DiskBackup, or a DiskSnapshot, into a new PersistentVolumeClaim."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from longboat.api.common import (
    AGE,
    DiskContent,
    Model,
    Name,
    NamedRef,
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

RestorePhase = Literal["Pending", "Restoring", "Binding", "Attaching", "Completed", "Failed"]


class DiskBackupSource(Model):
    """A disk in a backup."""

    name: ObjectName = Field(description="Name of the DiskBackup, in the same namespace.")
    disk: ObjectName | None = Field(
        None, description="Name of the disk in the backup; may be absent if the backup has just one."
    )


class RestoreSource(Model):
    """What is restored."""

    model_config = rules(
        rule("has(self.diskBackup) != has(self.diskSnapshot)", "exactly one of diskBackup and diskSnapshot is needed")
    )
    disk_backup: DiskBackupSource | None = Field(None, description="A disk of a DiskBackup.")
    disk_snapshot: NamedRef | None = Field(None, description="A DiskSnapshot of the same namespace.")


class RestoreClaim(Model):
    """The new PersistentVolumeClaim. It must not exist: nothing is ever written into an existing disk."""

    name: ObjectName = Field(description="Name of the new PersistentVolumeClaim.")
    storage_class_name: ObjectName | None = Field(
        None, description="StorageClass; the one of the original disk if absent."
    )
    size: Quantity | None = Field(None, description="Size, at least that of the backup; the same if absent.")
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] | None = Field(
        None, min_length=1, max_length=3, description="Access modes; ReadWriteOnce if absent."
    )


class Attach(Model):
    """The virtual machine that gets the disk."""

    virtual_machine: ObjectName = Field(
        description="Name of the virtual machine, in the same namespace; running or stopped."
    )
    disk_name: Name = Field(description="Name of the new volume in the virtual machine.")
    bus: Literal["scsi", "virtio"] = Field("scsi", description="Bus of the new disk.")


class RestoreSpec(Model):
    """What the user asks for. Immutable."""

    model_config = rules(
        rule("self == oldSelf", "a Restore is immutable: create another one"),
        rule("!self.salvage || has(self.source.diskBackup)", "salvage is for backups: a snapshot has no damaged parts"),
    )
    source: RestoreSource = Field(description="What is restored: exactly one of diskBackup and diskSnapshot.")
    claim: RestoreClaim = Field(description="The new PersistentVolumeClaim.")
    attach: Attach | None = Field(
        None, description="Attach the new disk to a virtual machine; absent: leave it unattached."
    )
    salvage: bool = Field(
        False,
        description="Restore what is left of a damaged backup: what can't be read, in no backup, is zeros "
        "on the new disk, or files that are left out, and the condition Salvaged says which. A disk that lacks "
        "something is attached only once the annotation longboat.dev/confirm-losses says so. Without salvage such a "
        "restore fails.",
    )


class RestoreStatus(Status):
    """What the operator sees."""

    phase: RestorePhase | None = Field(None, description="How far the restore is.")
    progress: str | None = Field(None, description="Progress of the data in percent.")
    source: str | None = Field(None, description="The source in words, for tables.")
    started_at: Time | None = Field(None, description="When the restore began.")
    completed_at: Time | None = Field(None, description="When the restore ended.")
    claim_uid: str | None = Field(
        None, description="UID of the new PersistentVolumeClaim, recorded as soon as it exists."
    )
    source_claim: str | None = Field(None, description="The PersistentVolumeClaim that the data was captured from.")
    volume_mode: Literal["Block", "Filesystem"] | None = Field(None, description="Volume mode of the new claim.")
    size_bytes: int | None = Field(None, description="Size of the new claim.")
    storage_class_name: str | None = Field(None, description="StorageClass of the new claim.")
    content: DiskContent | None = Field(
        None, description="Disk: a disk is restored. Archive: the files of a machine's TPM and EFI state."
    )
    data_bytes: int | None = Field(None, description="Size of the backed-up disk.")
    bytes_done: int | None = Field(None, description="Bytes written so far.")
    volume: str | None = Field(None, description="The PersistentVolume that carries the data.")
    reclaim_policy: str | None = Field(
        None, description="Reclaim policy that the PersistentVolume had and gets back when it has changed hands."
    )
    volume_snapshot: str | None = Field(None, description="The VolumeSnapshot that the claim is made from.")
    store: str | None = Field(None, description="The BackupStore read from.")
    repository: str | None = Field(None, description="Path of the namespace's repository in the store.")
    repository_id: str | None = Field(None, description="Id of that repository.")
    manifest: str | None = Field(None, description="The disk's manifest in the repository.")
    object_id: str | None = Field(None, description="Id of the object that this manifest is.")
    lost_bytes: int | None = Field(
        None,
        description="With salvage: bytes of the backup that could not be read, and are zeros on the disk, or files "
        "that were left out; 0 if it was whole after all.",
    )
    healed_bytes: int | None = Field(
        None, description="Bytes that are damaged in this backup and were taken from others, where they are whole."
    )
    attached_as: str | None = Field(None, description="Device name in the guest, as reported by KubeVirt.")
    serial: str | None = Field(None, description="Serial number of the attached disk.")
    attempts: int | None = Field(None, description="Restore Jobs that were started.")
    progressed_at: Time | None = Field(None, description="When the restore Job was last seen to come further.")
    retry_at: Time | None = Field(None, description="When the next Job is started after one that failed.")
    filled_at: Time | None = Field(None, description="When all data was written into the PersistentVolume.")


class Restore(Resource):
    """Restores a disk of a backup or a snapshot into a new disk, and attaches it to a virtual machine."""

    plural: ClassVar[str] = "restores"
    short_names: ClassVar[tuple[str, ...]] = ("lbr",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        column("Source", ".status.source", "What is restored."),
        column("Claim", ".spec.claim.name", "The new PersistentVolumeClaim."),
        column("Phase", ".status.phase", "How far the restore is."),
        column("Progress", ".status.progress", "Progress of the data."),
        column("Lost", ".status.lostBytes", "With salvage: bytes that could not be read.", "integer"),
        column("Attached To", ".spec.attach.virtualMachine", "The virtual machine that gets the disk."),
        column("Device", ".status.attachedAs", "Device name in the guest.", priority=1),
        AGE,
    )

    kind: str = "Restore"
    spec: RestoreSpec
    status: RestoreStatus = Field(default_factory=RestoreStatus)
