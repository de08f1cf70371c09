"""What the program writes, of every kind, is read bit-exactly by the reader that was made from the document alone."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longboat.mover.archive import pack
from longboat.mover.export_disk import run_export
from longboat.repository import (
    DiskIdentity,
    advance_epoch,
    find_generations,
    generate_recovery_pair,
    open_or_create_repository,
    parse_recovery_public,
    read_disk_manifest,
    reference_to,
    rotate_master_key,
    sweep_tombstones,
    update_backup_expiry,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.condemned import CondemnedList, write_condemned
from longboat.repository.damage import Damage, record_damage
from longboat.repository.key_text import STORE_KEY_PREFIX, format_key
from longboat.repository.layout import DEFAULT_PAGE_BLOCKS, MAPS, PACKS, Kind
from tests.fakes.object_store import FaultyStore, MemoryStore
from tests.independent_reader import objects
from tests.independent_reader.check import check
from tests.independent_reader.reader import Backup, open_pack
from tests.independent_reader.reader import Repository as Reader
from tests.unit.mover.disks import BLOCK, PAGE_BLOCKS, PATH, STORE_KEY, backup_time, export_job, write_image

RECOVERY = generate_recovery_pair()
STORE_TEXT = format_key(STORE_KEY_PREFIX, STORE_KEY)
SIZE = 5 * PAGE_BLOCKS * BLOCK + 100


@dataclass
class World:
    """A repository that the program fills, and what each backup of it has to restore to."""

    folder: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    expected: dict[str, tuple[int, str, dict[str, bytes]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repository = open_or_create_repository(self.store, PATH, STORE_KEY, parse_recovery_public(RECOVERY.public))

    def export(self, name: str, image: Path, page_blocks: int = PAGE_BLOCKS, **more: object) -> str:
        """Export a volume as a program of its own would, and return its manifest's name."""
        job = export_job(self.repository.master_key, image, name, len(self.expected), **more)
        return run_export(job, self.store, os.urandom, lambda _: None, page_blocks).manifest

    def commit(self, name: str, disks: dict[str, tuple[str, bytes]]) -> None:
        """Write a backup's manifest of disks, each by the name of its manifest and with what is to be restored."""
        stored = [reference_to(read_disk_manifest(self.repository, found), disk) for disk, (found, _) in disks.items()]
        write_backup_manifest(self.repository, name, backup_time(len(self.expected)), stored, {"keepFor": "30d"}, {})
        self.expected[name] = (1, "kept", {disk: data for disk, (_, data) in disks.items()})

    def back_up(self, name: str, content: dict[int, bytes], size: int = SIZE, **more: object) -> None:
        """Export an image and write the backup's manifest."""
        image = write_image(self.folder / "source", content, size)
        manifest = self.export(name, image, **more)  # type: ignore[arg-type]
        self.commit(name, {"data": (manifest, (image / "disk.img").read_bytes())})

    def archive(self, name: str, folder: Path) -> None:
        manifest = self.export(name, folder, content="Archive", disk=DiskIdentity(disk_key="state"))
        self.commit(name, {"state": (manifest, pack(folder)[0])})

    def names(self, prefix: str) -> list[str]:
        return [info.name for info in self.repository.store.list(prefix)]

    def change(self, name: str, revision: int = 1, state: str = "kept") -> None:
        self.expected[name] = (revision, state, self.expected[name][2])

    def reader(self, key: str = STORE_TEXT) -> Reader:
        """Copy the objects into a fresh folder and open it there."""
        copy = next(path for number in itertools.count() if not (path := self.folder / f"copy-{number}").exists())
        for name, (data, _, _) in self.store.objects.items():
            path = copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Reader(copy / PATH, key)

    def agree(self) -> None:
        """Have every object be sound to the reader, and every backup what it was, with either key."""
        for key in (STORE_TEXT, RECOVERY.secret):
            reader = self.reader(key)
            assert check(reader) == []
            found = {each.name: (each.revision, each.state) for each in reader.backups() if isinstance(each, Backup)}
            assert found == {name: (revision, state) for name, (revision, state, _) in self.expected.items()}
            for name, (_, _, disks) in self.expected.items():
                for disk, data in disks.items():
                    target = reader.folder / f"restored-{name}-{disk}"
                    reader.restore(name, disk, target)
                    assert target.read_bytes() == data, f"{name}, disk {disk}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def content_of(seed: int) -> dict[int, bytes]:
    """Return blocks that compress and blocks that do not, alone and side by side, and an end that is not full."""
    random = Random(seed)
    return {
        0: random.randbytes(2 * BLOCK),
        3 * BLOCK: b"text %d " % seed * 2000,
        9 * BLOCK + 17: b"x",
        20 * BLOCK: random.randbytes(BLOCK) + bytes(BLOCK) + random.randbytes(BLOCK),
        SIZE - 50: b"the end",
    }


