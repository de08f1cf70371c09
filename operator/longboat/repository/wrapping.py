"""Wrapped master keys: `keys/<key id>/<random>`, each a copy of the master key for one recipient.

A recipient is the store's key (a Secret) or the public half of a recovery pair whose secret half is kept offline.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError

from .crypto import RepositoryKeys, derive
from .documents import Document
from .errors import DamagedError, ObjectNotFoundError, WrongKeyError
from .layout import ID_BYTES, KEYS
from .manifests import Id
from .object_store import ObjectStore, put_fresh

MAX_WRAP = 4096
_NONCE = bytes(12)  # Each wrapping key is used once: it comes from a fresh salt or a fresh ephemeral key.


class WrappedKey(Document):
    """One wrapped copy, plain JSON around an AES-256-GCM ciphertext; `salt` is a public key for recovery recipients."""

    format_version: Literal[1] = 1
    recipient: Literal["store", "recovery"]
    recipient_id: Id
    salt: str
    wrapped: str


@dataclass(frozen=True, repr=False)
class WrapKey:
    """A recipient: what its copies are marked with, and the key material to wrap or to unwrap with."""

    recipient: Literal["store", "recovery"]
    recipient_id: str
    material: bytes
    can_unwrap: bool

    @classmethod
    def of_store(cls, store_key: bytes) -> WrapKey:
        """Return the recipient that a 32-byte store key is."""
        identity = derive(store_key, b"", b"longboat/1/store-key-id", ID_BYTES)
        return cls("store", identity.hex(), store_key, True)

    @classmethod
    def of_recovery_public(cls, public: bytes) -> WrapKey:
        """Return the recipient that an X25519 public key is."""
        return cls("recovery", hashlib.sha256(public).digest()[:ID_BYTES].hex(), public, False)

    @classmethod
    def of_recovery_secret(cls, secret: bytes) -> WrapKey:
        """Return the recipient whose secret half is given."""
        public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        return cls("recovery", hashlib.sha256(public).digest()[:ID_BYTES].hex(), secret, True)


def add_wrap(store: ObjectStore, keys: RepositoryKeys, wrap: WrapKey, random: Callable[[int], bytes]) -> None:
    """Store a copy of the master key for one more recipient."""
    salt, secret = _seal_secret(wrap, random)
    wrapped = AESGCM(secret).encrypt(_NONCE, keys.master, _context(keys.repository_id, keys.key_id.hex(), wrap))
    record = WrappedKey(
        recipient=wrap.recipient, recipient_id=wrap.recipient_id, salt=_text(salt), wrapped=_text(wrapped)
    )
    name = f"{KEYS}{keys.key_id.hex()}/{random(ID_BYTES).hex()}"
    put_fresh(store, name, record.model_dump_json(by_alias=True).encode())


def wrap_count(store: ObjectStore, key_id: str, wrap: WrapKey) -> int:
    """Return how many copies of a master key exist for a recipient."""
    return sum(record.recipient_id == wrap.recipient_id for record in _records(store, key_id))


@dataclass(frozen=True)
class Recipient:
    """A wrapped copy: its object's name, for whom it is (`store` or `recovery`) and the id of that key."""

    name: str
    kind: str
    key_id: str


def list_recipients(store: ObjectStore, key_id: str) -> list[Recipient]:
    """Return the wrapped copies of a master key; those that can't be read have the kind `unreadable`."""
    return [
        Recipient(name, r.recipient if r else "unreadable", r.recipient_id if r else "")
        for name, r in _all(store, key_id)
    ]


def unwrap_master(store: ObjectStore, repository_id: bytes, key_id: str, wrap: WrapKey) -> bytes:
    """Return the master key `key_id`; WrongKeyError if no copy of it opens with this recipient's key."""
    others = set()
    for record in _records(store, key_id):
        if record.recipient_id == wrap.recipient_id:
            master = _open(record, repository_id, key_id, wrap)
            if master is not None and RepositoryKeys.of(repository_id, master).key_id.hex() == key_id:
                return master
        others.add(f"{record.recipient} key {record.recipient_id[:8]}")
    held = ", ".join(sorted(others)) or "nobody: its objects under keys/ are missing"
    raise WrongKeyError(
        f"{store.describe()}: master key {key_id[:8]} is wrapped for {held}; the {wrap.recipient} key given is"
        f" {wrap.recipient_id[:8]}. Give the key that this repository was made with; nothing was changed"
    )


def _records(store: ObjectStore, key_id: str) -> Iterator[WrappedKey]:
    # One copy may be damaged and another one whole; if none is, opening fails closed.
    return (record for _, record in _all(store, key_id) if record is not None)


def _all(store: ObjectStore, key_id: str) -> Iterator[tuple[str, WrappedKey | None]]:
    for info in store.list(f"{KEYS}{key_id}/"):
        try:
            yield info.name, WrappedKey.model_validate_json(store.get(info.name, MAX_WRAP))
        except (ValidationError, DamagedError):
            yield info.name, None
        except ObjectNotFoundError:
            continue


def _open(record: WrappedKey, repository_id: bytes, key_id: str, wrap: WrapKey) -> bytes | None:
    try:
        secret = _open_secret(wrap, base64.b64decode(record.salt))
        return AESGCM(secret).decrypt(_NONCE, base64.b64decode(record.wrapped), _context(repository_id, key_id, wrap))
    except (InvalidTag, ValueError, binascii.Error):
        return None


def _seal_secret(wrap: WrapKey, random: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    if wrap.recipient == "store":
        salt = random(32)
        return salt, derive(wrap.material, salt, b"longboat/1/wrap/store")
    ephemeral = X25519PrivateKey.from_private_bytes(random(32))
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(wrap.material))
    public = ephemeral.public_key().public_bytes_raw()
    return public, derive(shared, public + wrap.material, b"longboat/1/wrap/recovery")


def _open_secret(wrap: WrapKey, salt: bytes) -> bytes:
    if wrap.recipient == "store":
        return derive(wrap.material, salt, b"longboat/1/wrap/store")
    secret = X25519PrivateKey.from_private_bytes(wrap.material)
    shared = secret.exchange(X25519PublicKey.from_public_bytes(salt))
    return derive(shared, salt + secret.public_key().public_bytes_raw(), b"longboat/1/wrap/recovery")


def _context(repository_id: bytes, key_id: str, wrap: WrapKey) -> bytes:
    return f"longboat/1/wrap/{wrap.recipient}/{wrap.recipient_id}/{key_id}/".encode() + repository_id


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
