"""What is restored is what was backed up, for any image and any chain of increments."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.repository import find_disk_manifest, write_tombstone
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, DISK, PAGE_BLOCKS, backup_time, export, repository_in, restore, write_image

# A disk of some pages; its size need not be a multiple of anything.
SIZES = st.integers(1, 5 * PAGE_BLOCKS * BLOCK)
# What a stretch of a disk is filled with: zeros written out, text that compresses, or bytes that do not.
FILLS = st.sampled_from([b"\0", b"longboat ", bytes((i * 167 + (i >> 3) * 31) & 255 for i in range(4099))])
WRITES = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 6 * BLOCK), FILLS), max_size=8)


def apply(writes: list[tuple[float, int, bytes]], size: int) -> dict[int, bytes]:
    """Return the content that the writes make on a disk of that size."""
    content = {}
    for place, length, fill in writes:
        offset = min(int(place * size), size - 1)
        data = (fill * (length // len(fill) + 1))[:length]
        content[offset] = data[: size - offset]
    return content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=SIZES, history=st.lists(WRITES, min_size=1, max_size=4))
def test_every_backup_of_a_chain_restores_to_what_was_there(
    tmp_path: Path, size: int, history: list[list[tuple[float, int, bytes]]]
) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    taken = []
    content: dict[int, bytes] = {}
    for number, writes in enumerate(history):
        content = {**content, **apply(writes, size)}
        folder = write_image(tmp_path / "source", content, size)
        result = export(store, key, folder, f"backup-{number}", number)
        assert (result.parent is None) == (number == 0)
        taken.append((result.manifest, (folder / "disk.img").read_bytes()))
    for manifest, expected in taken:
        assert restore(store, key, manifest, tmp_path)[0] == expected


def test_unchanged_disk_stores_no_data_and_no_pages(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {0: b"x" * 40 * BLOCK, 50 * BLOCK: b"y"}, 100 * BLOCK)
    full = export(store, key, folder, "one", 1)
    packs = {name for name in store.objects if "/packs/" in name or "/maps/" in name}
    again = export(store, key, folder, "two", 2)
    assert (full.mode, full.full_reason, full.stored_bytes > 0) == ("Full", "NoParent", True)
    assert (again.mode, again.parent, again.stored_bytes) == ("Incremental", full.manifest, 0)
    assert again.allocated_bytes == full.allocated_bytes == 41 * BLOCK
    assert {name for name in store.objects if "/packs/" in name or "/maps/" in name} == packs


def test_one_changed_block_stores_one_block_and_one_page(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    noise = bytes((i * i * 31 + i // 7) & 255 for i in range(BLOCK))
    content = {i * BLOCK: noise[i:] + noise[:i] for i in range(64)}
    folder = write_image(tmp_path / "a", content, 64 * BLOCK)
    export(store, key, folder, "one", 1)
    write_image(folder, {**content, 20 * BLOCK: b"changed" * 100}, 64 * BLOCK)
    export(store, key, folder, "two", 2)
    repository = repository_in(store)
    first, second = (
        find_disk_manifest(repository, DISK.disk_key, name, backup_time(n)) for n, name in ((1, "one"), (2, "two"))
    )
    assert first and second
    assert (second.manifest.statistics.new_blocks, second.manifest.statistics.unchanged_blocks) == (1, 63)
    resolved = [
        [ref and (manifest.map_packs[ref[0]], *ref[1:]) for ref in manifest.pages]
        for manifest in (first.manifest, second.manifest)
    ]
    assert [i for i, (a, b) in enumerate(zip(*resolved, strict=True)) if a != b] == [20 // PAGE_BLOCKS]


def test_grown_disk_is_compared_with_its_smaller_parent(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {i * BLOCK: b"%d" % i * 999 for i in range(13)}, 12 * BLOCK + 700)
    export(store, key, folder, "one", 1)
    write_image(folder, {i * BLOCK: b"%d" % i * 999 for i in range(40)}, 40 * BLOCK)
    grown = export(store, key, folder, "two", 2)
    assert grown.mode == "Incremental"
    assert restore(store, key, grown.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_disk_grown_by_holes_alone_does_not_share_its_last_page(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {i * BLOCK: b"%d" % i * 999 for i in range(10)}, 10 * BLOCK)
    export(store, key, folder, "one", 1)
    write_image(folder, {i * BLOCK: b"%d" % i * 999 for i in range(10)}, 14 * BLOCK)
    grown = export(store, key, folder, "two", 2)
    assert restore(store, key, grown.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_holes_stay_holes_and_take_no_space(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    size = 64 << 20
    folder = write_image(tmp_path / "a", {32 << 20: b"in the middle"}, size)
    result = export(store, key, folder, "one")
    target = tmp_path / "b"
    target.mkdir()
    restored = restore(store, key, result.manifest, target)
    assert len(restored[0]) == size
    assert restored[1].written_bytes == BLOCK
    assert result.stored_bytes < 2000


def test_a_backup_made_anew_under_the_same_name_never_reports_the_older_runs_data(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    old = export(store, key, write_image(tmp_path / "a", {0: b"of the first run"}, 9 * BLOCK), "manual", 1)
    folder = write_image(tmp_path / "a", {0: b"of the second run"}, 9 * BLOCK)
    new = export(store, key, folder, "manual", 2)
    assert not new.reused and new.manifest != old.manifest
    assert restore(store, key, new.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_retried_export_reports_the_finished_manifest(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {0: b"data"}, 3 * BLOCK)
    first = export(store, key, folder, "one")
    write_image(folder, {0: b"other"}, 3 * BLOCK)
    objects = dict(store.objects)
    second = export(store, key, folder, "one")
    assert second == first.model_copy(update={"reused": True})
    assert store.objects == objects


def test_deleted_backup_is_no_parent(tmp_path: Path) -> None:
    store = MemoryStore()
    repository = repository_in(store)
    folder = write_image(tmp_path / "a", {0: b"data"}, 3 * BLOCK)
    export(store, repository.master_key, folder, "one", 1)
    write_tombstone(repository, "one", store.now, "test")
    assert export(store, repository.master_key, folder, "two", 2).full_reason == "ParentTombstoned"


def test_full_read_on_request_says_so(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {0: b"data"}, 3 * BLOCK)
    export(store, key, folder, "one", 1)
    assert export(store, key, folder, "two", 2, policy="None").full_reason == "Requested"


def test_lease_is_gone_after_an_export(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    export(store, key, write_image(tmp_path / "a", {0: b"data"}, BLOCK), "one")
    assert not [name for name in store.objects if "/leases/" in name]
