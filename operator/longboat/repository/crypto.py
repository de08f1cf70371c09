"""Key derivation, and the sealing of frames with AES-256-GCM.

From a namespace's master key come, by HKDF-SHA256 with the repository id as salt: the key id, the key of block ids,
the key that hashes names, and one key per object from the object's kind and fresh random id. Within an object the
nonce is the frame's offset, so that no pair of key and nonce is ever used twice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import DamagedError, UnsupportedFormatError
from .layout import FORMAT_VERSION, ID_BYTES, MAGIC, Kind
from .object_store import Data

TAG_BYTES = 16
HEADER = struct.Struct("<8sHBBI16s16s")  # magic, version, kind, flags, reserved, key id, object id
FRAME_HEADER = struct.Struct("<IIB3s")  # sealed length with tag, plain length, codec, zeros
HEADER_BYTES = HEADER.size
FRAME_OVERHEAD = FRAME_HEADER.size + TAG_BYTES


def derive(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """Return `length` bytes of HKDF-SHA256."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


@dataclass(frozen=True)
class RepositoryKeys:
    """Everything that is derived from a master key within one repository."""

    repository_id: bytes
    master: bytes
    key_id: bytes
    block_key: bytes
    name_key: bytes

    @classmethod
    def of(cls, repository_id: bytes, master: bytes) -> RepositoryKeys:
        """Derive the keys of a repository (16-byte id) from a 32-byte master key."""
        return cls(
            repository_id=repository_id,
            master=master,
            key_id=derive(master, repository_id, b"longboat/1/key-id", ID_BYTES),
            block_key=derive(master, repository_id, b"longboat/1/block-id"),
            name_key=derive(master, repository_id, b"longboat/1/name"),
        )

    def __repr__(self) -> str:
        """Show ids only, never key material."""
        return f"RepositoryKeys(repository={self.repository_id.hex()}, key={self.key_id.hex()})"

    def __hash__(self) -> int:
        """Hash by the ids; equality still compares everything."""
        return hash((self.repository_id, self.key_id))

    def block_id(self, block: Data) -> bytes:
        """Return the 16-byte keyed BLAKE3 id of a block's content."""
        return blake3(block, key=self.block_key).digest(ID_BYTES)

    def name_hash(self, name: str) -> str:
        """Return 32 hex digits that stand for a tenant's text in object names."""
        return blake3(name.encode(), key=self.name_key).hexdigest(ID_BYTES)


class ObjectCipher:
    """Seals and opens the frames of one object."""

    def __init__(self, keys: RepositoryKeys, kind: Kind, object_id: bytes) -> None:
        """Derive the object's key from kind and id."""
        self.object_id = object_id
        self.header = HEADER.pack(MAGIC, FORMAT_VERSION, kind, 0, 0, keys.key_id, object_id)
        self._context = self.header + keys.repository_id
        self._aead = AESGCM(derive(keys.master, keys.repository_id, b"longboat/1/object/%d/" % kind + object_id))

    def seal_into(self, out: memoryview, offset: int, payload: Data, plain_length: int, codec: int) -> int:
        """Write a frame to the start of `out`, which begins at `offset` of the object; return the frame's length."""
        sealed = len(payload) + TAG_BYTES
        head = FRAME_HEADER.pack(sealed, plain_length, codec, bytes(3))
        end = FRAME_HEADER.size + sealed
        out[: FRAME_HEADER.size] = head
        self._aead.encrypt_into(_nonce(offset), payload, self._context + head, out[FRAME_HEADER.size : end])
        return end

    def open(self, frame: Data, offset: int) -> tuple[bytes, int, int]:
        """Return payload, plain length and codec of the frame that was stored at `offset`.

        DamagedError if it was altered, truncated or belongs elsewhere.
        """
        if len(frame) < FRAME_OVERHEAD:
            raise DamagedError(f"a frame of {len(frame)} bytes at offset {offset} is too short")
        head = bytes(frame[: FRAME_HEADER.size])
        sealed, plain_length, codec, zeros = FRAME_HEADER.unpack(head)
        if sealed != len(frame) - FRAME_HEADER.size:
            raise DamagedError(f"the frame at offset {offset} has another length than its header says")
        try:
            payload = self._aead.decrypt(_nonce(offset), frame[FRAME_HEADER.size :], self._context + head)
        except InvalidTag:
            raise DamagedError(f"the frame at offset {offset} fails authentication: it was altered") from None
        if any(zeros):
            raise DamagedError(f"the frame at offset {offset} has reserved bytes that are not 0")
        return payload, plain_length, codec


def parse_header(data: Data, kind: Kind, keys: RepositoryKeys) -> bytes:
    """Return the object id of an object's header after checking magic, version, kind and key id."""
    if len(data) < HEADER_BYTES:
        raise DamagedError(f"an object of {len(data)} bytes is too short for a header")
    magic, version, found, flags, reserved, key_id, object_id = HEADER.unpack(bytes(data[:HEADER_BYTES]))
    if magic != MAGIC:
        raise DamagedError("the object does not begin with the format's magic bytes")
    if not version:
        raise DamagedError("the object says that it is of format version 0, which there never was")
    if version != FORMAT_VERSION:
        raise UnsupportedFormatError(f"format version {version} is newer than {FORMAT_VERSION}: update this program")
    if found != kind or flags or reserved or key_id != keys.key_id:
        raise DamagedError(f"the object's header is not that of a {kind.name} under key {keys.key_id.hex()}")
    return bytes(object_id)


@lru_cache(maxsize=512)
def reading_cipher(keys: RepositoryKeys, kind: Kind, object_id: bytes) -> ObjectCipher:
    """Return the cipher of an existing object; kept, as restores come back to the same packs."""
    return ObjectCipher(keys, kind, object_id)


def _nonce(offset: int) -> bytes:
    return offset.to_bytes(12, "little")
