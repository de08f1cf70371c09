"""A network and a server that fail now and then: what is done through S3 ends well, or says what failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import pytest

from longboat.mover.restore_disk import run_restore
from longboat.repository import (
    Repository,
    StoreSettings,
    open_or_create_repository,
    open_store,
    verify,
)
from longboat.repository.bucket_clients import Patience
from longboat.repository.errors import CredentialsError, RepositoryError, StoreError
from tests.cluster.s3 import RemoteStore, S3Settings
from tests.contract import faulty_proxy
from tests.unit.mover.disks import BLOCK, PATH, STORE_KEY, export, restore, restore_job, write_image

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PATIENCE = Patience(connect=5, request=10, retries=3, retry_for=20)


class World:
    """A repository behind the proxy, a disk, and the plan of what goes wrong."""

    def __init__(self, settings: StoreSettings, plan: faulty_proxy.Plan, folder: Path) -> None:
        self.settings, self.plan, self.folder = settings, plan, folder
        self.store = open_store(settings, PATIENCE)
        self.repository: Repository = open_or_create_repository(self.store, PATH, STORE_KEY)
        content = {i * BLOCK: os.urandom(BLOCK) for i in range(0, 40, 2)}
        self.disk = write_image(folder / "disk", content, 50 * BLOCK)
        self.content = (self.disk / "disk.img").read_bytes()

    def back_up(self, name: str, number: int) -> str:
        return export(self.store, self.repository.master_key, self.disk, name, number).manifest

    def restored(self, manifest: str) -> bytes:
        return restore(self.store, self.repository.master_key, manifest, self.folder)[0]


@pytest.fixture
def world(remote_store: RemoteStore, tmp_path: Path) -> Iterator[World]:
    with _world(remote_store.settings(), tmp_path) as world:
        yield world


@pytest.fixture
def own_world(remote_store: RemoteStore, tmp_path: Path) -> Iterator[World]:
    """A world with a user and a bucket of its own, of the same name, that may be taken away."""
    name = f"outage-{os.urandom(6).hex()}"
    secret = remote_store.create_user(name)
    remote_store.create_bucket(name, owner=name)
    user = {"bucket": name, "access_key_id": name, "secret_access_key": secret}
    with _world(replace(remote_store.settings(), **user), tmp_path) as world:
        yield world


@contextmanager
def _world(server: S3Settings, folder: Path) -> Iterator[World]:
    directory = folder / "proxy"
    directory.mkdir()
    with faulty_proxy.running(directory, server) as (endpoint, ca_pem, plan):
        settings = StoreSettings(
            type="s3",
            endpoint=endpoint,
            region=server.region,
            bucket=server.bucket,
            prefix=f"faults/{os.urandom(6).hex()}",
            ca_pem=ca_pem,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
        )
        yield World(settings, plan, folder)


@pytest.mark.parametrize("part", ["/packs/", "/maps/", "/disks/", "/leases/"])
@pytest.mark.parametrize("fault", ["reset", "lost", "unavailable", "duplicated", "slow"])
def test_an_export_survives_a_fault_of_each_kind_of_object(world: World, fault: faulty_proxy.Fault, part: str) -> None:
    world.plan.first(fault, 2, "PUT", part)
    manifest = world.back_up("one", 1)
    assert world.plan.met
    assert world.restored(manifest) == world.content
    assert verify(world.repository, share=100, now=NOW).state == "ok"


@pytest.mark.parametrize("fault", ["reset", "truncated", "unavailable", "slow"])
def test_what_is_read_badly_now_and_then_is_whole_in_the_end(world: World, fault: faulty_proxy.Fault) -> None:
    manifest = world.back_up("one", 1)
    for part in ("/packs/", "/maps/", "/disks/"):
        world.plan.first(fault, 2, "GET", part)
        assert world.restored(manifest) == world.content
        world.plan.first(fault, 2, "GET", part)
        report = verify(world.repository, share=100, now=NOW)
        assert (report.state, report.recorded) == ("ok", ())
        assert world.plan.met


@pytest.mark.parametrize("fault", ["reset", "truncated", "unavailable"])
def test_a_store_that_keeps_failing_is_an_error_and_no_damage(world: World, fault: faulty_proxy.Fault) -> None:
    manifest = world.back_up("one", 1)
    before = sorted(info.name for info in world.repository.store.list(""))
    world.plan.first(fault, 10**6, "GET", "/packs/")
    with pytest.raises(RepositoryError) as restoring:
        world.restored(manifest)
    with pytest.raises(RepositoryError) as verifying:
        verify(world.repository, share=100, now=NOW)
    assert restoring.value.retryable and verifying.value.retryable
    world.plan.first(fault, 0, "GET", "/packs/")
    assert sorted(info.name for info in world.repository.store.list("")) == before


def test_credentials_that_are_changed_are_told_by_their_name(world: World) -> None:
    manifest = world.back_up("one", 1)
    world.store = open_store(world.settings.model_copy(update={"secret_access_key": "another"}), PATIENCE)
    with pytest.raises(CredentialsError):
        world.restored(manifest)
    with pytest.raises(CredentialsError):
        world.back_up("two", 2)


def _take_bucket_away(world: World, server: RemoteStore) -> Callable[[], None]:
    """Take the bucket away; return what puts it back."""
    server.take_bucket_away(world.settings.bucket)
    return lambda: server.put_bucket_back(world.settings.bucket)


def _change_credentials(world: World, server: RemoteStore) -> Callable[[], None]:
    """Give the user another secret; return what lets the world know it."""
    secret = server.change_secret(world.settings.access_key_id)

    def tell() -> None:
        world.store = open_store(world.settings.model_copy(update={"secret_access_key": secret}), PATIENCE)
        world.repository = open_or_create_repository(world.store, PATH, STORE_KEY)

    return tell


OUTAGES = pytest.mark.parametrize(
    ("happen", "reason"), [(_take_bucket_away, "BucketNotFound"), (_change_credentials, "WrongCredentials")]
)
Outage = Callable[[World, RemoteStore], Callable[[], None]]


def _in_the_middle(
    world: World, server: RemoteStore, happen: Outage, method: str, part: str
) -> list[Callable[[], None]]:
    """Have it happen before the first request of a method for such an object; what undoes it is added to the list."""
    undo, lock = list[Callable[[], None]](), Lock()

    def choose(asked: str, path: str) -> None:
        with lock:
            if asked == method and part in path and not undo:
                undo.append(happen(world, server))

    world.plan.choose = choose
    return undo


@OUTAGES
@pytest.mark.parametrize("part", ["/packs/", "/maps/", "/disks/"])
def test_an_export_ends_with_the_reason_and_goes_on_when_the_store_is_back(
    own_world: World, remote_store: RemoteStore, happen: Outage, reason: str, part: str
) -> None:
    own_world.back_up("zero", 0)
    with (own_world.disk / "disk.img").open("r+b") as disk:
        disk.write(os.urandom(5 * BLOCK))
    own_world.content = (own_world.disk / "disk.img").read_bytes()
    undo = _in_the_middle(own_world, remote_store, happen, "PUT", part)
    with pytest.raises(StoreError) as ended:
        own_world.back_up("one", 1)
    assert ended.value.reason == reason
    undo[0]()
    assert own_world.restored(own_world.back_up("one", 1)) == own_world.content
    assert verify(own_world.repository, share=100, now=NOW).state == "ok"


@OUTAGES
@pytest.mark.parametrize("part", ["/packs/", "/maps/"])
def test_a_restore_ends_with_the_reason_and_goes_on_when_the_store_is_back(
    own_world: World, remote_store: RemoteStore, happen: Outage, reason: str, part: str
) -> None:
    job = restore_job(own_world.repository.master_key, own_world.back_up("one", 1), own_world.folder / "target")
    (own_world.folder / "target").mkdir()
    undo = _in_the_middle(own_world, remote_store, happen, "GET", part)
    with pytest.raises(StoreError) as ended:
        run_restore(job, own_world.store, lambda _: None)
    assert ended.value.reason == reason
    assert not (own_world.folder / "target" / "disk.img").exists()
    undo[0]()
    run_restore(job, own_world.store, lambda _: None)
    assert (own_world.folder / "target" / "disk.img").read_bytes() == own_world.content
    report = verify(own_world.repository, share=100, now=NOW)
    assert (report.state, report.recorded) == ("ok", ())
