"""The expiry rule that the manifest of an adopted backup carries: it was the last one to hold, so it goes on to."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from longboat.api import DiskBackup
from longboat.api.backup_policy import Retention
from longboat.api.disk_backup import DiskBackupSpec, UnconfirmedRule
from longboat.plan.deletion import CONFIRM


def recorded_retention(rule: Any) -> Retention | None:
    """Return the retention of a manifest's rule (JSON of any kind), None if it says none that can be read."""
    try:
        return Retention.model_validate(rule["retention"])
    except (KeyError, TypeError, ValidationError):
        return None


def unasked(rule: Any, spec: DiskBackupSpec) -> UnconfirmedRule | None:
    """Return what a manifest's rule keeps the backup by beyond its spec, None if that is nothing or can't be read."""
    try:
        found = UnconfirmedRule.model_validate({name: rule[name] for name in ("hold", "expiresAt") if name in rule})
    except (TypeError, ValidationError):
        return None
    later = found.expires_at is not None and (spec.expires_at is None or spec.expires_at < found.expires_at)
    only = UnconfirmedRule(hold=found.hold and not spec.hold, expires_at=found.expires_at if later else None)
    return only if only.hold or only.expires_at else None


def unconfirmed(backup: DiskBackup) -> UnconfirmedRule:
    """Return what of the recorded rule keeps a backup still: all, until somebody confirms that it may go."""
    if backup.status.unconfirmed_rule is None or backup.metadata.annotations.get(CONFIRM) == "true":
        return UnconfirmedRule()
    return backup.status.unconfirmed_rule


def told(rule: UnconfirmedRule | None) -> str:
    """Return what is said of a recorded rule that the spec does not ask for; empty if there is none."""
    if rule is None:
        return ""
    hold, end = (["hold: true"] if rule.hold else []), rule.wire().get("expiresAt")
    fields = " and ".join([*hold, *([f"expiresAt: {end}"] if end else [])])
    return (
        f"; its manifest says {fields}, spec does not: that keeps it too; set it in spec, or annotate this DiskBackup"
        f' with {CONFIRM}="true" to let it go'
    )
