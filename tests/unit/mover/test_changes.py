"""An export that is told what has changed reads no more than that, and never ends with other data than the disk's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.mover import export_disk
from longboat.mover.changes import BaseSnapshotMissingError, ChangeTrackingUnavailableError
from longboat.mover.reading import ChangeTrackingMismatchError
from longboat.mover.results import ExportResult, failure_of
from longboat.mover.source import Source
from longboat.repository import DiskIdentity
from longboat.repository.avoid import Avoided
from longboat.repository.layout import Kind
from longboat.repository.map_builder import MapBuilder
from longboat.repository.pages import Page
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, export, repository_in, restore, write_image

PAGE = PAGE_BLOCKS * BLOCK


@pytest.fixture(autouse=True)
def images_are_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have disk.img be read as a block device is: from its start to its end."""

    def opened(path: Path) -> Source:
        image = path / "disk.img"
        return Source(image, os.open(image, os.O_RDONLY), image.stat().st_size, is_device=True, direct=False)

    monkeypatch.setattr(export_disk, "open_source", opened)


class Storage:
    """Snapshots of one volume, by handle, and what differs between them, rounded to extents as real storage does."""

    def __init__(self, extent: int = 1000) -> None:
        self.snapshots: dict[str, bytes] = {}
        self.extent = extent

    def changes(self, handle: str) -> Changes:
        return Changes(self, handle)


class Changes:
    """The truth about a snapshot."""

    def __init__(self, storage: Storage, handle: str) -> None:
        self.storage, self.handle = storage, handle

    def allocated(self) -> Iterator[tuple[int, int]]:
        yield from self._differing(b"")

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        if base_handle not in self.storage.snapshots:
            raise BaseSnapshotMissingError(f"there is no snapshot {base_handle}")
        yield from self._differing(self.storage.snapshots[base_handle])

    def _differing(self, base: bytes) -> Iterator[tuple[int, int]]:
        data = self.storage.snapshots[self.handle]
        base = base.ljust(len(data), b"\0")
        for at in range(0, len(data), self.storage.extent):
            end = min(at + self.storage.extent, len(data))
            if data[at:end] != base[at:end]:
                yield at, end - at


class World:
    """A volume with its storage and a repository for its backups."""

    def __init__(self, folder: Path, size: int) -> None:
        self.store, self.storage, self.folder, self.size = MemoryStore(), Storage(), folder, size
        self.key = repository_in(self.store).master_key
        self.content: dict[int, bytes] = {}
        self.number = 0
        self.data: dict[str, bytes] = {}

    def write(self, content: dict[int, bytes]) -> None:
        self.content = {**self.content, **content}

    def back_up(self, changes: object = None, **more: object) -> ExportResult:
        """Cut a snapshot and export it; by default told the truth, and without audits."""
        self.number += 1
        handle = f"snap-{self.number}"
        image = write_image(self.folder / "source", self.content, self.size)
        self.storage.snapshots[handle] = (image / "disk.img").read_bytes()
        told = changes if changes is not None else self.storage.changes(handle)
        more = {"snapshotHandle": handle, "auditShare": 0, **more}
        result = export(self.store, self.key, image, handle, self.number, changes=told, **more)  # type: ignore[arg-type]
        self.data[result.manifest] = self.storage.snapshots[handle]
        return result

    def restored_well(self) -> bool:
        """Tell whether every backup restores to what was there."""
        return all(restore(self.store, self.key, name, self.folder)[0] == data for name, data in self.data.items())


WRITES = st.lists(st.tuples(st.integers(0, 5 * PAGE - 1), st.sampled_from([b"\0", b"text"]), st.integers(1, 9000)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 5 * PAGE), min_size=1, max_size=4),
    writes=st.lists(WRITES, min_size=4, max_size=4),
    share=st.sampled_from([0, 0.5, 1]),
)
def test_every_backup_of_a_tracked_disk_restores_to_what_was_there(
    tmp_path: Path, sizes: list[int], writes: list[list[tuple[int, bytes, int]]], share: float
) -> None:
    world = World(tmp_path, 0)
    for size, changed in zip(sorted(sizes), writes, strict=False):
        world.size = size
        world.write({at: (fill * n)[: max(0, size - at)] for at, fill, n in changed if at < size})
        result = world.back_up(auditShare=share)
        assert result.full_reason == (None if world.number > 1 else "NoParent")
    assert world.restored_well()


