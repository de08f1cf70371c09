"""Disks made from one image share frames: what is damaged of one is healed by the other, and verify knows it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.mover.results import failure_of
from longboat.repository import DiskIdentity, Repository, copies, read_disk_manifest, reference_to, verify
from longboat.repository import write_backup_manifest as write_backup
from longboat.repository.damage import Damage, read_damage
from longboat.repository.errors import AccessDeniedError, DamagedError, RepositoryError
from longboat.repository.hurt import HurtBackups, all_hurt_by, backups_hurt_by
from longboat.repository.layout import Kind
from longboat.repository.map_reader import MapReader
from longboat.repository.object_store import Data
from longboat.repository.pages import FrameRef
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, backup_time, export, repository_in, restore, write_image
from .test_damage import NOW, frames_of

IMAGE = os.urandom(3 * PAGE_BLOCKS * BLOCK)
SIZE = 4 * PAGE_BLOCKS * BLOCK


@dataclass(frozen=True, repr=False)
class Shared:
    """A store with backups of several disks: the manifest and the content of each, by the backup's name."""

    store: MemoryStore
    backups: dict[str, tuple[str, bytes]]

    @property
    def repository(self) -> Repository:
        return repository_in(self.store)

    def back_up(self, folder: Path, name: str, disk: str, content: dict[int, bytes], policy: str = "Newest") -> Shared:
        number = len(self.backups)
        image = write_image(folder / f"{name}-source", content, SIZE)
        identity = DiskIdentity(disk_key=disk, volume_handle=disk)
        key = self.repository.master_key
        done = export(self.store, key, image, name, number, policy, disk=identity, dedupe="Namespace")
        stored = read_disk_manifest(self.repository, done.manifest)
        write_backup(self.repository, name, backup_time(number), [reference_to(stored, "data")])
        return replace(self, backups={**self.backups, name: (done.manifest, (image / "disk.img").read_bytes())})

    def copy(self) -> Shared:
        return replace(self, store=self.store.copy())

    def damage(self, name: str, how: str, at: int) -> None:
        content, modified, version = self.store.objects.pop(name)
        if how != "gone":
            altered = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :] if content else b""
            self.store.objects[name] = (content[:at] if how == "cut" else altered, modified, version)

    def restores(self, folder: Path) -> dict[str, bool]:
        return {name: self._restores(*backup, folder) for name, backup in self.backups.items()}

    def _restores(self, manifest: str, content: bytes, folder: Path) -> bool:
        try:
            return restore(self.store, self.repository.master_key, manifest, folder)[0] == content
        except RepositoryError:
            return False

    def verdicts(self) -> dict[str, bool]:
        return {each.name: not each.lost for each in verify(self.repository, share=100, now=NOW).backups}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Two disks of one image, then one of them stored anew and both changed, and a third one."""
    folder = tmp_path_factory.mktemp("shared")
    one, two = os.urandom(BLOCK), os.urandom(BLOCK)
    found = Shared(MemoryStore(), {})
    found = found.back_up(folder, "a1", "A", {0: IMAGE})
    found = found.back_up(folder, "b1", "B", {0: IMAGE, 5 * BLOCK: one})
    found = found.back_up(folder, "b2", "B", {0: IMAGE, 5 * BLOCK: two, 20 * BLOCK: one})
    found = found.back_up(folder, "a2", "A", {0: IMAGE, 25 * BLOCK: two}, policy="None")
    return found.back_up(folder, "c1", "C", {0: IMAGE, 13 * BLOCK: one})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damage=st.lists(
        st.tuples(
            st.integers(0, 99), st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "flip", "cut", "gone"])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_verify_says_that_a_backup_is_lost_just_when_its_restore_fails(
    shared: Shared, tmp_path: Path, damage: Sequence[tuple[int, float, str]]
) -> None:
    world = shared.copy()
    for which, place, how in damage:
        names = sorted(n for n in world.store.objects if any(f"/{each}/" in n for each in ("packs", "maps", "disks")))
        name = names[which % len(names)]
        world.damage(name, how, int(place * len(world.store.objects[name][0])))
    assert world.verdicts() == world.restores(tmp_path)


def rotten(shared: Shared) -> Shared:
    """Damage a frame that two disks share, of which one disk has stored the blocks anew since."""
    world = shared.copy()
    frame = frames_of(world.repository, world.backups["a1"][0])[0][1]
    pack = next(name for name in world.store.objects if name.endswith(frame.pack.hex()))
    world.damage(pack, "flip", frame.offset + 30)
    return world


def test_disk_is_healed_by_another_one_that_shares_the_damaged_frame(shared: Shared, tmp_path: Path) -> None:
    world = rotten(shared)
    assert all(world.restores(tmp_path).values())
    manifest, content = world.backups["b1"]
    data, result = restore(world.store, world.repository.master_key, manifest, tmp_path)
    assert data == content and result.healed_bytes > 0


def test_verdict_is_no_matter_of_chance(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = rotten(shared)
    # Where the search ends before the other disk, verify and restore agree as well.
    for others, b in ((8, True), (0, False)):
        monkeypatch.setattr(copies, "MAX_OTHERS", others)
        expected = {"a1": True, "a2": True, "b1": b, "b2": b, "c1": True}
        assert world.restores(tmp_path) == expected
        assert [world.verdicts() for _ in range(6)] == [expected] * 6


def test_search_in_other_disks_is_bounded_and_begins_with_the_one_of_the_same_image(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = rotten(shared)
    read: list[str] = []
    original = copies.read_disk_manifest
    monkeypatch.setattr(copies, "read_disk_manifest", lambda each, name: read.append(name) or original(each, name))
    monkeypatch.setattr(copies, "MAX_READ", 1)
    manifests = {name: manifest for name, (manifest, _) in world.backups.items()}
    restore(world.store, world.repository.master_key, manifests["b1"], tmp_path)
    # The disk of c1 was backed up last, but b1 was compared with the one of a1.
    assert read == [manifests[name] for name in ("b2", "b1", "a2")]


def test_restore_that_ends_names_the_place_and_the_backups_of_all_disks_that_are_hurt(tmp_path: Path) -> None:
    world = Shared(MemoryStore(), {}).back_up(tmp_path, "a1", "A", {0: IMAGE})
    world = world.back_up(tmp_path, "other", "O", {0: os.urandom(BLOCK)})
    world = world.back_up(tmp_path, "b1", "B", {0: IMAGE, 25 * BLOCK: b"more"})
    frame = frames_of(world.repository, world.backups["a1"][0])[0][1]
    pack = next(name for name in world.store.objects if name.endswith(frame.pack.hex()))
    world.damage(pack, "flip", frame.offset + 30)
    with pytest.raises(DamagedError, match=r"from byte \d+ on: pack packs/.* hurts the backups b1, a1\.") as caught:
        restore(world.store, world.repository.master_key, world.backups["b1"][0], tmp_path)
    failure = failure_of(caught.value)
    assert failure.hurt_text == "b1, a1" and f"from byte {failure.lost_from} on" in failure.message


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.integers(0, 40), min_size=1, max_size=3), page=st.none() | st.integers(0, 9))
def test_hurt_are_just_the_backups_that_refer_to_the_damage(shared: Shared, chosen: set[int], page: int | None) -> None:
    repository, frames, pages = shared.repository, dict[str, set[FrameRef]](), dict[str, set[tuple[bytes, int]]]()
    for name, (manifest, _) in shared.backups.items():
        reader = MapReader(repository, read_disk_manifest(repository, manifest).manifest)
        frames[name] = {frame for _, frame in frames_of(repository, manifest)}
        pages[name] = {reader.place(at) for at, ref in enumerate(reader.manifest.pages) if ref}
    known, places = sorted(set().union(*frames.values())), sorted(set().union(*pages.values()))
    bad, lost = {known[at % len(known)] for at in chosen}, {places[page % len(places)]} if page is not None else set()
    damage = Damage()
    for frame in bad:
        damage.add(Kind.DATA_PACK, frame.pack, frame.offset)
    for place in lost:
        damage.add(Kind.MAP_PACK, *place)
    expected = {name for name in shared.backups if frames[name] & bad or pages[name] & lost}
    found = all_hurt_by(repository, "B", damage)
    assert set(found.names) == expected and found.complete
    assert set(backups_hurt_by(repository, "B", damage)) == expected & {"b1", "b2"}
    assert set(all_hurt_by(repository, "B", damage, most=2).names) == expected & {"b1", "b2"}


def test_list_of_hurt_backups_is_bounded_and_says_so() -> None:
    names = tuple("abcdefghijkl")
    assert HurtBackups(names).text(3) == "a, b, c and 9 more"
    assert HurtBackups(names, complete=False).text(3) == "a, b, c and at least 9 more"
    assert HurtBackups(names[:2], complete=False).text(3) == "a, b and perhaps others"


def test_restore_counts_the_damaged_frames_that_no_record_names(shared: Shared, tmp_path: Path) -> None:
    world = rotten(shared)
    key, (manifest, _) = world.repository.master_key, world.backups["b1"]
    assert restore(world.store, key, manifest, tmp_path)[1].unrecorded == 1
    verify(world.repository, share=100, now=NOW)
    assert restore(world.store, key, manifest, tmp_path)[1].unrecorded == 0
    assert restore(world.store, key, world.backups["a2"][0], tmp_path)[1].unrecorded == 0


def test_all_data_of_suspects_is_read_and_what_is_damaged_of_it_is_written_down_before_the_rest(shared: Shared) -> None:
    world = rotten(shared)
    assert verify(world.repository, share=0, now=NOW).state == "ok"
    order: list[int] = []

    class Watched(MemoryStore):
        def put_new(self, name: str, data: Data) -> str:
            order.append(len(pages))
            return super().put_new(name, data)

        def get_range(self, name: str, offset: int, length: int) -> Data:
            pages.extend([name] * ("/maps/" in name))
            return super().get_range(name, offset, length)

    pages: list[str] = []
    store = Watched()
    store.objects = dict(world.store.objects)
    report = verify(repository_in(store), share=0, now=NOW, suspects=["b1", "gone"])
    assert not any(each.lost for each in report.backups)
    assert set(report.damaged_backups()) == {"a1", "b1", "b2"} and len(report.recorded) == len(order) == 1
    assert order[0] < len(pages)
    assert report.next_phase == report.phase


def test_what_is_proven_of_a_suspect_is_written_down_before_its_next_disk_is_read(
    shared: Shared, tmp_path: Path
) -> None:
    world = shared.copy()
    for name in ("b1", "c1"):
        # What only this backup has.
        own = {f for _, f in frames_of(world.repository, world.backups[name][0])}
        own -= {f for n in ("a1", "a2") for _, f in frames_of(world.repository, world.backups[n][0])}
        frame = min(own)
        pack = next(each for each in world.store.objects if each.endswith(frame.pack.hex()))
        world.damage(pack, "flip", frame.offset + 30)
    told: list[tuple[str, str, int]] = []

    def stop(backup: str, disk: str) -> None:
        told.append((backup, disk, len(list(read_damage(world.repository)))))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        verify(world.repository, share=0, now=NOW, suspects=["b1", "c1"], proven=stop)
    [(backup, disk, recorded)] = told
    assert recorded == 1 and disk == world.backups[backup][0]
    rest: list[str] = []
    report = verify(
        world.repository,
        share=0,
        now=NOW,
        suspects=["b1", "c1"],
        already_read=[disk],
        proven=lambda backup, _: rest.append(backup),
    )
    assert rest == [each for each in ("b1", "c1") if each != backup]
    assert {"b1", "c1"} <= set(report.damaged_backups()) and len(list(read_damage(world.repository))) == 2


def test_nothing_counts_as_proven_that_could_not_be_written_down(shared: Shared) -> None:
    world, told = rotten(shared), list[str]()

    class Closed(MemoryStore):
        def put_new(self, name: str, data: Data) -> str:
            raise AccessDeniedError(name)

    store = Closed()
    store.objects = dict(world.store.objects)
    report = verify(
        repository_in(store), share=0, now=NOW, suspects=["b1"], proven=lambda backup, _: told.append(backup)
    )
    assert told == [] and report.note and not report.recorded


def test_where_a_restore_met_damage_is_read_first(shared: Shared) -> None:
    world = shared.copy()
    manifest = read_disk_manifest(world.repository, world.backups["b1"][0]).manifest
    far = 2 * manifest.page_bytes + 5
    frames = [
        frame for block, frame in frames_of(world.repository, world.backups["b1"][0]) if block // PAGE_BLOCKS == 2
    ]
    pack = next(each for each in world.store.objects if each.endswith(frames[-1].pack.hex()))
    world.damage(pack, "flip", frames[-1].offset + 30)
    read: list[str] = []

    class Watched(MemoryStore):
        def put_new(self, name: str, data: Data) -> str:
            read.append("noted")
            return super().put_new(name, data)

        def get_range(self, name: str, offset: int, length: int) -> Data:
            read.extend(["page"] * ("/maps/" in name))
            return super().get_range(name, offset, length)

    store = Watched()
    store.objects = dict(world.store.objects)
    where = {world.backups["b1"][0]: far, "disks/gone": 0, world.backups["c1"][0]: 99 * manifest.page_bytes}
    report = verify(repository_in(store), share=0, now=NOW, suspects=["b1", "c1"], named=where)
    assert read[: read.index("noted")].count("page") == 1 and read.count("noted") == 1
    assert "b1" in report.damaged_backups()
