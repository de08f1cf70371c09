"""What a BackupStore says about the upkeep of the repositories in it: prune and verify, asked for and seen."""

from __future__ import annotations

from pydantic import Field

from longboat.api.common import Duration, Model, Quantity, Time, rule, rules

_HOUR = "!self.{field}.endsWith('m') || int(self.{field}.replace('m', '')) >= 60"


def _an_hour(field: str, why: str) -> dict[str, str]:
    return rule(_HOUR.format(field=field), f"{field} must be 1h or more: {why}")


_OFTEN = _an_hour("every", "each run reads what all backups of a namespace refer to")


class Repack(Model):
    """Moving what is alive of packs that are mostly dead, by downloading it."""

    model_config = rules(
        rule(
            "(!self.goneAfter.endsWith('m') || int(self.goneAfter.replace('m', '')) >= 1440)"
            " && (!self.goneAfter.endsWith('h') || int(self.goneAfter.replace('h', '')) >= 24)",
            "goneAfter must be 1d or more: a disk's own backups store such blocks anew, from local data",
        )
    )
    budget: Quantity = Field(
        description="How much each run downloads of a namespace's packs at the most, such as 1Gi. It may cost money."
    )
    gone_after: Duration = Field(
        "45d", description="A disk whose newest backup is older than this is taken for gone. 1d or more."
    )
    living_below: int = Field(
        0,
        ge=0,
        le=90,
        description="Also move blocks of disks that are still backed up, out of packs of which backups refer to less"
        " than so many percent; 60 suits disks with random writes. 0: only of disks that are gone.",
    )


class Prune(Model):
    """Freeing the space of what no backup refers to, a Job for each namespace's repository."""

    model_config = rules(
        _OFTEN, _an_hour("gracePeriod", "a backup that is under way may still refer to what is to be removed")
    )
    every: Duration = Field(
        "1d", description="How often each repository is pruned; they are spread over this time. 1h or more."
    )
    suspend: bool = Field(
        False,
        description="Whether nothing is removed from the store for good: what nothing refers to, and the trash, stay.",
    )
    dry_run: bool = Field(
        False,
        description="Whether runs only say what they would free, in status.maintenance.prune; nothing is removed.",
    )
    grace_period: Duration = Field(
        "24h", description="How long after it was seen that nothing refers to it data goes at the earliest. 1h or more."
    )
    repack: Repack | None = Field(
        None,
        description="Whether runs also move what is alive of mostly dead packs, of disks that are gone and, with"
        " livingBelow, of others, so that these packs can be freed. Absent: nothing is downloaded. Not done where"
        " objectLock is set.",
    )


class Verify(Model):
    """Seeing whether backups are whole, a Job for each namespace's repository."""

    model_config = rules(_OFTEN)
    every: Duration = Field(
        "1d", description="How often each repository is verified; they are spread over this time. 1h or more."
    )
    suspend: bool = Field(False, description="Whether nothing is verified.")
    share: int = Field(
        4,
        ge=0,
        le=100,
        description="Percent of the data that each run reads, decrypts and hashes, going on where the last one ended: "
        "with 4 all of it within 25 runs. What backups are made of and all sizes are checked by each run, with 0, too.",
    )


class Maintenance(Model):
    """Upkeep of the repositories in a store."""

    prune: Prune = Field(default_factory=lambda: Prune(), description="Freeing the space of what no backup refers to.")
    verify: Verify = Field(default_factory=lambda: Verify(), description="Seeing whether backups are whole.")
    parallelism: int = Field(
        4, ge=1, le=100, description="Jobs of prune and verify that run for the store at the same time, at most."
    )


class PruneStatus(Model):
    """What came of pruning, over all repositories."""

    last_run_time: Time | None = Field(None, description="When a run ended well for the last time, dry ones included.")
    next_run_time: Time | None = Field(
        None, description="When the next run is, or was, due; absent if none is, such as while they are suspended."
    )
    freed_bytes: int | None = Field(
        None,
        description="What the last run of each repository that ended well removed, or with dryRun would have removed.",
    )
    waiting_bytes: int | None = Field(
        None,
        description="What these runs found condemned, or condemned: no backup refers to it, and a later run removes it "
        "when its grace period is over. What is too young for that, or waits for an answer, does not count.",
    )
    postponed: int | None = Field(
        None,
        description="Repositories whose last run that ended well could not do all it should: nothing was condemned, or "
        "somebody hid manifests or packs; see Pruned.",
    )
    failing: int | None = Field(None, description="Repositories whose last run failed; see Pruned.")


class VerifyStatus(Model):
    """What came of verifying, over all repositories."""

    last_run_time: Time | None = Field(
        None, description="When a run came to its end for the last time, whatever it found."
    )
    oldest_run_time: Time | None = Field(
        None,
        description="When the repository was verified that has not been for the longest time; one that never was counts"
        " from when it was first seen.",
    )
    next_run_time: Time | None = Field(
        None, description="When the next run is, or was, due; absent if none is, such as while they are suspended."
    )
    read_bytes: int | None = Field(
        None, description="What the last run of each repository that came to its end read of the data."
    )
    backups: int | None = Field(None, description="Backups that these runs looked at.")
    damaged: int | None = Field(
        None,
        description="Those among them that are damaged, also such that are restored whole, or deleted and in trash.",
    )
    lost: int | None = Field(
        None,
        description="Those among the damaged that can't be restored whole; deleted ones in the trash do not count.",
    )
    failing: int | None = Field(None, description="Repositories whose last run failed; see Verified.")


class MaintenanceStatus(Model):
    """What came of the upkeep of the repositories in a store."""

    repositories: int | None = Field(
        None,
        description="Repositories of this cluster in the store that are known: of each namespace with backups, those "
        "that are gone included, one for each master key that it has had.",
    )
    freed: str | None = Field(None, description="prune.freedBytes, for tables.")
    verified: str | None = Field(None, description="Yes, or the reason of the condition Verified, for tables.")
    prune: PruneStatus | None = Field(None, description="What came of pruning.")
    verify: VerifyStatus | None = Field(None, description="What came of verifying.")
