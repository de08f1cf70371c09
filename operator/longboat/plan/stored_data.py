"""What finished DiskBackups say is in the store, and what to say when a look at the store did not find it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

DATA_MISSING = "DataMissing"
"""The condition of a DiskBackup whose data is not in the store any more, and its reason."""
NOT_SEEN = "BackupsNotSeen"
"""The condition of a BackupStore in which nothing at all is where backups were: it may lead elsewhere."""
NOT_IN_SIGHT = "BackupsNotInSight"
"""Why a prune does not begin: manifests of DiskBackups that nobody deleted are not in the store."""
_TOLD = 5


@dataclass(frozen=True)
class Held:
    """What a finished DiskBackup relies on: the name in its manifest, and the objects of its disks by their names."""

    name: str
    manifest: str
    disks: Mapping[str, str]
    repository: str
    """The id of the repository that it was made into."""
    path: str
    """The path of that repository."""
    told: bool | None
    """Whether it says already that data is missing; None: it says so, and also that all was there when verified."""

    def lacks(self, backups: Set[str], objects: Set[str]) -> str | None:
        """Return in words what is not among the backups and disk manifests that the store lists; None if all is."""
        if self.manifest not in backups:
            return "its manifest"
        lost = sorted(disk for disk, name in self.disks.items() if name not in objects)
        return f"disk {', '.join(map(repr, lost))}" if lost else None


def relies_on(backup: Mapping[str, Any], store: str | None = None) -> bool:
    """Return whether a DiskBackup (a raw object) is finished and has data, in this store or any, that is to stay.

    That of one that somebody deletes is to go, unless the deletion is held.
    """
    status = backup.get("status") or {}
    held = any(each["type"] == "DeletionHeld" and each["status"] == "True" for each in status.get("conditions") or ())
    return (
        status.get("phase") in ("Completed", "PartiallyFailed")
        and bool(status.get("manifest"))
        and not status.get("tombstonedAt")
        and (held or "deletionTimestamp" not in backup["metadata"])
        and store in (None, (status.get("store") or {}).get("name"))
    )


def held_by(backup: Mapping[str, Any]) -> Held:
    """Return what a DiskBackup relies on."""
    status = backup["status"]
    good = (each for each in status.get("disks") or () if each.get("phase") == "Completed" and each.get("manifest"))
    true = {str(each["type"]) for each in status.get("conditions") or () if each["status"] == "True"}
    told = None if {DATA_MISSING, "Verified"} <= true else DATA_MISSING in true
    disks = {str(each.get("name")): str(each["manifest"]) for each in good}
    repository, path = (str(status["store"].get(each)) for each in ("id", "repository"))
    return Held(backup["metadata"]["name"], str(status["manifest"]), disks, repository, path, told)


def nothing_seen(held: Iterable[Held], backups: Set[str], objects: Set[str]) -> bool:
    """Return whether a store lists none of what there should be: it is no proof that each of them is lost."""
    wanted = list(held)
    disks = {name for each in wanted for name in each.disks.values()}
    return bool(wanted) and (
        not any(each.manifest in backups for each in wanted) or (bool(disks) and disks.isdisjoint(objects))
    )


def missing(what: str, store: str) -> str:
    """Return what is said of a backup whose data is gone."""
    return (
        f"BackupStore {store!r} does not hold {what} any more, though nobody deleted this DiskBackup: it can't be"
        " restored whole; restore from another one, and have an administrator find out who removed it"
    )


def not_in_sight(namespace: str, names: Sequence[str]) -> str:
    """Return why nothing is pruned in a namespace's repository: these DiskBackups are not in the store whole."""
    rest = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return (
        f"{namespace}: manifests of DiskBackups {', '.join(names[:_TOLD])}{rest} are not in the store though nobody"
        " deleted them: their data is not freed; bring the manifests back, or delete these DiskBackups if it may go"
    )


def not_seen(problems: Mapping[str, str]) -> str | None:
    """Return what is said on a store of namespaces (why by name) of which nothing was found; None if there is none."""
    if not problems:
        return None
    names = sorted(problems)
    shown = "; ".join(f"{name}: {problems[name]}" for name in names[:_TOLD])
    rest = f"; and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return (
        f"nothing is there of the backups of {len(names)} namespace{'s' if len(names) > 1 else ''} ({shown}{rest}): see"
        " whether the bucket and its prefix are what they were; the DiskBackups stay as they are"
    )
