"""A verification finds every damage that it looks at, says whom it hurts, and never calls anything sound damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.repository import (
    Repository,
    VerifyReport,
    read_disk_manifest,
    reference_to,
    verify,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository import verify_frames as frames
from longboat.repository.damage import read_damage
from longboat.repository.errors import AccessDeniedError, BackupNotFoundError, RepositoryError
from longboat.repository.object_store import Data, ScopedStore
from longboat.repository.page_build import PageBuild
from longboat.repository.pages import FrameRef
from longboat.repository.verify_frames import FrameSet, Sample
from tests.fakes.object_store import FaultyStore, MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, PATH, backup_time, export, repository_in, restore, write_image
from .test_damage import NOW, frames_of

SIZE = 6 * PAGE_BLOCKS * BLOCK


@dataclass(repr=False)
class World:
    """A store with backups, the manifests and contents of these, and the folder of their disk."""

    store: MemoryStore
    repository: Repository
    manifests: list[str]
    contents: list[bytes]
    folder: Path

    def copy(self) -> World:
        store = self.store.copy()
        return replace(self, store=store, repository=repository_in(store))

    def names(self, folder: str) -> list[str]:
        return sorted(name for name in self.store.objects if f"/{folder}/" in name)

    def damage(self, name: str, how: str, at: int = 60) -> None:
        content, modified, version = self.store.objects.pop(name)
        if how == "flip":
            content = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]
        if how != "gone":
            self.store.objects[name] = (content[:at] if how == "cut" else content, modified, version)

    def restores(self, tmp_path: Path) -> list[bool]:
        """Tell which backups can be restored bit by bit."""
        return [self._restores(m, c, tmp_path) for m, c in zip(self.manifests, self.contents, strict=True)]

    def _restores(self, manifest: str, content: bytes, tmp_path: Path) -> bool:
        try:
            return restore(self.store, self.repository.master_key, manifest, tmp_path)[0] == content
        except RepositoryError:
            return False


def back_up(world: World, name: str, number: int) -> World:
    """Export the folder's disk and write the backup's manifest."""
    result = export(world.store, world.repository.master_key, world.folder, name, number)
    stored = read_disk_manifest(world.repository, result.manifest)
    write_backup_manifest(world.repository, name, backup_time(number), [reference_to(stored, "data")])
    content = (world.folder / "disk.img").read_bytes()
    return replace(world, manifests=[*world.manifests, result.manifest], contents=[*world.contents, content])


def check(world: World, share: float = 100, **more: object) -> VerifyReport:
    return verify(world.repository, share=share, now=NOW, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three backups of a disk: one, then two with a changed page, then three with another."""
    folder = tmp_path_factory.mktemp("chain")
    content = {i * BLOCK: bytes([i + 1]) * BLOCK for i in range(0, 6 * PAGE_BLOCKS, 2)}
    store = MemoryStore()
    world = World(store, repository_in(store), [], [], write_image(folder / "disk", content, SIZE))
    world = back_up(world, "one", 1)
    write_image(world.folder, {**content, 2 * BLOCK: os.urandom(BLOCK)}, SIZE)
    world = back_up(world, "two", 2)
    write_image(world.folder, {**content, 2 * BLOCK: os.urandom(BLOCK), 20 * BLOCK: os.urandom(BLOCK)}, SIZE)
    return back_up(world, "three", 3)


def test_sound_repository_is_ok_and_stays_as_it_was(chain: World) -> None:
    world = chain.copy()
    before = dict(world.store.objects)
    report = check(world)
    assert (report.state, report.damage, report.recorded, report.note) == ("ok", (), (), "")
    assert [(b.name, b.state, b.complete) for b in report.backups] == [
        (name, "ok", True) for name in sorted(["one", "two", "three"], key=world.repository.keys.name_hash)
    ]
    assert report.frames == len({f for m in world.manifests for _, f in frames_of(world.repository, m)})
    assert world.store.objects == before
    assert json.loads(report.model_dump_json(by_alias=True))["nextPhase"] == report.phase


