"""Disks made from one image share its blocks, if asked to, and only within the namespace."""

from __future__ import annotations

import os
from pathlib import Path

from longboat.mover.results import ExportResult
from longboat.repository import DiskIdentity, open_or_create_repository, read_disk_manifest, write_tombstone
from tests.fakes.object_store import MemoryStore

from .disks import BLOCK, PAGE_BLOCKS, export, repository_in, restore, write_image

IMAGE = {0: os.urandom(3 * PAGE_BLOCKS * BLOCK)}
SIZE = 4 * PAGE_BLOCKS * BLOCK
OTHER = DiskIdentity(disk_key="shop/web/root", volume_handle="v2")


def clone(
    store: MemoryStore, folder: Path, dedupe: str = "Namespace", size: int = SIZE, **more: object
) -> ExportResult:
    """Back up a second disk, made from the same image and then written to, for the first time."""
    content = {**IMAGE, 5 * BLOCK: b"of its own", 3 * PAGE_BLOCKS * BLOCK: b"more"}
    image = write_image(folder / "clone", content, size)
    return export(store, repository_in(store).master_key, image, "clone", 2, disk=OTHER, dedupe=dedupe, **more)


def golden(store: MemoryStore, folder: Path) -> ExportResult:
    return export(store, repository_in(store).master_key, write_image(folder / "a", IMAGE, SIZE), "golden", 1)


def test_disk_of_the_same_image_stores_what_is_its_own(tmp_path: Path) -> None:
    store = MemoryStore()
    key, first = repository_in(store).master_key, golden(store, tmp_path)
    result = clone(store, tmp_path, size=SIZE + PAGE_BLOCKS * BLOCK + 99)
    assert result.stored_bytes < 4 * BLOCK
    assert (result.mode, result.full_reason, result.parent) == ("Full", "NoParent", None)
    assert read_disk_manifest(repository_in(store), result.manifest).manifest.compared_with == first.manifest
    data = (tmp_path / "clone" / "disk.img").read_bytes()
    assert restore(store, key, result.manifest, tmp_path)[0] == data
    again = export(store, key, tmp_path / "clone", "next", 3, disk=OTHER, dedupe="Namespace")
    assert (again.mode, again.parent, again.stored_bytes) == ("Incremental", result.manifest, 0)


def test_nothing_is_shared_unless_asked_for(tmp_path: Path) -> None:
    store = MemoryStore()
    golden(store, tmp_path)
    assert clone(store, tmp_path, dedupe="Disk").stored_bytes > 3 * PAGE_BLOCKS * BLOCK


def test_deleted_backup_of_another_disk_is_not_referred_to(tmp_path: Path) -> None:
    store = MemoryStore()
    golden(store, tmp_path)
    write_tombstone(repository_in(store), "golden", store.now, "test")
    assert clone(store, tmp_path).stored_bytes > 3 * PAGE_BLOCKS * BLOCK


def test_disk_of_another_image_is_not_compared_with(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    export(store, key, write_image(tmp_path / "a", {0: os.urandom(SIZE)}, SIZE), "foreign", 1)
    result = clone(store, tmp_path)
    assert read_disk_manifest(repository_in(store), result.manifest).manifest.compared_with is None


def test_other_namespaces_are_not_seen(tmp_path: Path) -> None:
    store = MemoryStore()
    golden(store, tmp_path)
    other = open_or_create_repository(store, "cluster/other", b"o" * 32)
    image = write_image(tmp_path / "b", IMAGE, SIZE)
    result = export(
        store, other.master_key, image, "theirs", 2, disk=OTHER, dedupe="Namespace", repositoryPath="cluster/other"
    )
    assert result.stored_bytes > 3 * PAGE_BLOCKS * BLOCK


def test_similar_disk_whose_map_is_damaged_is_passed_over(tmp_path: Path) -> None:
    store = MemoryStore()
    key = repository_in(store).master_key
    golden(store, tmp_path)
    for name in [name for name in store.objects if "/maps/" in name]:
        content, *rest = store.objects[name]
        store.objects[name] = (content[:70] + b"?" * 30 + content[100:], *rest)
    result = clone(store, tmp_path)
    assert restore(store, key, result.manifest, tmp_path)[0] == (tmp_path / "clone" / "disk.img").read_bytes()
