"""What every object store has to do; the same tests run on a folder, an S3 server, Azurite and a stand-in for GCS."""

from __future__ import annotations

import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from longboat.repository import (
    ObjectStore,
    StoreProblem,
    StoreSettings,
    check_store,
    open_or_create_repository,
    open_repository,
    open_store,
)
from longboat.repository.errors import (
    BucketNotFoundError,
    CredentialsError,
    DamagedError,
    ObjectExistsError,
    ObjectNotFoundError,
    PreconditionError,
    StoreError,
)
from longboat.repository.object_store import ScopedStore, put_fresh, put_once
from tests.cluster.s3 import S3Settings


def _settings(kind: str, request: pytest.FixtureRequest) -> StoreSettings:
    prefix = f"contract/{os.urandom(6).hex()}"
    if kind == "folder":
        return StoreSettings(type="folder", path=str(request.getfixturevalue("tmp_path")), prefix=prefix)
    if kind in ("azure", "gcs"):
        name = {"azure": "azure_server", "gcs": "gcs_stand_in"}[kind]
        found: StoreSettings = request.getfixturevalue(name)
        return found.model_copy(update={"prefix": prefix})
    server: S3Settings = request.getfixturevalue("s3_server")
    return StoreSettings(
        type="s3",
        prefix=prefix,
        endpoint=server.endpoint,
        region=server.region,
        bucket=server.bucket,
        ca_pem=server.ca_pem,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
    )


@pytest.fixture(params=["folder", "s3", "azure", "gcs"])
def settings(request: pytest.FixtureRequest) -> StoreSettings:
    return _settings(request.param, request)


@pytest.fixture
def store(settings: StoreSettings) -> ObjectStore:
    return open_store(settings)


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> StoreSettings:
    return _settings("s3", request)


def test_object_reads_back_whole_and_in_ranges(store: ObjectStore) -> None:
    data = os.urandom(300_000)
    store.put_new("packs/ab/object-1", data)
    assert store.get("packs/ab/object-1", len(data)) == data
    assert bytes(store.get_range("packs/ab/object-1", 1000, 5)) == data[1000:1005]
    assert bytes(store.get_range("packs/ab/object-1", 299_999, 1)) == data[-1:]
    assert bytes(store.get_range("packs/ab/object-1", 10, 299_990)) == data[10:]
    assert store.head("packs/ab/object-1").size == len(data)
    store.put_new("buffer", memoryview(bytearray(b"view"))[1:])
    assert store.get("buffer", 10) == b"iew"


@pytest.mark.parametrize("start", [0, 1], ids=["whole pages of memory", "memory between pages"])
def test_large_object_is_taken_from_any_memory(store: ObjectStore, start: int) -> None:
    memory = mmap.mmap(-1, 3 << 20)
    memory.write(os.urandom(len(memory)))
    data = memoryview(memory)[start:-5]
    store.put_new("packs/ab/large", data)
    assert store.get("packs/ab/large", len(data)) == bytes(data)


def test_folders_are_told_without_what_is_in_them(store: ObjectStore) -> None:
    for name in ("a/b/c/one", "a/b/two", "a/d/three", "a/four", "ab/five", "six"):
        store.put_new(name, b"x")
    assert sorted(store.folders("")) == ["a", "ab"]
    assert sorted(store.folders("a/")) == ["b", "d"]
    assert list(store.folders("a/d/")) == list(store.folders("nowhere/")) == []
    assert sorted(ScopedStore(store, "a").folders("b/")) == ["c"]


def test_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put_new("empty", b"")
    assert store.get("empty", 0) == b""
    assert store.head("empty").size == 0


def test_existing_object_is_never_overwritten(store: ObjectStore) -> None:
    store.put_new("a", b"first")
    with pytest.raises(ObjectExistsError):
        store.put_new("a", b"second")
    assert store.get("a", 10) == b"first"


def test_one_of_many_creators_wins(store: ObjectStore) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        try:
            store.put_new("race", b"%d" % number)
            won.append(number)
        except ObjectExistsError:
            return

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("race", 10) == b"%d" % won[0]


def test_conditional_write_needs_the_current_version(store: ObjectStore) -> None:
    first = store.put_new("epoch", b"1")
    assert store.head("epoch").etag == first
    second = store.put_if_match("epoch", b"two", first)
    with pytest.raises(PreconditionError):
        store.put_if_match("epoch", b"3", first)
    assert store.head("epoch").etag == second != first
    assert store.get("epoch", 10) == b"two"
    with pytest.raises(PreconditionError):
        store.put_if_match("missing", b"1", first)


def test_missing_objects_are_told_by_every_operation(store: ObjectStore) -> None:
    store.put_new("there", b"1")
    for operation in (
        lambda: store.get("not/there", 10),
        lambda: store.get_range("not/there", 0, 1),
        lambda: store.get_range("not/there", 0, 1 << 20),
        lambda: store.head("not/there"),
    ):
        with pytest.raises(ObjectNotFoundError):
            operation()
    store.delete("not/there")


