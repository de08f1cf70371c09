"""Opening and creating a repository: its header object, its wrapped master key, fail-closed rules.

The header (`repository`) is the only object with a meaning of its own: it is created once, create-only, and names the
repository's id and key. Of two operators that create at once the loser reads the winner's header. Neither a failed
listing nor a key that can't be unwrapped ever leads to a second master key.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from .crypto import RepositoryKeys
from .documents import Document
from .errors import (
    DamagedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RepositoryDamagedError,
    RepositoryNotFoundError,
    UnsupportedFormatError,
    WrongKeyError,
)
from .layout import BACKUPS, DISKS, FORMAT_VERSION, HEADER_NAME, ID_BYTES, MAPS, PACKS
from .manifests import Id
from .object_store import ObjectStore, ScopedStore, put_once
from .wrapping import WrapKey, add_wrap, unwrap_master, wrap_count

Random = Callable[[int], bytes]
_MAX_HEADER = 4096


class RepositoryHeader(Document):
    """The header object, plain JSON: it holds no secret, and a false one fails at the wrapped key's authentication."""

    format: str
    format_version: int
    repository_id: Id
    key_id: Id


@dataclass(frozen=True)
class Repository:
    """An open repository: its store (scoped to its folder), its keys, and a source of randomness."""

    store: ObjectStore
    keys: RepositoryKeys
    random: Random = os.urandom

    @property
    def id(self) -> str:
        """The repository's id, 32 hexadecimal digits."""
        return self.keys.repository_id.hex()

    @property
    def key_id(self) -> str:
        """The id of the master key, 32 hexadecimal digits."""
        return self.keys.key_id.hex()

    @property
    def master_key(self) -> bytes:
        """The 32 bytes of the master key: what a mover is given."""
        return self.keys.master


def open_or_create_repository(
    store: ObjectStore, path: str, store_key: bytes, recovery: bytes | None = None, random: Random = os.urandom
) -> Repository:
    """Open the repository at `path` (`<cluster id>/<namespace uid>`), creating it if there is none.

    `store_key` and `recovery` (a public key) are 32 bytes each. With a recovery key, a wrapped copy for it is made if
    it is missing. WrongKeyError, RepositoryDamagedError or any StoreError leave the store as it was.
    """
    scoped = ScopedStore(store, path)
    header = _read_header(scoped) or _create(scoped, store_key, recovery, random)
    repository = _unlock(scoped, header, WrapKey.of_store(store_key), random)
    if recovery is not None and not wrap_count(scoped, header.key_id, WrapKey.of_recovery_public(recovery)):
        add_wrap(scoped, repository.keys, WrapKey.of_recovery_public(recovery), random)
    return repository


def open_repository(store: ObjectStore, path: str, store_key: bytes, random: Random = os.urandom) -> Repository:
    """Open an existing repository with the store's key; RepositoryNotFoundError or WrongKeyError."""
    scoped = ScopedStore(store, path)
    return _unlock(scoped, _require_header(scoped), WrapKey.of_store(store_key), random)


def open_with_recovery(
    store: ObjectStore, path: str, recovery_secret: bytes, random: Random = os.urandom
) -> Repository:
    """Open an existing repository with the secret half of a recovery pair."""
    scoped = ScopedStore(store, path)
    return _unlock(scoped, _require_header(scoped), WrapKey.of_recovery_secret(recovery_secret), random)


def open_with_master_key(store: ObjectStore, path: str, master: bytes, random: Random = os.urandom) -> Repository:
    """Open an existing repository with its master key, as a mover does; WrongKeyError if it is another one's."""
    scoped = ScopedStore(store, path)
    header = _require_header(scoped)
    keys = RepositoryKeys.of(bytes.fromhex(header.repository_id), master)
    if keys.key_id.hex() != header.key_id:
        raise WrongKeyError(f"{scoped.describe()}: the master key given is not key {header.key_id} of this repository")
    return Repository(scoped, keys, random)


def has_repository(store: ObjectStore, path: str) -> bool:
    """Tell whether there is a repository at a path; RepositoryDamagedError if there is data without a header."""
    return _read_header(ScopedStore(store, path)) is not None


def repository_id_at(store: ObjectStore, path: str) -> str:
    """Return the id that the header at a path says, 32 hexadecimal digits; no key is needed."""
    return _require_header(ScopedStore(store, path)).repository_id


def add_store_key(repository: Repository, new_store_key: bytes) -> None:
    """Wrap the master key for another store key as well, so that the Secret can be changed to it."""
    wrap = WrapKey.of_store(new_store_key)
    if not wrap_count(repository.store, repository.key_id, wrap):
        add_wrap(repository.store, repository.keys, wrap, repository.random)


def _unlock(store: ObjectStore, header: RepositoryHeader, wrap: WrapKey, random: Random) -> Repository:
    repository_id = bytes.fromhex(header.repository_id)
    return Repository(
        store, RepositoryKeys.of(repository_id, unwrap_master(store, repository_id, header.key_id, wrap)), random
    )


def _require_header(store: ObjectStore) -> RepositoryHeader:
    header = _read_header(store)
    if header is None:
        raise RepositoryNotFoundError(f"{store.describe()}: no repository here; check bucket, prefix and path")
    return header


def _read_header(store: ObjectStore) -> RepositoryHeader | None:
    try:
        data = store.get(HEADER_NAME, _MAX_HEADER)
    except ObjectNotFoundError:
        _refuse_headless(store)
        return None
    except DamagedError as error:
        raise RepositoryDamagedError(f"{store.describe()}: {error}") from None
    return _parse_header(store, data)


def _parse_header(store: ObjectStore, data: bytes) -> RepositoryHeader:
    try:
        header = RepositoryHeader.model_validate_json(data)
    except ValidationError:
        raise RepositoryDamagedError(f"{store.describe()}: the object {HEADER_NAME!r} is not a header") from None
    if header.format != "longboat-repository" or header.format_version != FORMAT_VERSION:
        found = f"{header.format} {header.format_version}"
        raise UnsupportedFormatError(f"{store.describe()}: format {found} is not known; update this program")
    return header


def _refuse_headless(store: ObjectStore) -> None:
    for folder in (DISKS, BACKUPS, PACKS, MAPS):
        if next(iter(store.list(folder)), None) is not None:
            raise RepositoryDamagedError(
                f"{store.describe()}: the object {HEADER_NAME!r} is missing although {folder} holds data; put it back"
                " from a copy or another version of it, nothing is created here meanwhile"
            )


def _create(store: ObjectStore, store_key: bytes, recovery: bytes | None, random: Random) -> RepositoryHeader:
    # The key is stored before the header that names it: a crash in between leaves a key that nothing refers to.
    keys = RepositoryKeys.of(random(ID_BYTES), random(32))
    add_wrap(store, keys, WrapKey.of_store(store_key), random)
    if recovery is not None:
        add_wrap(store, keys, WrapKey.of_recovery_public(recovery), random)
    header = RepositoryHeader(
        format="longboat-repository",
        format_version=FORMAT_VERSION,
        repository_id=keys.repository_id.hex(),
        key_id=keys.key_id.hex(),
    )
    try:
        put_once(store, HEADER_NAME, header.model_dump_json(by_alias=True).encode())
    except ObjectExistsError:
        return _require_header(store)
    return header