def test_only_what_changed_is_read_and_untouched_pages_are_not_even_fetched(tmp_path: Path) -> None:
    world = World(tmp_path, 20 * PAGE)
    world.storage.extent = 512
    world.write({n * BLOCK: b"%d" % n * 500 for n in range(10 * PAGE_BLOCKS)})
    full = world.back_up()
    assert (full.read_bytes, full.allocated_bytes) == (10 * PAGE, 10 * PAGE)
    world.write({3 * PAGE + 5: b"changed", 15 * PAGE: b"new"})
    fetched: list[str] = []
    get_range = world.store.get_range
    world.store.get_range = lambda name, *place: (fetched.append(name), get_range(name, *place))[1]  # type: ignore[method-assign]
    changed = world.back_up()
    assert (changed.mode, changed.read_bytes) == ("Incremental", 2 * BLOCK)
    assert changed.allocated_bytes == 10 * PAGE + BLOCK
    assert len([name for name in fetched if "/maps/" in name]) == 1
    assert world.restored_well()


def test_same_snapshot_for_another_policy_reads_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.write({0: b"data" * 9999})
    world.back_up()
    image = world.folder / "source"
    again = export(
        world.store, world.key, image, "weekly", 1, changes=world.storage.changes("snap-1"), snapshotHandle="snap-1"
    )
    assert (again.mode, again.stored_bytes) == ("Incremental", 0)
    assert again.read_bytes == again.audited_bytes
    assert restore(world.store, world.key, again.manifest, tmp_path)[0] == (image / "disk.img").read_bytes()


class Liar:
    """Claims that nothing changed, and that nothing is allocated."""

    def allocated(self) -> Iterator[tuple[int, int]]:
        return iter(())

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        return iter(())


@pytest.mark.parametrize("first", [True, False])
def test_audit_that_finds_a_lie_leaves_the_mover_at_once_and_the_next_one_that_is_told_reads_everything(
    tmp_path: Path, first: bool
) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.write({n * BLOCK: b"%d" % n * 500 for n in range(9)})
    if not first:
        world.back_up()
    world.write({2 * PAGE: b"nobody was told of this"})
    with pytest.raises(ChangeTrackingMismatchError, match="differ from what the change source says") as found:
        world.back_up(Liar(), auditShare=1)
    failure = failure_of(found.value)
    assert (failure.reason, failure.retryable) == ("ChangeTrackingMismatch", True)
    result = world.back_up(Liar(), distrust="ChangeTrackingMismatch")
    assert (result.mode, result.read_bytes >= 4 * PAGE) == ("Full", True)
    assert result.full_reason == ("NoParent" if first else "ChangeTrackingMismatch")
    assert (result.distrust, result.since_full_read) == ("ChangeTrackingMismatch", 0)
    assert world.restored_well()


class Failing(Liar):
    """Ends in the middle."""

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        yield 0, 10
        raise ChangeTrackingUnavailableError("the service has gone away")


class Disordered(Liar):
    """Goes back."""

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        yield 9 * BLOCK, 10
        yield 0, 10


@pytest.mark.parametrize(
    ("source", "reason"), [(Failing(), "ChangeTrackingUnavailable"), (Disordered(), "ChangeTrackingFailed")]
)
def test_change_source_that_fails_costs_a_full_read_and_says_why(tmp_path: Path, source: Liar, reason: str) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.write({0: b"data" * 9999})
    world.back_up()
    world.write({3 * PAGE: b"new"})
    result = world.back_up(source)
    assert (result.mode, result.full_reason, result.read_bytes >= 4 * PAGE) == ("Full", reason, True)
    assert result.parent is not None and result.note
    assert world.restored_well()
    assert not [name for name in world.store.objects if "/leases/" in name]