def test_shared_page_is_read_once_and_no_data_without_a_share(chain: World) -> None:
    reads: list[str] = []

    class Watched(MemoryStore):
        def get_range(self, name: str, offset: int, length: int) -> Data:
            reads.append(f"{name} {offset}")
            return super().get_range(name, offset, length)

    store = Watched()
    store.objects = dict(chain.store.objects)
    report = verify(repository_in(store), share=0, now=NOW)
    assert (report.state, report.frames, report.bytes_read) == ("ok", 0, 0)
    assert all("/maps/" in read for read in reads)
    assert len(reads) == len(set(reads)) == report.pages


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 99), place=st.floats(0, 1, exclude_max=True), how=st.sampled_from(["flip", "cut", "gone"]))
def test_exactly_the_backups_that_do_not_restore_are_called_damaged(
    chain: World, tmp_path: Path, which: int, place: float, how: str
) -> None:
    world = chain.copy()
    names = [n for folder in ("packs", "maps", "disks") for n in world.names(folder)]
    name = names[which % len(names)]
    world.damage(name, how, int(place * len(world.store.objects[name][0])))
    report = check(world)
    sound = dict(zip(["one", "two", "three"], world.restores(tmp_path), strict=True))
    # What other backups of the disk have whole is put back by a restore; the object is reported all the same.
    whole = {
        b.name: all(d.recoverable_bytes == d.damaged_bytes for x in b.disks for d in x.damage) for b in report.backups
    }
    assert {b.name: b.state == "ok" or whole[b.name] for b in report.backups} == sound
    assert {name.removeprefix(f"{PATH}/") for _ in report.damage} == {found.object for found in report.damage}
    assert {backup for found in report.damage for backup in found.backups} == set(report.damaged_backups())


