"""What `longboat check` found out: single findings, and what they mean for what people want to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is; the order is the order of badness. NOT_YET is no fault: a step of the installation is to come."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    NOT_YET = "not-yet"
    ERROR = "error"


class Ability(StrEnum):
    """What people want from Longboat."""

    SNAPSHOTS = "local snapshots"
    BACKUPS = "backups off site"
    CONSISTENCY = "application-consistent backups of running machines"
    RESTORES = "restores into new disks"
    HOTPLUG = "attaching restored disks to running machines"


EVERYTHING = tuple(Ability)


@dataclass(frozen=True)
class Finding:
    """One observation: what was looked at, what is the case, what to do, and which abilities depend on it."""

    area: str
    subject: str
    verdict: Verdict
    message: str
    remedy: str = ""
    affects: tuple[Ability, ...] = ()


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the verdicts; ok if there are none."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.OK)


def abilities(findings: Iterable[Finding]) -> dict[Ability, Verdict]:
    """Return for each ability the worst verdict of what it depends on."""
    known = list(findings)
    return {ability: worst(each.verdict for each in known if ability in each.affects) for ability in Ability}
