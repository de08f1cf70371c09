"""Backups in which restores have met damage that nobody has written down, and how far verifications are with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from pydantic import Field

from longboat.api.common import Model, Time

AGAIN_AFTER = timedelta(days=1)
"""A backup of which all data was read and nothing written down is not read for a restore again before this."""
MAX_READ = 1000
"""Disks that are noted as read, of all suspects of a repository: the note has to fit into a ConfigMap."""


class Suspect(Model):
    """A backup, by its name in the repository, in which a restore has met damage that nobody has written down.

    It was ``disk``, by its manifest's name, ``at`` this byte of it if data was lost. ``read`` are its disks of which
    all data was read since, and what is damaged noted in the repository. Nothing is read for it before ``due``; None is
    at once.
    """

    backup: str
    since: Time
    disk: str = ""
    at: int = 0
    due: Time | None = None
    read: list[str] = Field(default_factory=list)


class Look(Model):
    """At that moment a verification had read all data of a suspect, and found nothing that it could write down."""

    backup: str
    at: Time


def with_suspect(suspects: Iterable[Suspect], looks: Iterable[Look], met: Suspect) -> list[Suspect]:
    """Return the suspects with one that was met now; what was read of it before says nothing of that any more."""
    moment, backup = met.since, met.backup
    # Where damage can be neither written down nor read, each restore tells of the same again. A look in the future is a
    # clock that was put back.
    due = next((min(each.at, moment) + AGAIN_AFTER for each in looks if each.backup == backup), None)
    due = due if due is not None and due > moment else None
    others = [each for each in suspects if each.backup != backup]
    return [*others, met.model_copy(update={"due": due})]


def due_at(suspects: Iterable[Suspect], moment: datetime) -> list[Suspect]:
    """Return those that are to be read by now."""
    return [each for each in suspects if (each.due or each.since) <= moment]


def told_of(suspects: Sequence[Suspect]) -> dict[str, object]:
    """Return what an Attempt says of the suspects that it reads."""
    return {
        "suspects": [each.backup for each in suspects],
        "read": [disk for each in suspects for disk in each.read],
        "named": {each.disk: each.at for each in suspects if each.disk},
    }


def still_suspected(suspects: Iterable[Suspect], run: Collection[str], started: datetime) -> list[Suspect]:
    """Return who is left after a run that has read these, and began then."""
    # What was told of again while the run was reading may be news to it.
    return [each for each in suspects if each.backup not in run or each.since > started]


def with_read(suspects: Sequence[Suspect], started: datetime, disks: Iterable[tuple[str, str]]) -> list[Suspect]:
    """Return the suspects after a run that began then has read these disks, each a backup and a manifest's name."""
    found, room = set(disks), MAX_READ - sum(len(each.read) for each in suspects)
    return list(_with_read(suspects, started, found, room))


def _with_read(
    suspects: Iterable[Suspect], started: datetime, disks: set[tuple[str, str]], room: int
) -> Iterator[Suspect]:
    for each in suspects:
        its = {disk for backup, disk in disks if backup == each.backup and each.since <= started}
        more = sorted(its - set(each.read))[: max(0, room)]
        room -= len(more)
        yield each.model_copy(update={"read": [*each.read, *more]}) if more else each


def looks_after(looks: Iterable[Look], run: Iterable[str], now: datetime) -> list[Look]:
    """Return the looks that still count after a run that has read these to the end, and had nothing to write down."""
    moment, names = now.replace(microsecond=0), set(run)
    kept = [each for each in looks if each.backup not in names and each.at > moment - AGAIN_AFTER]
    return [*kept, *(Look(backup=name, at=moment) for name in sorted(names))]
