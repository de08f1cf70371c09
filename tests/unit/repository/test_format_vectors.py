"""The format's document, an archived repository, today's code and the independent reader agree on bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from longboat.repository import find_backup, open_or_create_repository, parse_store_key
from longboat.repository.closing import ClosingRecord
from longboat.repository.crypto import RepositoryKeys, derive
from longboat.repository.documents import open_document, seal_document
from longboat.repository.key_text import (
    RECOVERY_SECRET_PREFIX,
    STORE_KEY_PREFIX,
    format_key,
    generate_recovery_pair,
    parse_recovery_public,
)
from longboat.repository.layout import Kind, closing_name, pack_name
from longboat.repository.packs import PackWriter, open_frame, read_pack_index
from longboat.repository.pages import FrameRef, build_page, decode_page, encode_page, page_table
from longboat.repository.wrapping import WrapKey, add_wrap, unwrap_master
from tests.fakes.object_store import MemoryStore
from tests.independent_reader import keys as independent
from tests.independent_reader.objects import CLOSING, ObjectFile
from tests.independent_reader.reader import parse_page
from tests.unit.mover.disks import PATH, restore

ARCHIVE = Path(__file__).parent / "vectors" / "repository-v1.json"
DOCUMENT = (Path(__file__).parents[3] / "docs/reference/repository-format.md").read_text()
BLOCK = b"longboat" * 512
PAYLOAD = bytes.fromhex("28b52ffd60000f7d0000406c6f6e67626f61740100f59f5fb8")


def counted(first: int, count: int = 32) -> bytes:
    return bytes(range(first, first + count))


MASTER, REPOSITORY, STORE_KEY, RECOVERY_SECRET = counted(0), counted(0, 16), counted(0x20), counted(0x40)
KEYS = RepositoryKeys.of(REPOSITORY, MASTER)
PACK_ID = counted(0x10, 16)


def documented(row: str, *values: str) -> bool:
    """Tell whether the document has a table's row with these values."""
    return f"| {' | '.join([row, *(f'`{value}`' for value in values)])} |" in DOCUMENT


def test_archived_repository_stays_readable(tmp_path: Path) -> None:
    archive = json.loads(ARCHIVE.read_text())
    store = MemoryStore()
    for name, data in archive["objects"].items():
        store.put_new(f"{PATH}/{name}", base64.b64decode(data))
    repository = open_or_create_repository(store, PATH, parse_store_key(archive["storeKey"]))
    for name, expected in archive["sha256"].items():
        backup = find_backup(repository, name)
        assert backup is not None
        data, _ = restore(store, repository.master_key, backup.disks[0].manifest, tmp_path)
        assert hashlib.sha256(data).hexdigest() == expected


@pytest.mark.parametrize(
    ("row", "code", "reader"),
    [
        ("key id", KEYS.key_id, independent.Keys(MASTER, REPOSITORY).key_id),
        ("key of block ids", KEYS.block_key, independent.Keys(MASTER, REPOSITORY).block_key),
        ("key of names' hashes", KEYS.name_key, independent.Keys(MASTER, REPOSITORY).name_key),
        (
            "key of the data pack with object id `10 11 … 1f`",
            derive(MASTER, REPOSITORY, b"longboat/1/object/1/" + PACK_ID),
            independent.Keys(MASTER, REPOSITORY).object_key(1, PACK_ID),
        ),
        (
            "id of the block `longboat` × 512",
            KEYS.block_id(BLOCK),
            independent.Keys(MASTER, REPOSITORY).block_id(BLOCK),
        ),
        (
            "hash of the name `db-data`",
            bytes.fromhex(KEYS.name_hash("db-data")),
            bytes.fromhex(independent.Keys(MASTER, REPOSITORY).name_hash("db-data")),
        ),
    ],
)
def test_derived_keys_are_those_of_the_document(row: str, code: bytes, reader: bytes) -> None:
    assert code == reader
    assert documented(row, code.hex())


def test_texts_of_keys_are_those_of_the_document() -> None:
    pair = generate_recovery_pair(lambda _: RECOVERY_SECRET)
    assert documented("`00 01 … 1f` as a store's", format_key(STORE_KEY_PREFIX, counted(0)))
    assert documented("the store's", format_key(STORE_KEY_PREFIX, STORE_KEY))
    assert documented("the recovery pair's public half", pair.public)
    assert documented("its secret half", pair.secret)
    for prefix, key in ((STORE_KEY_PREFIX, STORE_KEY), (RECOVERY_SECRET_PREFIX, RECOVERY_SECRET)):
        assert independent.key_from_text(format_key(prefix, key)) == (prefix, key)


