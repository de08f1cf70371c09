"""Looking for damaged blocks in other backups: one failure of the store is no answer, and memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

import pytest

from longboat.repository import Repository, StoredDisk, copies, read_disk_manifest
from longboat.repository.copies import CopyFinder, Wanted
from longboat.repository.damage import Damage, record_damage
from longboat.repository.errors import StoreFailureError
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import DISKS, Kind
from longboat.repository.manifests import DiskManifest
from longboat.repository.map_reader import MapReader
from tests.fakes.object_store import MemoryStore

from .disks import export
from .test_damage import NOW, frames_of, one_backup


class World:
    """A backup with a damaged frame, and later ones that have stored its blocks anew."""

    def __init__(self, folder: Path, later: int) -> None:
        self.store, self.repository, manifest, image = one_backup(folder)
        self.manifest: DiskManifest = read_disk_manifest(self.repository, manifest).manifest
        block, self.frame = frames_of(self.repository, manifest)[0]
        page = MapReader(self.repository, self.manifest).page(0)
        place = page.place(block) if page else None
        assert page and place
        self.wanted: Wanted = {block: (place[1], page.block_id(block))}
        damage = Damage()
        damage.add(Kind.DATA_PACK, self.frame.pack, self.frame.offset)
        record_damage(self.repository, damage, NOW)
        for number in range(2, 2 + later):
            export(self.store, self.repository.master_key, image, f"later-{number}", number)

    @property
    def nowhere(self) -> Wanted:
        """A block that nothing has: all manifests are looked at for it, and the listing of all disks as well."""
        return {block: (slot, bytes(len(block_id))) for block, (slot, block_id) in self.wanted.items()}

    @property
    def finder(self) -> CopyFinder:
        return CopyFinder(self.repository, self.manifest)


def fail_once(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, at: int, operation: str) -> Callable[[], bool]:
    """Let the store fail at the nth operation of a kind on disk manifests; return whether it has."""
    left, real = [at], getattr(store, operation)

    def failing(name: str, *rest: int) -> object:
        left[0] -= DISKS in name
        if left[0] == 0 and DISKS in name:
            raise StoreFailureError("503")
        return real(name, *rest)

    monkeypatch.setattr(store, operation, failing)
    return lambda: left[0] <= 0


@pytest.mark.parametrize(("operation", "at"), [("get", 1), ("get", 2), ("list", 1), ("list", 2)])
def test_copies_are_found_after_the_store_has_failed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, at: int
) -> None:
    world = World(tmp_path / "a", later=1)
    finder = world.finder
    failed = fail_once(world.store, monkeypatch, at, operation)
    with pytest.raises(StoreFailureError):
        finder.elsewhere(world.frame, world.nowhere)
    assert failed()
    assert len(finder.elsewhere(world.frame, world.wanted)) == 1


def test_few_large_maps_are_kept_in_memory_and_all_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "a", later=5)
    alive = WeakSet[FollowingMapReader]()
    seen = set[str]()

    class Counted(FollowingMapReader):
        def __init__(self, repository: Repository, stored: StoredDisk) -> None:
            super().__init__(repository, stored)
            alive.add(self)
            seen.add(stored.manifest.backup_name)

    monkeypatch.setattr(copies, "FollowingMapReader", Counted)
    monkeypatch.setattr(copies, "MAX_OPEN_PAGES", 2 * len(world.manifest.pages))
    finder = world.finder
    for _ in range(3):
        assert not finder.elsewhere(world.frame, world.nowhere)
        assert len(alive) <= 2
    assert len(seen) == 6
    assert len(finder.elsewhere(world.frame, world.wanted)) == 1