def index_entries(world: World, kind: int, prefix: str) -> list[objects.IndexEntry]:
    reader = world.reader()
    ids = [bytes.fromhex(name.rsplit("/", 1)[1]) for name in world.names(prefix)]
    entries = []
    for each in ids:
        with open_pack(reader.folder, kind, each, reader.keys) as file:
            entries += file.index()
    return entries


def test_full_backup_and_increments_agree(world: World) -> None:
    content = content_of(1)
    world.back_up("full", content)
    content |= {3 * BLOCK: bytes(BLOCK), 12 * BLOCK: b"new" * 3000}
    world.back_up("increment", content)
    world.back_up("same", content)
    world.back_up("grown", content, SIZE + 3 * PAGE_BLOCKS * BLOCK + 1)
    world.back_up("shrunk", {0: content[0]}, 3 * BLOCK - 1)
    world.agree()
    assert all(entry.counts for entry in index_entries(world, objects.MAP_PACK, MAPS))


def test_an_increment_refers_to_packs_of_its_parents_and_its_map_pack_says_so(world: World) -> None:
    content = content_of(1)
    world.back_up("full", content)
    world.back_up("increment", content | {5 * BLOCK: b"new" * 1000})
    world.agree()
    assert max(len(entry.ids) for entry in index_entries(world, objects.MAP_PACK, MAPS)) == 2


@pytest.mark.parametrize("size", [1, 511, BLOCK, PAGE_BLOCKS * BLOCK, PAGE_BLOCKS * BLOCK + 1])
@pytest.mark.parametrize("content", [{}, {0: b"\1"}])
def test_small_and_empty_disks_agree(world: World, size: int, content: dict[int, bytes]) -> None:
    world.back_up("small", content, size)
    world.agree()


def test_a_disk_of_no_bytes_agrees(world: World) -> None:
    world.back_up("nothing", {}, 0)
    world.agree()


@pytest.mark.parametrize("block_size", [4096, 8192, 65536, 1 << 20])
@pytest.mark.parametrize("page_blocks", [1, 4, DEFAULT_PAGE_BLOCKS])
def test_block_and_page_sizes_agree(world: World, block_size: int, page_blocks: int) -> None:
    size = 5 * block_size + 100
    content = {0: Random(1).randbytes(block_size), 2 * block_size: b"text" * 5000, size - 30: b"end"}
    world.back_up("full", content, size, blockSize=block_size, page_blocks=page_blocks)
    world.back_up("increment", content | {block_size: b"new"}, size, blockSize=block_size, page_blocks=page_blocks)
    world.agree()


def test_frames_of_many_blocks_agree(world: World) -> None:
    size = 300 * BLOCK
    world.back_up("full", {0: b"".join(b"%8d" % number * 512 for number in range(300))}, size)
    world.back_up("random", {0: Random(2).randbytes(size)}, size)
    world.agree()
    assert max(len(entry.ids) for entry in index_entries(world, objects.DATA_PACK, PACKS)) == 128


def test_archives_agree(world: World) -> None:
    folder = world.folder / "state"
    (folder / "swtpm" / "tpm2").mkdir(parents=True)
    (folder / "swtpm" / "tpm2" / "permall").write_bytes(Random(1).randbytes(9000))
    (folder / "nvram").write_bytes(b"\xff" * 100_000)
    (folder / ("ä" * 90)).write_bytes(b"")
    world.archive("first", folder)
    (folder / "nvram").write_bytes(b"\xff" * 100_001)
    world.archive("second", folder)
    world.agree()


def test_a_machine_with_disks_and_a_manifest_that_two_backups_share_agree(world: World) -> None:
    disks = {}
    for number, disk in enumerate(("root", "data")):
        image = write_image(world.folder / disk, content_of(number), SIZE)
        found = world.export("daily", image, disk=DiskIdentity(disk_key=f"db/{disk} ä"))
        disks[disk] = (found, (image / "disk.img").read_bytes())
    world.commit("daily", disks)
    world.commit("weekly", {"data": disks["data"]})
    world.agree()


def test_a_first_backup_compared_with_another_disk_agrees(world: World) -> None:
    world.back_up("first", content_of(1))
    image = write_image(world.folder / "clone", content_of(1) | {7 * BLOCK: b"own"}, SIZE)
    found = world.export("clone", image, disk=DiskIdentity(disk_key="clone"), dedupe="Namespace")
    world.commit("clone", {"data": (found, (image / "disk.img").read_bytes())})
    assert read_disk_manifest(world.repository, found).manifest.compared_with is not None
    world.agree()


def test_fractions_of_a_second_and_time_zones_agree(world: World) -> None:
    for name, created in (("a", "2026-11-22T03:30:00.999999Z"), ("b", "2026-11-23T01:30:00.5+02:00")):
        world.back_up(name, content_of(1), created=created)
    assert {name.split("/")[2][:16] for name in world.names("disks/")} == {"20261122T033000Z", "20261122T233000Z"}
    world.agree()


