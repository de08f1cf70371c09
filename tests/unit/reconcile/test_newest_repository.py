"""Which of a namespace's repositories is written to: the newest one, found by few listings, and never an older one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_STORE, NAMESPACE
from longboat.reconcile import store_access
from longboat.reconcile.listings import HOLDS, Listings
from longboat.reconcile.repositories import RepositoryAccess, StoreProblemError
from longboat.reconcile.store_access import StoreAccess
from longboat.repository import (
    StoreSettings,
    generate_recovery_pair,
    generate_store_key,
    open_or_create_repository,
    open_repository,
    open_with_recovery,
    parse_recovery_secret,
    parse_store_key,
)
from longboat.repository.accepted import mark_of, write_accepted
from longboat.repository.errors import AccessDeniedError, UnreachableError
from longboat.repository.folder_store import FolderStore
from longboat.repository.generations import find_generations, rotate_master_key
from longboat.repository.object_store import ObjectInfo
from tests.unit.reconcile.policy_world import SHOP, World


@dataclass
class Bucket:
    """The bucket, as the credentials of each Secret see it."""

    folder: Path
    listed: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    blind: set[str] = field(default_factory=set)
    silent: bool = False

    def __call__(self, settings: StoreSettings, *_: Any) -> FolderStore:
        bucket = self

        class Listed(FolderStore):
            def folders(self, prefix: str) -> Iterator[str]:
                bucket.listed.append(settings.access_key_id)
                if settings.access_key_id in bucket.refused:
                    raise AccessDeniedError("no")
                if bucket.silent:
                    raise UnreachableError("no answer")
                return super().folders(prefix)

            def head(self, name: str) -> ObjectInfo:
                if settings.access_key_id in bucket.blind:
                    raise AccessDeniedError("no")
                return super().head(name)

        return Listed(StoreSettings(type="folder", path=str(self.folder)))


@dataclass
class Place:
    world: World
    bucket: Bucket
    access: StoreAccess
    key: bytes
    time: list[float]
    aside: list[Callable[[], None]]

    @property
    def uid(self) -> str:
        found = self.world.cluster.get(NAMESPACE, SHOP)
        assert found is not None
        return str(found["metadata"]["uid"])

    def open(self) -> RepositoryAccess:
        return self.access.open(self.world.store(), self.uid, namespace=SHOP)

    def rotate(self, key: bytes | None = None) -> None:
        store = FolderStore(StoreSettings(type="folder", path=str(self.bucket.folder)))
        found = find_generations(store, "cluster", self.uid)
        rotate_master_key(found, self.key, found.newest or 1)

    def later(self) -> None:
        self.time[0] += HOLDS


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    world, bucket, time = World(), Bucket(tmp_path), [0.0]
    monkeypatch.setattr(store_access, "open_store", bucket)
    key = generate_store_key()
    world.add_secret("offsite-s3", accessKeyID="store", secretAccessKey="s")
    world.add_secret("offsite-read", accessKeyID="restore", secretAccessKey="s")
    world.add_secret("offsite-key", key=key)
    world.add_store(namespaceCredentials="Optional", restoreCredentialsSecretRef={"name": "offsite-read"})
    aside: list[Callable[[], None]] = []
    access = StoreAccess(world.cluster, world.settings, Listings(lambda: time[0], aside.append))
    return Place(world, bucket, access, parse_store_key(key), time, aside)


def test_one_listing_serves_all_runs_for_a_while(place: Place) -> None:
    assert [place.open().path for _ in range(5)] == [f"cluster/{place.uid}"] * 5
    assert place.bucket.listed == ["store"]
    place.later()
    place.open()
    assert place.bucket.listed == ["store", "store"]


def test_what_is_found_by_its_number_needs_no_listing(place: Place) -> None:
    made = place.open()
    place.bucket.listed.clear()
    found = place.access.find(place.world.store(), place.uid, made.repository.id, namespace=SHOP)
    assert found.path == made.path and found.generation == 1 and place.bucket.listed == []


def test_the_newest_one_is_written_to_and_the_old_one_found(place: Place) -> None:
    old = place.open()
    place.rotate()
    place.later()
    new = place.open()
    assert (new.path, new.generation) == (f"cluster/{place.uid}.2", 2)
    assert new.master_key != old.master_key and new.repository.id != old.repository.id
    found = place.access.find(place.world.store(), place.uid, new.repository.id, namespace=SHOP, generation=2)
    assert found.path == new.path
    assert place.access.find(place.world.store(), place.uid, old.repository.id, namespace=SHOP).path == old.path


def test_the_other_ones_id_is_refused(place: Place) -> None:
    old = place.open()
    place.rotate()
    with pytest.raises(StoreProblemError) as caught:
        place.access.find(place.world.store(), place.uid, old.repository.id, namespace=SHOP, generation=2)
    assert caught.value.reason == "RepositoryReplaced"


def test_a_listing_that_fails_makes_and_opens_nothing(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    place.bucket.refused.add("store")
    with pytest.raises(StoreProblemError) as caught:
        place.open()
    assert caught.value.reason == "AccessDenied"


def test_a_newest_one_that_can_not_be_opened_is_never_replaced_by_an_older_one(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    for each in (place.bucket.folder / "cluster" / f"{place.uid}.2" / "keys").rglob("*"):
        if each.is_file():
            each.unlink()
    with pytest.raises(StoreProblemError) as caught:
        place.open()
    assert caught.value.reason == "WrongKey"


def test_a_header_that_is_gone_from_data_is_damage_and_no_reason_to_go_back(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    newest = place.bucket.folder / "cluster" / f"{place.uid}.2"
    (newest / "repository").unlink()
    (newest / "packs" / "00").mkdir(parents=True)
    (newest / "packs" / "00" / ("0" * 32)).write_bytes(b"x")
    with pytest.raises(StoreProblemError) as caught:
        place.open()
    assert caught.value.reason == "RepositoryDamaged"


def test_a_rotation_that_ended_before_its_header_counts_for_nothing(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    (place.bucket.folder / "cluster" / f"{place.uid}.2" / "repository").unlink()
    shutil.rmtree(place.bucket.folder / "cluster" / place.uid / "closed")
    assert place.open().generation == 1


@pytest.mark.parametrize("gone", ["", "repository"])
def test_a_closed_one_is_never_written_to_again_when_the_newer_one_is_gone(place: Place, gone: str) -> None:
    place.open()
    place.rotate()
    place.later()
    newest = place.bucket.folder / "cluster" / f"{place.uid}.2"
    (newest / gone).unlink() if gone else shutil.rmtree(newest)
    with pytest.raises(StoreProblemError) as caught:
        place.open()
    assert caught.value.reason == "RepositoryDamaged" and f"{place.uid}.2/repository" in caught.value.message
    assert "--from 1" in caught.value.message
    with pytest.raises(StoreProblemError):
        place.access.renew(place.world.store(), place.uid, 1, namespace=SHOP)
    # To restore from it, it is opened as ever.
    assert place.access.find(place.world.store(), place.uid, namespace=SHOP).generation == 1


def test_a_key_that_was_replaced_a_moment_ago_is_noticed_before_the_next_listing(place: Place) -> None:
    place.access.generations(place.world.store(), place.uid, namespace=SHOP)
    store = FolderStore(StoreSettings(type="folder", path=str(place.bucket.folder)))
    open_or_create_repository(store, f"cluster/{place.uid}", place.key)
    place.rotate()
    assert place.open().generation == 2


def confined(place: Place) -> list[str]:
    """Give the namespace credentials of its own, where none may list what the cluster has; return those that tried."""
    place.world.add_secret("offsite-s3.shop", accessKeyID="own", secretAccessKey="s")
    place.bucket.refused |= {"store", "own", "restore"}
    place.bucket.listed.clear()
    return place.bucket.listed


def test_where_nobody_may_list_a_namespace_goes_on_by_its_own_credentials(place: Place) -> None:
    tried = confined(place)
    made = place.open()
    assert (made.generation, made.settings.access_key_id) == (1, "own") and "own" in tried
    assert place.access.closed(place.world.store(), place.uid, 1, namespace=SHOP) is None


def test_where_nobody_may_list_a_second_repository_is_not_passed_over(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    confined(place)
    with pytest.raises(StoreProblemError) as caught:
        place.open()
    assert caught.value.reason == "AccessDenied"


def test_where_nobody_may_look_for_a_second_repository_nothing_is_written(place: Place) -> None:
    confined(place)
    place.bucket.blind.add("own")
    with pytest.raises(StoreProblemError) as caught:
        place.open()
    assert caught.value.reason == "AccessDenied" and not list(place.bucket.folder.rglob("repository"))


def test_without_credentials_of_its_own_a_namespace_waits_for_the_listing(place: Place) -> None:
    place.bucket.refused.add("store")
    with pytest.raises(StoreProblemError):
        place.open()


def test_credentials_that_are_confined_to_a_namespace_need_not_list(place: Place) -> None:
    place.world.add_secret("offsite-s3.shop", accessKeyID="confined", secretAccessKey="s")
    place.bucket.refused.add("confined")
    assert place.open().settings.access_key_id == "confined" and place.bucket.listed == ["store"]


def test_a_stores_own_credentials_that_fail_do_not_stop_a_namespace_with_others(place: Place) -> None:
    place.world.add_secret("offsite-s3.shop", accessKeyID="own", secretAccessKey="s")
    place.bucket.refused.add("store")
    assert place.open().generation == 1 and place.bucket.listed == ["store", "own"]


def test_a_restore_lists_with_its_own_credentials(place: Place) -> None:
    place.open()
    place.bucket.listed.clear()
    place.bucket.refused.add("store")
    place.later()
    closed = place.access.closed(place.world.store(), place.uid, 1, namespace=SHOP, purpose="restore")
    assert closed is None and place.bucket.listed == ["restore"]


def test_since_when_an_old_one_is_closed_is_told_and_the_newest_one_is_not(place: Place) -> None:
    place.open()
    place.rotate()
    store = place.world.store()
    assert place.access.closed(store, place.uid, 1, namespace=SHOP) is None  # As listed before.
    place.later()
    closed = place.access.closed(store, place.uid, 1, namespace=SHOP)
    header = (place.bucket.folder / "cluster" / f"{place.uid}.2" / "repository").stat().st_mtime
    assert closed is not None and abs(closed.timestamp() - header) < 1
    assert place.access.closed(store, place.uid, 2, namespace=SHOP) is None


def test_what_is_accepted_in_an_old_one_is_told_as_it_was_read_a_few_minutes_ago(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    asked = {"store": place.world.store(), "namespace_uid": place.uid, "namespace": SHOP, "purpose": "maintenance"}
    assert place.access.accepted(generation=1, **asked) == place.access.accepted(generation=2, **asked) == frozenset()
    [newest, old] = [place.access.find(generation=n, **asked).repository for n in (2, 1)]
    info = old.store.head("repository")
    write_accepted(old.store, old.id, [info], newest)
    assert place.access.accepted(generation=1, **asked) == frozenset()
    place.later()
    assert place.access.accepted(generation=1, **asked) == {mark_of(info)}
    assert place.access.accepted(generation=2, **asked) == frozenset()


def test_looks_at_a_running_export_never_wait_for_the_store(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    store = place.world.store()
    place.bucket.listed.clear()
    assert place.access.known_closed(store, place.uid, 1, namespace=SHOP) is None and place.bucket.listed == []
    # Another thread asks for the folders, and the next look for the moment.
    place.aside.pop()()
    assert place.access.known_closed(store, place.uid, 1, namespace=SHOP) is None
    place.aside.pop()()
    asked = len(place.bucket.listed)
    known = [place.access.known_closed(store, place.uid, 1, namespace=SHOP) for _ in range(9)]
    assert {*known} == {place.access.closed(store, place.uid, 1, namespace=SHOP)} and None not in known
    assert len(place.bucket.listed) == asked and not place.aside


def test_a_silent_store_is_asked_with_one_secret_once_a_minute(place: Place) -> None:
    place.world.add_secret("offsite-s3.shop", accessKeyID="own", secretAccessKey="s")
    place.bucket.silent = True
    for _ in range(9):
        with pytest.raises(StoreProblemError) as caught:
            place.open()
        assert caught.value.reason == "StoreUnreachable"
    assert place.bucket.listed == ["store"]


def test_the_check_of_the_key_lists_nothing(place: Place) -> None:
    own = place.access.open(place.world.store(), place.uid, generation=1)
    assert own.generation == 1 and place.bucket.listed == []


def test_a_recovery_recipient_that_is_added_later_opens_the_newest_one_too(place: Place) -> None:
    place.open()
    place.rotate()
    place.later()
    pair = generate_recovery_pair()
    encryption = {"keySecretRef": {"name": "offsite-key"}, "recoveryRecipient": pair.public}
    operation = {"op": "add", "path": "/spec/encryption", "value": encryption}
    place.world.cluster.patch(BACKUP_STORE, "offsite", [operation])
    made = place.open()
    store = FolderStore(StoreSettings(type="folder", path=str(place.bucket.folder)))
    assert open_with_recovery(store, made.path, parse_recovery_secret(pair.secret)).id == made.repository.id
    assert open_repository(store, made.path, place.key).id == made.repository.id
