"""A new master key is a new repository: made once, found by listing, and no older one is ever taken in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.repository import (
    Generations,
    Repository,
    find_generations,
    generate_recovery_pair,
    generation_name,
    generations_in,
    open_newest,
    open_or_create_newest,
    open_or_create_repository,
    open_repository,
    open_with_master_key,
    open_with_recovery,
    parse_generation,
    parse_recovery_public,
    parse_recovery_secret,
    rotate_master_key,
)
from longboat.repository.closing import ClosingRecord, read_closing, write_closing
from longboat.repository.errors import (
    AccessDeniedError,
    DamagedError,
    GenerationConflictError,
    RepositoryDamagedError,
    RepositoryNotFoundError,
    StoreFailureError,
    WrongKeyError,
)
from longboat.repository.object_store import ObjectStore
from tests.fakes.object_store import FaultyStore, KilledError, MemoryStore

KEY, OTHER, CLUSTER, UID = b"k" * 32, b"o" * 32, "cluster", "aaaa-1111"
FIRST, SECOND, THIRD = f"{CLUSTER}/{UID}", f"{CLUSTER}/{UID}.2", f"{CLUSTER}/{UID}.3"
HOUR = timedelta(hours=1)
R = TypeVar("R")


def found(store: ObjectStore) -> Generations:
    return find_generations(store, CLUSTER, UID)


def rotate(store: ObjectStore, current: int = 1, key: bytes = KEY, recovery: bytes | None = None) -> Repository:
    return rotate_master_key(found(store), key, current, recovery)


def made() -> tuple[MemoryStore, Repository]:
    """Return a store with a namespace's first repository, an hour after it was made."""
    store = MemoryStore()
    first = open_or_create_newest(found(store), KEY)
    store.advance(HOUR)
    return store, first


def closings(store: MemoryStore, path: str) -> list[str]:
    return [name for name in store.objects if name.startswith(f"{path}/closed/")]


@given(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True), st.integers(1, 10**9 - 1))
def test_a_name_gives_back_what_it_was_made_of(uid: str, n: int) -> None:
    assert parse_generation(generation_name(uid, n)) == (uid, n)


@given(st.text(max_size=20))
def test_what_is_no_name_of_a_repository_is_none_and_no_two_names_are_one(text: str) -> None:
    parsed = parse_generation(text)
    assert parsed is None or generation_name(*parsed) == text


@pytest.mark.parametrize("name", ["", "a.1", "a.0", "a.02", "a.2.3", ".2", "a.", "a.x", "a.-2", "a.2\n", "a b", "a/b"])
def test_a_number_that_is_not_canonical_is_no_repository(name: str) -> None:
    assert parse_generation(name) is None


@pytest.mark.parametrize(("uid", "n"), [("a", 10**9), ("a", 0), ("a", -1), ("a.2", 1), ("a/b", 1), ("", 2)])
def test_no_name_is_made_that_could_not_be_read(uid: str, n: int) -> None:
    with pytest.raises(ValueError, match="repository"):
        generation_name(uid, n)


def test_numbers_are_those_of_the_namespace_in_their_order() -> None:
    assert generations_in(["a.10", "a.2", "b.3", "a", "a.02", "a.1", "aa.4", "a.2"], "a") == [1, 2, 10]


def test_a_rotation_makes_a_repository_with_a_key_of_its_own_and_closes_the_old_one() -> None:
    store, first = made()
    second = rotate(store)
    assert found(store).numbers == (1, 2)
    assert {first.id, first.key_id, first.master_key}.isdisjoint({second.id, second.key_id, second.master_key})
    assert open_newest(found(store), KEY).id == open_or_create_newest(found(store), KEY).id == second.id
    assert open_repository(store, FIRST, KEY).master_key == first.master_key
    closing = found(store).closing(1, second)
    assert closing is not None and closing.sealed and closing.closed == store.head(f"{SECOND}/repository").modified
    assert found(store).closing(2, second) is None


def test_the_new_key_is_wrapped_for_the_recovery_recipient_too() -> None:
    store, _ = made()
    pair = generate_recovery_pair()
    second = rotate(store, recovery=parse_recovery_public(pair.public))
    opened = open_with_recovery(store, SECOND, parse_recovery_secret(pair.secret))
    assert opened.master_key == second.master_key


def test_a_repeated_rotation_changes_nothing_and_another_one_is_asked_for_by_its_number() -> None:
    store, _ = made()
    second = rotate(store)
    objects = dict(store.objects)
    assert rotate(store).id == second.id
    assert store.objects == objects
    third = rotate(store, current=2)
    assert found(store).numbers == (1, 2, 3) and third.id != second.id
    with pytest.raises(GenerationConflictError, match="number 3, expected 1 or 2"):
        rotate(store)


