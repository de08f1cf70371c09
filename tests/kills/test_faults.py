"""A mover that dies or fails at any operation harms nothing; damage of any object never goes unnoticed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longboat.repository import RepositoryError, leases
from longboat.repository.errors import DamagedError, LeaseLostError, StoreFailureError
from longboat.repository.page_build import PageBuild
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore
from tests.unit.mover.disks import BLOCK, export, repository_in, restore, write_image

SIZE = 30 * BLOCK


def two_versions(tmp_path: Path) -> tuple[MemoryStore, bytes, str, bytes, Path]:
    """Return a store with one backup, its key, its manifest, its content, and a folder with the next version."""
    store = MemoryStore()
    key = repository_in(store).master_key
    content = {i * BLOCK: bytes([i + 1]) * BLOCK for i in range(0, 30, 2)}
    folder = write_image(tmp_path / "a", content, SIZE)
    first = export(store, key, folder, "one", 1)
    before = (folder / "disk.img").read_bytes()
    write_image(folder, {**content, 3 * BLOCK: b"new" * 50, 28 * BLOCK: b"other" * 99}, SIZE)
    return store, key, first.manifest, before, folder


@pytest.mark.parametrize("fault", ["killed-before", "killed-after", "fails", "acknowledgement-lost"])
def test_fault_at_any_operation_keeps_earlier_backups_and_the_retry_succeeds(tmp_path: Path, fault: str) -> None:
    store, key, manifest, before, folder = two_versions(tmp_path)
    after = (folder / "disk.img").read_bytes()
    counter = FaultyStore(store.copy())
    export(counter, key, folder, "two", 2)
    assert counter.operations > 10
    for at in range(counter.operations):
        world = store.copy()
        with contextlib.suppress(KilledError, StoreFailureError):
            export(FaultyStore(world, fault, at), key, folder, "two", 2)
        assert restore(world, key, manifest, tmp_path)[0] == before
        retried = export(world, key, folder, "two", 2)
        assert restore(world, key, retried.manifest, tmp_path)[0] == after


def test_fault_at_any_operation_of_a_restore_leaves_no_disk_image(tmp_path: Path) -> None:
    store, key, manifest, _, _ = two_versions(tmp_path)
    counter = FaultyStore(store)
    restore(counter, key, manifest, tmp_path)
    for at in range(counter.operations):
        with pytest.raises(StoreFailureError):
            restore(FaultyStore(store, "fails", at), key, manifest, tmp_path)
    assert not list(tmp_path.glob("restored-*/disk.img"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStore, bytes, str, bytes]:
    """Return a store with a backup and an increment, the key, the increment's manifest and its content."""
    store, key, _, _, folder = two_versions(tmp_path_factory.mktemp("chain"))
    return store, key, export(store, key, folder, "two", 2).manifest, (folder / "disk.img").read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 99), place=st.floats(0, 1, exclude_max=True), damage=st.sampled_from(["flip", "cut", "gone"])
)
def test_damage_of_any_object_is_noticed_or_harmless(
    chain: tuple[MemoryStore, bytes, str, bytes], tmp_path: Path, which: int, place: float, damage: str
) -> None:
    whole, key, manifest, expected = chain
    store, names = whole.copy(), sorted(whole.objects)
    name = names[which % len(names)]
    content, modified, version = store.objects.pop(name)
    at = int(place * len(content))
    changed = content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :] if damage == "flip" else content[:at]
    if damage != "gone":
        store.objects[name] = (changed, modified, version)
    try:
        restored, _ = restore(store, key, manifest, tmp_path)
    except RepositoryError:
        return
    assert restored == expected


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_pack_is_named_with_the_place_on_the_disk(tmp_path: Path, damage: str) -> None:
    store, key, manifest, _, _ = two_versions(tmp_path)
    name = next(name for name in store.objects if "/packs/" in name)
    content, modified, version = store.objects.pop(name)
    if damage == "flip":
        store.objects[name] = (content[:90] + bytes([content[90] ^ 1]) + content[91:], modified, version)
    elif damage == "cut":
        store.objects[name] = (content[:100], modified, version)
    with pytest.raises(DamagedError, match=rf"from byte \d+ on: .*{name.rsplit('/', 1)[1][:4]}"):
        restore(store, key, manifest, tmp_path)


def test_map_that_names_the_wrong_block_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    folder = write_image(tmp_path / "a", {0: b"one" * 1365 + b"two" * 1365}, 2 * BLOCK)
    place = PageBuild.place
    # A bug of the writer: everything authenticates, but the two blocks of the frame are mixed up.
    monkeypatch.setattr(PageBuild, "place", lambda page, index, frame, slot: place(page, index, frame, 1 - slot))
    manifest = export(store, key, folder, "one").manifest
    with pytest.raises(DamagedError, match="another block"):
        restore(store, key, manifest, tmp_path)


@pytest.mark.parametrize("folder_name", ["/maps/", "/disks/"])
@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_unreadable_parent_leads_to_a_full_read_with_a_reason(tmp_path: Path, folder_name: str, damage: str) -> None:
    store, key, _, _, folder = two_versions(tmp_path)
    for name in [name for name in store.objects if folder_name in name]:
        content, modified, version = store.objects.pop(name)
        if damage == "flip":
            store.objects[name] = (
                (content[:-60] + b"?" * 60, modified, version)
                if "disks" in name
                else (
                    content[:70] + b"?" * 30 + content[100:],
                    modified,
                    version,
                )
            )
    result = export(store, key, folder, "two", 2)
    gone = folder_name == "/disks/" and damage == "gone"
    assert (result.mode, result.full_reason) == ("Full", "NoParent" if gone else "ParentUnreadable")
    assert restore(store, key, result.manifest, tmp_path)[0] == (folder / "disk.img").read_bytes()


def test_older_parent_serves_if_the_newest_is_damaged(tmp_path: Path) -> None:
    store, key, manifest, _, folder = two_versions(tmp_path)
    second = export(store, key, folder, "two", 2)
    path = next(name for name in store.objects if name.endswith(second.manifest))
    content, modified, version = store.objects[path]
    store.objects[path] = (content[:-1], modified, version)
    third = export(store, key, folder, "three", 3)
    assert (third.mode, third.parent) == ("Incremental", manifest)
    assert "ParentUnreadable" in third.note


def test_lost_lease_keeps_the_manifest_from_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key, _, _, folder = two_versions(tmp_path)
    manifests = [name for name in store.objects if "/disks/" in name]
    monkeypatch.setattr(leases, "_LONGEST_GAP", -leases.RENEW_EVERY)
    with pytest.raises(LeaseLostError):
        export(store, key, folder, "two", 2)
    assert [name for name in store.objects if "/disks/" in name] == manifests
