"""Objects with a binary header: frames, documents and the indexes of packs."""

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.independent_reader.errors import DamagedError
from tests.independent_reader.keys import ID_BYTES, Keys

DATA_PACK, MAP_PACK, DISK, BACKUP, TOMBSTONE, LEASE, DAMAGE, CONDEMNED, _, CLOSING = range(1, 11)
MAGIC = b"LONGBOAT"
VERSION = 1
HEADER = struct.Struct("<8sHBBI16s16s")
FRAME = struct.Struct("<IIB3s")
FOOTER = struct.Struct("<Q8s")
FOOTER_MAGIC = b"LBPKEND1"
INDEX_ENTRY = struct.Struct("<IIH")
TAG_BYTES = 16
RAW, ZSTD = 0, 1
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MIB = 1 << 20
PACK_LIMIT = 256 * MIB
DATA_FRAME_LIMIT = 16 * MIB
DOCUMENT_LIMIT = 64 * MIB
DOCUMENT_ITEMS = 2_097_152
INDEX_LIMIT = 16 * MIB
MAX_PAGE_BLOCKS = 32768
PAGE_LIMIT = 8 + 47 * MAX_PAGE_BLOCKS


@dataclass(frozen=True)
class IndexEntry:
    """A frame as the index of its pack describes it; counts are those of a map pack only."""

    offset: int
    length: int
    ids: tuple[bytes, ...]
    counts: tuple[int, ...] = ()


class ObjectFile:
    """An object whose header was checked; frames are read one at a time."""

    def __init__(self, folder: Path, name: str, kind: int, keys: Keys, object_id: bytes | None = None) -> None:
        self.name = name
        self.kind = kind
        try:
            self._file: BinaryIO = (folder / name).open("rb")
        except OSError as error:
            raise DamagedError(name, f"can't be opened: {error.strerror}") from error
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self._header = self._read(0, HEADER.size)
            self.object_id = self._check_header(keys, object_id)
        except BaseException:
            self._file.close()
            raise
        self._cipher = AESGCM(keys.object_key(kind, self.object_id))
        self._context = self._header + keys.repository_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def damaged(self, reason: str) -> DamagedError:
        return DamagedError(self.name, reason)

    def frame(self, offset: int, limit: int, length: int | None = None) -> tuple[bytes, int]:
        """The plain bytes of the frame at an offset, and where it ends; length is what refers to it says."""
        head = self._read(offset, FRAME.size)
        cipher_length, plain_length, codec, zeros = FRAME.unpack(head)
        where = f"frame at {offset}"
        if length is not None and FRAME.size + cipher_length != length:
            raise self.damaged(f"{where} has another length than what refers to it says")
        if any(zeros) or codec not in (RAW, ZSTD):
            raise self.damaged(f"{where} has an unknown codec or reserved bytes that are not 0")
        # Nothing is read beyond what such a frame may have; a payload is never longer than the plain bytes.
        if plain_length > limit or not TAG_BYTES <= cipher_length <= limit + TAG_BYTES:
            raise self.damaged(f"{where} is longer than it may be")
        ciphertext = self._read(offset + FRAME.size, cipher_length)
        try:
            payload = self._cipher.decrypt(offset.to_bytes(12, "little"), ciphertext, self._context + head)
        except InvalidTag as error:
            raise self.damaged(f"{where} does not authenticate") from error
        return self._plain(payload, plain_length, codec, where), offset + FRAME.size + cipher_length

    def document(self) -> dict[str, Any]:
        plain, end = self.frame(HEADER.size, DOCUMENT_LIMIT)
        if end != self.size:
            raise self.damaged("more follows than the one frame of a document")
        return parse_json(self.name, plain)

    def index(self) -> list[IndexEntry]:
        """The index of a pack, with the frames checked to be one after the other from header to index."""
        if not HEADER.size + FOOTER.size <= self.size <= PACK_LIMIT:
            raise self.damaged("is shorter or longer than a pack may be")
        offset, magic = FOOTER.unpack(self._read(self.size - FOOTER.size, FOOTER.size))
        if magic != FOOTER_MAGIC:
            raise self.damaged("has no footer")
        if not HEADER.size <= offset <= self.size - FOOTER.size:
            raise self.damaged("its footer points outside")
        plain, end = self.frame(offset, INDEX_LIMIT)
        if end != self.size - FOOTER.size:
            raise self.damaged("its index does not end at the footer")
        entries = self._index_entries(plain)
        next_offset = HEADER.size
        for entry in entries:
            if entry.offset != next_offset:
                raise self.damaged(f"its index knows no frame at {next_offset}")
            next_offset += entry.length
        if next_offset != offset:
            raise self.damaged("its index does not describe all frames")
        return entries

    def _index_entries(self, plain: bytes) -> list[IndexEntry]:
        entries, at = [], 0
        while at < len(plain):
            try:
                offset, length, count = INDEX_ENTRY.unpack_from(plain, at)
                at += INDEX_ENTRY.size
                ids = struct.unpack_from("16s" * count, plain, at)
                at += ID_BYTES * count
                counts: tuple[int, ...] = ()
                if self.kind == MAP_PACK:
                    counts = struct.unpack_from(f"<{count}H", plain, at)
                    at += 2 * count
            except struct.error as error:
                raise self.damaged("its index ends within an entry") from error
            entries.append(IndexEntry(offset, length, ids, counts))
        return entries

    def _check_header(self, keys: Keys, object_id: bytes | None) -> bytes:
        magic, version, kind, flags, reserved, key_id, own_id = HEADER.unpack(self._header)
        if magic != MAGIC:
            raise self.damaged("does not begin like an object of a repository")
        if version != VERSION:
            raise self.damaged(f"has format version {version}, which this reader does not know")
        if kind != self.kind:
            raise self.damaged(f"is of kind {kind}, not {self.kind}")
        if flags or reserved:
            raise self.damaged("has flags or reserved bytes that are not 0")
        if key_id != keys.key_id:
            raise self.damaged("is under another key")
        if object_id is not None and own_id != object_id:
            raise self.damaged("has another object id than what refers to it says")
        return own_id

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self.size:
            raise self.damaged("ends too early")
        self._file.seek(offset)
        content = self._file.read(length)
        if len(content) != length:
            raise self.damaged("ends too early")
        return content

    def _plain(self, payload: bytes, plain_length: int, codec: int, where: str) -> bytes:
        if codec == RAW:
            if len(payload) != plain_length:
                raise self.damaged(f"{where} has another length than it says")
            return payload
        try:
            return decompress(payload, plain_length)
        except (zstandard.ZstdError, ValueError) as error:
            raise self.damaged(f"{where} can't be decompressed: {error}") from error


def decompress(payload: bytes, plain_length: int) -> bytes:
    """The content of a single zstd frame that states its size; the size is compared before memory is taken."""
    if payload[:4] != ZSTD_MAGIC:
        raise ValueError("not a zstd frame")
    parameters = zstandard.get_frame_parameters(payload)
    if parameters.dict_id or zstandard.frame_content_size(payload) != plain_length:
        raise ValueError("the zstd header states another size")
    plain = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    if len(plain) != plain_length:
        raise ValueError("the zstd frame has another size than it states")
    return plain


def parse_json(name: str, plain: bytes) -> dict[str, Any]:
    if sum(plain.count(each) for each in (b",", b"[", b"{")) > DOCUMENT_ITEMS:
        raise DamagedError(name, "has more items than a document may have")
    try:
        document = json.loads(plain.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedError(name, f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DamagedError(name, "is not a JSON object")
    return document
