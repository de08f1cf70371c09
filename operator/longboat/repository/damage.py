"""What is known to be damaged, remembered in the repository, so that no new backup refers to it.

`damage/<object id>` are small documents, created by whoever finds damage and never changed; all of them together
count. They name packs, or frames of packs. An export reads them before it uses its parent, and stores the blocks that
the parent has in such a frame anew from the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal

from pydantic import AwareDatetime, FailFast, Field

from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import DamagedError, ObjectNotFoundError
from .layout import DAMAGE, ID_BYTES, MAX_PACK, Kind
from .manifests import Id
from .object_store import persistently, put_fresh
from .pages import Page
from .repository import Repository

WHOLE = -1  # Stands for every frame of a pack.
ENTRIES = 100_000  # Packs and frames that one document names at most: a few MiB of JSON.
_KINDS: dict[Literal["data", "map"], Kind] = {"data": Kind.DATA_PACK, "map": Kind.MAP_PACK}


class DamagedPack(Document):
    """A pack that is gone or unusable as a whole, or the offsets of its damaged frames."""

    kind: Literal["data", "map"]
    pack: Id
    whole: bool = False
    frames: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_PACK)], ...], FailFast()] = ()


class DamageRecord(Document):
    """What one run found, and when."""

    found: AwareDatetime
    packs: Annotated[list[DamagedPack], FailFast()]


class Damage:
    """A set of damaged frames, each a kind, a pack's id and an offset, which may be WHOLE."""

    def __init__(self) -> None:
        """Know of no damage."""
        self._packs: dict[tuple[Kind, bytes], set[int]] = {}

    def __bool__(self) -> bool:
        """Tell whether anything is damaged."""
        return bool(self._packs)

    def __iter__(self) -> Iterator[tuple[Kind, bytes, int]]:
        """Yield each damaged frame; a pack that is damaged as a whole once, as WHOLE."""
        for (kind, pack), offsets in sorted(self._packs.items()):
            for offset in [WHOLE] if WHOLE in offsets else sorted(offsets):
                yield kind, pack, offset

    def __or__(self, other: Damage) -> Damage:
        """Return what is in this set or the other."""
        both = Damage()
        for frame in (*self, *other):
            both.add(*frame)
        return both

    def add(self, kind: Kind, pack: bytes, offset: int = WHOLE) -> None:
        """Take a frame, or a whole pack, as damaged."""
        self._packs.setdefault((kind, pack), set()).add(offset)

    def add_record(self, record: DamageRecord) -> None:
        """Take everything that a document names as damaged."""
        for entry in record.packs:
            for offset in [WHOLE] if entry.whole else entry.frames:
                self.add(_KINDS[entry.kind], bytes.fromhex(entry.pack), offset)

    def covers(self, kind: Kind, pack: bytes, offset: int) -> bool:
        """Tell whether a frame is damaged, by itself or with its pack."""
        offsets = self._packs.get((kind, pack))
        return offsets is not None and (WHOLE in offsets or offset in offsets)

    def has(self, kind: Kind, pack: bytes) -> bool:
        """Tell whether anything of a pack is damaged."""
        return (kind, pack) in self._packs

    def packs(self, kind: Kind) -> set[bytes]:
        """Return the packs of a kind of which anything is damaged."""
        return {pack for found, pack in self._packs if found is kind}

    def key(self, kind: Kind, pack: bytes, offset: int) -> tuple[Kind, bytes, int]:
        """Return as what a damaged frame is known: by itself, or WHOLE if its pack is."""
        return kind, pack, WHOLE if WHOLE in self._packs[kind, pack] else offset

    def blocks_of(self, page: Page) -> frozenset[int]:
        """Return which blocks of a page (numbers within it) lie in damaged frames."""
        if not self._packs:
            return frozenset()
        bad = {n for n, f in enumerate(page.frames, 1) if self.covers(Kind.DATA_PACK, f.pack, f.offset)}
        return frozenset(i for i, number in enumerate(page.frame_of) if number in bad) if bad else frozenset()

    def beyond(self, known: Damage) -> Damage:
        """Return what is in this set and not in the other."""
        more = Damage()
        for kind, pack, offset in self:
            if not known.covers(kind, pack, offset):
                more.add(kind, pack, offset)
        return more


def read_damage(repository: Repository, unreadable: Callable[[str, DamagedError], None] | None = None) -> Damage:
    """Return everything that is known to be damaged.

    Documents that can't be read are told to `unreadable` and passed over; without it, DamagedError.
    """
    damage = Damage()
    for info in list(repository.store.list(DAMAGE)):
        try:
            damage.add_record(persistently(partial(read_record, repository, info.name)))
        except ObjectNotFoundError:
            continue  # Removed since the listing, as nothing refers to its packs any more.
        except DamagedError as error:
            if unreadable is None:
                raise
            unreadable(info.name, error)
    return damage


def record_damage(repository: Repository, damage: Damage, found: AwareDatetime) -> list[str]:
    """Store documents that name this damage; return their object names."""
    return [_write(repository, DamageRecord(found=found, packs=packs)) for packs in _portions(_packs(damage))]


def _packs(damage: Damage) -> Iterator[DamagedPack]:
    offsets: dict[tuple[Kind, bytes], list[int]] = {}
    for kind, pack, offset in damage:
        offsets.setdefault((kind, pack), []).append(offset)
    names = {kind: name for name, kind in _KINDS.items()}
    for (kind, pack), found in offsets.items():
        whole = found == [WHOLE]
        yield DamagedPack(kind=names[kind], pack=pack.hex(), whole=whole, frames=() if whole else tuple(found))


def _portions(packs: Iterator[DamagedPack]) -> Iterator[list[DamagedPack]]:
    portion, entries = list[DamagedPack](), 0
    for pack in packs:
        portion.append(pack)
        entries += 1 + len(pack.frames)
        if entries >= ENTRIES:
            yield portion
            portion, entries = [], 0
    if portion:
        yield portion


def _write(repository: Repository, record: DamageRecord) -> str:
    object_id = repository.random(ID_BYTES)
    name = f"{DAMAGE}{object_id.hex()}"
    put_fresh(repository.store, name, seal_document(repository.keys, Kind.DAMAGE, object_id, record))
    return name


def read_record(repository: Repository, name: str) -> DamageRecord:
    """Return a record of damage; DamagedError or ObjectNotFoundError."""
    data = repository.store.get(name, MAX_DOCUMENT_OBJECT)
    try:
        object_id, record = open_document(repository.keys, Kind.DAMAGE, data, DamageRecord)
    except DamagedError as error:
        raise DamagedError(f"{repository.store.describe()}: {name}: {error}") from None
    if name != f"{DAMAGE}{object_id.hex()}":
        raise DamagedError(f"{name}: the record of damage in this place belongs under another name")
    return record
