"""A reader from before a prune moved blocks goes on where they are now, and calls nothing damaged that is whole."""

from __future__ import annotations

import gc
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from longboat.mover import archive_restore, restore_disk, restore_pipeline
from longboat.mover.archive_restore import Archive
from longboat.mover.disk_reader import DiskReader, LostBlocksError, Shared
from longboat.mover.progress import Progress
from longboat.mover.restore_damage import LostDataError, refuse
from longboat.mover.restore_disk import Restored, run_restore, write_disk
from longboat.mover.restore_qcow2 import open_qcow2, used_clusters
from longboat.mover.results import RestoreResult
from longboat.mover.target import open_image
from longboat.repository import StoredDisk, StoreSettings, read_disk_manifest
from longboat.repository.copies import CopyFinder
from longboat.repository.errors import StoreFailureError
from longboat.repository.folder_store import FolderStore
from longboat.repository.following import FollowingMapReader
from longboat.repository.layout import MAPS, PACKS, Kind, closing_name, pack_name
from longboat.repository.mark import references
from longboat.repository.object_store import Data
from longboat.repository.pages import FrameRef
from tests.unit.mover.disks import BLOCK, PATH, repository_in, restore_job
from tests.unit.mover.test_restore_qcow2 import read_qcow2

from .test_repack import BLOCKS, DAY, LIVING, Gone, forged

KEPT = range(0, BLOCKS, 8)  # One in each page, so that all pages of the second backup are written anew.
SIZE = BLOCKS * BLOCK


class DatedFolder(FolderStore):
    """A folder with a clock that can be set."""

    def __init__(self, path: Path) -> None:
        super().__init__(StoreSettings(type="folder", path=str(path)))
        self.path, self.now = path, datetime(2025, 11, 1, tzinfo=UTC)

    def advance(self, by: timedelta) -> None:
        self.now += by

    def put_new(self, name: str, data: Data) -> str:
        super().put_new(name, data)
        return self._dated(name)

    def put_if_match(self, name: str, data: Data, etag: str) -> str:
        super().put_if_match(name, data, etag)
        return self._dated(name)

    def _dated(self, name: str) -> str:
        moment = self.now.timestamp()
        os.utime(self.path / name, (moment, moment))
        return self.head(name).etag


