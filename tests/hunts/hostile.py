"""Hostile repositories: bytes altered without a key, and content sealed with the right key that breaks the format."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from longboat.mover.errors import TargetFullError
from longboat.repository import (
    Repository,
    RepositoryError,
    list_backups,
    list_disk_manifests,
    open_repository,
    read_disk_manifest,
    read_tombstones,
    reference_to,
    verify,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.codec import RAW, ZSTD
from longboat.repository.crypto import FRAME_HEADER, FRAME_OVERHEAD, HEADER_BYTES, ObjectCipher
from longboat.repository.damage import Damage, read_damage, record_damage
from longboat.repository.layout import ID_BYTES, Kind, pack_name
from longboat.repository.map_reader import MapReader
from longboat.repository.packs import read_pack_index
from tests.fakes.object_store import MemoryStore
from tests.unit.mover.disks import (
    BLOCK,
    DISK,
    PAGE_BLOCKS,
    PATH,
    STORE_KEY,
    backup_time,
    export,
    repository_in,
    restore,
    write_image,
)

SIZE = 3 * PAGE_BLOCKS * BLOCK + 100
_KINDS = {"disks": Kind.DISK_MANIFEST, "backups": Kind.BACKUP_MANIFEST, "tombstones": Kind.TOMBSTONE}
_VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**62, 2**63, 2**64, 10**30, 1e308, "", "x", "../../etc/passwd", "0" * 32, "a" * 5000,
    [], {}, [[]], [None] * 1000, [[0, 48, 28]] * 500, [0, 48, 28], [-1, 48, 28], [0, 2**40, 28], [0, 48, 2**40],
    "1969-12-31T23:59:59", "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00-14:00", "disks/../x", "\u0000", "\ud800",
]  # fmt: skip


def seed_repository(folder: Path) -> tuple[MemoryStore, list[str]]:
    """Return a store with two backups, a tombstone and a record of damage, and the disk manifests' names."""
    store = MemoryStore()
    repository = repository_in(store)
    content = {i * BLOCK: os.urandom(9) * (BLOCK // 9) for i in range(0, 3 * PAGE_BLOCKS, 2)}
    image = write_image(folder, content, SIZE)
    names = []
    for number in (1, 2):
        name = f"backup-{number}"
        names.append(export(store, repository.master_key, image, name, number).manifest)
        stored = read_disk_manifest(repository, names[-1])
        write_backup_manifest(repository, name, backup_time(number), [reference_to(stored, "data")])
        write_image(folder, {**content, BLOCK: b"changed"}, SIZE)
    write_tombstone(repository, "gone", backup_time(3), "test")
    damage = Damage()
    damage.add(Kind.DATA_PACK, b"d" * ID_BYTES, 48)
    record_damage(repository, damage, backup_time(3))
    return store, names


def read_everything(store: MemoryStore, manifests: list[str], folder: Path) -> list[RepositoryError | TargetFullError]:
    """Run every reader of the repository; return the errors, which have to be of the repository's family.

    Or the refusal of a target: no file system has room for a disk of 4 EiB, which a manifest may claim.
    """
    errors: list[RepositoryError | TargetFullError] = []

    def tolerate(read: Callable[[Repository], object]) -> None:
        try:
            read(open_repository(store, PATH, STORE_KEY))
        except (RepositoryError, TargetFullError) as error:
            errors.append(error)

    tolerate(lambda repository: list(list_backups(repository, tombstoned=True)))
    tolerate(lambda repository: list(list_disk_manifests(repository, DISK.disk_key)))
    tolerate(read_tombstones)
    tolerate(read_damage)
    tolerate(lambda repository: verify(repository, share=100, now=backup_time(9)).model_dump_json())
    for manifest in manifests:
        tolerate(lambda repository, name=manifest: restore(store, repository.master_key, name, folder))  # type: ignore[misc]
    return errors


class Mutator:
    """Changes a repository at random; the seed decides everything."""

    def __init__(self, store: MemoryStore, seed: int) -> None:
        self.store, self.random = store, random.Random(seed)
        self.repository = repository_in(store)

    def raw(self) -> None:
        """Alter one object's bytes as anyone can who may write to the bucket."""
        names = sorted(self.store.objects)
        name = self.random.choice(names)
        data = bytearray(self.store.objects[name][0])
        change = self.random.choice([self._flip, self._cut, self._grow, self._splice, self._number, self._swap])
        self._put(name, bytes(change(data)))

    def sealed(self) -> None:
        """Replace one object by another one that breaks the format, sealed with the right key."""
        # A change before this one may have left nothing that could be opened and altered.
        with contextlib.suppress(RepositoryError, zstandard.ZstdError):
            self.random.choice([self._document, self._document, self._page, self._frame, self._index])()

    def _put(self, name: str, data: bytes) -> None:
        self.store.objects[name] = (data, self.store.now, 99)

    def _flip(self, data: bytearray) -> bytearray:
        for _ in range(self.random.randint(1, 4)):
            if data:
                data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        return data

    def _cut(self, data: bytearray) -> bytearray:
        return data[: self.random.randint(0, len(data))]

    def _grow(self, data: bytearray) -> bytearray:
        return data + self.random.randbytes(self.random.choice([1, 16, 5000]))

    def _splice(self, data: bytearray) -> bytearray:
        at, end = sorted(self.random.randint(0, len(data)) for _ in range(2))
        return data[:at] + self.random.randbytes(self.random.randint(0, 40)) + data[end:]

    def _number(self, data: bytearray) -> bytearray:
        if len(data) >= 8:
            value = self.random.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, self.random.getrandbits(32)])
            struct.pack_into("<I", data, self.random.randrange(min(len(data), 80) - 4), value)
        return data

    def _swap(self, data: bytearray) -> bytearray:
        other = self.random.choice(sorted(self.store.objects))
        return bytearray(self.store.objects[other][0])

    def _seal(self, kind: Kind, object_id: bytes, frames: list[tuple[bytes, int, int]], plain: bool = False) -> bytes:
        """Return an object of frames, each a payload, the plain length that it states, and a codec."""
        cipher = ObjectCipher(self.repository.keys, kind, object_id)
        out = bytearray(cipher.header)
        for payload, length, codec in frames:
            frame = bytearray(FRAME_OVERHEAD + len(payload))
            cipher.seal_into(memoryview(frame), len(out), payload, length, codec)
            out += frame
        return bytes(out)

    def _payload(self, plain: bytes) -> tuple[bytes, int, int]:
        """Return a payload that states the truth, or does not."""
        choice = self.random.randrange(8)
        if choice == 0:
            return (
                zstandard.ZstdCompressor().compress(bytes(64 << 20)),
                self.random.choice([len(plain), 64 << 20]),
                ZSTD,
            )
        if choice == 1:
            return zstandard.ZstdCompressor(write_content_size=False).compress(plain), len(plain), ZSTD
        if choice == 2:
            return plain, self.random.choice([0, 1, len(plain) + 1, 0xFFFFFFFF]), RAW
        if choice == 3:
            return self.random.randbytes(60), len(plain), ZSTD
        if choice == 4:
            return plain, len(plain), self.random.randrange(2, 256)
        return zstandard.compress(plain), len(plain), ZSTD

    def _document(self) -> None:
        names = [n for n in sorted(self.store.objects) if n.split("/")[2] in (*_KINDS, "damage")]
        name = self.random.choice(names)
        kind = _KINDS.get(name.split("/")[2], Kind.DAMAGE)
        data = self.store.objects[name][0]
        object_id = data[32:48]
        plain = self._text(self._open(data, kind))
        self._put(name, self._seal(kind, object_id, [self._payload(plain)]))

    def _open(self, data: bytes, kind: Kind) -> Any:
        cipher = ObjectCipher(self.repository.keys, kind, data[32:48])
        try:
            payload, _, codec = cipher.open(data[HEADER_BYTES:], HEADER_BYTES)
            return json.loads(payload if codec == RAW else zstandard.decompress(payload))
        except (RepositoryError, ValueError, RecursionError, zstandard.ZstdError):
            return {}

    def _text(self, document: Any) -> bytes:
        choice = self.random.randrange(10)
        if choice == 0:
            return b"[" * self.random.choice([10, 1000, 1 << 20])
        if choice == 1:
            return b'{"formatVersion": ' + b"9" * self.random.choice([30, 5000, 1 << 20]) + b"}"
        if choice == 2:
            return self.random.randbytes(200)
        if choice == 3 and isinstance(document, dict):
            return json.dumps(document).replace("1", str(self.random.getrandbits(70))).encode()
        for _ in range(self.random.randint(1, 3)):
            self._change(document)
        return json.dumps(document).encode()

    def _change(self, value: Any) -> None:
        """Change one member somewhere in a JSON value."""
        keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
        if not keys:
            return
        key = self.random.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and self.random.random() < 0.7:
            self._change(value[key])
        elif isinstance(value, dict) and self.random.random() < 0.2:
            del value[key]
        else:
            value[key] = copy.deepcopy(self.random.choice(_VALUES))

    def _page(self) -> None:
        """Put an altered page into the place of a page."""
        found = self._some_page()
        if found is None:
            return
        reader, number = found
        ref = reader.manifest.pages[number]
        assert ref is not None
        pack = bytes.fromhex(reader.manifest.map_packs[ref[0]])
        name = f"{PATH}/{pack_name(Kind.MAP_PACK, pack)}"
        data = bytearray(self.store.objects[name][0])
        cipher = ObjectCipher(self.repository.keys, Kind.MAP_PACK, pack)
        payload, _, codec = cipher.open(data[ref[1] : ref[1] + ref[2]], ref[1])
        plain = bytearray(payload if codec == RAW else zstandard.decompress(payload))
        plain = self.random.choice([self._flip, self._cut, self._grow, self._splice, self._number])(plain)
        room = ref[2] - FRAME_OVERHEAD
        changed = min((bytes(plain), RAW), (zstandard.compress(bytes(plain)), ZSTD), key=lambda each: len(each[0]))
        # A frame has the length that the manifest says: what does not fit is cut, which is hostile enough.
        body = changed[0][:room].ljust(room, b"\0")
        cipher.seal_into(memoryview(data)[ref[1] :], ref[1], body, len(plain), changed[1])
        self._put(name, bytes(data))

    def _some_page(self) -> tuple[MapReader, int] | None:
        try:
            disks = list(list_disk_manifests(self.repository, DISK.disk_key))
            stored = self.random.choice(disks)
            reader = MapReader(self.repository, stored.manifest)
            numbers = [n for n, ref in enumerate(stored.manifest.pages) if ref and reader.page(n)]
        except (RepositoryError, IndexError):
            return None
        return (reader, self.random.choice(numbers)) if numbers else None

    def _frame(self) -> None:
        """Put a frame of other content, length or codec into the first place of a data pack."""
        name = self.random.choice([n for n in sorted(self.store.objects) if "/packs/" in n])
        data = bytearray(self.store.objects[name][0])
        if len(data) < HEADER_BYTES + FRAME_OVERHEAD:
            return
        sealed, length, *_ = FRAME_HEADER.unpack_from(data, HEADER_BYTES)
        if HEADER_BYTES + FRAME_HEADER.size + sealed > len(data):
            return
        payload, stated, codec = self._payload(bytes(length if length < 1 << 20 else 100))
        room = sealed - 16
        cipher = ObjectCipher(self.repository.keys, Kind.DATA_PACK, bytes.fromhex(name.rsplit("/", 1)[1]))
        cipher.seal_into(
            memoryview(data)[HEADER_BYTES:], HEADER_BYTES, payload[:room].ljust(room, b"\0"), stated, codec
        )
        self._put(name, bytes(data))

    def _index(self) -> None:
        """Seal an altered index, and read it: restores don't."""
        entries = b"".join(
            struct.pack("<IIH", *(self.random.getrandbits(n) for n in (32, 32, 16))) + self.random.randbytes(16)
            for _ in range(self.random.randint(0, 5))
        )
        object_id = self.random.randbytes(ID_BYTES)
        kind = self.random.choice([Kind.DATA_PACK, Kind.MAP_PACK])
        data = self._seal(kind, object_id, [self._payload(entries)])
        at = self.random.choice([HEADER_BYTES, 0, len(data), 2**63, HEADER_BYTES + 1])
        try:
            read_pack_index(self.repository.keys, kind, data + struct.pack("<Q8s", at, b"LBPKEND1"))
        except RepositoryError:
            return