def test_short_and_oversized_objects_are_damage(store: ObjectStore) -> None:
    store.put_new("a", b"0123456789")
    with pytest.raises(DamagedError):
        store.get("a", 9)
    with pytest.raises(DamagedError):
        store.get_range("a", 5, 6)
    with pytest.raises(DamagedError):
        store.get_range("a", 50, 6)
    with pytest.raises(DamagedError):
        store.get_range("a", 5, 1 << 20)


def test_listing_is_by_folder_and_complete(store: ObjectStore) -> None:
    names = {f"disks/d{i % 3}/o{i}" for i in range(30)} | {"disks2/x", "top"}
    for name in names:
        store.put_new(name, b"x")
    assert {info.name for info in store.list("")} == names
    assert {info.name for info in store.list("disks/")} == {n for n in names if n.startswith("disks/")}
    assert {info.name for info in store.list("disks/d1/")} == {n for n in names if n.startswith("disks/d1/")}
    assert list(store.list("nothing/")) == []
    info = next(iter(store.list("disks2/")))
    assert (info.size, abs(info.modified - datetime.now(UTC)) < timedelta(minutes=5)) == (1, True)


def test_listing_goes_beyond_one_page_of_the_server(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: store.put_new(f"many/{number}", b""), range(1005)))
    assert sum(1 for _ in store.list("many/")) == 1005


def test_deleted_object_is_gone(store: ObjectStore) -> None:
    store.put_new("a/b", b"1")
    store.delete("a/b")
    with pytest.raises(ObjectNotFoundError):
        store.head("a/b")
    store.put_new("a/b", b"2")


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", ".hidden", "a\n", "é"])
def test_unsafe_names_are_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError, match="object name"):
        store.put_new(name, b"")


def test_scope_confines_names(store: ObjectStore) -> None:
    scoped = ScopedStore(store, "cluster/namespace")
    scoped.put_new("a", b"1")
    assert [info.name for info in store.list("cluster/")] == ["cluster/namespace/a"]
    assert [info.name for info in scoped.list("")] == ["a"]
    assert scoped.head("a").name == "a"


def test_repeated_write_of_the_same_bytes_is_recognised(store: ObjectStore) -> None:
    for _ in range(2):
        put_once(store, "a", b"same")
        put_fresh(store, "b", b"same")
    for other in (b"else", b"longer than same", b""):
        with pytest.raises(ObjectExistsError):
            put_once(store, "a", other)
    with pytest.raises(DamagedError, match="check the store"):
        put_fresh(store, "b", b"other size")


def test_repository_lives_in_the_store(store: ObjectStore) -> None:
    made = open_or_create_repository(store, "c/n", b"k" * 32)
    assert open_repository(store, "c/n", b"k" * 32).master_key == made.master_key


def test_good_store_passes_the_check_twice(settings: StoreSettings, store: ObjectStore) -> None:
    for _ in range(2):
        found = check_store(settings)
        assert found.ok, found.message
        assert found.clock_skew is not None and abs(found.clock_skew) < timedelta(minutes=1)


def test_check_sees_a_clock_that_is_off(settings: StoreSettings, store: ObjectStore) -> None:
    found = check_store(settings, datetime.now(UTC) + timedelta(hours=2))
    assert (found.problem, "behind" in found.message) == (StoreProblem.CLOCK, True)


def test_check_names_a_folder_that_is_missing() -> None:
    found = check_store(StoreSettings(type="folder", path="/nonexistent/longboat"))
    assert (found.problem, "create it" in found.message) == (StoreProblem.BUCKET, True)


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        ({"bucket": "longboat-no-such-bucket"}, StoreProblem.BUCKET, "create it"),
        ({"access_key_id": "nobody"}, StoreProblem.CREDENTIALS, "Secret"),
        ({"secret_access_key": "wrong"}, StoreProblem.CREDENTIALS, "Secret"),
        ({"ca_pem": ""}, StoreProblem.TLS, "CA bundle"),
        ({"ca_pem": "no certificate"}, StoreProblem.SETTINGS, "caPem"),
        ({"endpoint": "https://127.0.0.1:9"}, StoreProblem.UNREACHABLE, "host and port"),
        ({"endpoint": "https://longboat.invalid"}, StoreProblem.UNREACHABLE, "DNS"),
    ],
)
def test_check_tells_apart_what_is_wrong(
    s3: StoreSettings, change: dict[str, str], problem: StoreProblem, remedy: str
) -> None:
    found = check_store(s3.model_copy(update=change))
    assert (found.problem, remedy in found.message) == (problem, True), found.message
    assert s3.secret_access_key not in found.message


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bucket": "longboat-no-such-bucket"}, BucketNotFoundError),
        ({"access_key_id": "nobody"}, CredentialsError),
    ],
)
def test_wrong_access_never_looks_like_an_empty_store(
    s3: StoreSettings, change: dict[str, str], error: type[StoreError]
) -> None:
    broken = open_store(s3.model_copy(update=change))
    for operation in (lambda: broken.head("a"), lambda: broken.get("a", 1), lambda: list(broken.list("packs/"))):
        with pytest.raises(error):
            operation()
    with pytest.raises(error):
        open_or_create_repository(broken, "c/n", b"k" * 32)
