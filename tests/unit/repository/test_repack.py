"""Prune moves what is alive of mostly dead packs of disks that are gone; until that is sound nothing goes for it."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from weakref import WeakSet

import pytest

from longboat.repository import (
    DiskIdentity,
    PruneReport,
    RepackRules,
    advance_epoch,
    find_backup,
    prune,
    read_disk_manifest,
    reference_to,
    remove_tombstone,
    repack,
    repack_copy,
    repack_step,
    sweep_tombstones,
    verify,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.backups import StoredDisk, place_of_disk
from longboat.repository.codec import compress
from longboat.repository.commit import read_sound_manifest
from longboat.repository.condemned import CondemnedList, write_condemned
from longboat.repository.damage import read_damage
from longboat.repository.documents import seal_document
from longboat.repository.errors import AccessDeniedError, DamagedError, UnsupportedFormatError
from longboat.repository.key_text import STORE_KEY_PREFIX, format_key
from longboat.repository.layout import MAPS, PACKS, Kind, closing_name, moved_name, split_moved_name
from longboat.repository.leases import Lease
from longboat.repository.listing import list_disks
from longboat.repository.manifests import DiskManifest, DiskStatistics
from longboat.repository.map_reader import MapReader
from longboat.repository.mark import references
from longboat.repository.moved import MAY_DIFFER
from longboat.repository.object_store import Data
from longboat.repository.packs import PackWriter
from longboat.repository.pages import build_page, encode_page, page_table
from tests.fakes.object_store import MemoryStore
from tests.independent_reader.check import check
from tests.independent_reader.reader import Repository as Reader
from tests.unit.mover.disks import BLOCK, PATH, STORE_KEY, backup_time, export, repository_in, restore, write_image
from tests.unit.repository.hand_writer import DirectSink

GRACE, DAY = timedelta(hours=24), timedelta(days=1)
BLOCKS = 400
KEPT = range(0, BLOCKS, 10)  # A tenth of the first backup is what the second one still has of it.


class Gone:
    """A disk with two backups, the first of which was deleted, and no new one for long."""

    def __init__(self, folder: Path) -> None:
        self.store, self.folder = MemoryStore(), folder
        self.repository = repository_in(self.store)
        self.contents: dict[str, bytes] = {}
        self.manifests: dict[str, str] = {}
        self.back_up("first", Random(1), range(BLOCKS))
        self.back_up("second", Random(2), [n for n in range(BLOCKS) if n not in KEPT])
        self.remove("first")
        self.store.advance(60 * DAY)
        self.prune(None)
        self.store.advance(2 * DAY)
        self.prune(None)

    def back_up(self, name: str, random: Random, changed: list[int] | range) -> None:
        content = bytearray(next(reversed(self.contents.values()), bytes(BLOCKS * BLOCK)))
        for block in changed:
            content[block * BLOCK : (block + 1) * BLOCK] = random.randbytes(BLOCK)
        number = len(self.contents)
        image = write_image(self.folder / "disk", {0: bytes(content)}, len(content))
        self.contents[name] = bytes(content)
        self.manifests[name] = export(self.store, self.repository.master_key, image, name, number).manifest
        reference = reference_to(read_disk_manifest(self.repository, self.manifests[name]), "data")
        write_backup_manifest(self.repository, name, backup_time(number), [reference])

    def remove(self, name: str) -> None:
        write_tombstone(self.repository, name, self.store.now, "test")
        sweep_tombstones(self.repository, self.store.now, timedelta(0))

    def prune(self, repack: RepackRules | None = RepackRules(), dry_run: bool = False) -> PruneReport:  # noqa: B008
        epoch = None if dry_run else advance_epoch(self.repository, {"t"}, "t")
        return prune(
            self.repository, now=self.store.now, epoch=epoch, dry_run=dry_run, allow_most=True, threads=1, repack=repack
        )

    def forget_advice(self) -> None:
        """Let the next backup store nothing anew by itself."""
        for info in list(self.repository.store.list("rewrite/")):
            self.repository.store.delete(info.name)

    def stored(self) -> int:
        return sum(info.size for info in self.repository.store.list(PACKS))

    def objects(self) -> list[str]:
        return [info.name for info in next(iter(list_disks(self.repository).values())).ordered]

    def assert_whole(self, name: str = "second") -> None:
        restored, _ = restore(self.store, self.repository.master_key, self.manifests[name], self.folder)
        assert restored == self.contents[name]
        assert not verify(self.repository, share=100, now=self.store.now, record=False).damaged_backups()


@pytest.fixture
def gone(tmp_path: Path) -> Gone:
    return Gone(tmp_path)


def test_blocks_of_mostly_dead_packs_are_moved_and_the_packs_freed(gone: Gone) -> None:
    before = gone.stored()
    written = gone.prune().repacked
    assert (written.packs, written.manifests) == (1, 1)
    gone.assert_whole()
    assert gone.stored() > before
    for _ in range(3):
        gone.store.advance(2 * DAY)
        gone.prune()
        gone.assert_whole()
    assert [split_moved_name(name) is not None for name in gone.objects()] == [True]
    # What the newest backup does not need any more was nine tenths of the first one's pack.
    assert before - gone.stored() == pytest.approx(0.9 * BLOCKS * BLOCK, rel=0.05)


def test_nothing_goes_in_the_run_that_writes(gone: Gone) -> None:
    before = set(gone.store.objects)
    report = gone.prune()
    assert report.repacked.written > 0
    assert set(report.removed) == {"RewriteList"}
    assert {name for name in before if "/rewrite/" not in name} <= set(gone.store.objects)


def test_a_young_manifest_takes_no_place_yet(gone: Gone) -> None:
    gone.prune()
    gone.store.advance(GRACE / 2)
    assert gone.prune().repacked.settled == 0
    assert len(gone.objects()) == 2


def test_a_disk_with_a_backup_of_late_is_left_to_its_next_one(gone: Gone) -> None:
    gone.back_up("third", Random(3), [])
    assert gone.prune().repacked.packs == 0


def test_a_budget_bounds_what_is_downloaded(gone: Gone) -> None:
    assert gone.prune(RepackRules(budget=1000)).repacked.downloaded == 0
    assert gone.prune(RepackRules(budget=1 << 30)).repacked.downloaded <= gone.stored()


def test_a_dry_run_says_what_it_would_move_and_writes_nothing(gone: Gone) -> None:
    before = dict(gone.store.objects)
    assert gone.prune(dry_run=True).repacked.packs == 1
    assert gone.store.objects == before


def test_a_disk_that_is_being_backed_up_is_left_alone(gone: Gone) -> None:
    lease = Lease(gone.repository, "shop/db/data", "third")
    lease.name_parent(gone.manifests["second"])
    assert gone.prune().repacked.packs == 0


def test_a_deleted_backup_is_left_alone_and_comes_back_as_it_was(gone: Gone) -> None:
    write_tombstone(gone.repository, "second", gone.store.now, "test")
    assert gone.prune().repacked.packs == 0


def test_a_manifest_that_no_backup_names_is_left_alone(gone: Gone) -> None:
    """It may be that of an export at work, and its removal would not know what was written beside it."""
    (backup,) = [info.name for info in gone.repository.store.list("backups/")]
    gone.repository.store.delete(backup)
    assert gone.prune().repacked.packs == 0


def test_nothing_is_written_into_a_repository_that_was_closed(gone: Gone) -> None:
    gone.repository.store.put_new(closing_name(b"c" * 16), b"by whomever")
    before = {name for name in gone.store.objects if "/rewrite/" not in name}
    assert "closed" in gone.prune().repacked.note
    assert {name for name in gone.store.objects if "/rewrite/" not in name} == before


def test_nothing_takes_a_place_in_a_repository_that_was_closed(gone: Gone) -> None:
    gone.prune()
    gone.repository.store.put_new(closing_name(b"c" * 16), b"by whomever")
    gone.store.advance(2 * DAY)
    assert gone.prune().repacked.settled == 0


def test_a_repository_that_is_closed_meanwhile_gets_no_manifest(gone: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    put = gone.store.put_new

    def closing(name: str, data: Data) -> object:
        if f"/{PACKS}" in name:
            put(f"{PATH}/{closing_name(b'c' * 16)}", b"by whomever")
        return put(name, data)

    monkeypatch.setattr(gone.store, "put_new", closing)
    assert "closed" in gone.prune().repacked.note
    assert len(gone.objects()) == 1
    gone.assert_whole()


def test_the_end_of_a_backup_takes_everything_of_its_disk(gone: Gone) -> None:
    gone.prune()
    gone.remove("second")
    assert not list_disks(gone.repository)


def test_a_damaged_frame_is_recorded_and_its_pack_left(gone: Gone) -> None:
    stored = read_disk_manifest(gone.repository, gone.manifests["second"])
    sizes = {info.name: info.size for info in gone.repository.store.list(PACKS)}
    largest = max(sizes, key=lambda name: sizes[name])
    pack = f"{PATH}/{largest}"
    content, modified, version = gone.store.objects[pack]
    broken = bytearray(content)
    broken[200] ^= 1
    gone.store.objects[pack] = bytes(broken), modified, version
    gone.prune()
    assert read_damage(gone.repository)
    assert bytes.fromhex(largest.rsplit("/", 1)[1]) in references(gone.repository, stored.manifest).data


def test_what_is_not_equal_never_takes_the_place(gone: Gone) -> None:
    gone.prune()
    original, moved = gone.objects()
    frames = [name for name in gone.store.objects if f"/{PACKS}" in name]
    newest = max(frames, key=lambda name: gone.store.objects[name][1])
    content, modified, version = gone.store.objects[newest]
    broken = bytearray(content)
    broken[200] ^= 1
    gone.store.objects[newest] = bytes(broken), modified, version
    gone.store.advance(2 * DAY)
    report = gone.prune()
    assert (report.repacked.settled, gone.objects()) == (0, [original, moved])
    assert moved in report.repacked.note


def test_who_may_only_create_objects_can_not_replace_a_manifest(gone: Gone) -> None:
    name = gone.manifests["second"]
    gone.repository.store.put_new(moved_name(name, b"\1" * 16), b"forged")
    assert place_of_disk(gone.repository, name) == name
    gone.repository.store.delete(moved_name(name, b"\1" * 16))
    gone.prune()
    gone.store.advance(2 * DAY)
    gone.prune()
    gone.store.advance(timedelta(seconds=1))
    gone.repository.store.put_new(name, b"forged")
    gone.assert_whole()


def test_what_waits_to_take_a_place_is_kept(gone: Gone) -> None:
    gone.prune()
    gone.store.advance(2 * DAY)
    # A deleted backup's manifest is not settled: until it is gone or back, what both refer to is in use.
    write_tombstone(gone.repository, "second", gone.store.now, "test")
    report = gone.prune()
    assert (report.repacked.settled, report.condemned.objects) == (0, 0)
    remove_tombstone(gone.repository, "second")
    assert gone.prune().repacked.settled == 1
    gone.assert_whole()


def test_the_independent_reader_finds_what_was_moved(gone: Gone) -> None:
    for stage in ("written", "settled"):
        gone.prune()
        folder = gone.folder / stage
        for name, (data, modified, _) in gone.store.objects.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.utime(path, (modified.timestamp(), modified.timestamp()))
        reader = Reader(folder / PATH, format_key(STORE_KEY_PREFIX, STORE_KEY))
        assert check(reader) == []
        reader.restore("second", "data", folder / "restored")
        assert (folder / "restored").read_bytes() == gone.contents["second"]
        gone.store.advance(2 * DAY)


def test_an_interrupted_removal_leaves_nothing_that_looks_like_a_new_backup(
    gone: Gone, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tombstone came right after the prune had looked for one.
    write_tombstone(gone.repository, "second", gone.store.now, "test")
    gone.store.advance(timedelta(minutes=1))
    with monkeypatch.context() as patch:
        patch.setattr(repack_step, "lasting_disks", lambda _, disks, __: {disk.name for disk in disks})
        assert gone.prune().repacked.manifests == 1
    delete, left = gone.store.delete, [1]

    def interrupted(name: str) -> None:
        if "/disks/" in name and not left:
            raise AccessDeniedError(name)
        left[:] = left[:-1] if "/disks/" in name else left
        delete(name)

    with monkeypatch.context() as patch, pytest.raises(AccessDeniedError):
        patch.setattr(gone.store, "delete", interrupted)
        sweep_tombstones(gone.repository, gone.store.now, timedelta(0))
    sweep_tombstones(gone.repository, gone.store.now, timedelta(0))
    assert not list_disks(gone.repository)


class _NoWrites(MemoryStore):
    """Credentials that may not create packs."""

    def put_new(self, name: str, data: Data) -> str:
        if f"/{PACKS}" in name:
            raise AccessDeniedError(name)
        return super().put_new(name, data)


FREE = {"repository_id", "key_id", "format_version", "kind"}  # Another one of these can't be read at all.
OTHER = {str: "other", type(None): "other"}


def other(value: object) -> object:
    """Return another value of the kind."""
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    if isinstance(value, int):
        return 2 * value or 1
    if isinstance(value, DiskIdentity):
        return value.model_copy(update={"claim_name": "other"})
    if isinstance(value, DiskStatistics):
        return value.model_copy(update={"read_bytes": value.read_bytes + 1})
    return {"Disk": "Archive", "Full": "Incremental", "Incremental": "Full"}.get(str(value), OTHER[type(value)])


def forged(gone: Gone, **changes: object) -> str:
    """Put beside the newest manifest what says something else, as who may create objects and has the key can."""
    stored = read_disk_manifest(gone.repository, gone.manifests["second"])
    fields = {"original": stored.object_id, "checked": gone.store.now, **changes}
    content = stored.manifest.model_copy(update=fields)
    object_id = gone.repository.random(16)
    name = moved_name(stored.name, object_id)
    data = seal_document(gone.repository.keys, Kind.DISK_MANIFEST, object_id, content)
    gone.repository.store.put_new(name, data)
    return name


@pytest.mark.parametrize("field", sorted(set(DiskManifest.model_fields) - MAY_DIFFER - FREE - {"backup_name"}))
def test_what_says_anything_else_never_takes_the_place(gone: Gone, field: str) -> None:
    manifest = read_disk_manifest(gone.repository, gone.manifests["second"]).manifest
    value = getattr(manifest, field)
    changed = {field: other(value)}
    if field == "block_size":
        changed["page_blocks"] = manifest.page_blocks // 2  # As many pages, all of them the same.
    name = forged(gone, **changed)
    before = gone.objects()
    for _ in range(2):
        gone.store.advance(2 * DAY)
        try:
            report = gone.prune()
        except (DamagedError, UnsupportedFormatError) as error:
            assert name in str(error)
        else:
            assert report.repacked.settled == 0
    assert gone.objects() == before
    gone.assert_whole()


def test_a_page_with_other_ids_never_takes_the_place(gone: Gone) -> None:
    """Its blocks lie where they did, so that none of them is moved."""
    manifest = read_disk_manifest(gone.repository, gone.manifests["second"]).manifest
    page = MapReader(gone.repository, manifest).page(0)
    assert page is not None
    false = build_page(page.ids[::-1], [page.place(index) for index in range(page.blocks)])
    sink = DirectSink(gone.repository)
    writer = PackWriter(gone.repository.keys, Kind.MAP_PACK, sink, gone.repository.random)
    frame = writer.append(*_compressed(encode_page(false)), *page_table(false))
    writer.finish()
    number = len(manifest.map_packs)
    pages = [(number, frame.offset, frame.length), *manifest.pages[1:]]
    forged(gone, map_packs=[*manifest.map_packs, frame.pack.hex()], pages=pages)
    gone.store.advance(2 * DAY)
    with contextlib.suppress(DamagedError):
        assert gone.prune().repacked.settled == 0
    assert len(gone.objects()) == 2


def _compressed(plain: bytes) -> tuple[bytes, int, int]:
    payload, codec = compress(plain)
    return bytes(payload), len(plain), codec


def test_nothing_takes_a_place_while_the_disk_is_backed_up(gone: Gone) -> None:
    gone.prune()
    gone.store.advance(2 * DAY)
    lease = Lease(gone.repository, "shop/db/data", "third")
    lease.name_parent(gone.manifests["second"])
    assert gone.prune().repacked.settled == 0


def test_a_prune_that_slept_withdraws_what_it_wrote_too_late(gone: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    put = gone.store.put_new

    def sleeping(name: str, data: Data) -> object:
        if split_moved_name(name.removeprefix(f"{PATH}/")):
            gone.store.advance(timedelta(minutes=30))
            packs = [info.name.rsplit("/", 1)[1] for info in gone.repository.store.list(PACKS)]
            write_condemned(gone.repository, CondemnedList(marked=gone.store.now, packs=tuple(packs)))
        return put(name, data)

    monkeypatch.setattr(gone.store, "put_new", sleeping)
    assert gone.prune().repacked.manifests == 0
    assert len(gone.objects()) == 1


@pytest.mark.parametrize("which", [1, 2])
def test_a_page_that_is_looked_for_elsewhere_never_takes_the_place(gone: Gone, which: int) -> None:
    """Its offset or its length is another one: nothing could be read there."""
    pages = [*read_disk_manifest(gone.repository, gone.manifests["second"]).manifest.pages]
    assert pages[0] is not None
    moved = list(pages[0])
    moved[which] += 1
    forged(gone, pages=[tuple(moved), *pages[1:]])
    gone.store.advance(2 * DAY)
    with contextlib.suppress(DamagedError):
        assert gone.prune().repacked.settled == 0
    assert len(gone.objects()) == 2
    gone.assert_whole()


@pytest.mark.parametrize("folder", [PACKS, MAPS])
@pytest.mark.parametrize("missing", [False, True])
def test_what_may_lose_its_packs_never_takes_the_place(gone: Gone, folder: str, missing: bool) -> None:
    """Its writer slept before it wrote it, and was killed before it looked again."""
    before = {info.name for info in gone.repository.store.list(folder)}
    gone.prune()
    (new,) = {info.name for info in gone.repository.store.list(folder)} - before
    if missing:
        gone.repository.store.delete(new)
    else:
        field = "packs" if folder == PACKS else "map_packs"
        lost = CondemnedList.model_validate({"marked": gone.store.now, field: [new.rsplit("/", 1)[1]]})
        write_condemned(gone.repository, lost)
    gone.store.advance(2 * DAY)
    with contextlib.suppress(DamagedError):
        assert gone.prune().repacked.settled == 0
    assert len(gone.objects()) == 2
    if folder == PACKS or not missing:
        gone.assert_whole()


def test_while_lists_can_not_be_read_nothing_takes_a_place(gone: Gone) -> None:
    gone.prune()
    gone.repository.store.put_new(f"condemned/{'ab' * 16}", b"unreadable")
    gone.store.advance(2 * DAY)
    with contextlib.suppress(DamagedError):
        gone.prune()
    assert len(gone.objects()) == 2


def test_what_another_export_is_said_to_have_written_never_takes_the_place(gone: Gone) -> None:
    forged(gone, original="ab" * 16)
    gone.store.advance(2 * DAY)
    assert gone.prune().repacked.settled == 0
    gone.assert_whole()


LIVING = RepackRules(living=0.6)


def test_packs_of_disks_that_are_still_backed_up_are_moved_only_if_asked_for(gone: Gone) -> None:
    gone.forget_advice()
    gone.back_up("third", Random(3), [])
    assert gone.prune().repacked.packs == 0
    assert gone.prune(LIVING).repacked.manifests == 2


def test_a_backup_builds_on_what_was_moved_so_that_the_pack_is_freed(gone: Gone) -> None:
    """It comes between the run that writes and the one that settles, as one does every day."""
    before = gone.stored()
    gone.forget_advice()
    gone.back_up("third", Random(3), [])
    third = references(gone.repository, read_disk_manifest(gone.repository, gone.manifests["third"]).manifest).data
    gone.prune(LIVING)
    gone.forget_advice()
    gone.store.advance(timedelta(hours=6))
    gone.back_up("fourth", Random(4), [])
    fourth = references(gone.repository, read_disk_manifest(gone.repository, gone.manifests["fourth"]).manifest).data
    assert len(third.keys() - fourth.keys()) == 1, "what is emptied"
    for _ in range(3):
        gone.store.advance(2 * DAY)
        gone.prune(LIVING)
        for name in ("second", "third", "fourth"):
            gone.assert_whole(name)
    assert before - gone.stored() > 0.8 * BLOCKS * BLOCK


def test_backups_are_not_told_to_store_anew_what_prunes_move(gone: Gone) -> None:
    """It would be stored twice for as long as old backups live."""
    assert gone.prune().to_rewrite.objects == 1
    assert gone.prune(LIVING).to_rewrite.objects == 0


def test_what_the_trash_refers_to_does_not_hold_up_what_backups_do(gone: Gone) -> None:
    gone.forget_advice()
    gone.back_up("third", Random(3), [])
    write_tombstone(gone.repository, "second", gone.store.now, "test")
    assert gone.prune(LIVING).repacked.manifests == 1
    gone.store.advance(2 * DAY)
    assert gone.prune(LIVING).repacked.settled == 1
    remove_tombstone(gone.repository, "second")
    gone.assert_whole()
    gone.assert_whole("third")


def test_a_backup_does_not_build_on_what_says_something_else(gone: Gone) -> None:
    forged(gone, snapshot_handle="another")
    name = gone.manifests["second"]
    assert read_sound_manifest(gone.repository, name).place == name


def test_a_truncated_pack_does_not_hold_up_the_others(gone: Gone) -> None:
    largest = max(gone.repository.store.list(PACKS), key=lambda info: info.size)
    content, modified, version = gone.store.objects[f"{PATH}/{largest.name}"]
    gone.store.objects[f"{PATH}/{largest.name}"] = content[:-40], modified, version
    assert not gone.prune().repacked.note


def test_a_backup_does_not_build_on_what_was_written_too_late(gone: Gone) -> None:
    forged(gone, checked=gone.store.now - timedelta(hours=2))
    name = gone.manifests["second"]
    packs = references(gone.repository, read_disk_manifest(gone.repository, name).manifest).data
    write_condemned(gone.repository, CondemnedList(marked=gone.store.now, packs=(next(iter(packs)).hex(),)))
    assert read_sound_manifest(gone.repository, name).place == name


@pytest.mark.parametrize("bound", ["MAX_PAGES", "MAX_USES"])
def test_a_disk_with_too_many_pages_for_the_memory_is_left(
    gone: Gone, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repack, bound, 0)
    assert "is left as it is: there are more than 0" in gone.prune().repacked.note


def test_a_disk_with_too_many_manifests_is_left_before_one_is_read(gone: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repack, "MAX_READ", 1)
    monkeypatch.setattr(repack, "read_disk_at", None)
    assert "is left as it is: its 1 manifests have" in gone.prune().repacked.note


def test_no_more_blocks_are_moved_than_can_be_held(gone: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repack, "MAX_MOVED", len(KEPT) - 1)
    assert gone.prune().repacked.packs == 0
    monkeypatch.setattr(repack, "MAX_MOVED", len(KEPT))
    assert gone.prune().repacked.packs == 1


def test_one_manifest_at_a_time_is_held(gone: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all backups of a large disk fill a mover's memory."""
    gone.forget_advice()
    for number in range(3, 9):
        gone.back_up(f"number {number}", Random(number), [number])
        gone.forget_advice()
    held, most = WeakSet[DiskManifest](), [0]

    def counted(read: Callable[..., StoredDisk]) -> Callable[..., StoredDisk]:
        def call(*arguments: Any) -> StoredDisk:
            gc.collect()
            most[0] = max(most[0], len(held))
            held.add((found := read(*arguments)).manifest)
            return found

        return call

    monkeypatch.setattr(DiskManifest, "__hash__", object.__hash__)
    for module in (repack, repack_copy):
        for name in {"read_disk_at", "read_disk_manifest"} & set(vars(module)):
            monkeypatch.setattr(module, name, counted(getattr(module, name)))
    assert gone.prune(LIVING).repacked.manifests == 7
    assert most[0] <= 1


