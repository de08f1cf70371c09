"""A reader of the repository written against docs/reference/repository-format.md; it imports nothing of longboat.

It takes the objects as a dictionary of names and bytes, and the text of a store key, and returns disks' bytes. It is
slow and has no bounds: its purpose is that code and document can't drift apart unnoticed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DATA_PACK, MAP_PACK, DISK_MANIFEST, BACKUP_MANIFEST = 1, 2, 3, 4


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)


def store_key(text: str) -> bytes:
    prefix = "longboat-key-1-"
    body = text[len(prefix) :].upper()
    raw = base64.b32decode(body + "=" * (-len(body) % 8))
    assert raw[32:] == hashlib.sha256(prefix.encode() + raw[:32]).digest()[:4]
    return raw[:32]


class Reader:
    def __init__(self, objects: dict[str, bytes], key_text: str) -> None:
        self.objects = objects
        header = json.loads(objects["repository"])
        assert (header["format"], header["formatVersion"]) == ("longboat-repository", 1)
        self.repository = bytes.fromhex(header["repositoryId"])
        self.key_id = bytes.fromhex(header["keyId"])
        self.master = self._unwrap(store_key(key_text))
        assert hkdf(self.master, self.repository, b"longboat/1/key-id", 16) == self.key_id
        self.block_key = hkdf(self.master, self.repository, b"longboat/1/block-id")
        self.name_key = hkdf(self.master, self.repository, b"longboat/1/name")

    def _unwrap(self, key: bytes) -> bytes:
        recipient = hkdf(key, b"", b"longboat/1/store-key-id", 16).hex()
        for name, data in self.objects.items():
            wrap = json.loads(data) if name.startswith(f"keys/{self.key_id.hex()}/") else {}
            if wrap.get("recipientId") != recipient:
                continue
            secret = hkdf(key, base64.b64decode(wrap["salt"]), b"longboat/1/wrap/store")
            context = f"longboat/1/wrap/store/{recipient}/{self.key_id.hex()}/".encode() + self.repository
            return AESGCM(secret).decrypt(bytes(12), base64.b64decode(wrap["wrapped"]), context)
        raise AssertionError("no wrapped key for this store key")

    def frame(self, data: bytes, kind: int, offset: int, length: int) -> bytes:
        magic, version, found, _, _, key_id, object_id = struct.unpack("<8sHBBI16s16s", data[:48])
        assert (magic, version, found, key_id) == (b"LONGBOAT", 1, kind, self.key_id)
        sealed, plain_length, codec = struct.unpack("<IIB3x", data[offset : offset + 12])
        assert sealed == length - 12
        info = b"longboat/1/object/" + str(kind).encode() + b"/" + object_id
        key = hkdf(self.master, self.repository, info)
        context = data[:48] + self.repository + data[offset : offset + 12]
        nonce = offset.to_bytes(12, "little")
        payload = AESGCM(key).decrypt(nonce, data[offset + 12 : offset + length], context)
        plain = payload if codec == 0 else zstandard.ZstdDecompressor().decompress(payload)
        assert len(plain) == plain_length
        return plain

    def document(self, name: str, kind: int) -> Any:
        data = self.objects[name]
        return json.loads(self.frame(data, kind, 48, len(data) - 48))

    def name_hash(self, name: str) -> str:
        return blake3(name.encode(), key=self.name_key).hexdigest(16)

    def backup(self, name: str) -> Any:
        found = sorted(n for n in self.objects if n.startswith(f"backups/{self.name_hash(name)}/"))
        return self.document(found[-1], BACKUP_MANIFEST)

    def disk(self, manifest_name: str) -> bytes:
        manifest = self.document(manifest_name, DISK_MANIFEST)
        size, block = manifest["sizeBytes"], manifest["blockSize"]
        total = -(-size // block)
        out = bytearray(total * block)
        for number, ref in enumerate(manifest["pages"]):
            first = number * manifest["pageBlocks"]
            if ref is not None:
                pack = manifest["mapPacks"][ref[0]]
                page = self.frame(self.objects[f"maps/{pack[:2]}/{pack}"], MAP_PACK, ref[1], ref[2])
                self._page(page, first, block, out)
        return bytes(out[:size])

    def _page(self, page: bytes, first: int, block: int, out: bytearray) -> None:
        packs, frames, blocks = struct.unpack_from("<HHI", page)
        at = 8
        pack_ids = [page[at + 16 * i : at + 16 * i + 16].hex() for i in range(packs)]
        at += 16 * packs
        table = list(struct.iter_unpack("<HHII", page[at : at + 12 * frames]))
        at += 12 * frames
        frame_of = struct.unpack_from(f"<{blocks}H", page, at)
        slot_of = page[at + 2 * blocks : at + 3 * blocks]
        at += 3 * blocks
        for index in range(blocks):
            if frame_of[index]:
                pack, count, offset, length = table[frame_of[index] - 1]
                name = f"packs/{pack_ids[pack][:2]}/{pack_ids[pack]}"
                plain = self.frame(self.objects[name], DATA_PACK, offset, length)
                assert len(plain) == count * block
                content = plain[slot_of[index] * block : (slot_of[index] + 1) * block]
                assert blake3(content, key=self.block_key).digest(16) == page[at : at + 16]
                at += 16
                out[(first + index) * block : (first + index + 1) * block] = content
        assert at == len(page)