def test_parent_whose_snapshot_is_gone_costs_a_full_read(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.back_up()
    del world.storage.snapshots["snap-1"]
    assert world.back_up().full_reason == "BaseSnapshotMissing"


def test_parent_without_a_snapshot_handle_costs_a_full_read(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.back_up(snapshotHandle="")
    assert world.back_up().full_reason == "NoBaseSnapshot"


def test_changes_are_not_asked_for_since_a_newer_snapshot(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.write({0: b"old" * 9999})
    world.number = 5
    newer = world.back_up()
    world.write({0: b"older" * 999, 3 * PAGE: b"older"})
    world.number = 2
    result = world.back_up(Liar())
    assert (result.parent, result.full_reason) == (newer.manifest, "NoBaseSnapshot")
    assert world.restored_well()


def test_audit_takes_what_is_not_allocated_for_holes_whatever_a_similar_disk_has_there(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.write({0: os.urandom(4 * PAGE)})
    world.back_up()
    world.content = {0: world.content[0][: 3 * PAGE]}
    other = DiskIdentity(disk_key="shop/web/root", volume_handle="v2")
    result = world.back_up(disk=other, dedupe="Namespace", auditShare=1)
    assert (result.distrust, result.audited_bytes > PAGE / 2, result.stored_bytes) == (None, True, 0)
    assert result.note == "compared with a backup of another disk of the namespace (claim 'db-data')"
    assert world.restored_well()


def test_every_nth_backup_reads_everything(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    results = [world.back_up(fullReadEvery=3) for _ in range(8)]
    reasons = [each.full_reason for each in results]
    assert [each.since_full_read == 0 for each in results] == [each == "ScheduledFullRead" for each in reasons]
    assert [each.distrust for each in results] == [None] * 8
    assert reasons == ["NoParent", None, "ScheduledFullRead", None, None, "ScheduledFullRead", None, None]


def test_volume_that_shrank_is_read_as_a_whole(tmp_path: Path) -> None:
    world = World(tmp_path, 4 * PAGE)
    world.write({0: b"data" * 9999})
    world.back_up()
    world.size = 3 * PAGE
    assert world.back_up().full_reason == "VolumeShrank"
    assert world.restored_well()


class Damaged:
    """Some blocks of every page of the parent."""

    def __init__(self, blocks: set[int]) -> None:
        self.blocks = frozenset(blocks)

    def blocks_of(self, page: Page) -> frozenset[int]:
        return frozenset(block for block in self.blocks if block < page.blocks and page.frame_of[block])

    def covers(self, kind: Kind, pack: bytes, offset: int) -> bool:
        return False


def avoid_blocks(monkeypatch: pytest.MonkeyPatch, *blocks: int) -> None:
    """Have these blocks of every page of the parent be stored anew."""
    init = MapBuilder.__init__
    avoided = Avoided(Damaged(set(blocks)), pages=frozenset(range(3)))  # type: ignore[arg-type]
    monkeypatch.setattr(MapBuilder, "__init__", lambda self, *a: init(self, *a[:5], avoided))


def test_driver_is_found_out_by_what_is_read_because_the_parent_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, 3 * PAGE)
    world.write({n * BLOCK: os.urandom(BLOCK) for n in range(2 * PAGE_BLOCKS)})
    world.back_up()
    world.write({3 * BLOCK + 7: b"nobody was told of this"})
    avoid_blocks(monkeypatch, 0, 3)
    with pytest.raises(ChangeTrackingMismatchError, match="differ from what the change source says"):
        world.back_up(Liar())
    assert world.restored_well()


def test_what_is_read_because_the_parent_is_damaged_is_checked_as_an_audit_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, 3 * PAGE)
    world.write({n * BLOCK: os.urandom(BLOCK) for n in range(2 * PAGE_BLOCKS)})
    world.back_up()
    avoid_blocks(monkeypatch, 0, 3)
    result = world.back_up()
    assert (result.read_bytes, result.audited_bytes, result.distrust) == (4 * BLOCK, 4 * BLOCK, None)
    assert world.restored_well()


@pytest.mark.parametrize("tracked", [True, False])
def test_damaged_blocks_of_the_parent_are_stored_anew_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool
) -> None:
    world = World(tmp_path, 3 * PAGE)
    world.write({n * BLOCK: os.urandom(BLOCK) for n in range(2 * PAGE_BLOCKS)})
    world.back_up()
    avoid_blocks(monkeypatch, 0, 3)
    if tracked:
        healed = world.back_up()
        assert healed.read_bytes == 4 * BLOCK
    else:
        healed = export(world.store, world.key, world.folder / "source", "healed", 2)
    assert healed.stored_bytes > 4 * BLOCK
    assert world.restored_well()
    # The old packs can go as far as those blocks are concerned: nothing refers to them there.
    old = {name for name in world.store.objects if "/packs/" in name}
    assert len(old) == 2
