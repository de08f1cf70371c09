"""The end of records of damage: what is gone needs no warning, and many small records become one.

A record goes when nothing of what it names is left, or when others say the same for at least the grace period: whoever
is reading the records meanwhile has listed those as well. docs/explanation/prune.md says why no writer misses one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from .damage import ENTRIES, Damage, read_record
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import DAMAGE, Kind
from .object_store import ObjectInfo
from .repository import Repository

MANY = 8  # More records than these are written together.
Pack = tuple[Kind, bytes]


@dataclass(frozen=True)
class Record:
    """A record of damage and its object."""

    info: ObjectInfo
    damage: Damage


@dataclass
class DamageRecords:
    """All records of damage, and which of the packs that they name were seen in the store or referred to since."""

    records: list[Record]
    packs: set[Pack] = field(default_factory=set)
    left: set[Pack] = field(default_factory=set)

    def saw(self, pack: Pack) -> None:
        """Note that a pack is there, or that something refers to it."""
        if pack in self.packs:
            self.left.add(pack)

    def tidy(self, before: datetime) -> tuple[list[ObjectInfo], Damage]:
        """Return the records that may go, and what is to be recorded so that more of them may go later."""
        return tidy(self.records, lambda pack: pack in self.left, before)


def read_records(repository: Repository) -> DamageRecords:
    """Return all records of damage; none if one can't be read, as then what is damaged is not known."""
    records = []
    for info in list(repository.store.list(DAMAGE)):
        damage = Damage()
        try:
            damage.add_record(read_record(repository, info.name))
        except ObjectNotFoundError:
            continue
        except (DamagedError, UnsupportedFormatError):
            return DamageRecords([])
        records.append(Record(info, damage))
    return DamageRecords(records, {(kind, pack) for each in records for kind, pack, _ in each.damage})


def tidy(
    records: Iterable[Record], is_left: Callable[[Pack], bool], before: datetime
) -> tuple[list[ObjectInfo], Damage]:
    """Decide which records may go; only those written at `before` or earlier can, and count in the place of others."""
    young, old = list[Record](), list[Record]()
    for each in records:
        part = Record(each.info, _left_of(each.damage, is_left))
        (old if each.info.modified <= before else young).append(part)
    # The one that says most comes first, so that it stands for as many of the others as it can.
    old.sort(key=lambda each: (-len(list(each.damage)), each.info.name))
    needed, gone, known = list[Record](), list[ObjectInfo](), Damage()
    for each in old:
        more = each.damage.beyond(known)
        if not more:
            gone.append(each.info)
            continue
        needed.append(each)
        for frame in more:
            known.add(*frame)
    return gone, known.beyond(_union(young)) if _too_many(needed, known) else Damage()


def _left_of(damage: Damage, is_left: Callable[[Pack], bool]) -> Damage:
    left = Damage()
    for kind, pack, offset in damage:
        if is_left((kind, pack)):
            left.add(kind, pack, offset)
    return left


def _too_many(records: list[Record], damage: Damage) -> bool:
    return len(records) > max(MANY, 2 * (len(list(damage)) // ENTRIES + 1))


def _union(records: Iterable[Record]) -> Damage:
    damage = Damage()
    for each in records:
        for frame in each.damage:
            damage.add(*frame)
    return damage
