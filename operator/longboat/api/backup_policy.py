"""BackupPolicy: what to back up, when, for how long, into which store."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from longboat.api.common import (
    AGE,
    DiskRef,
    Duration,
    LabelSelector,
    Model,
    NamedRef,
    PrinterColumn,
    Resource,
    Status,
    Time,
    column,
    rule,
    rules,
)

At = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)]
"""A time of day, HH:MM on a 24-hour clock."""
Day = Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


class Target(Model):
    """What a policy backs up."""

    model_config = rules(
        rule(
            "[has(self.disk), has(self.virtualMachine), has(self.selector)].filter(set, set).size() == 1",
            "exactly one of disk, virtualMachine and selector is needed",
        )
    )
    disk: DiskRef | None = Field(None, description="One disk.")
    virtual_machine: NamedRef | None = Field(
        None, description="One virtual machine: all its disks, at one moment. Disks added later are included."
    )
    selector: LabelSelector | None = Field(
        None, description="Every virtual machine of the namespace with these labels; each gets a DiskBackup of its own."
    )


class Hourly(Model):
    """Every N hours, counted from the day the policy was created."""

    every: int = Field(1, ge=1, le=24 * 7, description="Hours from one backup to the next.")
    minute: int = Field(0, ge=0, le=59, description="Minute of the hour.")


class Daily(Model):
    """Every N days, counted from the day the policy was created."""

    every: int = Field(1, ge=1, le=366, description="Days from one backup to the next.")
    at: At = Field("00:00", description="Time of day, HH:MM.")


class Weekly(Model):
    """Every N weeks, counted from the week the policy was created."""

    every: int = Field(1, ge=1, le=52, description="Weeks from one backup to the next.")
    # Not "on": an unquoted on is a boolean to YAML, and the API server would see a field named true.
    day: Day = Field("Sunday", description="Day of the week.")
    at: At = Field("00:00", description="Time of day, HH:MM.")


class Monthly(Model):
    """Every N months, counted from the month the policy was created."""

    every: int = Field(1, ge=1, le=12, description="Months from one backup to the next.")
    day: int = Field(1, ge=1, le=31, description="Day of the month; in a shorter month its last day.")
    at: At = Field("00:00", description="Time of day, HH:MM.")


class Schedule(Model):
    """When a policy runs."""

    model_config = rules(
        rule(
            "[has(self.hourly), has(self.daily), has(self.weekly), has(self.monthly), has(self.cron)]"
            ".filter(set, set).size() == 1",
            "exactly one of hourly, daily, weekly, monthly and cron is needed",
        )
    )
    hourly: Hourly | None = Field(None, description="Every N hours.")
    daily: Daily | None = Field(None, description="Every N days at a time of day.")
    weekly: Weekly | None = Field(None, description="Every N weeks on a day of the week.")
    monthly: Monthly | None = Field(None, description="Every N months on a day of the month.")
    cron: str | None = Field(
        None,
        min_length=9,
        max_length=200,
        description="A cron expression of five fields (minute, hour, day of month, month, day of week).",
        pattern=r"^\s*\S+(\s+\S+){4}\s*$",
    )


class Retention(Model):
    """How long backups are kept. keepFor and keepLast add up: a backup stays as long as either keeps it."""

    keep_for: Duration = Field(description="How long a backup is kept, such as 30d (m, h, d or w).")
    keep_last: int | None = Field(
        None, ge=1, le=1000, description="The newest N good backups of each disk are kept, however old they are."
    )
    keep_newest: bool = Field(
        True,
        description="Keep the newest good backup of each disk beyond keepFor, "
        "so that failing runs never leave it bare.",
    )


class BackupPolicySpec(Model):
    """What the user asks for."""

    target: Target = Field(description="What to back up: exactly one of disk, virtualMachine and selector.")
    schedule: Schedule = Field(description="When: exactly one of hourly, daily, weekly, monthly and cron.")
    time_zone: str = Field(
        "UTC",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="IANA time zone of the schedule, such as Europe/London.",
    )
    retention: Retention = Field(description="How long backups are kept.")
    store_ref: NamedRef | None = Field(
        None, description="The BackupStore; the default one if absent. The one used is recorded on each DiskBackup."
    )
    suspend: bool = Field(
        False, description="No scheduled backups while true; ad-hoc ones still run. Missed runs are not made up for."
    )
    starting_deadline: Duration = Field(
        "1h", description="A slot that was missed by more than this is skipped; at most one late run is made."
    )


class TargetState(Model):
    """How well one target is protected."""

    kind: str = Field(description="VirtualMachine or PersistentVolumeClaim.")
    name: str = Field(description="Name of the target.")
    uid: str = Field("", description="UID of it, or of the one PersistentVolumeClaim that is backed up.")
    since: Time | None = Field(None, description="Since when it is a target of the policy.")
    last_success_time: Time | None = Field(None, description="Moment that its newest good backup holds.")
    overdue_at: Time | None = Field(
        None,
        description="When that one is too old: half an interval after the slot that should have followed it. Absent"
        " while the policy is suspended.",
    )


class DiskUsage(Model):
    """What the backups of one disk have added to one store. Without a name: many small ones together."""

    store: str = Field("", description="The BackupStore.")
    virtual_machine: str = Field("", description="The virtual machine that used the disk, if there was one.")
    disk: str = Field("", description="Name of the disk.")
    claim: str = Field("", description="Its PersistentVolumeClaim.")
    backups: int = Field(0, description="Backups of it that are kept.")
    stored_bytes: int = Field(0, description="Bytes that these have added to the store.")


class RunTotals(Model):
    """All runs of the policy that have ended since it was created, those that are gone included."""

    completed: int = Field(0, description="Runs that ended in phase Completed.")
    partially_failed: int = Field(0, description="Runs that ended in phase PartiallyFailed.")
    failed: int = Field(0, description="Runs that ended in phase Failed.")
    stored_bytes: int = Field(0, description="Bytes that they added to the store.")
    read_bytes: int = Field(0, description="Bytes that they read from disks.")
    seconds: int = Field(0, description="Seconds that they took, together.")
    counted_until: Time | None = Field(None, description="What ended before this is counted.")
    counted: list[str] | None = Field(
        None,
        description="What ended after that and is counted.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class BackupPolicyStatus(Status):
    """What the operator sees."""

    target: str | None = Field(None, description="The target in words, for tables.")
    schedule: str | None = Field(None, description="The schedule in words, for tables.")
    anchor: Time | None = Field(None, description='The moment from which "every N" is counted.')
    resumed_at: Time | None = Field(
        None, description="When the policy was last resumed or its schedule changed; earlier slots do not run."
    )
    observed_schedule: str | None = Field(
        None, description="The schedule that the slots were counted by; a change of it does not run the past."
    )
    suspended_at: Time | None = Field(None, description="Since when the policy is suspended.")
    last_slot: Time | None = Field(
        None, description="The last slot for which backups were started or that was skipped."
    )
    next_slot: Time | None = Field(None, description="The next slot.")
    last_success_time: Time | None = Field(None, description="Moment of the newest good backup.")
    last_backup: str | None = Field(None, description="The newest DiskBackup of this policy.")
    backups: int | None = Field(None, description="Number of DiskBackups kept.")
    stored_bytes: int | None = Field(None, description="Bytes that this policy's backups added to the store.")
    stored: str | None = Field(None, description="storedBytes, for tables.")
    expected_interval_seconds: int | None = Field(
        None, description="Seconds between the two slots that it is between now."
    )
    targets: list[TargetState] | None = Field(
        None,
        description="The targets one by one, 500 at most.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    usage: list[DiskUsage] | None = Field(
        None,
        description="What the kept backups have added to the stores, by disk; storedBytes is the sum of it.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    totals: RunTotals | None = Field(None, description="All runs there ever were, for monitoring.")
    data_missing: int | None = Field(None, description="Kept backups whose data is gone from the store.")
    suspect_backups: int | None = Field(None, description="Kept backups that may hold wrong blocks.")
    change_tracking_mismatches: int | None = Field(
        None, description="Kept backups that found their CSI driver wrong on what has changed."
    )
    protected: str | None = Field(
        None, description="Yes, Partly, Late, Never, Suspended or No: is the target protected as asked for?"
    )


class BackupPolicy(Resource):
    """A backup policy on a disk, a virtual machine or several: retention, schedule and store."""

    plural: ClassVar[str] = "backuppolicies"
    short_names: ClassVar[tuple[str, ...]] = ("lbp",)
    columns: ClassVar[tuple[PrinterColumn, ...]] = (
        column("Target", ".status.target", "What is backed up."),
        column("Schedule", ".status.schedule", "When it is backed up."),
        column("Protected", ".status.protected", "Is there a good backup as recent as the schedule promises?"),
        column("Last Success", ".status.lastSuccessTime", "Age of the newest good backup.", "date"),
        column("Next", ".status.nextSlot", "The next scheduled backup."),
        column("Backups", ".status.backups", "Number of backups kept.", "integer"),
        column("Stored", ".status.stored", "What was added to the store.", priority=1),
        column("Suspended", ".spec.suspend", "No scheduled backups while true.", "boolean", priority=1),
        AGE,
    )

    kind: str = "BackupPolicy"
    spec: BackupPolicySpec
    status: BackupPolicyStatus = Field(default_factory=BackupPolicyStatus)