def test_every_rotation_closes_all_before_it_with_its_own_key() -> None:
    store, first = made()
    second = rotate(store)
    moment = store.now
    store.advance(HOUR)
    third = rotate(store, current=2)
    for n, closed in ((1, moment), (2, store.now)):
        closing = found(store).closing(n, third)
        assert closing is not None and closing.sealed and closing.closed == closed
    # Who has the second key, which may have leaked as well, closes nothing earlier than it was.
    early = ClosingRecord(repository_id=first.id, closed=moment - 2 * HOUR)
    write_closing(first.store, early, second)
    assert read_closing(first.store, first.id, third) == moment


@pytest.mark.parametrize("fault", ["killed-before", "killed-after", "fails", "acknowledgement-lost"])
def test_a_rotation_that_ends_anywhere_is_completed_and_makes_no_third_repository(fault: str) -> None:
    counter = FaultyStore(made()[0])
    rotate(counter)
    for at in range(counter.operations):
        store, first = made()
        with pytest.raises((KilledError, StoreFailureError)):
            rotate(FaultyStore(store, fault, at))
        begun = found(store)
        # Until the new one has a header the old one is in use, from then on only the new one.
        assert open_newest(begun, KEY).id == first.id or begun.numbers == (1, 2)
        store.advance(HOUR)
        second = rotate(store)
        assert found(store).numbers == (1, 2)
        assert open_newest(found(store), KEY).id == second.id
        closing = found(store).closing(1, second)
        assert closing is not None and closing.sealed
        assert closing.closed == store.head(f"{SECOND}/repository").modified


def test_before_the_closing_is_written_the_newer_header_says_when() -> None:
    store, _ = made()
    second = rotate(store)
    (name,) = closings(store, FIRST)
    del store.objects[name]
    closing = found(store).closing(1, second)
    assert closing is not None and not closing.sealed and closing.closed == store.now


def test_a_closing_makes_nothing_count_that_came_after_the_next_header() -> None:
    store, first = made()
    moment = store.now
    second = rotate(store)
    (name,) = closings(store, FIRST)
    del store.objects[name]
    write_closing(first.store, ClosingRecord(repository_id=first.id, closed=moment + HOUR), second)
    closing = found(store).closing(1, second)
    assert closing is not None and closing.closed == moment
    # A header that is written again, and a copy of the store, have later stamps than what was sealed.
    write_closing(first.store, ClosingRecord(repository_id=first.id, closed=moment), second)
    data, _, version = store.objects[f"{SECOND}/repository"]
    store.objects[f"{SECOND}/repository"] = (data, moment + HOUR, version)
    closing = found(store).closing(1, second)
    assert closing is not None and closing.closed == moment


def test_behind_the_highest_number_there_is_no_further_one() -> None:
    store, _ = made()
    highest = f"{CLUSTER}/{UID}.{10**9 - 1}"
    open_or_create_repository(store, highest, KEY)
    objects = dict(store.objects)
    with pytest.raises(GenerationConflictError, match="highest number"):
        rotate(store, current=10**9 - 1)
    assert store.objects == objects


class Rival(MemoryStore):
    """Somebody else rotates right before an object whose name ends as told is written."""

    before = "/repository"
    done: Repository | None = None

    def put_new(self, name: str, data: bytes | bytearray | memoryview) -> str:
        if name.startswith(SECOND) and self.before in name and self.done is None:
            self.before = "nothing any more"
            self.done = rotate(self)
        return super().put_new(name, data)


@pytest.mark.parametrize("before", ["/keys/", "/repository"])
def test_of_two_rotations_at_once_one_is_left(before: str) -> None:
    store = Rival()
    open_or_create_newest(found(store), KEY)
    store.before = before
    mine = rotate(store)
    assert store.done is not None and mine.master_key == store.done.master_key
    assert found(store).numbers == (1, 2)
    assert open_with_master_key(store, SECOND, mine.master_key).id == mine.id


def test_a_wrong_key_makes_no_repository() -> None:
    store, _ = made()
    objects = dict(store.objects)
    with pytest.raises(WrongKeyError):
        rotate(store, key=OTHER)
    assert store.objects == objects


def test_a_key_that_opens_an_old_repository_and_not_the_newest_opens_nothing() -> None:
    store, _ = made()
    rotate(store)
    for name in [name for name in store.objects if name.startswith(f"{SECOND}/keys/")]:
        del store.objects[name]
    objects = dict(store.objects)
    for attempt in (
        lambda: open_newest(found(store), KEY),
        lambda: open_or_create_newest(found(store), KEY),
        lambda: rotate(store, current=2),
        lambda: rotate(store),
    ):
        with pytest.raises(WrongKeyError):
            attempt()
    assert store.objects == objects


class UnlistableStore(MemoryStore):
    """Credentials that may not list."""

    def folders(self, prefix: str) -> Iterator[str]:
        raise AccessDeniedError("list")


def test_a_failed_listing_finds_nothing_and_makes_nothing() -> None:
    store = UnlistableStore()
    with pytest.raises(AccessDeniedError):
        open_or_create_newest(found(store), KEY)
    assert not store.objects


