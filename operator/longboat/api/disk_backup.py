"""DiskBackup: one run of one policy on one virtual machine or disk."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from longboat.api.backup_policy import Retention
from longboat.api.common import (
    AGE,
    AskedTime,
    Dedupe,
    DiskContent,
    Model,
    NamedRef,
    ObjectName,
    PrinterColumn,
    Resource,
    Status,
    Time,
    column,
    rule,
    rules,
)

BackupPhase = Literal["Pending", "Snapshotting", "Exporting", "Completed", "PartiallyFailed", "Failed"]
DiskPhase = Literal["Pending", "Snapshotted", "HandedOver", "Exporting", "Completed", "Failed", "Unsupported"]
Consistency = Literal["Application", "Crash"]


class DiskBackupSpec(Model):
    """What the user, or the schedule, asks for. All but hold and expiresAt is immutable."""

    model_config = rules(
        rule("self.policyRef == oldSelf.policyRef", "policyRef is immutable: create another DiskBackup"),
        rule(
            "has(self.virtualMachine) == has(oldSelf.virtualMachine) && "
            "(!has(self.virtualMachine) || self.virtualMachine == oldSelf.virtualMachine)",
            "virtualMachine is immutable: create another DiskBackup",
        ),
        rule(
            "has(self.slot) == has(oldSelf.slot) && (!has(self.slot) || self.slot == oldSelf.slot)",
            "slot is immutable: create another DiskBackup",
        ),
    )
    policy_ref: NamedRef = Field(description="The policy that this is a run of, in the same namespace.")
    virtual_machine: ObjectName | None = Field(
        None, description="Which of its virtual machines, if the policy selects by label; otherwise absent."
    )
    slot: AskedTime | None = Field(
        None, description="The slot of the schedule that this run is for; absent for an ad-hoc run."
    )
    hold: bool = Field(
        False, description="Keep the backup, beyond its expiry and its deletion too, until this is false again."
    )
    expires_at: AskedTime | None = Field(
        None, description="Expire at this moment instead of the one that the policy's retention gives."
    )


class ClaimIdentity(Model):
    """A PersistentVolumeClaim as it was found."""

    name: str = Field(description="Name of the PersistentVolumeClaim.")
    uid: str = Field(description="Its UID.")


class HandOver(Model):
    """The record of a snapshot's hand-over to the operator's namespace, written before the first step."""

    snapshot_handle: str = Field(description="The storage system's id of the snapshot.")
    original_content: str = Field(description="The VolumeSnapshotContent that the CSI driver made.")
    driver: str = Field(description="The CSI driver.")
    restore_size: int | None = Field(None, description="Bytes that a volume made from the snapshot needs.")
    done: bool = Field(False, description="The copy is the only owner of the snapshot.")


class Distrust(Model):
    """Why the CSI driver of a disk is not asked what has changed."""

    found_by: str = Field(description="DiskBackup that caught the driver leaving out changes of the disk.")
    found_at: Time = Field(description="When.")
    left: int | None = Field(
        None,
        description="For how many further backups of the disk the driver is not asked; absent: until an administrator"
        " says that it can be trusted.",
    )


class DiskResult(Model):
    """One disk of the backup."""

    name: str = Field(
        description="Name of the volume in the virtual machine, or of the PersistentVolumeClaim; tpm-efi.state for the"
        " persistent TPM and EFI state of the machine."
    )
    content: DiskContent = Field(
        "Disk", description="Disk: a disk with its blocks. Archive: the files of a machine's TPM and EFI state."
    )
    phase: DiskPhase = Field("Pending", description="How far the disk's backup is.")
    reason: str | None = Field(None, description="Constant reason of a failure.")
    message: str | None = Field(None, description="What happened and what to do.")
    claim: ClaimIdentity | None = Field(
        None, description="The disk's PersistentVolumeClaim; absent for disks without one."
    )
    volume_handle: str | None = Field(
        None, description="The CSI volume handle: with the claim's UID it identifies the disk."
    )
    volume_mode: Literal["Block", "Filesystem"] | None = Field(None, description="Volume mode of the claim.")
    storage_class_name: str | None = Field(None, description="StorageClass of the claim.")
    node_affinity_pv: str | None = Field(
        None, description="PersistentVolume of the claim, for where the export can run."
    )
    driver: str | None = Field(None, description="The CSI driver of the volume.")
    snapshot_class: str | None = Field(None, description="The VolumeSnapshotClass that the disk is snapshotted with.")
    claim_bytes: int | None = Field(None, description="Capacity of the claim in bytes.")
    block_size: int | None = Field(
        None,
        description="Bytes that are compared and stored together, if the claim's annotation longboat.dev/block-size"
        " says so; 64 KiB otherwise.",
    )
    volume_snapshot: str | None = Field(None, description="The VolumeSnapshot made of the disk.")
    cut_time: Time | None = Field(None, description="Moment the disk was captured, by the CSI driver's clock.")
    hand_over: HandOver | None = Field(None, description="Record of the snapshot's hand-over.")
    progress: str | None = Field(None, description="Progress of the export in percent.")
    bytes_done: int | None = Field(None, description="Bytes of the disk dealt with so far.")
    logical_bytes: int | None = Field(None, description="Size of the disk.")
    read_bytes: int | None = Field(None, description="Bytes read from the snapshot.")
    stored_bytes: int | None = Field(None, description="Bytes that this backup added to the store.")
    mode: Literal["Full", "Incremental"] | None = Field(
        None,
        description="Full: everything was read, for the reason in fullReason. Incremental: what the parent has was"
        " built upon. What has not changed is stored once in either case, if there is a parent.",
    )
    full_reason: str | None = Field(None, description="Why everything was read.")
    since_full_read: int | None = Field(
        None,
        description="Backups of the disk, up to this one, for which the CSI driver was believed on what has changed,"
        " since everything was read; 0: everything was read.",
    )
    mismatch: str | None = Field(
        None, description="What the CSI driver had called unchanged and was not; everything was read for it."
    )
    distrust: Distrust | None = Field(
        None,
        description="The CSI driver was caught leaving out changes of the disk, by this backup or an earlier one:"
        " everything is read.",
    )
    suspected_by: str | None = Field(
        None,
        description="DiskBackup that found its CSI driver wrong on what has changed; this one had relied on the driver"
        " since the last full read, and may hold wrong blocks.",
    )
    parent: str | None = Field(None, description="Manifest of the backup that this one is compared with.")
    manifest: str | None = Field(None, description="The disk's manifest in the repository.")
    object_id: str | None = Field(
        None, description="Id of the object that this manifest is: another one at this place is not restored."
    )
    attempts: int | None = Field(None, description="Export Jobs that were started for the disk.")
    job: str | None = Field(None, description="UID of the export Job that is under way.")
    started_at: Time | None = Field(None, description="When the export Job that is under way was started.")
    progressed_at: Time | None = Field(None, description="When the export Job was last seen to come further.")
    retry_at: Time | None = Field(None, description="When the next export Job may start, after one that failed.")


class Cut(Model):
    """Evidence of the moment of capture; each part is written before the next step is taken."""

    attempt: int = Field(1, description="Number of the attempt; an interrupted one is thrown away.")
    started_at: Time = Field(description="Before anything was frozen.")
    freeze: (
        Literal["Requested", "Frozen", "Refused", "NotRunning", "Paused", "NoAgent", "GivenUp", "NoMachine"] | None
    ) = Field(None, description="What came of freezing the guest's file systems.")
    frozen_at: Time | None = Field(None, description="When the guest confirmed the freeze.")
    cut_at: Time | None = Field(None, description="When the last snapshot was cut.")
    thawed_at: Time | None = Field(None, description="When the guest confirmed the thaw.")
    thaw_error: str | None = Field(None, description="What went wrong with the thaw.")
    freeze_error: str | None = Field(None, description="What went wrong with the freeze.")
    shared_with: str | None = Field(
        None, description="Another virtual machine that ran and used one of the disks: it was not asked to stop."
    )
    ended_at: Time | None = Field(
        None, description="When the attempt was over; one without this was interrupted, unless it is under way."
    )


class BackupTarget(Model):
    """What was backed up."""

    kind: Literal["VirtualMachine", "PersistentVolumeClaim"] = Field(description="Kind of the target.")
    name: str = Field(description="Name of the target.")
    uid: str = Field(description="UID of the target.")
    disk: str | None = Field(None, description="The one disk of the virtual machine; absent if it is all of them.")


class PinnedPolicy(Model):
    """The policy as it was when the run began."""

    name: str = Field(description="Name of the policy.")
    uid: str = Field(description="UID of the policy.")


class PinnedStore(Model):
    """The store as it was when the run began."""

    name: str = Field(description="Name of the BackupStore.")
    location: str | None = Field(None, description="Where the store is.")
    repository: str = Field(description="Path of the namespace's repository in the store.")
    id: str | None = Field(None, description="Id of that repository: another one at this path is not touched.")
    dedupe: Dedupe = Field("Disk", description="With what the disks are compared, as the store says.")


class SharedCut(Model):
    """Another run whose cut and export this one shares: the disk is captured, read and stored once for both."""

    name: str = Field(description="The DiskBackup that captures and exports the disks.")
    uid: str = Field(description="Its UID.")
    since: Time | None = Field(None, description="Since when it is waited for; half an hour at most for its cut.")
    taken_over: bool = Field(False, description="What it captured has been exported, and was taken over.")
    given_up: str | None = Field(
        None, description="Why it is not shared after all: the disks are captured and exported for this backup alone."
    )


class UnconfirmedRule(Model):
    """What the manifest of an adopted backup says of its expiry and its spec does not."""

    hold: bool = Field(False, description="It was held.")
    expires_at: Time | None = Field(None, description="It was to be kept until then, which is later than spec says.")


class DiskBackupStatus(Status):
    """What the operator sees."""

    phase: BackupPhase | None = Field(None, description="How far the backup is.")
    progress: str | None = Field(None, description="Progress over all disks in percent.")
    progress_text: str | None = Field(
        None, description="How far each disk is, for tables; when all have ended, which were not captured."
    )
    policy: PinnedPolicy | None = Field(None, description="The policy that this backup belongs to.")
    retention: Retention | None = Field(
        None, description="The expiry rule that this backup carries, also when the policy is gone."
    )
    store: PinnedStore | None = Field(None, description="Where the backup is.")
    target: BackupTarget | None = Field(None, description="What is backed up.")
    virtual_machine: str | None = Field(
        None, description="The virtual machine that uses the disks: its guest is frozen for the cut."
    )
    started_at: Time | None = Field(None, description="When the run began.")
    completed_at: Time | None = Field(None, description="When the run ended.")
    shared_cut: SharedCut | None = Field(
        None, description="The DiskBackup of the same slot whose cut and export this one shares, if there is one."
    )
    cut: Cut | None = Field(None, description="Evidence of the moment of capture.")
    cut_attempts: int | None = Field(None, description="Attempts to capture the disks that were begun.")
    consistency: Consistency | None = Field(
        None, description="Application: the guest had flushed and frozen its file systems. Crash: as after a power cut."
    )
    consistency_reason: str | None = Field(None, description="Why.")
    same_moment: bool | None = Field(None, description="All disks were captured at the same moment.")
    same_moment_reason: str | None = Field(None, description="Why, and how far the disks are apart otherwise.")
    disks: list[DiskResult] | None = Field(
        None,
        description="The disks, one by one.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    driver_distrusted: bool | None = Field(
        None, description="What is known against the CSI driver of a disk is held here, for the disk's later backups."
    )
    logical_bytes: int | None = Field(None, description="Size of all disks.")
    read_bytes: int | None = Field(None, description="Bytes read.")
    stored_bytes: int | None = Field(None, description="Bytes that this backup added to the store.")
    size: str | None = Field(None, description="logicalBytes, for tables.")
    read: str | None = Field(None, description="readBytes, for tables.")
    stored: str | None = Field(None, description="storedBytes, for tables.")
    manifest: str | None = Field(None, description="The backup's manifest in the repository, written last.")
    cleaned_up: bool | None = Field(None, description="Nothing is left of what was made for the run.")
    adopted: bool | None = Field(None, description="The backup was found in the store, not run again.")
    expires_at: Time | None = Field(
        None, description="When the backup expires, unless keepLast, keepNewest or hold keep it."
    )
    kept_because: str | None = Field(None, description="Why the backup is kept.")
    recorded_rule: str | None = Field(None, description="Hash of the expiry rule that the manifest carries.")
    unconfirmed_rule: UnconfirmedRule | None = Field(
        None,
        description="What the manifest of an adopted backup says of its expiry and spec does not: it keeps the backup"
        ' until the annotation longboat.dev/confirm-deletion is "true".',
    )
    policy_gone_at: Time | None = Field(None, description="When it was first seen that the policy is gone.")
    verified: str | None = Field(
        None, description="Yes, or the reason of the condition Verified; absent if no verification has looked at it."
    )
    verified_at: Time | None = Field(
        None,
        description="When a verification looked at it; renewed once a week, and whenever the result is another one.",
    )
    tombstoned_at: Time | None = Field(
        None, description="When the data was marked for removal; until the trash period is over it can be brought back."
    )


class DiskBackup(Resource):
    """A backup: one run of one policy on one virtual machine or disk. Creating one by hand is initiating the policy."""

    plural: ClassVar[str] = "diskbackups"
    short_names: ClassVar[tuple[str, ...]] = ("lbb",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        column("Policy", ".spec.policyRef.name", "The policy."),
        column("Target", ".status.target.name", "What is backed up."),
        column("Phase", ".status.phase", "How far the backup is."),
        column("Progress", ".status.progress", "Progress over all disks."),
        column("Disks", ".status.progressText", "How far each disk is."),
        column("Consistency", ".status.consistency", "Application or Crash."),
        column("Same Moment", ".status.sameMoment", "All disks captured at the same moment.", "boolean"),
        column("Size", ".status.size", "Size of all disks.", priority=1),
        column("Read", ".status.read", "What was read of them.", priority=1),
        column("Stored", ".status.stored", "What was added to the store."),
        column("Store", ".status.store.name", "The store.", priority=1),
        column("Adopted", ".status.adopted", "Taken over from the store, not run.", "boolean", priority=1),
        column("Verified", ".status.verified", "Was it whole when it was last verified?", priority=1),
        column("Expires", ".status.expiresAt", "When the backup expires."),
        AGE,
    )
    # A namespace holds the history of all its policies: what is looked for often must not read it all.
    selectable: ClassVar[tuple[str, ...]] = (
        ".spec.policyRef.name",
        ".spec.slot",
        ".status.virtualMachine",
        ".status.cleanedUp",
        ".status.driverDistrusted",
    )

    kind: str = "DiskBackup"
    spec: DiskBackupSpec
    status: DiskBackupStatus = Field(default_factory=DiskBackupStatus)
