"""Makes a small repository from the format's document, so that the reader's errors can be tried out on it."""

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.independent_reader import objects
from tests.independent_reader.keys import RECOVERY_SECRET, STORE, Keys, hkdf, key_as_text
from tests.independent_reader.reader import pack_name

STORE_KEY = bytes(range(32, 64))
RECOVERY_KEY = bytes(range(64, 96))
STORE_TEXT = key_as_text(STORE, STORE_KEY)
RECOVERY_TEXT = key_as_text(RECOVERY_SECRET, RECOVERY_KEY)
BLOCK = 4096
CREATED = "2026-11-22T03:30:00Z"


@dataclass
class Builder:
    """Writes objects into a folder; ids are counted up, so that each run gives the same bytes."""

    folder: Path
    keys: Keys = field(default_factory=lambda: Keys(bytes(range(32)), bytes(range(16))))
    page_blocks: int = 4
    last_id: int = 0

    def new_id(self) -> bytes:
        self.last_id += 1
        return self.last_id.to_bytes(16, "big")

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def common(self) -> dict[str, Any]:
        ids = {"repositoryId": self.keys.repository_id.hex(), "keyId": self.keys.key_id.hex()}
        return {"formatVersion": 1} | ids

    def header(self) -> None:
        self.put("repository", json.dumps({"format": "longboat-repository"} | self.common()).encode())
        store_id = hkdf(STORE_KEY, b"", b"longboat/1/store-key-id", 16)
        salt = bytes([7]) * 32
        self.wrap("store", store_id, salt, hkdf(STORE_KEY, salt, b"longboat/1/wrap/store"))
        public = X25519PrivateKey.from_private_bytes(RECOVERY_KEY).public_key()
        ephemeral = X25519PrivateKey.from_private_bytes(bytes([9]) * 32)
        salt = ephemeral.public_key().public_bytes_raw()
        info = b"longboat/1/wrap/recovery"
        wrapping = hkdf(ephemeral.exchange(public), salt + public.public_bytes_raw(), info)
        self.wrap("recovery", hashlib.sha256(public.public_bytes_raw()).digest()[:16], salt, wrapping)

    def wrap(self, recipient: str, recipient_id: bytes, salt: bytes, wrapping: bytes) -> None:
        key_id = self.keys.key_id.hex()
        context = f"longboat/1/wrap/{recipient}/{recipient_id.hex()}/{key_id}/".encode() + self.keys.repository_id
        wrapped = AESGCM(wrapping).encrypt(bytes(12), self.keys.master, context)
        copy = {"formatVersion": 1, "recipient": recipient, "recipientId": recipient_id.hex()}
        copy |= {"salt": base64.b64encode(salt).decode(), "wrapped": base64.b64encode(wrapped).decode()}
        self.put(f"keys/{key_id}/{self.new_id().hex()}", json.dumps(copy).encode())

    def start(self, kind: int, object_id: bytes) -> bytearray:
        header = objects.HEADER.pack(b"LONGBOAT", 1, kind, 0, 0, self.keys.key_id, object_id)
        return bytearray(header)

    def add_frame(self, content: bytearray, plain: bytes, codec: int = objects.RAW) -> tuple[int, int]:
        kind, object_id = content[10], bytes(content[32:48])
        payload = zstandard.ZstdCompressor().compress(plain) if codec == objects.ZSTD else plain
        head = objects.FRAME.pack(len(payload) + 16, len(plain), codec, bytes(3))
        offset = len(content)
        context = bytes(content[:48]) + self.keys.repository_id + head
        cipher = AESGCM(self.keys.object_key(kind, object_id))
        content += head + cipher.encrypt(offset.to_bytes(12, "little"), payload, context)
        return offset, len(content) - offset

    def finish_pack(self, content: bytearray, index: bytes) -> bytes:
        kind, object_id = content[10], bytes(content[32:48])
        offset, _ = self.add_frame(content, index)
        content += objects.FOOTER.pack(offset, b"LBPKEND1")
        self.put(pack_name(kind, object_id), bytes(content))
        return object_id

    def document(self, name: str, kind: int, document: dict[str, Any] | bytes) -> bytes:
        content = self.start(kind, self.new_id())
        plain = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.add_frame(content, plain, objects.ZSTD)
        self.put(name, bytes(content))
        return bytes(content[32:48])

    def data_pack(self, blocks: Sequence[bytes]) -> tuple[bytes, int, int]:
        """A pack with one frame: its id, and the frame's offset and length."""
        content = self.start(objects.DATA_PACK, self.new_id())
        offset, length = self.add_frame(content, b"".join(blocks), objects.ZSTD)
        ids = b"".join(self.keys.block_id(each) for each in blocks)
        return self.finish_pack(content, objects.INDEX_ENTRY.pack(offset, length, len(blocks)) + ids), offset, length

    def pages(self, blocks: Sequence[bytes]) -> tuple[list[str], list[list[int] | None]]:
        """Stores blocks page by page: the map packs' ids and the places of the pages."""
        content = self.start(objects.MAP_PACK, self.new_id())
        places: list[list[int] | None] = []
        index = b""
        for start in range(0, len(blocks), self.page_blocks):
            page = blocks[start : start + self.page_blocks]
            stored = [each for each in page if any(each)]
            if not stored:
                places.append(None)
                continue
            pack, offset, length = self.data_pack(stored)
            frame = objects_page(page, pack, len(stored), offset, length)
            place = self.add_frame(content, frame + b"".join(self.keys.block_id(each) for each in stored))
            index += objects.INDEX_ENTRY.pack(*place, 1) + pack + struct.pack("<H", len(stored))
            places.append([0, *place])
        return [self.finish_pack(content, index).hex()], places

    def disk(self, data: bytes, changes: dict[str, Any] | None = None, backup: str = "nightly") -> dict[str, Any]:
        """Stores a disk with its manifest, and returns its entry for a backup's manifest."""
        cut = [data[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(data), BLOCK)]
        packs, places = self.pages(cut)
        manifest = self.common() | {"disk": {"diskKey": "db-data"}, "backupName": backup, "created": CREATED}
        manifest |= {"sizeBytes": len(data), "blockSize": BLOCK, "pageBlocks": self.page_blocks, "content": "Disk"}
        manifest |= {"mapPacks": packs, "pages": places} | (changes or {})
        name = f"disks/{self.keys.name_hash('db-data')}/20261122T033000Z-{self.keys.name_hash(backup)}"
        object_id = self.document(name, objects.DISK, manifest)
        entry = {"disk": "data", "diskKey": "db-data", "manifest": name, "objectId": object_id.hex()}
        return entry | {"sizeBytes": manifest["sizeBytes"], "storedBytes": 0}

    def backup(
        self,
        disks: list[dict[str, Any]],
        name: str = "nightly",
        revision: int = 1,
        changes: dict[str, Any] | None = None,
    ) -> None:
        manifest = self.common() | {"kind": "Backup", "name": name, "revision": revision, "created": CREATED}
        manifest |= {"expiry": None, "metadata": {}, "disks": disks} | (changes or {})
        self.document(f"backups/{self.keys.name_hash(name)}/{revision:06}", objects.BACKUP, manifest)

    def tombstone(self, name: str = "nightly") -> None:
        content = {"backupName": name, "deleted": CREATED, "deletedBy": "test"}
        self.document(f"tombstones/{self.keys.name_hash(name)}", objects.TOMBSTONE, content)


def objects_page(page: Sequence[bytes], pack: bytes, stored: int, offset: int, length: int) -> bytes:
    """A page, up to its ids, whose blocks lie in one frame."""
    head = struct.pack("<HHI", 1, 1, len(page)) + pack + struct.pack("<HHII", 0, stored, offset, length)
    which = [1 if any(each) else 0 for each in page]
    places = [sum(which[:number]) if which[number] else 0 for number in range(len(page))]
    return head + struct.pack(f"<{len(page)}H", *which) + bytes(places)
