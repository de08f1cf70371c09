"""Opening fails closed: a wrong key, a lost header or a failing store never lead to a second master key."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from longboat.repository import (
    Repository,
    add_store_key,
    generate_recovery_pair,
    generate_store_key,
    open_or_create_repository,
    open_repository,
    open_with_master_key,
    open_with_recovery,
    parse_recovery_public,
    parse_recovery_secret,
    parse_store_key,
)
from longboat.repository.errors import (
    AccessDeniedError,
    KeyTextError,
    RepositoryDamagedError,
    RepositoryNotFoundError,
    StoreFailureError,
    UnsupportedFormatError,
    WrongKeyError,
)
from longboat.repository.key_text import STORE_KEY_PREFIX
from longboat.repository.object_store import ObjectInfo
from tests.fakes.object_store import FaultyStore, MemoryStore

KEY, OTHER, PATH = b"k" * 32, b"o" * 32, "cluster/namespace"


def made() -> tuple[MemoryStore, Repository]:
    store = MemoryStore()
    return store, open_or_create_repository(store, PATH, KEY)


def test_created_repository_opens_again_with_the_same_master_key() -> None:
    store, repository = made()
    for opened in (open_or_create_repository(store, PATH, KEY), open_repository(store, PATH, KEY)):
        assert (opened.master_key, opened.id, opened.key_id) == (
            repository.master_key,
            repository.id,
            repository.key_id,
        )
    assert open_with_master_key(store, PATH, repository.master_key).id == repository.id


def test_wrong_store_key_is_told_and_changes_nothing() -> None:
    store, _ = made()
    objects = dict(store.objects)
    with pytest.raises(WrongKeyError, match="nothing was changed"):
        open_or_create_repository(store, PATH, OTHER)
    with pytest.raises(WrongKeyError):
        open_with_master_key(store, PATH, OTHER)
    assert store.objects == objects


def test_lost_wrapped_keys_are_no_empty_repository() -> None:
    store, _ = made()
    for name in [name for name in store.objects if "/keys/" in name]:
        del store.objects[name]
    with pytest.raises(WrongKeyError, match="missing"):
        open_or_create_repository(store, PATH, KEY)


@pytest.mark.parametrize("folder", ["packs/aa/" + "a" * 32, "disks/x/y", "backups/x/000001", "maps/aa/x"])
def test_lost_header_beside_data_is_damage_not_a_new_repository(folder: str) -> None:
    store, _ = made()
    del store.objects[f"{PATH}/repository"]
    store.put_new(f"{PATH}/{folder}", b"data")
    with pytest.raises(RepositoryDamagedError, match="missing although"):
        open_or_create_repository(store, PATH, KEY)


def test_header_that_is_no_header_is_damage_and_a_newer_one_is_unsupported() -> None:
    store, _ = made()
    data, modified, version = store.objects[f"{PATH}/repository"]
    store.objects[f"{PATH}/repository"] = (b"{}", modified, version)
    with pytest.raises(RepositoryDamagedError):
        open_or_create_repository(store, PATH, KEY)
    store.objects[f"{PATH}/repository"] = (data.replace(b'"formatVersion":1', b'"formatVersion":2'), modified, version)
    with pytest.raises(UnsupportedFormatError, match="update"):
        open_or_create_repository(store, PATH, KEY)


def test_swapped_repository_id_fails_the_keys_authentication() -> None:
    store, repository = made()
    data, modified, version = store.objects[f"{PATH}/repository"]
    store.objects[f"{PATH}/repository"] = (data.replace(repository.id.encode(), b"0" * 32), modified, version)
    with pytest.raises(WrongKeyError):
        open_repository(store, PATH, KEY)


def test_missing_repository_is_told_and_not_made_by_readers() -> None:
    store = MemoryStore()
    with pytest.raises(RepositoryNotFoundError):
        open_repository(store, PATH, KEY)
    with pytest.raises(RepositoryNotFoundError):
        open_with_master_key(store, PATH, KEY)
    assert not store.objects


class RacingStore(MemoryStore):
    """Another operator creates the same repository just before this one writes its header."""

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        if name.endswith("/repository") and name not in self.objects:
            rival = MemoryStore()
            open_or_create_repository(rival, PATH, KEY)
            self.objects.update(rival.objects)
        return super().put_new(name, data)


def test_loser_of_a_creation_race_takes_the_winners_key() -> None:
    store = RacingStore()
    first = open_or_create_repository(store, PATH, KEY)
    assert open_repository(store, PATH, KEY).master_key == first.master_key


@pytest.mark.parametrize("fault", ["fails", "acknowledgement-lost"])
def test_creation_that_fails_anywhere_can_be_repeated(fault: str) -> None:
    counter = FaultyStore(MemoryStore())
    open_or_create_repository(counter, PATH, KEY)
    for at in range(counter.operations):
        store = MemoryStore()
        with pytest.raises(StoreFailureError):
            open_or_create_repository(FaultyStore(store, fault, at), PATH, KEY)
        again = open_or_create_repository(store, PATH, KEY)
        assert open_repository(store, PATH, KEY).master_key == again.master_key


class UnlistableStore(MemoryStore):
    """Credentials that may not list."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise AccessDeniedError("list")


def test_failed_listing_creates_nothing() -> None:
    store = UnlistableStore()
    with pytest.raises(AccessDeniedError):
        open_or_create_repository(store, PATH, KEY)
    assert not store.objects


def test_recovery_pair_opens_what_the_store_key_made_also_when_added_later() -> None:
    store, repository = made()
    pair = generate_recovery_pair()
    for _ in range(2):
        open_or_create_repository(store, PATH, KEY, parse_recovery_public(pair.public))
    assert len([name for name in store.objects if "/keys/" in name]) == 2
    assert open_with_recovery(store, PATH, parse_recovery_secret(pair.secret)).master_key == repository.master_key
    with pytest.raises(WrongKeyError):
        open_with_recovery(store, PATH, parse_recovery_secret(generate_recovery_pair().secret))


def test_added_store_key_opens_the_same_repository() -> None:
    store, repository = made()
    add_store_key(repository, OTHER)
    assert open_repository(store, PATH, OTHER).master_key == repository.master_key
    assert open_repository(store, PATH, KEY).master_key == repository.master_key


def test_no_key_is_shown_by_a_repository() -> None:
    _, repository = made()
    shown = repr(repository)
    for secret in (repository.master_key.hex(), repr(repository.master_key), base64.b64encode(KEY).decode()):
        assert secret not in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a store key"),
        (generate_recovery_pair().secret, "found recovery secret key"),
        (generate_store_key()[:-1], "cut short"),
        (STORE_KEY_PREFIX + "!" * 58, "checksum"),
        (STORE_KEY_PREFIX + "a" * 58, "checksum"),
        (STORE_KEY_PREFIX + "é", "checksum"),
    ],
    # Keys are random: as names of tests they would differ between the processes that share the tests.
    ids=["nothing", "recovery secret", "cut", "no letters", "other letters", "foreign letters"],
)
def test_misspelt_key_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(KeyTextError, match=message):
        parse_store_key(text)


def test_key_text_reads_back() -> None:
    text = generate_store_key(lambda count: bytes(range(count)))
    assert text == "longboat-key-1-aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypywdvlbu"
    assert parse_store_key(f" {text}\n") == bytes(range(32))
