"""A store with backups of a disk, of which the tests of prune remove some."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    Asked,
    PruneReport,
    advance_epoch,
    prune,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.closing import NOTHING, Accepted
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import BLOCK, PATH, backup_time, export, repository_in, restore, write_image

GRACE = timedelta(hours=24)
SIZE = 30 * BLOCK
_FOLDER = f"{PATH}/"


class World:
    """A store with backups of a disk of which the even blocks never change and block 1 always does."""

    def __init__(self, folder: Path, store: MemoryStore | None = None) -> None:
        self.store, self.folder = store or MemoryStore(), folder
        self.repository = repository_in(self.store)
        self.contents: dict[str, bytes] = {}
        self.manifests: dict[str, str] = {}

    def copy(self, folder: Path) -> World:
        """Return an independent copy that keeps its files in another folder."""
        world = World(folder, self.store.copy())
        world.contents, world.manifests = dict(self.contents), dict(self.manifests)
        return world

    @property
    def key(self) -> bytes:
        return self.repository.master_key

    def back_up(self, name: str, policy: str = "Newest") -> None:
        """Write something and back it up, with its backup manifest."""
        number = len(self.manifests)
        even = {i * BLOCK: bytes([i + 1]) * BLOCK for i in range(0, 30, 2)}
        image = write_image(self.folder / "disk", {**even, BLOCK: name.encode().ljust(BLOCK, b".")}, SIZE)
        self.contents[name] = (image / "disk.img").read_bytes()
        self.manifests[name] = export(self.store, self.key, image, name, number, policy).manifest
        reference = reference_to(read_disk_manifest(self.repository, self.manifests[name]), "data")
        write_backup_manifest(self.repository, name, backup_time(number), [reference])

    def remove(self, name: str) -> None:
        """Delete a backup for good."""
        write_tombstone(self.repository, name, self.store.now, "test")
        sweep_tombstones(self.repository, self.store.now, timedelta(0))
        del self.contents[name]

    def prune(
        self,
        dry_run: bool = False,
        grace: timedelta = GRACE,
        allow_most: bool | Asked = False,
        closed: datetime | None = None,
        accepted: Accepted = NOTHING,
        may_retire: bool = False,
    ) -> PruneReport:
        """Prune with the store's time."""
        return prune(
            self.repository,
            now=self.store.now,
            grace=grace,
            epoch=None if dry_run else advance_epoch(self.repository, {"t"}, "t"),
            dry_run=dry_run,
            allow_most=allow_most,
            closed=closed,
            accepted=accepted,
            may_retire=may_retire,
        )

    def names(self, folder: str = "") -> set[str]:
        """Return the names of all objects below a folder of the repository."""
        return {name.removeprefix(_FOLDER) for name in self.store.objects if name.startswith(_FOLDER + folder)}

    def check(self) -> None:
        """Restore everything that is left."""
        for name, content in self.contents.items():
            assert restore(self.store, self.key, self.manifests[name], self.folder)[0] == content

    def replace(self, name: str, content: bytes) -> None:
        """Put other bytes in the place of an object."""
        _, modified, version = self.store.objects[_FOLDER + name]
        self.store.objects[_FOLDER + name] = (content, modified, version)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("built"))
    for name in ("one", "two", "three"):
        world.back_up(name)
    world.store.advance(2 * GRACE)
    return world


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    """Return a world of one's own with three backups from long ago."""
    return built.copy(tmp_path)


def hide(world: World, *folders: str) -> dict[str, tuple[bytes, datetime, int]]:
    """Take objects out of sight, as delete markers over a bucket's folders do; return them."""
    return {name: world.store.objects.pop(_FOLDER + name) for each in folders for name in world.names(each)}
