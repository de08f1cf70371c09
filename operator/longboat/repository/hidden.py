"""Who has hidden a manifest: a removal from the trash, as the versions of its announcement tell, or somebody else.

In a bucket with versions delete markers hide objects, and look the same whoever set them. Maintenance takes manifests
away only while `removing/<hash>` is there, which is hidden itself in the end: what was hidden at another time was not
hidden by it. The exception are objects for which another one stands: revisions of a backup's manifest, for which a
later one does, and disk manifests in whose place a prune has written another; and what was hidden right after it was
written: writers withdraw what has come too late, and announce nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise

from .layout import BACKUPS, DISKS, REMOVING, hash_below, split_backup_manifest_name, split_moved_name
from .s3_versions import Version

MANIFESTS = (BACKUPS, DISKS)
WITHDRAWN_WITHIN = timedelta(minutes=20)
"""How long after it has written a manifest a writer may withdraw it: a request is repeated for a few minutes."""
_SECOND = timedelta(seconds=1)  # Services tell times in whole seconds, some of them rounded, in one answer or another.


@dataclass(frozen=True)
class _Span:
    marker: str
    begin: datetime
    end: datetime | None

    def covers(self, moment: datetime) -> bool:
        return self.begin - _SECOND <= moment and (self.end is None or moment <= self.end + _SECOND)


class Removals:
    """When removals went on. `relied_on` are the announcements (names) that something which is hidden still needs."""

    def __init__(self, announcements: Iterable[Version], moves: bool = False) -> None:
        """Take the versions of all announcements, each name's newest first; `moves`: prunes may move manifests."""
        self._moves = moves
        found = groupby(announcements, key=lambda each: each.name)
        ours = ((name, [*versions]) for name, versions in found if hash_below(REMOVING, name))
        self._spans = [span for name, versions in ours for span in _spans(name, versions)]
        self.relied_on: set[str] = set()

    def unexplained(self, names: list[list[Version]]) -> list[list[Version]]:
        """Return which of the hidden manifests among these no removal explains.

        For each name its versions, the newest first; those of a backup's or disk's manifest together, sorted by name.
        """
        left, later = list[list[Version]](), self._moves and _has_moved(names)
        for versions in reversed(names):
            if _is_withdrawn(versions):
                continue  # And it stands for nothing else.
            if not versions[0].marker or self._explains(versions) or (later and _is_further(versions[0].name)):
                later = True
            else:
                left.append(versions)
        return left

    def rely_on(self, versions: list[Version]) -> None:
        """Note that something hidden is still there: if it is a manifest, what explains it has to stay as well."""
        if versions[0].name.startswith(MANIFESTS):
            self.relied_on.update(each.marker for each in self._covering(versions))

    def _explains(self, versions: list[Version]) -> bool:
        return hidden_at(versions) is None or bool(self._covering(versions))

    def _covering(self, versions: list[Version]) -> list[_Span]:
        moment = hidden_at(versions)
        return [span for span in self._spans if moment is not None and span.covers(moment)]


def hidden_at(versions: list[Version]) -> datetime | None:
    """Return when the newest version of an object was hidden, None if there are delete markers alone.

    Some services give the delete marker the time of what it hides, and stamp that anew: the later one counts.
    """
    markers = 0
    while markers < len(versions) and versions[markers].marker:
        markers += 1
    # More markers may have come over the one that hid it.
    both = versions[markers - 1 : markers + 1]
    return max(each.modified for each in both) if 0 < markers < len(versions) else None


def _is_withdrawn(versions: list[Version]) -> bool:
    """Tell whether each version was hidden right after it was written: who hides older ones can't make it seem so."""
    if not versions[0].marker:
        return False
    pairs = [(newer, older) for newer, older in pairwise(versions) if not older.marker]
    # Of the two stamps either may be that of the hiding, as above.
    return bool(pairs) and all(
        newer.marker and abs(newer.modified - older.modified) <= WITHDRAWN_WITHIN for newer, older in pairs
    )


def manifest_group(name: str) -> str:
    """Return what the manifests that are judged together have in common: a backup's folder, a disk manifest's name."""
    moved = split_moved_name(name)
    return name.rpartition("/")[0] if name.startswith(BACKUPS) else moved[0] if moved else name


def _has_moved(names: list[list[Version]]) -> bool:
    """Tell whether one of the objects of a disk manifest can be seen: a prune hides others once one is sound."""
    return names[0][0].name.startswith(DISKS) and any(not versions[0].marker for versions in names)


def _spans(name: str, versions: list[Version]) -> Iterable[_Span]:
    """Yield from when to when there was an object of this name; the stamps may be in another order, as above."""
    stamps = list[datetime]()
    for each in reversed(versions):
        if stamps or not each.marker:
            stamps.append(each.modified)
        if stamps and each.marker:
            yield _Span(name, min(stamps), max(stamps))
            stamps = []
    if stamps:
        yield _Span(name, min(stamps), None)


def _is_further(name: str) -> bool:
    parts = split_backup_manifest_name(name)
    return parts[1] > 1 if parts else name.startswith(DISKS)