def test_nothing_takes_a_place_in_a_run_that_was_not_asked_to_move(gone: Gone) -> None:
    gone.prune()
    gone.store.advance(2 * DAY)
    gone.prune(None)
    assert len(gone.objects()) == 2


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("step", range(6))
def test_a_removal_that_ends_anywhere_and_is_undone_leaves_a_whole_backup_or_none(
    gone: Gone, settled: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone.prune()
    if settled:
        gone.store.advance(2 * DAY)
        assert gone.prune().repacked.settled == 1
    gone.store.advance(DAY)
    write_tombstone(gone.repository, "second", gone.store.now, "test")
    left = [step]

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise AccessDeniedError("killed")
            return method(*arguments)

        return call

    with monkeypatch.context() as patch, contextlib.suppress(AccessDeniedError):
        for name in ("delete", "put_new", "put_if_match"):
            patch.setattr(gone.store, name, counted(getattr(gone.store, name)))
        sweep_tombstones(gone.repository, gone.store.now, timedelta(0))
    nothing_is_gone = list_disks(gone.repository) and find_backup(gone.repository, "second")
    for info in list(gone.repository.store.list("tombstones/")):
        gone.repository.store.delete(info.name)  # An undo that came at that moment.
    sweep_tombstones(gone.repository, gone.store.now, timedelta(0))
    assert not nothing_is_gone or find_backup(gone.repository, "second")
    if find_backup(gone.repository, "second"):
        gone.assert_whole()
    else:
        assert not list_disks(gone.repository)


def test_credentials_that_may_not_write_packs_prune_all_the_same(gone: Gone) -> None:
    gone.store.__class__ = _NoWrites
    assert "repacking ended early" in gone.prune().repacked.note
    gone.assert_whole()


def test_where_nobody_moves_anything_a_forgery_beside_a_hidden_manifest_stands_for_nothing(gone: Gone) -> None:
    stored = read_disk_manifest(gone.repository, gone.manifests["second"])
    forged(gone, pages=[None] * len(stored.manifest.pages), map_packs=[])
    (place,) = [name for name in gone.store.objects if name.endswith(stored.name)]
    hidden = gone.store.objects.pop(place)
    packs = {info.name for info in gone.repository.store.list(PACKS)}
    for _ in range(3):
        gone.store.advance(2 * DAY)
        with pytest.raises(DamagedError, match=r"it is not there: nothing is deleted.*maintenance\.prune\.repack"):
            gone.prune(None)
    found = verify(gone.repository, share=0, now=gone.store.now, record=False, believes_moved=False)
    assert [(each.state, each.lost) for each in found.backups if each.name == "second"] == [("damaged", True)]
    assert {info.name for info in gone.repository.store.list(PACKS)} == packs
    gone.store.objects[place] = hidden  # As by the removal of a delete marker: with the time stamp that it had.
    restored, _ = restore(gone.store, gone.repository.master_key, gone.manifests["second"], gone.folder)
    assert restored == gone.contents["second"]
