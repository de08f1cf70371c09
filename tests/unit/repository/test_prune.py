"""Prune deletes what nothing refers to, late and checked; whatever is not understood keeps everything in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    Asked,
    DiskIdentity,
    PruneReport,
    Repository,
    RepositoryError,
    Tally,
    advance_epoch,
    leases,
    prune,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    update_backup_expiry,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.backups import write_disk_manifest
from longboat.repository.condemned import CondemnedList, read_condemned, write_condemned
from longboat.repository.errors import (
    ClockSkewError,
    DamagedError,
    EpochConflictError,
    LeaseLostError,
    UnsupportedFormatError,
)
from longboat.repository.layout import Kind, pack_name
from longboat.repository.leases import LEASE_TTL, MIN_GRACE, Lease
from longboat.repository.mark import references
from longboat.repository.object_store import ObjectInfo
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
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

    def prune(self, dry_run: bool = False, grace: timedelta = GRACE, allow_most: bool | Asked = False) -> PruneReport:
        """Prune with the store's time."""
        epoch = None if dry_run else advance_epoch(self.repository, {"t"}, "t")
        return prune(
            self.repository, now=self.store.now, grace=grace, epoch=epoch, dry_run=dry_run, allow_most=allow_most
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


def test_packs_of_a_removed_backup_go_after_the_grace_and_nothing_else_does(world: World) -> None:
    packs = world.names("packs/") | world.names("maps/")
    world.remove("two")
    first = world.prune()
    assert world.names("packs/") | world.names("maps/") == packs
    assert (first.condemned.objects, first.freed.objects, first.manifests) == (2, 0, 2)
    world.store.advance(GRACE - timedelta(seconds=1))
    assert world.prune().waiting.objects == 2
    world.store.advance(timedelta(seconds=1))
    report = world.prune()
    assert {reason: tally.objects for reason, tally in report.removed.items()} == {
        "DataPack": 1,
        "MapPack": 1,
        "CondemnedList": 1,
    }
    assert len(packs) - len(world.names("packs/") | world.names("maps/")) == 2
    assert world.names("condemned/") == set()
    world.check()


def test_backups_in_the_trash_count_as_long_as_their_manifests_are_there(world: World) -> None:
    write_tombstone(world.repository, "two", world.store.now, "test")
    for _ in range(3):
        assert world.prune().condemned.objects == 0
        world.store.advance(2 * GRACE)
    world.check()


def test_manifest_without_a_backup_manifest_counts(world: World) -> None:
    for name in world.names("backups/"):
        del world.store.objects[_FOLDER + name]
    assert world.prune().condemned.objects == 0


def hide(world: World, *folders: str) -> dict[str, tuple[bytes, datetime, int]]:
    """Take objects out of sight, as delete markers over a bucket's folders do; return them."""
    return {name: world.store.objects.pop(_FOLDER + name) for each in folders for name in world.names(each)}


def test_disk_manifest_that_a_backup_names_but_that_is_not_there_keeps_everything(world: World) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    name = world.manifests["three"]
    hidden = hide(world, name)
    before = world.names()
    for dry_run in (True, False):
        with pytest.raises(DamagedError, match=rf"backup 'three' .*{name}"):
            world.prune(dry_run)
    assert world.names() - before <= {"epoch"}
    world.store.objects.update({_FOLDER + each: content for each, content in hidden.items()})
    assert world.prune().freed.objects == 3
    world.check()


def test_disk_manifest_in_whose_place_is_another_one_keeps_everything(world: World) -> None:
    stored = read_disk_manifest(world.repository, world.manifests["three"])
    del world.store.objects[_FOLDER + stored.name]
    assert write_disk_manifest(world.repository, stored.manifest).object_id != stored.object_id
    with pytest.raises(DamagedError, match=stored.name):
        world.prune()


@pytest.mark.parametrize("mark", ["tombstones", "removing"])
def test_deleted_backup_whose_disk_manifests_are_gone_is_no_hindrance(world: World, mark: str) -> None:
    hide(world, world.manifests["two"])
    world.store.put_new(f"{_FOLDER}{mark}/{world.repository.keys.name_hash('two')}", b"")
    assert world.prune().condemned.objects == 2


class SweepingStore(MemoryStore):
    """A sweep goes on while the disk manifests are about to be listed."""

    sweep: Callable[[], object] | None = None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if prefix == f"{_FOLDER}disks/" and self.sweep:
            sweep, self.sweep = self.sweep, None
            sweep()
        return super().list(prefix)


def test_backup_that_is_removed_while_prune_looks_is_no_hindrance(world: World) -> None:
    world.store.__class__ = SweepingStore
    world.store.sweep = lambda: world.remove("two")  # type: ignore[attr-defined]
    assert world.prune().manifests == 2


def test_more_than_half_of_all_bytes_are_condemned_only_if_that_is_allowed(world: World) -> None:
    hidden = hide(world, "disks/", "backups/")
    before = world.names()
    for dry_run in (True, False):
        report = world.prune(dry_run)
        assert (report.condemned.objects, report.later.objects) == (0, 6)
        assert "of 6 packs" in report.postponed
    assert world.names() - before <= {"epoch"}
    world.store.objects.update({_FOLDER + each: content for each, content in hidden.items()})
    world.check()
    hide(world, "disks/", "backups/")
    assert world.prune(allow_most=True).condemned.objects == 6
    world.store.advance(GRACE)
    assert world.prune().freed.objects == 7


def test_leave_to_condemn_most_is_for_what_was_asked_about_only(world: World) -> None:
    """Whoever allows half of a repository must not have allowed all of it that is hidden until the run."""
    for name in ("one", "two", "three"):
        del world.contents[name]
    hide(world, "disks/", "backups/")
    asked = world.prune().asked
    assert asked is not None and asked.condemned == asked.unneeded and asked.condemned.objects == 6
    fewer = Asked(Tally(5, asked.condemned.bytes), asked.unneeded)
    smaller = Asked(asked.condemned, Tally(6, asked.unneeded.bytes * 9 // 10))
    for allowed in (fewer, smaller):
        report = world.prune(allow_most=allowed)
        assert report.asked == asked and not report.condemned.objects
        assert f"{allowed.unneeded.bytes} bytes were allowed" in report.postponed
    # A tenth more is no reason to ask once more.
    nearly = Tally(6, asked.condemned.bytes * 10 // 11 + 1)
    assert world.prune(allow_most=Asked(nearly, nearly)).condemned.objects == 6


def test_leave_that_was_used_is_none_for_as_much_again(world: World) -> None:
    """A run that failed after it had condemned is tried again with the same leave."""
    world.remove("three")
    waiting = world.prune().condemned
    assert waiting.objects
    hide(world, "disks/", "backups/")
    asked = world.prune().asked
    assert asked is not None and asked.unneeded == Tally(6, asked.condemned.bytes + waiting.bytes)
    report = world.prune(allow_most=Asked(asked.condemned, asked.condemned))
    assert report.asked == asked and report.waiting == waiting


def test_dry_run_says_what_the_run_then_does_and_writes_nothing(world: World) -> None:
    world.remove("one")
    for _ in range(2):
        before = dict(world.store.objects)
        planned = world.prune(dry_run=True)
        assert world.store.objects == before
        done = world.prune()
        planned.dry_run = False
        assert planned == done
        world.store.advance(GRACE)
    world.check()


def test_repeated_and_idle_runs_leave_nothing_behind(world: World) -> None:
    world.remove("one")
    for _ in range(4):
        world.prune()
        world.store.advance(GRACE)
    before = world.names()
    world.prune()
    assert world.names() == before


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "altered": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "cut": lambda data: data[:40],
    "newer": lambda data: data[:8] + b"\x09\x00" + data[10:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("folder", ["disks/", "leases/", "condemned/"])
def test_document_that_can_not_be_read_keeps_everything_and_is_named(world: World, folder: str, damage: str) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    with Lease(world.repository, "disk", "backup"):
        name = sorted(world.names(folder))[0]
        world.replace(name, DAMAGES[damage](world.store.objects[_FOLDER + name][0]))
        before = world.names()
        with pytest.raises((DamagedError, UnsupportedFormatError), match=name):
            world.prune()
        assert world.names() == before


@pytest.mark.parametrize("damage", ["gone", "cut", "garbled"])
def test_map_pack_that_can_not_be_read_keeps_everything_and_is_named(world: World, damage: str) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    name, data = newest_map_pack(world)
    if damage == "gone":
        del world.store.objects[_FOLDER + name]
    else:
        world.replace(name, data[:40] if damage == "cut" else data[:48] + bytes(len(data) - 48))
    before = world.names()
    with pytest.raises(DamagedError, match=name):
        world.prune()
    assert world.names() == before


@pytest.mark.parametrize("at", [-1, -10, -30])
def test_index_that_can_not_be_read_is_made_up_for_by_the_pages(world: World, at: int) -> None:
    name, data = newest_map_pack(world)
    manifest = read_disk_manifest(world.repository, world.manifests["three"]).manifest
    expected = set(references(world.repository, manifest).data)
    world.replace(name, data[:at] + bytes([data[at] ^ 1]) + data[len(data) + at + 1 :])
    assert set(references(world.repository, manifest).data) == expected
    world.remove("two")
    for _ in range(2):
        world.prune()
        world.store.advance(GRACE)
    world.check()


def newest_map_pack(world: World) -> tuple[str, bytes]:
    """Return name and bytes of a map pack that only the newest backup refers to."""
    manifest = read_disk_manifest(world.repository, world.manifests["three"]).manifest
    pages = {page[0] for page in manifest.pages if page}
    written = {pack_name(Kind.MAP_PACK, bytes.fromhex(manifest.map_packs[page])) for page in pages}
    name = max(written, key=lambda each: world.store.objects[_FOLDER + each][2])
    return name, world.store.objects[_FOLDER + name][0]


@pytest.mark.parametrize("name", ["disks/README", "leases/x", "condemned/list", f"disks/{'0' * 32}/20270101T000000Z-2"])
def test_object_whose_name_is_not_understood_where_references_are_keeps_everything(world: World, name: str) -> None:
    world.remove("two")
    world.store.put_new(_FOLDER + name, b"?")
    with pytest.raises(DamagedError, match=name):
        world.prune()


def test_foreign_objects_are_left_alone(world: World) -> None:
    foreign = [
        "packs/note",
        "packs/00/11" + "0" * 30,
        "maps/x/y",
        "damage/x",
        "other",
        "tombstones.txt",
        "backups/readme",
    ]
    for name in foreign:
        world.store.put_new(_FOLDER + name, b"?")
    for _ in range(3):
        world.store.advance(2 * GRACE)
        report = world.prune()
    assert report.unknown == 3
    assert set(foreign) <= world.names()


@pytest.mark.parametrize("skew", [timedelta(minutes=-6), timedelta(minutes=6), timedelta(days=2)])
def test_clock_that_is_off_keeps_everything(world: World, skew: timedelta) -> None:
    world.remove("two")
    epoch = advance_epoch(world.repository, set(), "t")
    before = world.names()
    with pytest.raises(ClockSkewError, match="clock"):
        prune(world.repository, now=world.store.now + skew, grace=GRACE, epoch=epoch)
    assert world.names() == before


def test_store_whose_clock_was_behind_when_it_condemned_does_not_shorten_the_grace(world: World) -> None:
    world.remove("two")
    world.prune()
    (name,) = world.names("condemned/")
    data, modified, version = world.store.objects[_FOLDER + name]
    world.store.objects[_FOLDER + name] = (data, modified - GRACE, version)
    world.store.advance(timedelta(minutes=5))
    assert world.prune().freed.objects == 0


def test_grace_that_is_too_short_for_writers_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="grace"):
        prune(world.repository, now=world.store.now, grace=MIN_GRACE - timedelta(seconds=1), dry_run=True)


def test_run_without_an_epoch_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="epoch"):
        prune(world.repository, now=world.store.now)


class TakenOver(MemoryStore):
    """A store in which another operator takes the epoch as soon as anything is deleted."""

    def delete(self, name: str) -> None:
        super().delete(name)
        self.objects[_FOLDER + "epoch"] = (b'{"number": 99, "token": "other"}', self.now, 99)


def test_epoch_of_another_operator_ends_the_run(world: World) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    world.store.__class__ = TakenOver
    with pytest.raises(EpochConflictError, match="epoch 99"):
        world.prune()
    assert len(world.names("condemned/")) == 1


@pytest.mark.parametrize("fault", ["killed-before", "killed-after", "fails", "acknowledgement-lost"])
def test_run_that_ends_anywhere_harms_nothing_and_the_next_one_completes(world: World, fault: str) -> None:
    world.remove("two")
    world.prune()
    world.store.advance(GRACE)
    world.remove("one")
    whole = world.store
    counter = FaultyStore(whole.copy())
    run(counter, world)
    for at in range(counter.operations):
        world.store = whole.copy()
        with contextlib.suppress(KilledError, RepositoryError):
            run(FaultyStore(world.store, fault, at), world)
        world.repository = Repository(repository_in(world.store).store, world.repository.keys)
        world.check()
        for _ in range(2):
            world.prune()
            world.store.advance(GRACE)
        assert len(world.names("packs/")) == 2
        world.check()


def run(store: FaultyStore, world: World) -> PruneReport:
    """Prune through another store, in this thread alone."""
    repository = repository_in(store)
    epoch = advance_epoch(repository, {"t"}, "t")
    return prune(repository, now=world.store.now, grace=GRACE, epoch=epoch, threads=1)


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


def test_old_revisions_go_but_for_the_first_and_the_newest(world: World) -> None:
    for number in range(5):
        update_backup_expiry(world.repository, "two", {"hold": number})
        world.store.advance(GRACE)
    report = world.prune()
    assert report.removed["OldRevision"].objects == 4
    assert len(world.names("backups/")) == 4


def test_announcement_that_lost_its_tombstone_goes_late(world: World) -> None:
    world.store.put_new(f"{_FOLDER}removing/{'0' * 32}", b"")
    world.prune()
    assert world.names("removing/")
    world.store.advance(GRACE)
    assert world.prune().removed["StaleMarker"].objects == 1


def test_condemned_lists_are_read_by_those_who_write_them(world: World) -> None:
    content = CondemnedList(marked=world.store.now, packs=("a" * 32,), map_packs=("b" * 32,))
    name = write_condemned(world.repository, content)
    (found,) = read_condemned(world.repository)
    assert (found.info.name, found.content) == (name, content)


def test_map_packs_that_do_not_name_data_packs_are_read_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longboat.repository.map_builder.page_table", lambda page: (0, b""))
    world = World(tmp_path)
    for name in ("one", "two"):
        world.back_up(name)
    world.store.advance(GRACE)
    used = references(world.repository, read_disk_manifest(world.repository, world.manifests["two"]).manifest)
    assert {pack_name(Kind.DATA_PACK, pack) for pack in used.data} == world.names("packs/")
    world.remove("one")
    for _ in range(3):
        world.prune()
        world.store.advance(GRACE)
    world.check()


def bytes_of(world: World, folder: str) -> int:
    return sum(len(world.store.objects[_FOLDER + name][0]) for name in world.names(folder))


def test_what_a_disk_needs_is_counted_for_its_claim_also_when_the_backup_that_stored_it_is_gone(world: World) -> None:
    first = world.prune(dry_run=True).live_by_claim
    assert first == {"db-data": bytes_of(world, "packs/"), "": bytes_of(world, "maps/")}
    world.remove("one")
    report = world.prune(dry_run=True)
    assert sum(report.live_by_claim.values()) == report.live.bytes
    # The later ones still refer to nearly all that the first one has stored.
    assert report.live_by_claim["db-data"] > 0.9 * first["db-data"]


def test_what_several_disks_need_is_counted_once_and_for_none_of_them(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.back_up("golden")
    image = write_image(tmp_path / "clone", {}, SIZE)
    (image / "disk.img").write_bytes(world.contents["golden"])
    clone = DiskIdentity(disk_key="shop/web/root", claim_name="web-root", volume_handle="v2")
    export(world.store, world.key, image, "clone", 9, disk=clone, dedupe="Namespace")
    world.store.advance(2 * GRACE)
    report = world.prune(dry_run=True)
    assert report.live_by_claim == {"": report.live.bytes}


def test_disk_that_was_compared_with_another_one_survives_all_backups_of_that(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.back_up("golden")
    image = write_image(tmp_path / "clone", {}, SIZE)
    (image / "disk.img").write_bytes(world.contents["golden"])
    clone = DiskIdentity(disk_key="shop/web/root", volume_handle="v2")
    result = export(world.store, world.key, image, "clone", 9, disk=clone, dedupe="Namespace")
    shared = read_disk_manifest(world.repository, result.manifest).manifest
    assert shared.compared_with == world.manifests["golden"] and result.stored_bytes < BLOCK
    write_backup_manifest(
        world.repository,
        "clone",
        backup_time(9),
        [reference_to(read_disk_manifest(world.repository, result.manifest), "root")],
    )
    content = world.contents["golden"]
    world.store.advance(2 * GRACE)
    world.remove("golden")
    for _ in range(3):
        world.prune(allow_most=True)
        world.store.advance(2 * GRACE)
    assert restore(world.store, world.key, result.manifest, tmp_path)[0] == content
    write_tombstone(world.repository, "clone", world.store.now, "test")
    sweep_tombstones(world.repository, world.store.now, timedelta(0))
    for _ in range(3):
        world.prune(allow_most=True)
        world.store.advance(2 * GRACE)
    assert world.names("packs/") == set()