def test_revisions_tombstones_and_removals_agree(world: World) -> None:
    for number, name in enumerate(("held", "deleted", "removed", "going")):
        world.back_up(name, content_of(number))
    update_backup_expiry(world.repository, "held", {"hold": True})
    update_backup_expiry(world.repository, "held", None)
    world.change("held", revision=3)
    for name in ("deleted", "removed", "going"):
        write_tombstone(world.repository, name, backup_time(5), "a user")
    sweep_tombstones(
        world.repository, world.store.now + timedelta(days=30), timedelta(days=7), keep=["deleted", "going"]
    )
    del world.expected["removed"]
    world.repository.store.put_new(f"removing/{world.repository.keys.name_hash('going')}", b"")
    world.change("deleted", state="deleted")
    world.change("going", state="removing")
    world.agree()


def test_what_an_interrupted_writer_and_the_maintenance_leave_agrees(world: World) -> None:
    content = content_of(1)
    world.back_up("full", content)
    whole, world.store = world.store, FaultyStore(world.store, "fails", 18)  # type: ignore[assignment]
    image = write_image(world.folder / "source", content | {0: Random(3).randbytes(20 * BLOCK)}, SIZE)
    with pytest.raises(Exception, match="fail"):
        world.export("interrupted", image)
    world.store = whole
    advance_epoch(world.repository, [], "first")
    advance_epoch(world.repository, ["first"], "second")
    (pack_of_map, *_), (pack_of_data, *_) = world.names(MAPS), world.names(PACKS)
    ids = [bytes.fromhex(name.rsplit("/", 1)[1]) for name in (pack_of_map, pack_of_data)]
    damage = Damage()
    damage.add(Kind.MAP_PACK, ids[0])
    damage.add(Kind.DATA_PACK, ids[1], 48)
    record_damage(world.repository, damage, backup_time(1))
    write_condemned(world.repository, CondemnedList(marked=backup_time(1), packs=(os.urandom(16).hex(),)))
    assert all(world.names(folder) for folder in ("leases/", "damage/", "condemned/"))
    world.agree()
    world.back_up("next", content | {4 * BLOCK: b"changed"})
    world.agree()


def test_repositories_before_and_after_a_new_master_key_agree(world: World) -> None:
    world.back_up("old", content_of(1))
    (cluster, uid), recovery = PATH.split("/"), parse_recovery_public(RECOVERY.public)
    for number in (1, 2):
        newest = rotate_master_key(find_generations(world.store, cluster, uid), STORE_KEY, number, recovery)
    # One under the second key, and one under the third.
    assert len(world.names("closed/")) == 2
    folder = world.reader().folder
    world.agree()
    for each in (folder, folder.with_name(f"{uid}.2"), folder.with_name(f"{uid}.3")):
        assert check(Reader(each, STORE_TEXT)) == []
    assert Reader(folder.with_name(f"{uid}.3"), STORE_TEXT).keys.key_id == newest.keys.key_id
    for closing in (folder / "closed").iterdir():
        data = closing.read_bytes()
        closing.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (failure,) = check(Reader(folder, STORE_TEXT))
    assert "does not authenticate" in str(failure)


def test_a_change_of_any_object_is_found(world: World) -> None:
    world.back_up("full", content_of(1))
    for name, (data, modified, version) in world.store.objects.items():
        if name.split("/")[2] not in {"repository", "keys"}:
            world.store.objects[name] = (data[:-1] + bytes([data[-1] ^ 1]), modified, version)
    failures = {getattr(failure, "name", "").split("/")[0] for failure in check(world.reader())}
    assert failures == {"packs", "maps", "disks", "backups"}


BACKUPS = st.lists(
    st.lists(st.tuples(st.integers(0, SIZE - 1), st.sampled_from([b"\0", b"text", b"\xff"]), st.integers(1, 9000))),
    min_size=1,
    max_size=4,
)


@settings(max_examples=15, deadline=None)
@given(
    writes=BACKUPS, sizes=st.lists(st.integers(1, SIZE), min_size=4, max_size=4), block=st.sampled_from([12, 13, 16])
)
def test_any_chain_of_backups_agrees(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[list[tuple[int, bytes, int]]],
    sizes: list[int],
    block: int,
) -> None:
    world = World(tmp_path_factory.mktemp("chain"))
    content: dict[int, bytes] = {}
    for number, (changes, size) in enumerate(zip(writes, sizes, strict=False)):
        content |= {at: (value * count)[:count] for at, value, count in changes}
        inside = {at: data[: size - at] for at, data in content.items() if at < size}
        world.back_up(f"backup-{number}", inside, size, blockSize=1 << block)
    world.agree()