def wrapped(wrap: WrapKey, secret: bytes) -> tuple[dict[str, str], bytes]:
    """Return the wrapped copy's JSON, and the master key as the code unwraps it again."""
    store = MemoryStore()
    add_wrap(store, KEYS, wrap, lambda count: secret if count == 32 else PACK_ID)
    (data, _, _) = store.objects[f"keys/{KEYS.key_id.hex()}/{PACK_ID.hex()}"]
    own = wrap if wrap.can_unwrap else WrapKey.of_recovery_secret(RECOVERY_SECRET)
    return json.loads(data), unwrap_master(store, REPOSITORY, KEYS.key_id.hex(), own)


def test_wrapped_keys_are_those_of_the_document() -> None:
    pair = generate_recovery_pair(lambda _: RECOVERY_SECRET)
    store_text = format_key(STORE_KEY_PREFIX, STORE_KEY)
    found = [
        wrapped(WrapKey.of_store(STORE_KEY), counted(0x60)),
        wrapped(WrapKey.of_recovery_public(parse_recovery_public(pair.public)), counted(0x80)),
    ]
    for field in ("recipientId", "salt", "wrapped"):
        assert documented(f"`{field}`", *(copy[field] for copy, _ in found))
    openers = [independent.Opener.from_text(text) for text in (store_text, pair.secret)]
    for opener, (copy, master) in zip(openers, found, strict=True):
        salt, sealed = base64.b64decode(copy["salt"]), base64.b64decode(copy["wrapped"])
        assert opener.recipient_id.hex() == copy["recipientId"]
        assert opener.unwrap(salt, sealed, KEYS.key_id, REPOSITORY) == MASTER == master
    salts = [base64.b64decode(copy["salt"]) for copy, _ in found]
    keys = [opener._wrapping_key(salt).hex() for opener, salt in zip(openers, salts, strict=True)]
    assert documented("wrapping key", *keys)


class _Sink:
    """Keeps the one pack that is made."""

    name, data = "", b""

    def take_buffer(self) -> memoryview:
        return memoryview(bytearray(4096))

    def submit(self, name: str, buffer: memoryview, length: int) -> None:
        self.name, self.data = name, bytes(buffer[:length])


def packed() -> tuple[_Sink, FrameRef]:
    sink = _Sink()
    writer = PackWriter(KEYS, Kind.DATA_PACK, sink, lambda _: PACK_ID)  # type: ignore[arg-type]
    ref = writer.append(PAYLOAD, len(BLOCK), 1, 1, KEYS.block_id(BLOCK))
    writer.finish()
    return sink, ref


def test_data_pack_is_that_of_the_document() -> None:
    sink, ref = packed()
    assert PAYLOAD.hex() in DOCUMENT
    assert f"`{pack_name(Kind.DATA_PACK, PACK_ID)}`" in DOCUMENT
    parts = {0: "header", 48: "frame", 101: "index", 155: "footer"}
    ends = [*list(parts)[1:], len(sink.data)]
    for (start, what), end in zip(parts.items(), ends, strict=True):
        assert f"| {start} | {what} | `{sink.data[start:end].hex()}` |" in DOCUMENT
    assert open_frame(KEYS, Kind.DATA_PACK, ref, sink.data[ref.offset :][: ref.length], len(BLOCK)) == BLOCK
    assert read_pack_index(KEYS, Kind.DATA_PACK, sink.data) == [(ref, [KEYS.block_id(BLOCK)])]


def test_page_is_that_of_the_document() -> None:
    _, ref = packed()
    block_id = KEYS.block_id(BLOCK)
    page = build_page((bytes(16) + block_id) * 2, [None, (ref, 0), None, (ref, 0)])
    data = encode_page(page)
    assert f"`{data.hex()}`" in DOCUMENT
    assert decode_page(data, 4, len(BLOCK)) == page
    (frame,) = parse_page(data, 4, len(BLOCK))
    assert frame.wanted == [(1, 0, block_id), (3, 0, block_id)]
    count, table = page_table(page)
    assert f"`{count.to_bytes(2, 'little').hex()}{table.hex()}`" in DOCUMENT


def test_closing_is_that_of_the_document(tmp_path: Path) -> None:
    record = ClosingRecord(repository_id=counted(0xF0, 16).hex(), closed=datetime(2026, 11, 22, 3, 30, tzinfo=UTC))
    sealed = seal_document(KEYS, Kind.CLOSING, PACK_ID, record)
    assert f"`{closing_name(PACK_ID)}`" in DOCUMENT
    assert f"| 0 | header | `{sealed[:48].hex()}` |" in DOCUMENT
    assert f"| 48 | frame | `{sealed[48:].hex()}` |" in DOCUMENT
    assert open_document(KEYS, Kind.CLOSING, sealed, ClosingRecord) == (PACK_ID, record)
    (tmp_path / "closing").write_bytes(sealed)
    with ObjectFile(tmp_path, "closing", CLOSING, independent.Keys(MASTER, REPOSITORY), PACK_ID) as file:
        assert file.document() == {"repositoryId": counted(0xF0, 16).hex(), "closed": "2026-11-22T03:30:00Z"}