class World(Gone):
    """A disk that is still backed up, in a folder; of a first backup, now deleted, it has a block of each page."""

    def __init__(self, folder: Path) -> None:
        (folder / "store").mkdir()
        self.store, self.folder = DatedFolder(folder / "store"), folder  # type: ignore[assignment]
        self.repository = repository_in(self.store)
        self.contents, self.manifests = {}, {}
        self.back_up("first", Random(1), range(BLOCKS))
        self.back_up("second", Random(2), [n for n in range(BLOCKS) if n not in KEPT])
        self.remove("first")
        self.store.advance(2 * DAY)
        self.forget_advice()
        self.back_up("third", Random(3), [])
        self.before = self.stored_disk()
        self.packs = self._packs()

    def stored_disk(self) -> StoredDisk:
        return read_disk_manifest(self.repository, self.manifests["second"])

    def reader(self) -> FollowingMapReader:
        """Return a reader by what was read before blocks were moved."""
        return FollowingMapReader(self.repository, self.before)

    def move(self) -> None:
        """Move blocks, and let what was emptied go: a pack, and all map packs of the manifest from before."""
        for _ in range(4):
            self.prune(LIVING)
            self.forget_advice()
            self.store.advance(DAY + timedelta(hours=1))
        assert self.stored_disk().place != self.before.place
        assert [len(mine - there) for mine, there in zip(self.packs, self.there(), strict=True)] == [1, 1]
        assert len(self.packs[1]) == 1

    def lose(self, pack: bytes) -> None:
        self.repository.store.delete(pack_name(Kind.DATA_PACK, pack))

    def flip(self, frame: FrameRef) -> None:
        name = f"{PATH}/{pack_name(Kind.DATA_PACK, frame.pack)}"
        path, moment = self.folder / "store" / name, self.store.head(name).modified.timestamp()
        content = bytearray(path.read_bytes())
        content[frame.offset + frame.length // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, (moment, moment))

    def moved_packs(self) -> set[bytes]:
        """Return the packs that blocks were moved to."""
        return set(references(self.repository, self.stored_disk().manifest).data) - self.packs[0]

    def _packs(self) -> tuple[set[bytes], set[bytes]]:
        manifest = self.before.manifest
        return set(references(self.repository, manifest).data), {bytes.fromhex(each) for each in manifest.map_packs}

    def there(self) -> tuple[set[bytes], ...]:
        listed = ({info.name[-32:] for info in self.repository.store.list(folder)} for folder in (PACKS, MAPS))
        return tuple({bytes.fromhex(each) for each in names} for names in listed)

    def job(self, **more: object) -> RestoreResult:
        target = self.folder / "target"
        target.mkdir(exist_ok=True)
        job = restore_job(self.repository.master_key, self.manifests["second"], target, **more)
        return run_restore(job, self.store, lambda _: None)

    def restored(self) -> bytes:
        return (self.folder / "target" / "disk.img").read_bytes()

    def write(self) -> Restored:
        """Restore by what was read before."""
        reader = self.reader()
        (self.folder / "target").mkdir(exist_ok=True)
        with closing(open_image(self.folder / "target" / "disk.img", SIZE, SIZE, True)) as target:
            return write_disk(self.repository, reader, target, Progress(SIZE, lambda _: None))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def when_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move blocks when a restore has read the manifest."""
    opening = restore_disk.open_target

    def opened(*arguments: object) -> object:
        world.move()
        return opening(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(restore_disk, "open_target", opened)


def when_mapped(world: World, monkeypatch: pytest.MonkeyPatch, module: ModuleType, use: str) -> None:
    """Move blocks when a reader has read the map, and comes to the use of it for the first time."""
    using = getattr(module, use)

    def used(*arguments: object) -> object:
        monkeypatch.setattr(module, use, using)
        world.move()
        return using(*arguments)

    monkeypatch.setattr(module, use, used)


def test_a_restore_goes_on_by_what_took_the_place_of_its_manifest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_opened(world, monkeypatch)
    result = world.job()
    assert world.restored() == world.contents["second"]
    assert (result.unrecorded, result.healed_bytes, result.lost_bytes, result.note) == (0, 0, 0, "")


def test_a_restore_that_has_read_the_map_takes_blocks_from_where_they_are_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_mapped(world, monkeypatch, restore_pipeline, "coalesce")
    result = world.job()
    assert world.stored_disk().place != world.before.place
    assert world.restored() == world.contents["second"]
    assert (result.unrecorded, result.healed_bytes, result.lost_bytes, result.note) == (0, 0, 0, "")


def test_a_restore_keeps_one_manifest_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    when_opened(world, monkeypatch)
    wanted, read_back, first = restore_disk._wanted_manifest, restore_disk.read_back, list[weakref.ref[object]]()

    def noted(*arguments: object) -> object:
        stored = wanted(*arguments)  # type: ignore[arg-type]
        first.append(weakref.ref(stored.manifest))
        return stored

    def look(*arguments: object) -> object:
        gc.collect()
        assert first[0]() is None
        return read_back(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(restore_disk, "_wanted_manifest", noted)
    monkeypatch.setattr(restore_disk, "read_back", look)
    world.job()


@pytest.mark.parametrize("read_before", [0, BLOCK, SIZE])
def test_a_mount_reads_on_for_days(world: World, read_before: int) -> None:
    with ThreadPoolExecutor(4) as pool:
        reader = DiskReader(world.repository, world.before, Shared.of(pool, 0))
        assert reader.read(0, read_before) == world.contents["second"][:read_before]
        world.move()
        assert reader.read(0, SIZE) == world.contents["second"]
        assert (reader._rescue.healed_bytes, list(reader._rescue.frames)) == (0, [])


def test_an_archive_is_read_by_what_took_the_place_of_its_manifest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    when_mapped(world, monkeypatch, archive_restore, "_frames")
    archive = Archive(world.repository, world.before, refuse)
    assert archive.read() == world.contents["second"]
    assert (archive.healed_bytes, list(archive.damaged_frames)) == (0, [])


def test_an_image_is_laid_out_by_what_took_the_place_of_the_manifest(world: World) -> None:
    before = used_clusters(world.reader())
    world.move()
    assert used_clusters(world.reader()) == before
    path, reader = world.folder / "disk.qcow2", world.reader()
    with closing(open_qcow2(path, reader, True)) as target:
        write_disk(world.repository, reader, target, Progress(SIZE, lambda _: None))
    assert read_qcow2(path.read_bytes())[:SIZE] == world.contents["second"]


def test_damage_is_healed_from_backups_whose_blocks_were_moved_since_they_were_looked_at(world: World) -> None:
    finder, page = CopyFinder(world.repository, world.before.manifest), world.reader().page(0)
    place = page.place(0) if page else None
    assert page and place
    elsewhere = FrameRef(b"\0" * 16, *place[0][1:])
    for _ in range(2):
        found = finder.elsewhere(elsewhere, {0: (place[1], page.block_id(0))})
        assert found == {0: world.contents["second"][:BLOCK]}
        if place[0].pack in world.there()[0]:
            world.move()


def test_manifests_that_moved_twice_are_followed(world: World) -> None:
    world.move()
    reader = world.reader()
    assert reader.page(0) is not None
    between, page = reader.stored, reader.page(1)
    # As if by another prune: the blocks of the pages are those of a third manifest, and the second has gone.
    world.store.advance(DAY)
    forged(world, **{name: getattr(between.manifest, name) for name in ("map_packs", "pages", "original")})
    world.repository.store.delete(between.place)
    assert reader.follow(between) and reader.stored.place not in {between.place, world.before.place}
    assert reader.page(1) == page


def test_what_is_lost_of_what_was_moved_is_told_where_it_is_now(world: World) -> None:
    world.move()
    (lost,) = world.moved_packs()
    world.lose(lost)
    with pytest.raises(LostDataError, match=pack_name(Kind.DATA_PACK, lost)) as told:
        world.write()
    assert told.value.damage.frame[:2] == (Kind.DATA_PACK, lost)
    with ThreadPoolExecutor(4) as pool:
        reader = DiskReader(world.repository, world.before, Shared.of(pool, 0))
        with pytest.raises(LostBlocksError, match=pack_name(Kind.DATA_PACK, lost)):
            reader.read(0, SIZE)


def test_damage_is_counted_as_ever_beside_what_was_moved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    page = world.reader().page(0)
    assert page is not None
    kept, changed = page.place(0), page.place(1)
    assert kept and changed and kept[0].pack != changed[0].pack
    world.flip(changed[0])
    when_opened(world, monkeypatch)
    result = world.job(salvage=True)
    assert (result.unrecorded, result.healed_bytes, set(result.hurt)) == (1, 0, {"second", "third"})
    restored, whole = world.restored(), world.contents["second"]
    wrong = [at for at in range(0, SIZE, BLOCK) if restored[at : at + BLOCK] != whole[at : at + BLOCK]]
    assert wrong and all(restored[at : at + BLOCK] == bytes(BLOCK) for at in wrong)
    assert result.lost_bytes == len(wrong) * BLOCK


def test_damage_is_told_as_ever_where_nothing_was_moved(world: World) -> None:
    lost = max(world.packs[0])
    world.lose(lost)
    with pytest.raises(LostDataError, match=pack_name(Kind.DATA_PACK, lost)) as told:
        world.job()
    assert told.value.unrecorded == 1
    result = world.job(salvage=True)
    assert result.lost_bytes > 0 and result.unrecorded > 0 and set(result.hurt) == {"second", "third"}


@pytest.mark.parametrize("changed", ["holes", "reason"])
def test_what_says_something_else_is_not_gone_on_with(world: World, changed: str) -> None:
    manifest = world.before.manifest
    what = (
        {"pages": [None] * len(manifest.pages), "map_packs": []} if changed == "holes" else {"full_reason": "another"}
    )
    forged(world, **what)
    world.repository.store.delete(world.before.place)
    assert not world.reader().follow(world.before)
    (lost,) = world.packs[1]
    world.repository.store.delete(pack_name(Kind.MAP_PACK, lost))
    with pytest.raises(LostDataError, match=pack_name(Kind.MAP_PACK, lost)):
        world.write()


def test_nothing_is_gone_on_with_in_a_repository_that_was_closed(world: World) -> None:
    world.move()
    world.repository.store.put_new(closing_name(b"c" * 16), b"by whomever")
    assert not world.reader().follow(world.before)


def test_a_store_that_does_not_answer_is_no_damage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.move()

    def failing(_: object) -> object:
        raise StoreFailureError("no answer")

    reader = world.reader()
    monkeypatch.setattr(world.store, "list", failing)
    with pytest.raises(StoreFailureError):
        reader.page(0)
