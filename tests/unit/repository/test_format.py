"""Frames, packs, pages and documents: what is written reads back, and hostile bytes are refused within bounds."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import tracemalloc
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from longboat.repository.codec import RAW, ZSTD, compress, decompress
from longboat.repository.crypto import FRAME_OVERHEAD, HEADER_BYTES, ObjectCipher, RepositoryKeys, derive
from longboat.repository.documents import open_document
from longboat.repository.errors import DamagedError, StoreFailureError, UnsupportedFormatError
from longboat.repository.layout import ID_BYTES, MAX_FRAME_BLOCKS, MAX_FRAME_PLAIN, Kind
from longboat.repository.manifests import DiskManifest
from longboat.repository.object_store import Data
from longboat.repository.packs import PackSink, PackWriter, open_frame, read_pack_index
from longboat.repository.pages import FrameRef, build_page, decode_page, encode_page, max_page_bytes, page_packs
from tests.fakes.object_store import FaultyStore, MemoryStore

KEYS = RepositoryKeys.of(b"r" * 16, b"m" * 32)
FRAMES = st.builds(
    FrameRef, st.binary(min_size=16, max_size=16), st.integers(48, 1 << 27), st.integers(28, 1 << 20), st.integers(1, 8)
)
PLACES = st.lists(st.none() | st.tuples(FRAMES, st.integers(0, 0)), min_size=1, max_size=60)


@given(PLACES, st.randoms())
def test_page_reads_back(places: list[tuple[FrameRef, int] | None], random: object) -> None:
    ids = b"".join(os.urandom(ID_BYTES) if place else bytes(ID_BYTES) for place in places)
    page = build_page(ids, places)
    data = encode_page(page)
    assert len(data) <= max_page_bytes(len(places))
    assert decode_page(data, len(places), 4096) == page
    assert [page.place(i) for i in range(len(places))] == places
    assert set(page_packs(data)) == {place[0].pack for place in places if place}


@given(PLACES, st.integers(0, 1 << 30), st.integers(0, 255))
def test_altered_page_is_refused_or_stays_within_bounds(
    places: list[tuple[FrameRef, int] | None], where: int, value: int
) -> None:
    data = bytearray(encode_page(build_page(os.urandom(ID_BYTES * len(places)), places)))
    data[where % len(data)] = value
    try:
        page = decode_page(bytes(data), len(places), 4096)
    except DamagedError:
        return
    for index in range(page.blocks):
        place = page.place(index)
        assert place is None or (place[1] < place[0].blocks and place[0].offset >= HEADER_BYTES)


@given(st.binary(max_size=400), st.integers(1, 40))
def test_random_bytes_are_no_page_that_crashes(data: bytes, blocks: int) -> None:
    with contextlib.suppress(DamagedError):
        assert decode_page(data, blocks, 4096).blocks == blocks


def test_page_of_another_size_is_refused() -> None:
    page = build_page(bytes(32), [None, None])
    with pytest.raises(DamagedError):
        decode_page(encode_page(page), 3, 4096)
    assert page.frame_of == array("H", [0, 0])


@given(st.binary(min_size=1, max_size=5000))
def test_compression_reads_back(plain: bytes) -> None:
    payload, codec = compress(plain)
    assert decompress(bytes(payload), codec, len(plain)) == plain


def test_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50 << 20))
    with pytest.raises(DamagedError, match="another size"):
        decompress(bomb, ZSTD, 4096)
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(50 << 20))
    with pytest.raises(DamagedError):
        decompress(streamed, ZSTD, 4096)
    with pytest.raises(DamagedError):
        decompress(zstandard.compress(b"x" * 10) + b"more", ZSTD, 10)
    with pytest.raises(DamagedError):
        decompress(b"123", RAW, 4)
    with pytest.raises(UnsupportedFormatError):
        decompress(b"123", 7, 3)


def packs_of(store: MemoryStore, frames: list[bytes], capacity: int) -> list[FrameRef]:
    sink = PackSink(store, capacity=capacity)
    writer = PackWriter(KEYS, Kind.DATA_PACK, sink, os.urandom)
    refs = [writer.append(plain, len(plain), RAW, 1, KEYS.block_id(plain)) for plain in frames]
    writer.finish()
    sink.close()
    assert sink.stored_bytes == sum(len(content[0]) for content in store.objects.values())
    return refs


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=30))
def test_frames_and_index_read_back_from_packs_of_bounded_size(frames: list[bytes]) -> None:
    store = MemoryStore()
    refs = packs_of(store, frames, 1000)
    objects = {name.rsplit("/", 1)[1]: content[0] for name, content in store.objects.items()}
    assert max(map(len, objects.values())) <= 1000
    for ref, plain in zip(refs, frames, strict=True):
        stored = objects[ref.pack.hex()][ref.offset : ref.offset + ref.length]
        assert open_frame(KEYS, Kind.DATA_PACK, ref, stored, len(plain)) == plain
    listed = {ref: ids for data in objects.values() for ref, ids in read_pack_index(KEYS, Kind.DATA_PACK, data)}
    assert listed == {ref: [KEYS.block_id(plain)] for ref, plain in zip(refs, frames, strict=True)}


@pytest.mark.parametrize("change", ["offset", "pack", "kind", "repository"])
def test_frame_is_bound_to_its_place(change: str) -> None:
    store = MemoryStore()
    frames = [b"a" * 100, b"b" * 100]
    first, second = packs_of(store, frames, 4000)
    data = next(iter(store.objects.values()))[0]
    stored = data[first.offset : first.offset + first.length]
    keys, kind, ref = KEYS, Kind.DATA_PACK, first
    if change == "offset":
        ref = second
    elif change == "pack":
        ref = first._replace(pack=b"x" * 16)
    elif change == "kind":
        kind = Kind.MAP_PACK
    else:
        keys = RepositoryKeys.of(b"s" * 16, KEYS.master)
    with pytest.raises(DamagedError, match="authentication"):
        open_frame(keys, kind, ref, stored, 100)


def test_index_of_blocks_that_compress_to_nothing_stays_within_its_bound() -> None:
    store, ids = MemoryStore(), b"i" * ID_BYTES * MAX_FRAME_BLOCKS
    sink = PackSink(store)
    writer = PackWriter(KEYS, Kind.DATA_PACK, sink, os.urandom)
    frames = MAX_FRAME_PLAIN // len(ids) + 10
    for _ in range(frames):
        writer.append(b"x", 1, RAW, MAX_FRAME_BLOCKS, ids)
    writer.finish()
    sink.close()
    assert sum(len(read_pack_index(KEYS, Kind.DATA_PACK, data)) for data, _, _ in store.objects.values()) == frames


def test_frame_with_reserved_bytes_is_refused() -> None:
    cipher, head = ObjectCipher(KEYS, Kind.DATA_PACK, b"o" * 16), struct.pack("<IIB3s", 17, 1, RAW, b"\0\0\1")
    key = derive(KEYS.master, KEYS.repository_id, b"longboat/1/object/1/" + b"o" * 16)
    sealed = AESGCM(key).encrypt(HEADER_BYTES.to_bytes(12, "little"), b"x", cipher.header + KEYS.repository_id + head)
    with pytest.raises(DamagedError, match="reserved"):
        cipher.open(head + sealed, HEADER_BYTES)


def test_no_two_frames_of_a_pack_share_a_nonce() -> None:
    refs = packs_of(MemoryStore(), [b"same" * 10] * 50, 1 << 20)
    assert len({(ref.pack, ref.offset) for ref in refs}) == 50


def test_cut_pack_has_no_index() -> None:
    store = MemoryStore()
    packs_of(store, [b"a" * 100], 4000)
    data = next(iter(store.objects.values()))[0]
    for length in range(len(data)):
        with pytest.raises((DamagedError, UnsupportedFormatError)):
            read_pack_index(KEYS, Kind.DATA_PACK, data[:length])
    newer = data[:8] + struct.pack("<H", 2) + data[10:]
    with pytest.raises(UnsupportedFormatError, match="newer"):
        read_pack_index(KEYS, Kind.DATA_PACK, newer)
    with pytest.raises(DamagedError, match="version 0, which there never was"):
        read_pack_index(KEYS, Kind.DATA_PACK, data[:8] + bytes(2) + data[10:])


def test_failed_upload_ends_every_writer_that_waits() -> None:
    sink = PackSink(FaultyStore(MemoryStore(), "fails", 0), capacity=1000, uploads=1, buffers=2)
    writer = PackWriter(KEYS, Kind.DATA_PACK, sink, os.urandom)
    failures = []

    def write() -> None:
        try:
            while True:
                writer.append(b"x" * 500, 500, RAW, 1, b"i" * 16)
        except StoreFailureError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(failures) == 4
    with pytest.raises(StoreFailureError):
        sink.close()


def test_pack_is_complete_only_when_every_frame_in_it_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    store, go_on, begun = MemoryStore(), threading.Event(), threading.Event()
    seal = ObjectCipher.seal_into

    def slow(cipher: ObjectCipher, out: memoryview, offset: int, payload: Data, length: int, codec: int) -> int:
        if bytes(payload) == b"s" * 300:
            begun.set()
            assert go_on.wait(30)
        return seal(cipher, out, offset, payload, length, codec)

    monkeypatch.setattr(ObjectCipher, "seal_into", slow)
    sink = PackSink(store, capacity=1000)
    writer = PackWriter(KEYS, Kind.DATA_PACK, sink, os.urandom)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(writer.append, b"s" * 300, 300, RAW, 1, b"s" * 16)
        assert begun.wait(30)
        refs = [writer.append(b"f" * 300, 300, RAW, 1, b"f" * 16) for _ in range(6)]
        assert refs[-1].pack != refs[0].pack
        go_on.set()
        assert late.result().pack == refs[0].pack
    writer.finish()
    sink.close()
    packs = {name.rsplit("/", 1)[1]: content[0] for name, content in store.objects.items()}
    for ref, byte in [(late.result(), b"s"), *((each, b"f") for each in refs)]:
        sealed = packs[ref.pack.hex()][ref.offset : ref.offset + ref.length]
        assert open_frame(KEYS, Kind.DATA_PACK, ref, sealed, 300) == byte * 300
    assert sum(len(read_pack_index(KEYS, Kind.DATA_PACK, pack)) for pack in packs.values()) == 7


def sealed_json(plain: bytes) -> bytes:
    """Return a disk manifest object with this text, sealed with the right key."""
    cipher = ObjectCipher(KEYS, Kind.DISK_MANIFEST, b"o" * 16)
    payload, codec = compress(plain)
    out = bytearray(cipher.header) + bytes(FRAME_OVERHEAD + len(payload))
    cipher.seal_into(memoryview(out)[HEADER_BYTES:], HEADER_BYTES, payload, len(plain), codec)
    return bytes(out)


@pytest.mark.parametrize(
    "plain",
    [
        b'{"pages": [' + b"[0,0,0]," * (1 << 20) + b"0]}",
        b'{"expiry": [' + b"[]," * (2 << 20) + b"0]}",
        b'{"pages": [' + b"[0,0,0]," * 20_000 + b"0]}",
        b'{"mapPacks": [' + b'"",' * 50_000 + b"0]}",
        b'{"expiry": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"sizeBytes": ' + b"9" * 1_000_000 + b"}",
        b'{"sizeBytes": NaN}',
        b'{"backupName": "\\ud800"}',
        b"\xff\xfe",
        b"",
    ],
)
def test_hostile_document_is_refused_in_little_memory(plain: bytes) -> None:
    data = sealed_json(plain)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            open_document(KEYS, Kind.DISK_MANIFEST, data, DiskManifest)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
