"""Prune beside writers that are at work, stand still or died: nothing that a backup will need goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from longboat.repository import Repository, leases, read_disk_manifest
from longboat.repository.condemned import CondemnedList, write_condemned
from longboat.repository.errors import DamagedError, LeaseLostError
from longboat.repository.leases import LEASE_TTL, MIN_GRACE, Lease
from longboat.repository.mark import references
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import BLOCK, export, repository_in, restore, write_image
from tests.unit.repository.prune_world import _FOLDER, GRACE, SIZE, World, built, world

__all__ = ["built", "world"]


def test_packs_of_an_export_that_died_go_with_its_lease(world: World) -> None:
    before = world.names()
    counter = FaultyStore(world.store.copy())
    image = write_image(world.folder / "other", {0: b"x" * 9 * BLOCK}, SIZE)
    export(counter, world.key, image, "four", 9)
    # From the end: each attempt looks at the leases of those before it, and so comes less far.
    for at in reversed(range(counter.operations)):
        with contextlib.suppress(KilledError):
            export(FaultyStore(world.store, "killed-before", at), world.key, image, "four", 9)
    for name in world.names("disks/") - before:
        del world.store.objects[_FOLDER + name]  # Those of the last operations came to their end.
    assert world.names("packs/") - before
    assert world.names("maps/") - before
    assert world.names("leases/")
    for _ in range(4):
        world.store.advance(GRACE + LEASE_TTL)
        world.prune()
    assert world.names() - before == {"epoch"}
    world.check()


def test_packs_that_a_writer_at_work_has_announced_are_not_condemned(world: World) -> None:
    world.store.put_new(_FOLDER + "packs/ab/ab" + "0" * 30, b"?")
    world.store.advance(2 * GRACE)
    with Lease(world.repository, "disk", "backup", lambda told: (["packs/ab/ab" + "0" * 30][told[0] :], [])):
        report = world.prune()
        assert (report.leased.objects, report.condemned.objects, report.leases) == (1, 0, 1)


def test_nothing_is_condemned_while_the_parent_of_a_writer_at_work_is_gone(world: World) -> None:
    with Lease(world.repository, "disk", "backup") as lease:
        lease.name_parent(world.manifests["two"])
        world.remove("two")
        report = world.prune()
        assert report.condemned.objects == 0
        assert world.manifests["two"] in report.postponed
    assert world.prune().condemned.objects == 2


def test_export_does_not_refer_to_what_is_condemned(world: World) -> None:
    used = references(world.repository, read_disk_manifest(world.repository, world.manifests["three"]).manifest)
    packs = tuple(pack.hex() for pack in used.data)
    write_condemned(world.repository, CondemnedList(marked=world.store.now, packs=packs))
    world.back_up("four")
    after = references(world.repository, read_disk_manifest(world.repository, world.manifests["four"]).manifest)
    assert after.data.keys().isdisjoint(used.data)
    world.check()


class CondemningStore(MemoryStore):
    """Condemns what was uploaded first as soon as a map pack is there, that is, right before the manifest."""

    repository: Repository

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        tag = super().put_new(name, data)
        if "/maps/" in name and not self.objects.get(_FOLDER + "seen"):
            self.objects[_FOLDER + "seen"] = (b"", self.now, 0)
            newest = max((version, n) for n, (_, _, version) in self.objects.items() if "/packs/" in n)[1]
            packs = (newest.rsplit("/", 1)[1],)
            write_condemned(self.repository, CondemnedList(marked=self.now, packs=packs))
        return tag


def test_pack_that_is_condemned_during_the_export_fails_it_before_the_manifest(tmp_path: Path) -> None:
    store = CondemningStore()
    store.repository = repository_in(store)
    image = write_image(tmp_path / "disk", {0: b"x" * BLOCK}, SIZE)
    with pytest.raises(LeaseLostError, match="condemned"):
        export(store, store.repository.master_key, image, "one")
    assert not [name for name in store.objects if "/disks/" in name]
    result = export(store, store.repository.master_key, image, "one")
    assert restore(store, store.repository.master_key, result.manifest, tmp_path)[0][:1] == b"x"


def test_list_that_a_writer_can_not_read_leads_to_a_full_backup_with_a_reason(world: World) -> None:
    world.store.put_new(_FOLDER + "condemned/" + "0" * 32, b"?")
    image = world.folder / "disk"
    write_image(image, {}, SIZE)
    result = export(world.store, world.key, image, "four", 9)
    assert (result.mode, result.full_reason) == ("Full", "CondemnedUnreadable")
    assert "0" * 32 in result.note


class SleepyStore(MemoryStore):
    """The process sleeps for two days in the middle of writing a disk manifest; a prune uses the time."""

    between: Callable[[], object] = staticmethod(lambda: None)

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        if "/disks/" in name:
            self.between()
            self.advance(2 * GRACE)
        return super().put_new(name, data)


@pytest.mark.parametrize("condemn", [True, False])
def test_manifest_that_comes_too_late_is_checked_and_withdrawn(tmp_path: Path, condemn: bool) -> None:
    store = SleepyStore()
    repository = repository_in(store)
    image = write_image(tmp_path / "disk", {0: b"x" * BLOCK}, SIZE)

    def remove_pack() -> None:
        for name in [name for name in store.objects if "/packs/" in name]:
            if condemn:
                write_condemned(repository, CondemnedList(marked=store.now, packs=(name.rsplit("/", 1)[1],)))
            else:
                del store.objects[name]

    store.between = remove_pack
    with pytest.raises(LeaseLostError, match="late"):
        export(store, repository.master_key, image, "one")
    assert not [name for name in store.objects if "/disks/" in name]
    store.between = lambda: None
    assert not export(store, repository.master_key, image, "one").reused


def test_late_manifest_that_could_not_be_withdrawn_is_not_taken_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SleepyStore()
    repository = repository_in(store)
    image = write_image(tmp_path / "disk", {0: b"x" * BLOCK}, SIZE)
    export(store, repository.master_key, image, "one")
    for name in [name for name in store.objects if "/packs/" in name]:
        del store.objects[name]
    with pytest.raises(DamagedError, match="late"):
        export(store, repository.master_key, image, "one")


class PausedStore(MemoryStore):
    """Two prunes use two days in which a writer stands still, right before it writes an object of `folder`.

    That is once a map pack is there, so that its last look at the lists is to come.
    """

    world: World
    folder = ""
    mapped = False

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        self.mapped = self.mapped or "/maps/" in name
        if self.folder and self.mapped and self.folder in name:
            self.folder = ""
            for _ in range(2):
                self.advance(GRACE + LEASE_TTL)
                self.world.prune()
        return super().put_new(name, data)


@pytest.mark.parametrize("clock_stands_still", [True, False])
@pytest.mark.parametrize("folder", ["/maps/", "/leases/"])
def test_writer_that_stood_still_while_its_packs_were_pruned_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, clock_stands_still: bool
) -> None:
    store = PausedStore()
    start = store.now
    monkeypatch.setattr(leases, "seconds_since_boot", lambda: 0 if clock_stands_still else seconds(store.now - start))
    store.world = world = World(tmp_path, store)
    world.back_up("one")
    store.advance(MIN_GRACE)
    store.folder, store.mapped = folder, False
    with pytest.raises(LeaseLostError, match="in time"):
        world.back_up("two")
    del world.contents["two"]
    assert len(world.names("disks/")) == 1
    world.manifests["two"] = ""  # The next one is of another moment.
    world.back_up("three")
    world.check()


def seconds(time: timedelta) -> float:
    """Return a span of time as a machine's clock counts it."""
    return time.total_seconds()
