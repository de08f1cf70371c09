"""Which objects have to be looked at when something changes, and which are due: from raw objects, without parsing them.

The operator's own writes come back as changes: what is finished, or written for the newest spec already, wakes nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from longboat.plan.edited_expiry import CONFIRM_EXPIRY, HELD
from longboat.plan.maintenance import CONFIRM_PRUNE, REQUESTED
from longboat.plan.names import FINALIZER, OWNER_UID
from longboat.plan.retention import FINISHED, Keep
from longboat.plan.stored_data import relies_on
from longboat.reconcile.queue import Key

Object = dict[str, Any]

RETENTION = "Retention"
TRASH = "Trash"
BASE_SNAPSHOTS = "BaseSnapshots"
"""The task that removes the kept snapshots that no export will ask about; it has no object."""
STORED_DATA = "StoredData"
"""A task whose name is that of a BackupStore: is what a namespace's backups rely on still there?"""
MAINTENANCE = "Maintenance"
"""A task whose name is that of a BackupStore: upkeep of the repositories in it."""
ABANDONED = "Abandoned"
"""A task whose name is the UID of a Restore that was deleted: by it is found what was made for it."""
_DONE = {
    "DiskBackup": FINISHED,
    "DiskSnapshot": frozenset({"Ready", "Failed"}),
    "Restore": frozenset({"Completed", "Failed"}),
}
LEFT_TO_DO = ("status.cleanedUp!=true",)
"""Fields that select the DiskBackups that have not ended, or have left something behind: not the long history."""
# Several changes of a policy's backups at once are looked at together.
TOGETHER = 2.0


