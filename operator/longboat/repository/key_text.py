"""Keys as text: a recognisable prefix, base32 and a checksum, fit for a Secret, a safe or a sheet of paper."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from .errors import KeyTextError

KEY_BYTES = 32
_CHECK_BYTES = 4
STORE_KEY_PREFIX = "longboat-key-1-"
RECOVERY_PUBLIC_PREFIX = "longboat-recovery-public-1-"
RECOVERY_SECRET_PREFIX = "longboat-recovery-secret-1-"
_KINDS = {
    STORE_KEY_PREFIX: "store key",
    RECOVERY_PUBLIC_PREFIX: "recovery public key",
    RECOVERY_SECRET_PREFIX: "recovery secret key",
}


@dataclass(frozen=True)
class RecoveryPair:
    """The text forms of a recovery pair: the public half goes into the BackupStore, the secret half stays offline."""

    public: str
    secret: str


def generate_store_key(random: Callable[[int], bytes] = os.urandom) -> str:
    """Return a new store key as text, `longboat-key-1-…`."""
    return format_key(STORE_KEY_PREFIX, random(KEY_BYTES))


def generate_recovery_pair(random: Callable[[int], bytes] = os.urandom) -> RecoveryPair:
    """Return a new X25519 recovery pair as text."""
    secret = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    return RecoveryPair(
        public=format_key(RECOVERY_PUBLIC_PREFIX, secret.public_key().public_bytes_raw()),
        secret=format_key(RECOVERY_SECRET_PREFIX, secret.private_bytes_raw()),
    )


def parse_store_key(text: str) -> bytes:
    """Return the 32 bytes of a store key in text form; KeyTextError says what is wrong with it."""
    return _parse(STORE_KEY_PREFIX, text)


def parse_recovery_public(text: str) -> bytes:
    """Return the 32 bytes of a recovery public key in text form; KeyTextError says what is wrong with it."""
    return _parse(RECOVERY_PUBLIC_PREFIX, text)


def parse_recovery_secret(text: str) -> bytes:
    """Return the 32 bytes of a recovery secret key in text form; KeyTextError says what is wrong with it."""
    return _parse(RECOVERY_SECRET_PREFIX, text)


def format_key(prefix: str, key: bytes) -> str:
    """Return prefix + base32(key + checksum), the checksum being 4 bytes of SHA-256 over prefix and key."""
    return prefix + base64.b32encode(key + _checksum(prefix, key)).decode().rstrip("=").lower()


def _parse(prefix: str, text: str) -> bytes:
    text = text.strip()
    kind = _KINDS[prefix]
    if not text.startswith(prefix):
        found = next((name for known, name in _KINDS.items() if text.startswith(known)), "something else")
        raise KeyTextError(f"expected a {kind} ({prefix}…), found {found}; make one with: longboat key generate")
    raw = _decode(text.removeprefix(prefix))
    key, check = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if len(key) != KEY_BYTES or check != _checksum(prefix, key):
        raise KeyTextError(f"{kind}: the checksum does not match; it was cut short or misspelt, copy it again")
    return key


def _decode(body: str) -> bytes:
    try:
        return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError:  # Letters outside of base32 are a binascii.Error, those outside of ASCII a plain ValueError.
        return b""


def _checksum(prefix: str, key: bytes) -> bytes:
    return hashlib.sha256(prefix.encode() + key).digest()[:_CHECK_BYTES]