def test_ranges_of_the_disk_are_those_of_the_damaged_frame(chain: World) -> None:
    world = chain.copy()
    blocks = frames_of(world.repository, world.manifests[0])
    frame = blocks[5][1]
    pack = next(name for name in world.names("packs") if name.endswith(frame.pack.hex()))
    world.damage(pack, "flip", frame.offset + 20)
    report = check(world)
    one = next(b for b in report.backups if b.name == "one").disks[0]
    assert [(d.object, d.frame_offset) for d in one.damage] == [(pack.removeprefix(f"{PATH}/"), frame.offset)]
    hit = {block for block, f in blocks if f == frame}
    assert {o // BLOCK + i for o, n in one.damage[0].ranges for i in range(n // BLOCK)} == hit
    assert one.damage[0].damaged_bytes == len(hit) * BLOCK
    assert (report.damage[0].problem, report.damage[0].frame_offset) == ("Damaged", frame.offset)


@pytest.mark.parametrize("folder", ["packs", "maps"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_missing_and_cut_packs_are_found_without_reading_data(chain: World, folder: str, how: str) -> None:
    world = chain.copy()
    name = world.names(folder)[0]
    world.damage(name, how)
    report = check(world, share=0)
    assert {found.object for found in report.damage} == {name.removeprefix(f"{PATH}/")}
    assert {found.problem for found in report.damage} == {"Missing" if how == "gone" else "Damaged"}


def test_pack_that_is_only_cut_behind_its_frames_hurts_nobody(chain: World) -> None:
    world = chain.copy()
    for name in world.names("packs"):
        world.damage(name, "cut", len(world.store.objects[name][0]) - 1)
    assert check(world, share=0).state == "ok"


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_damaged_backup_manifest_is_reported_with_its_disks(chain: World, how: str) -> None:
    world = chain.copy()
    hashed = world.repository.keys.name_hash("two")
    name = next(n for n in world.names("backups") if hashed in n)
    world.damage(name, how)
    report = check(world, share=0)
    two = next(b for b in report.backups if b.name == "two")
    assert (two.state, two.complete, [d.manifest for d in two.disks]) == ("damaged", False, [world.manifests[1]])
    assert [(d.object, d.backups) for d in report.damage] == [(name.removeprefix(f"{PATH}/"), ("two",))]


def test_missing_disk_manifest_is_damage_of_its_backup(chain: World) -> None:
    world = chain.copy()
    del world.store.objects[f"{PATH}/{world.manifests[2]}"]
    report = check(world, share=0)
    assert report.damaged_backups() == ["three"]
    assert [(d.object, d.problem) for d in report.damage] == [(world.manifests[2], "Missing")]


def test_missing_keys_are_reported(chain: World) -> None:
    world = chain.copy()
    repository = world.repository
    world.damage(world.names("keys")[0], "cut", 3)
    assert check(world, share=0).damage[0].problem == "Damaged"
    for name in world.names("keys"):
        del world.store.objects[name]
    assert verify(repository, share=0, now=NOW).damage[0].object == f"keys/{repository.key_id}/"


def test_backup_without_a_manifest_of_its_own_is_verified_too(chain: World) -> None:
    world = chain.copy()
    write_image(world.folder, {0: b"more"}, SIZE)
    manifest = export(world.store, world.repository.master_key, world.folder, "four", 4).manifest
    four = next(b for b in check(world, share=0).backups if b.name == "four")
    assert (four.complete, four.state, [d.manifest for d in four.disks]) == (False, "ok", [manifest])


def test_deleted_backup_is_verified_until_it_is_removed(chain: World) -> None:
    world = chain.copy()
    write_tombstone(world.repository, "two", NOW, "test")
    assert [b.name for b in check(world, share=0).backups if b.deleted] == ["two"]


def test_backup_removed_during_the_run_is_no_damage(chain: World) -> None:
    world = chain.copy()

    class Vanishing(MemoryStore):
        def get_range(self, name: str, offset: int, length: int) -> Data:
            for gone in [n for n in self.objects if world.manifests[0] in n or f"backups/{hashed}" in n]:
                del self.objects[gone]
            for gone in packs:
                self.objects.pop(gone, None)
            return super().get_range(name, offset, length)

    hashed = world.repository.keys.name_hash("one")
    later = {f.pack.hex() for m in world.manifests[1:] for _, f in frames_of(world.repository, m)}
    # A pack that only backup one refers to.
    packs = [n for n in world.names("packs") if n.rsplit("/", 1)[1] not in later]
    store = Vanishing()
    store.objects = dict(world.store.objects)
    report = verify(repository_in(store), share=100, now=NOW)
    assert (report.state, report.damage, report.recorded) == ("ok", (), ())


def test_damage_is_remembered_once_and_healed_by_the_next_backup(chain: World, tmp_path: Path) -> None:
    world = chain.copy()
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "disk.img").write_bytes(world.contents[2])
    world = replace(world, folder=folder)
    for name in world.names("packs"):
        world.damage(name, "flip", 70)
    report = check(world)
    assert len(report.recorded) == 1 and set(report.damaged_backups()) == {"one", "two", "three"}
    assert check(world).recorded == ()
    # Without a share of the data, what is known to be damaged is looked at all the same.
    assert check(world, share=0).damaged_backups() == report.damaged_backups()
    world = back_up(world, "four", 4)
    assert world.restores(tmp_path)[3]
    report = check(world)
    assert "four" not in report.damaged_backups()
    three = next(b for b in report.backups if b.name == "three")
    assert all(d.recoverable_bytes == d.damaged_bytes for d in three.disks[0].damage)


def test_record_that_can_not_be_read_is_reported_and_made_again(chain: World) -> None:
    world = chain.copy()
    world.damage(world.names("packs")[0], "gone")
    [name] = check(world).recorded
    world.damage(f"{PATH}/{name}", "flip")
    report = check(world)
    assert name in {found.object for found in report.damage} and len(report.recorded) == 1
    del world.store.objects[f"{PATH}/{name}"]
    assert read_damage(world.repository)


def test_credentials_that_may_not_write_still_get_a_report(chain: World) -> None:
    class ReadOnly(MemoryStore):
        def put_new(self, name: str, data: Data) -> str:
            raise AccessDeniedError(name)

    world = chain.copy()
    world.damage(world.names("packs")[0], "gone")
    store = ReadOnly()
    store.objects = world.store.objects
    report = verify(Repository(ScopedStore(store, PATH), world.repository.keys), share=0, now=NOW)
    assert report.state == "damaged" and "new backups may refer" in report.note


def test_only_the_chosen_backups_data_is_read(chain: World) -> None:
    world = chain.copy()
    report = check(world, backups=["one"])
    assert report.frames == len({frame for _, frame in frames_of(world.repository, world.manifests[0])})
    with pytest.raises(BackupNotFoundError, match="nine"):
        check(world, backups=["one", "nine"])


FRAMES = st.builds(FrameRef, st.binary(min_size=16, max_size=16), st.integers(48, 1 << 27), st.just(100), st.just(1))


@given(st.lists(FRAMES, max_size=50), st.floats(0.5, 100), st.integers(0, (1 << 32) - 1))
def test_samples_that_follow_each_other_cover_everything(places: list[FrameRef], share: float, phase: int) -> None:
    left = set(places)
    for _ in range(int(-(-100 // share))):
        sample = Sample.of(share, phase, os.urandom)
        left -= {frame for frame in left if sample.takes(frame)}
        phase = sample.next_phase
    assert not left


def test_sample_is_about_the_share_of_each_pack() -> None:
    sample = Sample.of(25, None, os.urandom)
    for _ in range(20):
        pack = os.urandom(16)
        taken = sum(sample.takes(FrameRef(pack, at << 20, 100, 1)) for at in range(32))
        assert 5 <= taken <= 11


@pytest.mark.parametrize("share", [-1, 101])
def test_share_out_of_bounds_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Sample.of(share, None, os.urandom)


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers(0, 50))))
def test_frame_set_is_a_set(members: list[tuple[bytes, int]]) -> None:
    known: set[tuple[bytes, int]] = set()
    compact = FrameSet()
    for member in members:
        assert compact.add(*member) == (member not in known)
        known.add(member)


def test_pack_with_many_damaged_frames_counts_as_damaged(chain: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_WHOLE_FROM", 0)
    world = chain.copy()
    name = world.names("packs")[0]
    world.damage(name, "flip", 70)
    report = check(world)
    assert [(d.object, d.frame_offset) for d in report.damage] == [(name.removeprefix(f"{PATH}/"), None)]


class Lying(MemoryStore):
    """Gives too few or altered bytes at its nth read, as a bad network would."""

    def __init__(self, objects: dict[str, tuple[bytes, datetime, int]], at: int, how: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self.objects, self.at, self.how, self.reads = dict(objects), at, how, 0

    def get_range(self, name: str, offset: int, length: int) -> Data:
        self.reads += 1
        data = bytes(super().get_range(name, offset, length))
        return self.how(data) if self.reads == self.at else data


@pytest.mark.parametrize("how", [lambda data: data[:-1], lambda data: b"", lambda data: b"\0" * len(data)])
def test_what_the_network_spoils_once_is_no_damage(chain: World, how: Callable[[bytes], bytes]) -> None:
    for at in range(1, 40):
        store = Lying(chain.store.objects, at, how)
        report = verify(repository_in(store), share=100, now=NOW)
        assert (report.state, report.recorded) == ("ok", ())


def test_fault_at_any_operation_is_raised_and_never_taken_for_damage(chain: World) -> None:
    counter = FaultyStore(chain.store.copy())
    verify(repository_in(counter), share=100, now=NOW)
    for at in range(counter.operations):
        world = chain.store.copy()
        with pytest.raises(RepositoryError):
            verify(repository_in(FaultyStore(world, "fails", at)), share=100, now=NOW)
        assert world.objects == chain.store.objects


def test_progress_ends_at_the_size_of_all_disks(chain: World) -> None:
    told: list[tuple[int, int, int]] = []
    report = check(chain.copy(), tell=lambda *counts: told.append(counts))
    assert told[-1] == (3 * SIZE, 3 * SIZE, report.bytes_read)


def test_map_that_names_the_wrong_block_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    image = write_image(tmp_path / "disk", {0: b"one" * 1365 + b"two" * 1365}, 2 * BLOCK)
    world = World(store, repository_in(store), [], [], image)
    place = PageBuild.place
    # A bug of the writer: everything authenticates, but the two blocks of the frame are mixed up.
    monkeypatch.setattr(PageBuild, "place", lambda page, index, frame, slot: place(page, index, frame, 1 - slot))
    world = back_up(world, "one", 1)
    assert check(world, share=0).state == "ok"
    report = check(world)
    assert report.damaged_backups() == ["one"] and "another block" in report.damage[0].detail
