"""Which backups damaged frames hurt, of whichever disk, as the indexes of map packs tell it.

Only pages that refer to a damaged pack are read themselves, each once. What can't be told counts as hurt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from .backups import StoredDisk, disk_manifest_names, read_disk_at
from .copies import DiskNames
from .damage import Damage, read_damage
from .errors import BackupNotFoundError, DamagedError, UnsupportedFormatError
from .layout import DISKS, Kind
from .listing import list_disks
from .manifests import DiskManifest
from .map_reader import MapReader
from .mark import map_pack_sizes, page_key, read_tables
from .parallel import in_batches
from .repository import Repository

MOST = 1000  # Manifests that are looked at for a disk and those that may share its frames.
_THREADS, _BATCH = 8, 64


@dataclass(frozen=True)
class HurtBackups:
    """The names of backups that damage hurts; there may be others if `complete` is false."""

    names: tuple[str, ...] = ()
    complete: bool = True

    def text(self, most: int = 8) -> str:
        """Return the first few of the names, and how many there are beside them."""
        more = len(self.names) - most
        rest = f" and {'at least ' * (not self.complete)}{more} more" if more > 0 else ""
        return ", ".join(self.names[:most]) + (rest or " and perhaps others" * (not self.complete))


def backups_hurt_by(repository: Repository, disk_key: str, damage: Damage) -> list[str]:
    """Return the names of the backups for which the disk's manifests were made that refer to damaged frames."""
    names = disk_manifest_names(repository, disk_key)
    return sorted(set(_hurt(_Look(repository, damage, _folder(repository, disk_key)), names)))


def all_hurt_by(repository: Repository, disk_key: str, damage: Damage, most: int = MOST) -> HurtBackups:
    """Return the backups of all disks that damage hurts, the newest of the disk itself first.

    Of all manifests at most so many are looked at; errors of the store are raised.
    """
    own = disk_manifest_names(repository, disk_key)
    names = chain(own, DiskNames(repository).others(disk_key, set()))
    looked_at, rest = list(islice(names, most)), next(names, None)
    return HurtBackups(tuple(dict.fromkeys(_hurt(_Look(repository, damage), looked_at))), rest is None)


def _folder(repository: Repository, disk_key: str) -> str:
    return f"{DISKS}{repository.keys.name_hash(disk_key)}/"


def require_undamaged(repository: Repository, stored: StoredDisk) -> None:
    """See that nothing is recorded as damaged that a finished manifest refers to; DamagedError says what to do.

    An attempt that has ended well may be heard of only after a verification has looked at what it stored.
    """
    try:
        damage = read_damage(repository)
    except (DamagedError, UnsupportedFormatError):
        return  # What is damaged is not known: no new backup refers to anything, and this one is what it is.
    folder = _folder(repository, stored.manifest.disk.disk_key)
    if damage and _Look(repository, damage, folder).is_hurt(stored.manifest):
        raise DamagedError(
            f"disk manifest {stored.name}: an earlier attempt has finished it, and what it stored has been found"
            " damaged since; make another backup, which stores that anew"
        )


def _hurt(look: _Look, names: Iterable[str]) -> Iterator[str]:
    return (found for found in in_batches(_THREADS, _BATCH, look.name_if_hurt, names) if found is not None)


class _Look:
    def __init__(self, repository: Repository, damage: Damage, folder: str = DISKS) -> None:
        self._repository, self._damage = repository, damage
        self._packs = damage.packs(Kind.DATA_PACK)
        self._sizes = map_pack_sizes(repository)
        self._places = {name: disk.current.name for name, disk in list_disks(repository, folder).items()}
        self._found: dict[tuple[bytes, int], bool] = {}  # By page: whether it refers to damage.

    def name_if_hurt(self, name: str) -> str | None:
        try:
            manifest = read_disk_at(self._repository, name, self._places.get(name, name)).manifest
        except (BackupNotFoundError, DamagedError, UnsupportedFormatError):
            return None
        return manifest.backup_name if self.is_hurt(manifest) else None

    def is_hurt(self, manifest: DiskManifest) -> bool:
        reader = MapReader(self._repository, manifest)
        pages = {reader.place(number): (number, ref) for number, ref in enumerate(manifest.pages) if ref is not None}
        if any(self._damage.covers(Kind.MAP_PACK, *place) or self._found.get(place) for place in pages):
            return True
        fresh: dict[bytes, dict[int, tuple[int, int]]] = {}
        for place, (number, ref) in pages.items():
            if place not in self._found:
                fresh.setdefault(place[0], {})[page_key(ref[1], ref[2])] = number, place[1]
        # All of them are looked at: the next manifest shares most of them.
        hurt = [self._look_at(reader, pack, numbers) for pack, numbers in fresh.items()]
        return any(hurt)

    def _look_at(self, reader: MapReader, pack: bytes, numbers: dict[int, tuple[int, int]]) -> bool:
        try:
            tables = read_tables(self._repository, pack, numbers, self._sizes.get(pack)) if self._packs else []
        except (DamagedError, UnsupportedFormatError):
            return True
        hurt = False
        for key, uses in tables:
            number, offset = numbers[key]
            found = not self._packs.isdisjoint(uses) and self._refers(reader, number)
            self._found[pack, offset] = found
            hurt |= found
        return hurt

    def _refers(self, reader: MapReader, number: int) -> bool:
        try:
            page = reader.page(number)
        except DamagedError:
            return True
        frames = page.frames if page else []
        return any(self._damage.covers(Kind.DATA_PACK, frame.pack, frame.offset) for frame in frames)
