"""The Jobs of prune and verify: one run on one repository, with no volume."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import datetime, timedelta

from longboat.api import BackupStore
from longboat.api.common import parse_duration
from longboat.api.maintenance import Repack
from longboat.mover import PruneJob, VerifyJob
from longboat.plan.maintenance import ALL, Attempt, RepositoryRecord, Work
from longboat.plan.mover import Mover
from longboat.plan.names import MANAGED_BY, MANAGER, OWNER_KIND, digest, joined
from longboat.plan.quantities import bytes_of
from longboat.repository import MIN_GRACE, StoreSettings

STORE_KEY = "longboat.dev/store-key"
"""Label: a hash of the BackupStore's name."""
REPOSITORY_KEY = "longboat.dev/repository-key"
"""Label: a hash that stands for the repository."""
LONGEST = timedelta(days=1)
LONGEST_WHOLE = timedelta(days=14)
"""The same for a verification that reads everything, or all of a backup."""
NOT_STARTED_AFTER = timedelta(hours=1)
"""A Job whose pod does not run after this has failed: others are to have its place."""


def record_key(store: str, folder: str) -> str:
    """Return what stands for a repository, by its folder in that of the cluster, in names and labels."""
    return digest(store, folder, length=16)


def jobs_of(store: str) -> dict[str, str]:
    """Return the labels of all Jobs of a store."""
    return {MANAGED_BY: MANAGER, OWNER_KIND: "BackupStore", STORE_KEY: digest(store, length=16)}


def job_name(record: RepositoryRecord, work: Work, number: int) -> str:
    """Return the name of the Job, and of the Secret, of a run: it is made for no other one."""
    head = f"{work}-{record.namespace}".rstrip("-")
    return joined(head, digest(work, record.store, record.folder, str(number), length=10))


def mover_of(
    record: RepositoryRecord,
    work: Work,
    store: BackupStore,
    settings: StoreSettings,
    path: str,
    key: bytes,
    closed: datetime | None = None,
    accepted: Iterable[str] = (),
) -> Mover:
    """Return the mover of the run that is noted down in the record.

    ``key`` is the namespace's master key; ``closed`` is since when, by the store's clock, there is a newer one, and
    ``accepted`` by their marks what is believed nevertheless of what came too late after that.
    """
    attempt = record.runs(work).attempt
    assert attempt is not None
    common: dict[str, object] = {
        "store": settings,
        "repository_path": path,
        "master_key": base64.b64encode(key).decode(),
    }
    job: PruneJob | VerifyJob
    if work == "prune":
        job = PruneJob.model_validate(
            common | _prune(attempt, store) | {"closed": closed, "accepted": sorted(accepted)}
        )
    else:
        job = VerifyJob.model_validate(common | _verify(attempt, store))
    name = job_name(record, work, attempt.number)
    return Mover(
        role=work,
        name=name,
        secret_name=name,
        labels=jobs_of(store.name) | {REPOSITORY_KEY: record_key(store.name, record.folder)},
        job=json.loads(job.model_dump_json(by_alias=True, exclude_none=True)),
        deadline=LONGEST_WHOLE if attempt.share >= ALL or attempt.suspects else LONGEST,
    )


def _prune(attempt: Attempt, store: BackupStore) -> dict[str, object]:
    return {
        "dry_run": attempt.dry_run,
        "allowed": attempt.allowed,
        "grace_seconds": int(grace_of(store).total_seconds()),
        "token": attempt.token,
        "known_tokens": tuple(attempt.known_tokens),
        **_repack(store.spec.maintenance.prune.repack),
    }


def _verify(attempt: Attempt, store: BackupStore) -> dict[str, object]:
    return {
        "share": attempt.share,
        "phase": attempt.phase,
        "suspects": attempt.suspects,
        "already_read": attempt.read,
        "named": attempt.named,
        "believes_moved": store.spec.maintenance.prune.repack is not None,
    }


def _repack(asked: Repack | None) -> dict[str, object]:
    if asked is None:
        return {}
    gone_after = max(timedelta(days=1), parse_duration(asked.gone_after))
    return {
        "repack_bytes": bytes_of(asked.budget),
        "gone_after_seconds": int(gone_after.total_seconds()),
        "repack_living_percent": asked.living_below,
    }


def grace_of(store: BackupStore) -> timedelta:
    """Return the store's grace period: never less than what keeps packs of writers at work."""
    return max(MIN_GRACE, parse_duration(store.spec.maintenance.prune.grace_period))
