"""Keys: their texts, the wrapped master key, and what is derived from it."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from functools import cached_property

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.independent_reader.errors import KeyTextError, WrongKeyError

STORE = "longboat-key-1-"
RECOVERY_PUBLIC = "longboat-recovery-public-1-"
RECOVERY_SECRET = "longboat-recovery-secret-1-"
KEY_BYTES = 32
ID_BYTES = 16
CHECKSUM_BYTES = 4


def hkdf(key: bytes, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def key_as_text(prefix: str, key: bytes) -> str:
    checksum = hashlib.sha256(prefix.encode() + key).digest()[:CHECKSUM_BYTES]
    return prefix + base64.b32encode(key + checksum).decode().lower().rstrip("=")


def key_from_text(text: str) -> tuple[str, bytes]:
    """The prefix and the 32 bytes of a key's text."""
    text = text.strip()
    prefix = next((each for each in (STORE, RECOVERY_PUBLIC, RECOVERY_SECRET) if text.startswith(each)), None)
    if prefix is None:
        raise KeyTextError("this is not the text of a key: it begins with no prefix that is known")
    body = text[len(prefix) :].upper()
    try:
        key = base64.b32decode(body + "=" * (-len(body) % 8))[:KEY_BYTES]
    except ValueError as error:
        raise KeyTextError("the key's text is not base32") from error
    # Encoding it again compares the length, the case, the checksum and the unused last bits at once.
    if len(key) != KEY_BYTES or not hmac.compare_digest(key_as_text(prefix, key).encode(), text.encode()):
        raise KeyTextError("the key's text has a mistake: its checksum does not match")
    return prefix, key


@dataclass(frozen=True)
class Opener:
    """Opens the copies of the master key that are wrapped for one recipient."""

    recipient: str
    recipient_id: bytes
    key: bytes

    @classmethod
    def from_text(cls, text: str) -> "Opener":
        prefix, key = key_from_text(text)
        if prefix == STORE:
            return cls("store", hkdf(key, b"", b"longboat/1/store-key-id", ID_BYTES), key)
        if prefix == RECOVERY_PUBLIC:
            raise KeyTextError("this is the public half of a recovery pair, which opens nothing")
        public = X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
        return cls("recovery", hashlib.sha256(public).digest()[:ID_BYTES], key)

    def unwrap(self, salt: bytes, wrapped: bytes, key_id: bytes, repository_id: bytes) -> bytes:
        """The master key, or WrongKeyError if this copy was not made for this key or is not sound."""
        if len(salt) != KEY_BYTES or len(wrapped) != KEY_BYTES + 16:
            raise WrongKeyError("the wrapped key has a wrong length")
        text = f"longboat/1/wrap/{self.recipient}/{self.recipient_id.hex()}/{key_id.hex()}/"
        try:
            master = AESGCM(self._wrapping_key(salt)).decrypt(bytes(12), wrapped, text.encode() + repository_id)
        except (InvalidTag, ValueError) as error:
            raise WrongKeyError("the wrapped key does not authenticate") from error
        if Keys(master, repository_id).key_id != key_id:
            raise WrongKeyError("the wrapped key is not the one that the repository names")
        return master

    def _wrapping_key(self, salt: bytes) -> bytes:
        if self.recipient == "store":
            return hkdf(self.key, salt, b"longboat/1/wrap/store")
        secret = X25519PrivateKey.from_private_bytes(self.key)
        shared = secret.exchange(X25519PublicKey.from_public_bytes(salt))
        return hkdf(shared, salt + secret.public_key().public_bytes_raw(), b"longboat/1/wrap/recovery")


@dataclass(frozen=True)
class Keys:
    """What is derived from a master key."""

    master: bytes
    repository_id: bytes

    @cached_property
    def key_id(self) -> bytes:
        return hkdf(self.master, self.repository_id, b"longboat/1/key-id", ID_BYTES)

    @cached_property
    def block_key(self) -> bytes:
        return hkdf(self.master, self.repository_id, b"longboat/1/block-id")

    @cached_property
    def name_key(self) -> bytes:
        return hkdf(self.master, self.repository_id, b"longboat/1/name")

    def object_key(self, kind: int, object_id: bytes) -> bytes:
        return hkdf(self.master, self.repository_id, b"longboat/1/object/%d/" % kind + object_id)

    def block_id(self, content: bytes | memoryview) -> bytes:
        return blake3(content, key=self.block_key).digest(length=ID_BYTES)

    def name_hash(self, name: str) -> str:
        return blake3(name.encode(), key=self.name_key).digest(length=ID_BYTES).hex()
