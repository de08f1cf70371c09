"""The format's document, an archived repository and today's code agree."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from longboat.repository import (
    find_backup,
    generate_store_key,
    open_or_create_repository,
    parse_store_key,
    reference_to,
    write_backup_manifest,
)
from longboat.repository.backups import read_disk_manifest
from longboat.repository.crypto import RepositoryKeys
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import BLOCK, PATH, backup_time, export, restore, write_image

from .independent_reader import Reader

ARCHIVE = Path(__file__).parent / "vectors" / "repository-v1.json"
SIZE = 40 * BLOCK + 100


def written(tmp_path: Path) -> tuple[MemoryStore, str, dict[str, str]]:
    """Return a store with a full backup and an increment, the store key's text, and each disk's SHA-256 by name."""
    store, key_text = MemoryStore(), generate_store_key()
    repository = open_or_create_repository(store, PATH, parse_store_key(key_text))
    content = {i * BLOCK: b"block %d " % i * 300 for i in (0, 3, 4, 5, 17, 40)}
    hashes = {}
    for number, name in enumerate(("full", "increment")):
        folder = write_image(tmp_path / "a", content, SIZE)
        result = export(store, repository.master_key, folder, name, number)
        stored = read_disk_manifest(repository, result.manifest)
        write_backup_manifest(repository, name, backup_time(number), [reference_to(stored, "data")], None, {"vm": "db"})
        hashes[name] = hashlib.sha256((folder / "disk.img").read_bytes()).hexdigest()
        content = {**content, 4 * BLOCK: b"changed", 30 * BLOCK: bytes(range(256)) * 16}
    return store, key_text, hashes


def objects_of(store: MemoryStore) -> dict[str, bytes]:
    return {name.removeprefix(f"{PATH}/"): content[0] for name, content in store.objects.items()}


def archived() -> tuple[dict[str, bytes], str, dict[str, str]]:
    archive = json.loads(ARCHIVE.read_text())
    objects = {name: base64.b64decode(data) for name, data in archive["objects"].items()}
    return objects, archive["storeKey"], archive["sha256"]


def test_independent_reader_restores_what_is_written_today(tmp_path: Path) -> None:
    store, key_text, hashes = written(tmp_path)
    reader = Reader(objects_of(store), key_text)
    for name, expected in hashes.items():
        data = reader.disk(reader.backup(name)["disks"][0]["manifest"])
        assert hashlib.sha256(data).hexdigest() == expected


def test_independent_reader_restores_the_archived_repository() -> None:
    objects, key_text, hashes = archived()
    reader = Reader(objects, key_text)
    for name, expected in hashes.items():
        assert hashlib.sha256(reader.disk(reader.backup(name)["disks"][0]["manifest"])).hexdigest() == expected


def test_archived_repository_stays_readable(tmp_path: Path) -> None:
    objects, key_text, hashes = archived()
    store = MemoryStore()
    for name, data in objects.items():
        store.put_new(f"{PATH}/{name}", data)
    repository = open_or_create_repository(store, PATH, parse_store_key(key_text))
    for name, expected in hashes.items():
        backup = find_backup(repository, name)
        assert backup is not None
        data, _ = restore(store, repository.master_key, backup.disks[0].manifest, tmp_path)
        assert hashlib.sha256(data).hexdigest() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("key_id", "99f9090b101d9451e4c127cebd6a59fd"),
        ("block_key", "a7cf23f4995b26b441cb132cd7e1606db8a53ca001138ec49be5e54be8ca8576"),
        ("name_key", "ca04303f8d561f925077885275a0921f9d7c9fd8e5dafe5a8c299c3e7161b615"),
    ],
)
def test_key_derivation_vectors_of_the_document(name: str, expected: str) -> None:
    keys = RepositoryKeys.of(bytes(range(16)), bytes(range(32)))
    assert getattr(keys, name).hex() == expected


def test_block_id_and_name_vectors_of_the_document() -> None:
    keys = RepositoryKeys.of(bytes(range(16)), bytes(range(32)))
    assert keys.block_id(b"longboat" * 512).hex() == "34c17469cceabeb61251f0cfed5613b9"
    assert keys.name_hash("db-data") == "66afeb0d5486a253535339a1a53306fc"
