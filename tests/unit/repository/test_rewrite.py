"""Packs that are mostly dead are stored anew by the next backup, within a budget; advice can cost space, never data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.mover import export_disk
from longboat.mover.results import ExportResult
from longboat.mover.source import Source
from longboat.repository import (
    PruneReport,
    advance_epoch,
    prune,
    read_disk_manifest,
    reference_to,
    rewrite,
    sweep_tombstones,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.mark import references
from longboat.repository.rewrite import RewriteList, advice_objects, least_share, read_advice, write_advice
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import BLOCK, DISK, PAGE_BLOCKS, backup_time, export, repository_in, restore, write_image

GRACE = timedelta(hours=24)
BLOCKS = 4 * PAGE_BLOCKS
OTHER = DISK.model_copy(update={"disk_key": "shop/web/data"})


class Changes:
    """A change source that says that only these blocks have changed."""

    def __init__(self, blocks: Iterable[int]) -> None:
        self._blocks = sorted(blocks)

    def allocated(self) -> Iterator[tuple[int, int]]:
        yield 0, BLOCKS * BLOCK

    def delta(self, base_handle: str) -> Iterator[tuple[int, int]]:
        yield from ((block * BLOCK, BLOCK) for block in self._blocks)


class Chain:
    """A store with backups of one disk, each of which may be removed again."""

    def __init__(self, folder: Path) -> None:
        self.store, self.folder, self.tracked = MemoryStore(), folder, True
        self.repository = repository_in(self.store)
        self.content = {number: bytes([number + 1]) * BLOCK for number in range(BLOCKS)}
        self.made: dict[str, tuple[str, bytes]] = {}

    def back_up(self, changed: Iterable[int] = (), **more: object) -> ExportResult:
        """Write to some blocks and back the disk up."""
        changes = Changes(changed) if self.tracked else None
        name, number = f"backup-{len(self.made)}", len(self.made)
        for block in changed:
            self.content[block] = f"{name} {block}".encode().ljust(BLOCK, b".")
        image = write_image(self.folder / "disk", {n * BLOCK: data for n, data in self.content.items()}, BLOCKS * BLOCK)
        key, more = self.repository.master_key, {"snapshotHandle": name, "auditShare": 0, **more}
        result = export(self.store, key, image, name, number, changes=changes, **more)  # type: ignore[arg-type]
        self.made[name] = result.manifest, (image / "disk.img").read_bytes()
        stored = read_disk_manifest(self.repository, result.manifest)
        write_backup_manifest(self.repository, name, backup_time(number), [reference_to(stored, "data")])
        return result

    def remove(self, *names: str) -> None:
        """Delete backups for good."""
        for name in names:
            write_tombstone(self.repository, name, self.store.now, "test")
            del self.made[name]
        sweep_tombstones(self.repository, self.store.now, timedelta(0))

    def prune(self, dry_run: bool = False) -> PruneReport:
        """Prune, days after whatever was before."""
        self.store.advance(2 * GRACE)
        epoch = None if dry_run else advance_epoch(self.repository, {"t"}, "t")
        return prune(
            self.repository, now=self.store.now, grace=GRACE, epoch=epoch, allow_most=True, dry_run=dry_run, threads=2
        )

    def packs(self, name: str) -> set[bytes]:
        """Return the data packs that a backup refers to."""
        return set(references(self.repository, read_disk_manifest(self.repository, self.made[name][0]).manifest).data)

    def rewritten(self, name: str) -> int:
        """Return how many unchanged blocks a backup has stored anew."""
        return read_disk_manifest(self.repository, self.made[name][0]).manifest.statistics.rewritten_blocks

    def check(self) -> None:
        """Restore everything that is left."""
        for manifest, content in self.made.values():
            assert restore(self.store, self.repository.master_key, manifest, self.folder)[0] == content


@pytest.fixture(autouse=True)
def images_are_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have disk.img be read as a block device is."""

    def opened(path: Path) -> Source:
        image = path / "disk.img"
        return Source(image, os.open(image, os.O_RDONLY), image.stat().st_size, is_device=True, direct=False)

    monkeypatch.setattr(export_disk, "open_source", opened)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Return a chain whose first pack is mostly dead, as prune has found."""
    chain = Chain(tmp_path)
    chain.back_up()
    chain.back_up(range(4, BLOCKS))
    assert chain.prune().to_rewrite.objects == 1
    return chain


@pytest.mark.parametrize("tracked", [False, True])
def test_mostly_dead_pack_goes_once_the_backups_from_before_have_expired(chain: Chain, tracked: bool) -> None:
    chain.tracked = tracked
    [old] = chain.packs("backup-0")
    result = chain.back_up([BLOCKS - 1])
    assert (result.mode, result.read_bytes) == ("Incremental", (5 if tracked else BLOCKS) * BLOCK)
    assert old not in chain.packs("backup-2") and chain.rewritten("backup-2") == 4
    chain.check()
    chain.remove("backup-0", "backup-1")
    chain.prune()
    assert chain.prune().removed["DataPack"].objects == 1
    assert not [name for name in chain.store.objects if old.hex() in name]
    chain.check()


def test_pack_that_is_alive_enough_is_left_alone(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.back_up()
    chain.back_up(range(4))
    assert chain.prune().to_rewrite.objects == 0
    assert not advice_objects(chain.repository)


@pytest.mark.parametrize("own", [[], range(5, BLOCKS, PAGE_BLOCKS)])
def test_pack_of_two_disks_is_left_alone(chain: Chain, own: Iterable[int]) -> None:
    # They share the pages of the map, or only the data that these refer to.
    chain.tracked = False
    chain.back_up(own, disk=OTHER, dedupe="Namespace")
    assert chain.packs("backup-1") <= chain.packs("backup-2")
    assert chain.prune().to_rewrite.objects == 0


def test_backup_stores_no_more_anew_than_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "_FLOOR", 3 * BLOCK)
    monkeypatch.setattr(rewrite, "_SHARE", BLOCKS)
    chain = Chain(tmp_path)
    chain.back_up()
    chain.back_up(range(4))
    # Its parent stored 4 blocks that had changed: the pack of these may be rewritten, that of 28 others may not.
    for name, expected in (("backup-1", 4), ("backup-2", 0)):
        # What the parent had rewritten does not count for the one after it.
        packs = tuple(pack.hex() for pack in chain.packs(name))
        hashed = chain.repository.keys.name_hash(DISK.disk_key)
        write_advice(chain.repository, hashed, RewriteList(disk_key=DISK.disk_key, marked=chain.store.now, packs=packs))
        chain.store.advance(GRACE)
        chain.back_up()
        assert chain.rewritten(f"backup-{len(chain.made) - 1}") == expected
    chain.check()


def test_each_prune_replaces_the_lists_and_a_dry_run_writes_none(chain: Chain) -> None:
    [before] = advice_objects(chain.repository)
    assert chain.prune(dry_run=True).to_rewrite.objects == 1
    assert advice_objects(chain.repository) == [before]
    assert chain.prune().removed["RewriteList"].objects == 1
    [after] = advice_objects(chain.repository)
    assert after.name != before.name
    chain.back_up()
    assert chain.prune().to_rewrite.objects == 0 and not advice_objects(chain.repository)


def test_many_small_packs_of_a_disk_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "MANY_SMALL", 4)
    chain = Chain(tmp_path)
    for block in range(3):
        chain.back_up([block])
    assert chain.prune().to_rewrite.objects == 0
    chain.back_up([3])
    assert chain.prune().to_rewrite.objects == 4
    chain.back_up()
    assert len(chain.packs("backup-4")) == 1 and chain.rewritten("backup-4") == BLOCKS
    chain.check()
    # What is one pack now is not stored again and again.
    assert chain.prune().to_rewrite.objects == 0


@pytest.mark.parametrize("how", ["cut", "of another disk", "unknown packs", "everything", "moved"])
def test_false_advice_costs_no_data(chain: Chain, how: str) -> None:
    [info] = advice_objects(chain.repository)
    name = f"cluster/namespace/{info.name}"
    data, modified, version = chain.store.objects[name]
    packs = [pack.hex() for pack in chain.packs("backup-1")] if how == "everything" else ["ab" * 16]
    disk = "shop/other" if how == "of another disk" else DISK.disk_key
    content = RewriteList(disk_key=disk, marked=chain.store.now, packs=tuple(packs))
    hashed = chain.repository.keys.name_hash(DISK.disk_key)
    if how == "cut":
        chain.store.objects[name] = data[:-1], modified, version
    elif how == "moved":
        chain.store.objects[name[:-4] + "0000"] = chain.store.objects.pop(name)
    else:
        chain.store.advance(timedelta(hours=1))
        write_advice(chain.repository, hashed, content)
    assert read_advice(chain.repository, DISK.disk_key) == (
        [bytes.fromhex(pack) for pack in packs] if how in {"unknown packs", "everything"} else []
    )
    result = chain.back_up([2])
    assert result.mode == "Incremental"
    assert chain.rewritten("backup-2") == (BLOCKS - 1 if how == "everything" else 0)
    chain.check()


def test_pages_that_are_not_concerned_are_shared_unseen(chain: Chain) -> None:
    # The advice concerns the first page only: the others are shared unseen.
    reads: list[str] = []
    plain = chain.store.get_range

    def counting(name: str, offset: int, length: int) -> object:
        reads.append(name)
        return plain(name, offset, length)

    chain.store.get_range = counting  # type: ignore[method-assign, assignment]
    chain.back_up()
    # One for the index of the parent's map pack, one for the page.
    assert len([name for name in reads if "/maps/" in name]) == 2


@given(st.floats(0, 50))
def test_share_is_the_one_at_which_least_is_stored(changed: float) -> None:
    def stored(share: float) -> float:
        return (changed - math.log(share)) / (1 - share)

    chosen = least_share(changed)
    assert all(stored(chosen) <= stored(share) * 1.001 for share in (1 / 8, 0.2, 0.3, 0.4, 0.5, 0.6, 2 / 3))