def test_a_newest_repository_without_its_header_is_damage() -> None:
    store, _ = made()
    rotate(store)
    store.put_new(f"{SECOND}/packs/aa/{'a' * 32}", b"data")
    del store.objects[f"{SECOND}/repository"]
    with pytest.raises(RepositoryDamagedError, match="missing although"):
        found(store)


def test_a_newest_header_that_can_not_be_read_is_damage() -> None:
    store, _ = made()
    store.put_new(f"{THIRD}/repository", b"{}")
    with pytest.raises(RepositoryDamagedError):
        found(store)


def test_an_old_repository_without_its_header_stops_no_backup() -> None:
    store, first = made()
    second = rotate(store)
    store.put_new(f"{FIRST}/packs/aa/{'a' * 32}", b"data")
    del store.objects[f"{FIRST}/repository"]
    assert open_newest(found(store), KEY).id == second.id
    assert found(store).numbers == (2,)
    assert first.id != second.id


def test_nothing_is_rotated_where_there_is_no_repository() -> None:
    store = MemoryStore()
    with pytest.raises(RepositoryNotFoundError):
        rotate(store)
    assert not store.objects


def test_a_closing_is_believed_only_from_the_newest_key_in_its_place() -> None:
    store, first = made()
    second = rotate(store)
    (name,) = closings(store, FIRST)
    data, modified, version = store.objects[name]
    moment = read_closing(first.store, first.id, second)
    # The leaked key, and another repository's closing that was copied here.
    write_closing(first.store, ClosingRecord(repository_id=first.id, closed=store.now - HOUR), first)
    write_closing(first.store, ClosingRecord(repository_id="0" * 32, closed=store.now - HOUR), second)
    assert read_closing(first.store, first.id, second) == moment
    store.objects[f"{FIRST}/closed/{'0' * 32}"] = (data, modified, version)
    with pytest.raises(DamagedError, match="under another name"):
        read_closing(first.store, first.id, second)
    del store.objects[f"{FIRST}/closed/{'0' * 32}"]
    store.objects[name] = (data[:-1] + b"x", modified, version)
    with pytest.raises(DamagedError, match="fails authentication"):
        found(store).closing(1, second)


class Interleaved(FaultyStore):
    """Right before the nth operation somebody else does something in the store."""

    def __init__(self, store: MemoryStore, at: int, other: Callable[[], object]) -> None:
        super().__init__(store)
        self._at, self._other = at, other

    def _run(self, operation: Callable[[], R], writes: bool = False) -> R:
        if self.operations == self._at:
            self._other()
        return super()._run(operation, writes)


def operations_of_a_rotation() -> int:
    counter = FaultyStore(made()[0])
    rotate(counter)
    return counter.operations


@pytest.mark.parametrize("at", range(operations_of_a_rotation()))
def test_wherever_another_rotation_comes_in_between_both_have_the_same_repository(at: int) -> None:
    store, _ = made()
    rivals: list[Repository] = []
    mine = rotate(Interleaved(store, at, lambda: rivals.append(rotate(store))))
    assert found(store).numbers == (1, 2)
    assert mine.master_key == rivals[0].master_key == open_newest(found(store), KEY).master_key
    closing = found(store).closing(1, mine)
    assert closing is not None and closing.sealed


@pytest.mark.parametrize("at", range(operations_of_a_rotation()))
def test_wherever_two_further_rotations_come_in_between_the_newest_key_closes_all(at: int) -> None:
    store, _ = made()

    def twice() -> None:
        rotate(store)
        store.advance(HOUR)
        rotate(store, current=2)

    with contextlib.suppress(GenerationConflictError):
        rotate(Interleaved(store, at, twice))
    third = open_newest(found(store), KEY)
    assert found(store).numbers == (1, 2, 3)
    for n, path in ((1, SECOND), (2, THIRD)):
        closing = found(store).closing(n, third)
        assert closing is not None and closing.sealed
        assert closing.closed == store.head(f"{path}/repository").modified


@pytest.mark.parametrize("kept", ["keys", ""])
def test_a_closed_repository_is_not_written_to_when_the_newer_one_is_gone(kept: str) -> None:
    store, first = made()
    rotate(store)
    for name in [name for name in store.objects if name.startswith(f"{SECOND}/{'repository' if kept else ''}")]:
        del store.objects[name]
    objects = dict(store.objects)
    for attempt in (lambda: rotate(store), lambda: open_or_create_newest(found(store), KEY)):
        with pytest.raises(RepositoryDamagedError, match=f"{SECOND}/repository.* put that object back .*--from 1"):
            attempt()
    assert store.objects == objects and open_newest(found(store), KEY).id == first.id
    # The way out, for who has nothing to put back.
    made_again = rotate_master_key(found(store), KEY, 1, replaces_lost=True)
    assert open_or_create_newest(found(store), KEY).id == made_again.id
    closing = found(store).closing(1, made_again)
    assert closing is not None and closing.sealed


def test_a_rotation_that_comes_second_is_not_told_of_damage() -> None:
    store, _ = made()
    before = found(store)
    second = rotate(store)
    assert rotate_master_key(before, KEY, 1).id == second.id
