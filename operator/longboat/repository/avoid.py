"""What a new backup must not, or should not, refer to of what its parent has, and which pages of the map that concerns.

Damaged frames and condemned packs must not be referred to; packs that are mostly dead should not be, as far as the
budget goes. Either way the parent's blocks there are stored anew. Only the pages that the indexes of the parent's map
packs show to be concerned are looked at; all others can be shared unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from .condemned import CondemnedPacks
from .damage import Damage
from .layout import Kind
from .manifests import DiskManifest
from .mark import DEFAULT_THREADS, map_pack_sizes, page_key, read_tables
from .parallel import in_batches
from .repository import Repository

_BATCH = 256


@dataclass(frozen=True)
class Avoided:
    """What is stored anew: `damage` names it, `rewritten` are the packs that are in it only for being mostly dead.

    `pages` are the numbers of the parent's pages that have anything of it.
    """

    damage: Damage = field(default_factory=Damage)
    rewritten: frozenset[bytes] = frozenset()
    pages: frozenset[int] = frozenset()


def avoid(
    repository: Repository,
    manifest: DiskManifest,
    damage: Damage,
    condemned: CondemnedPacks,
    rewrite: Collection[bytes] = (),
    budget: int = 0,
    threads: int = DEFAULT_THREADS,
) -> Avoided:
    """Return what a backup that is compared with `manifest` stores anew.

    Of the packs in `rewrite`, in their order, as many as hold no more than `budget` of the manifest's blocks. The
    damage is added to. DamagedError if the map can't be read where that is not known.
    """
    if not (damage or condemned or rewrite):
        return Avoided(damage)
    uses = _Uses(damage, condemned, frozenset(rewrite))
    uses.read(repository, manifest, threads)
    chosen = frozenset(_within(budget, rewrite, uses.blocks))
    for pack in chosen:
        damage.add(Kind.DATA_PACK, pack)
    concerned = damage.packs(Kind.DATA_PACK)
    pages = (page for pack, found in uses.pages.items() if pack in concerned for page in found)
    return Avoided(damage, chosen, frozenset(pages) | uses.lost)


class _Uses:
    """Where the parent's map refers to packs that are damaged, condemned or to be rewritten; the former are noted."""

    def __init__(self, damage: Damage, condemned: CondemnedPacks, rewrite: frozenset[bytes]) -> None:
        self._damage, self._condemned, self._rewrite = damage, condemned, rewrite
        self.blocks = Counter[bytes]()
        self.pages: dict[bytes, list[int]] = {}
        self.lost = frozenset[int]()

    def read(self, repository: Repository, manifest: DiskManifest, threads: int) -> None:
        """Read the indexes of the manifest's map packs but for what is known to be lost."""
        for pack in self._condemned.among(Kind.MAP_PACK, {bytes.fromhex(each) for each in manifest.map_packs}):
            self._damage.add(Kind.MAP_PACK, pack)
        numbers = self._numbers(manifest)
        sizes = map_pack_sizes(repository, numbers)
        tables = in_batches(
            threads, _BATCH, lambda entry: read_tables(repository, *entry, sizes.get(entry[0])), numbers.items()
        )
        for found, table in zip(numbers.values(), tables, strict=True):
            for key, uses in table:
                self._note(found[key], uses)

    def _numbers(self, manifest: DiskManifest) -> dict[bytes, dict[int, list[int]]]:
        """Return the numbers of the pages in each map pack by place; note those that are known to be lost."""
        packs, lost = [bytes.fromhex(each) for each in manifest.map_packs], set[int]()
        numbers: dict[bytes, dict[int, list[int]]] = {}
        for number, page in enumerate(manifest.pages):
            if page is None:
                continue
            if self._damage.covers(Kind.MAP_PACK, packs[page[0]], page[1]):
                lost.add(number)
                continue
            numbers.setdefault(packs[page[0]], {}).setdefault(page_key(page[1], page[2]), []).append(number)
        self.lost = frozenset(lost)
        return numbers

    def _note(self, pages: list[int], uses: dict[bytes, int]) -> None:
        for pack in self._condemned.among(Kind.DATA_PACK, uses):
            self._damage.add(Kind.DATA_PACK, pack)
        for pack in self._rewrite.intersection(uses):
            self.blocks[pack] += uses[pack] * len(pages)
        for pack in uses:
            if pack in self._rewrite or self._damage.has(Kind.DATA_PACK, pack):
                self.pages.setdefault(pack, []).extend(pages)


def _within(budget: int, rewrite: Iterable[bytes], blocks: Counter[bytes]) -> Iterable[bytes]:
    for pack in rewrite:
        if 0 < blocks[pack] <= budget:
            budget -= blocks[pack]
            yield pack
