"""Prune deletes what nothing refers to, late and checked, and only that."""

from __future__ import annotations

import contextlib
from datetime import timedelta
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
    prune,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    update_backup_expiry,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.condemned import CondemnedList, read_condemned, write_condemned
from longboat.repository.errors import EpochConflictError
from longboat.repository.leases import MIN_GRACE
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import BLOCK, backup_time, export, repository_in, restore, write_image
from tests.unit.repository.prune_world import _FOLDER, GRACE, SIZE, World, built, hide, world

__all__ = ["built", "world"]


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