def key_of(obj: Object) -> Key:
    """Return the key of one of our objects."""
    return Key(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def is_open(obj: Object) -> bool:
    """Return whether an object of ours has something left to do, as far as it says itself."""
    if "deletionTimestamp" in obj["metadata"] or is_edited(obj):
        return True
    done, status = _DONE.get(obj["kind"]), _status(obj)
    if obj["kind"] == "DiskBackup" and not status.get("cleanedUp"):
        return True
    return done is not None and status.get("phase") not in done


def is_unguarded(obj: Object) -> bool:
    """Return whether a DiskBackup with data lacks its finalizer, so that its deletion would not be noticed.

    An uninstallation takes the finalizers away, and the objects stay.
    """
    status = _status(obj)
    has_data = obj["kind"] == "DiskBackup" and status.get("manifest") and not status.get("tombstonedAt")
    return bool(has_data) and FINALIZER not in (obj["metadata"].get("finalizers") or ())


def is_due(policy: Object, now: datetime) -> bool:
    """Return whether a BackupPolicy has to be looked at now."""
    if is_edited(policy):
        return True
    slot = _status(policy).get("nextSlot")
    return slot is not None and _has_come(slot, now)


def is_stuck(policy: Object) -> bool:
    """Return whether a BackupPolicy has neither a next slot nor leave to have none, or no figures yet."""
    status = _status(policy)
    return "totals" not in status or (status.get("nextSlot") is None and not policy["spec"].get("suspend", False))


def may_expire(backup: Object, horizon: datetime) -> bool:
    """Return whether retention has something to say about a DiskBackup before the horizon."""
    status = _status(backup)
    if status.get("phase") not in FINISHED:
        return False
    moment = status.get("expiresAt")
    if status.get("keptBecause", "").startswith(Keep.CONFIRMATION):
        return True
    return moment is None or _has_come(moment, horizon)


def stored_data_of(backup: Object) -> Key | None:
    """Return the key of the task that looks whether a finished DiskBackup's data is there; None if it has none."""
    store = (_status(backup).get("store") or {}).get("name", "")
    return Key(STORED_DATA, backup["metadata"].get("namespace", ""), store) if relies_on(backup, store) else None


def has_open_cut(backup: Object) -> bool:
    """Return whether a guest may be frozen for a DiskBackup."""
    cut = _status(backup).get("cut") or {}
    return cut.get("freeze") in ("Requested", "Frozen") and not cut.get("thawedAt")


def policy_of(backup: Object, kind: str = "BackupPolicy") -> Key:
    """Return the key of a DiskBackup's policy, or of a task about it."""
    return Key(kind, backup["metadata"].get("namespace", ""), backup["spec"]["policyRef"]["name"])


def retention_of(policy: Object) -> Key:
    """Return the key of the task that applies a BackupPolicy's retention."""
    return Key(RETENTION, policy["metadata"].get("namespace", ""), policy["metadata"]["name"])


def maintenance_of(store: Object) -> Key:
    """Return the key of the task that sees to the upkeep of a BackupStore's repositories."""
    return Key(MAINTENANCE, "", store["metadata"]["name"])


class Owners:
    """Remembers the UIDs of unfinished objects and snapshots: what is made for them names its owner by UID."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._ready: set[str] = set()
        self._lock = threading.Lock()

    def note(self, obj: Object, *, gone: bool = False) -> None:
        """Remember an object of ours while it has something left to do, or can lose what it stands for."""
        uid = obj["metadata"].get("uid", "")
        with self._lock:
            self._ready.discard(uid)
            if gone or not (is_open(obj) or may_be_lost(obj)):
                self._keys.pop(uid, None)
            else:
                self._keys[uid] = key_of(obj)
                if not is_open(obj):
                    self._ready.add(uid)

    def knows(self, uid: str) -> bool:
        """Return whether an unfinished object, or one that can lose what it stands for, was told of."""
        with self._lock:
            return uid in self._keys

    def owner_of(self, child: Object, change: str | None = None) -> Key | None:
        """Return whom something that carries our labels was made for, if that is not finished or may be lost."""
        uid = (child["metadata"].get("labels") or {}).get(OWNER_UID, "")
        # At the start every VolumeSnapshot is told of: one that is well is nothing to a DiskSnapshot that is Ready.
        well = change != "DELETED" and "deletionTimestamp" not in child["metadata"] and _status(child).get("readyToUse")
        with self._lock:
            return None if well and uid in self._ready else self._keys.get(uid)


def wakes(obj: Object, change: str | None) -> Iterator[tuple[Key, float]]:
    """Yield what an event about one of our objects wakes, each with a delay in seconds.

    ``change`` is ADDED, MODIFIED, DELETED or None for what is there at the start: of those only the unfinished ones
    wake somebody, as the tick looks after the rest.
    """
    kind = obj["kind"]
    if kind in _DONE:
        yield from _wakes_of_run(obj, change)
    elif change == "DELETED" or is_edited(obj) or "deletionTimestamp" in obj["metadata"]:
        yield key_of(obj), 0.0
    if kind == "BackupStore" and (is_edited(obj) or (change is not None and _asks(obj))):
        yield maintenance_of(obj), 0.0
    if kind == "BackupPolicy" and (change in ("ADDED", "DELETED") or is_edited(obj) or _answers(obj)):
        yield retention_of(obj), TOGETHER


def _wakes_of_run(obj: Object, change: str | None) -> Iterator[tuple[Key, float]]:
    if change != "DELETED" and (is_open(obj) or is_unguarded(obj)):
        yield key_of(obj), 0.0
    if obj["kind"] == "Restore" and change == "DELETED" and _status(obj).get("phase") != "Completed":
        yield Key(ABANDONED, obj["metadata"].get("namespace", ""), obj["metadata"]["uid"]), 0.0
    if obj["kind"] != "DiskBackup" or change is None:
        return
    if change == "DELETED" or _status(obj).get("phase") in FINISHED:
        yield policy_of(obj), TOGETHER
        yield policy_of(obj, RETENTION), TOGETHER


def horizon(now: datetime, period: timedelta) -> datetime:
    """Return until when a pass over everything has to look ahead, so that nothing falls between two passes."""
    return now + 2 * period


def is_edited(obj: Object) -> bool:
    """Return whether the status does not speak of the newest spec."""
    return bool(_status(obj).get("observedGeneration") != obj["metadata"].get("generation"))


def _asks(store: Object) -> bool:
    """Return whether a BackupStore asks for runs, or answers what a prune has asked about."""
    return not {*REQUESTED.values(), CONFIRM_PRUNE}.isdisjoint(store["metadata"].get("annotations") or {})


def _answers(policy: Object) -> bool:
    """Return whether a BackupPolicy says that its backups may expire, which wait for that."""
    meta, conditions = policy["metadata"], _status(policy).get("conditions") or ()
    answer = (meta.get("annotations") or {}).get(CONFIRM_EXPIRY)
    return answer == str(meta.get("generation")) and any(each["type"] == HELD for each in conditions)


def may_be_lost(obj: Object) -> bool:
    """Return whether an object stands for something that others can take away: a Ready DiskSnapshot."""
    # Whoever may delete a VolumeSnapshot can take its data away.
    return bool(obj["kind"] == "DiskSnapshot" and _status(obj).get("phase") == "Ready")


def _has_come(moment: str, now: datetime) -> bool:
    try:
        return datetime.fromisoformat(moment) <= now
    except (ValueError, TypeError):
        # Whoever looks at the object tells what is wrong with it.
        return True


def _status(obj: Object) -> Object:
    return obj.get("status") or {}
