"""Condemned lists: packs that are about to be deleted, so that no writer begins to refer to them.

`condemned/<object id>` is written once by a prune and names packs that nothing referred to. From then on no manifest
may begin to refer to them, ever; after a grace period they are deleted if there is still no reference, and the list
goes when none of its packs is left. Writers read all lists before they use anything that exists, again at least every
few minutes, and once more right before they write a manifest. docs/explanation/prune.md says why that is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime

from .documents import MAX_DOCUMENT_OBJECT, Document, open_document, seal_document
from .errors import DamagedError, ObjectNotFoundError, UnsupportedFormatError
from .layout import CONDEMNED, ID_BYTES, Kind, condemned_name, pack_name, split_condemned_name
from .manifests import Id
from .object_store import ObjectInfo, put_fresh
from .repository import Repository

MAX_CONDEMNED = 250_000  # Packs of one list: 8 TiB of them, a list of a few MiB.


class CondemnedList(Document):
    """One condemned list: when the mark behind it began (store's time), ids of data packs and of map packs."""

    marked: AwareDatetime
    packs: tuple[Id, ...] = ()
    map_packs: tuple[Id, ...] = ()

    def ids(self) -> Iterator[tuple[Kind, bytes]]:
        """Yield kind and id of each pack."""
        yield from ((Kind.DATA_PACK, bytes.fromhex(each)) for each in self.packs)
        yield from ((Kind.MAP_PACK, bytes.fromhex(each)) for each in self.map_packs)


@dataclass(frozen=True)
class StoredList:
    """A condemned list, its object, and the moment since when it counts, by the store's clock."""

    info: ObjectInfo
    since: datetime
    content: CondemnedList


def write_condemned(repository: Repository, content: CondemnedList) -> str:
    """Store a condemned list under a fresh name and return the name."""
    object_id = repository.random(ID_BYTES)
    name = condemned_name(object_id)
    put_fresh(repository.store, name, seal_document(repository.keys, Kind.CONDEMNED, object_id, content))
    return name


def read_condemned(repository: Repository) -> list[StoredList]:
    """Return every condemned list; one that goes meanwhile is left out, as none of its packs is there any more.

    DamagedError or UnsupportedFormatError names the first one that can't be read.
    """
    found = (_read(repository, info) for info in list(repository.store.list(CONDEMNED)))
    return [each for each in found if each is not None]


def _read(repository: Repository, info: ObjectInfo) -> StoredList | None:
    expected = split_condemned_name(info.name)
    if expected is None:
        raise DamagedError(f"{info.name}: not the name of a condemned list (condemned/<32 hex>); remove it by hand")
    try:
        data = repository.store.get(info.name, MAX_DOCUMENT_OBJECT)
        object_id, content = open_document(repository.keys, Kind.CONDEMNED, data, CondemnedList)
    except ObjectNotFoundError:
        return None
    except (DamagedError, UnsupportedFormatError) as error:
        raise type(error)(f"condemned list {info.name}: {error}") from None
    if object_id != expected:
        raise DamagedError(f"condemned list {info.name}: it belongs under another name")
    # Whichever is later, so that a clock that was wrong at either moment makes the grace longer only.
    return StoredList(info, max(info.modified, content.marked), content)


class CondemnedPacks:
    """What a writer knows to be condemned: everything in any list it has ever seen."""

    def __init__(self, repository: Repository) -> None:
        """Know of nothing yet."""
        self._repository = repository
        self._packs: dict[Kind, set[bytes]] = {Kind.DATA_PACK: set(), Kind.MAP_PACK: set()}
        self._seen: set[str] = set()
        self.unreadable: dict[str, str] = {}

    def refresh(self) -> None:
        """Read the lists that are new since the last call; a StoreError if that fails.

        A list that can't be read is noted in `unreadable`, by name with what is wrong: what it names is not known.
        """
        for info in list(self._repository.store.list(CONDEMNED)):
            if info.name in self._seen:
                continue
            try:
                found = _read(self._repository, info)
            except (DamagedError, UnsupportedFormatError) as error:
                self.unreadable[info.name] = str(error)
            else:
                self._take(found)
            self._seen.add(info.name)

    def __bool__(self) -> bool:
        """Tell whether any pack is known to be condemned."""
        return any(self._packs.values())

    def names(self) -> set[str]:
        """Return the object names of all packs that are condemned."""
        return {pack_name(kind, pack) for kind, packs in self._packs.items() for pack in tuple(packs)}

    def among(self, kind: Kind, packs: Iterable[bytes]) -> list[bytes]:
        """Return those of these packs that are condemned."""
        condemned = self._packs[kind]
        return [pack for pack in packs if pack in condemned]

    def _take(self, found: StoredList | None) -> None:
        for kind, pack in found.content.ids() if found else ():
            self._packs[kind].add(pack)
