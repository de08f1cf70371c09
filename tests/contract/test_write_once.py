"""Credentials by purpose, versions and locks on a real S3 server: nobody can do more than documented."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.mover.jobs import PruneJob
from longboat.mover.prune import run_prune
from longboat.repository import (
    Repository,
    StoreSettings,
    check_store,
    find_backup,
    hidden,
    keep_write_once,
    list_backups,
    open_or_create_repository,
    open_repository,
    open_store,
    read_disk_manifest,
    reference_to,
    remove_tombstone,
    sweep_tombstones,
    update_backup_expiry,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.documents import seal_document
from longboat.repository.epoch import advance_epoch
from longboat.repository.errors import (
    AccessDeniedError,
    DamagedError,
    ObjectLockedError,
    ObjectNotFoundError,
    RepositoryError,
)
from longboat.repository.layout import HEADER_NAME
from longboat.repository.layout import Kind as Kinds
from longboat.repository.object_store import contents
from longboat.repository.s3_versions import S3Versions
from longboat.repository.write_once import WriteOnceReport, is_write_once, purge_hidden
from tests.cluster.s3 import RemoteStore
from tests.contract import write_once_proxy
from tests.contract.buckets import LOCK_DAYS, Bucket, Kind, documented_policy, make_bucket, send
from tests.unit.mover.disks import BLOCK, PATH, STORE_KEY, backup_time, export, restore, write_image

DATA = os.urandom(3 * BLOCK)
SIZE = 8 * BLOCK
WEEK = timedelta(days=7)


@pytest.fixture(params=["plain", "versions", "locked"])
def bucket(request: pytest.FixtureRequest, remote_store: RemoteStore) -> Bucket:
    kind: Kind = request.param
    return make_bucket(remote_store, kind)


@pytest.fixture
def versioned(remote_store: RemoteStore) -> Bucket:
    return make_bucket(remote_store, "versions")


@pytest.fixture
def locked(remote_store: RemoteStore) -> Bucket:
    return make_bucket(remote_store, "locked")


def backup(settings: StoreSettings, folder: Path, name: str, number: int) -> str:
    """Export a disk and write the backup's manifest, with these credentials alone; return the disk manifest's name."""
    repository = open_or_create_repository(open_store(settings), PATH, STORE_KEY)
    image = write_image(folder / "disk", {0: DATA, 5 * BLOCK: bytes([number]) * BLOCK}, SIZE)
    done = export(open_store(settings), repository.master_key, image, name, number)
    reference = reference_to(read_disk_manifest(repository, done.manifest), "data")
    write_backup_manifest(repository, name, backup_time(number), [reference])
    assert find_backup(repository, name) is not None
    return done.manifest


def restored(settings: StoreSettings, folder: Path, manifest: str) -> bytes:
    repository = open_repository(open_store(settings), PATH, STORE_KEY)
    return restore(open_store(settings), repository.master_key, manifest, folder)[0]


def expected(number: int) -> bytes:
    image = DATA + bytes(2 * BLOCK) + bytes([number]) * BLOCK
    return image + bytes(SIZE - len(image))


def removing(bucket: Bucket) -> StoreSettings:
    """Return the settings of maintenance as an administrator has them for this kind of bucket."""
    lock = {"lock_mode": "Governance", "lock_days": LOCK_DAYS} if bucket.kind == "locked" else {}
    return bucket.maintenance.model_copy(update={"delete_versions": bucket.kind != "plain", **lock})


def opened(settings: StoreSettings) -> Repository:
    return open_repository(open_store(settings), PATH, STORE_KEY)


@pytest.fixture
def proxied(bucket: Bucket, remote_store: RemoteStore, tmp_path: Path) -> Iterator[tuple[StoreSettings, object]]:
    """The export's settings through the proxy that lets it create and nothing else, and the proxy's journal."""
    directory = tmp_path / "proxy"
    directory.mkdir()
    creator = bucket.export.access_key_id
    with write_once_proxy.running(directory, remote_store.settings(), creator) as (endpoint, ca_pem, journal):
        yield bucket.export.model_copy(update={"endpoint": endpoint, "ca_pem": ca_pem}), journal


def test_an_export_works_with_credentials_that_can_only_create_and_read(
    bucket: Bucket, proxied: tuple[StoreSettings, write_once_proxy.Journal], tmp_path: Path
) -> None:
    settings, journal = proxied
    assert check_store(settings).ok
    journal.refused.clear()
    names = [backup(settings, tmp_path, f"run-{number}", number) for number in (1, 2)]
    update_backup_expiry(opened(settings), "run-1", {"keepFor": "1d"})
    # All that was refused are the attempts to remove the leases, one for each export.
    assert [method for method, path in journal.refused if "/leases/" in path] == ["DELETE", "DELETE"]
    assert len(journal.refused) == 2
    assert [restored(bucket.restore, tmp_path, name) for name in names] == [expected(1), expected(2)]
    assert read_disk_manifest(opened(bucket.restore), names[1]).manifest.parent == names[0]


def test_packs_are_uploaded_with_a_checksum_of_their_own_and_no_hash_in_the_signature(
    bucket: Bucket, proxied: tuple[StoreSettings, write_once_proxy.Journal], tmp_path: Path
) -> None:
    # The proxy speaks TLS, which is what makes a signature without the content's hash as good as one with it; and
    # without a checksum nobody would notice what is altered on its way into the bucket.
    settings, journal = proxied
    assert settings.endpoint.startswith("https://")
    backup(settings, tmp_path, "run", 1)
    packs = {path: headers for path, headers in journal.uploads.items() if "/packs/" in path or "/maps/" in path}
    assert {path.split("/")[-3] for path in packs} == {"packs", "maps"}
    for headers in packs.values():
        assert len(base64.b64decode(headers["x-amz-checksum-crc64nvme"])) == 8
        assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_each_purpose_can_do_its_own_work_and_no_more(bucket: Bucket, tmp_path: Path) -> None:
    assert check_store(bucket.export).ok
    assert check_store(bucket.restore, rights="read").ok
    assert check_store(removing(bucket), rights="remove").ok
    backup(bucket.export, tmp_path, "run", 1)
    reader, creator = open_store(bucket.restore), open_store(bucket.export)
    for refused in (
        lambda: reader.put_new("a", b""),
        lambda: reader.delete("checks/create-only"),
        lambda: creator.delete("checks/create-only"),
    ):
        with pytest.raises(AccessDeniedError):
            refused()
    assert not check_store(bucket.restore).ok
    assert not check_store(bucket.export, rights="remove").ok


def test_maintenance_removes_what_exports_could_not(bucket: Bucket, tmp_path: Path) -> None:
    backup(bucket.export, tmp_path, "run", 1)
    repository = opened(removing(bucket))
    advance_epoch(repository, set(), "first")
    advance_epoch(repository, {"first"}, "second")
    write_tombstone(repository, "run", datetime.now(UTC), "test")
    later = datetime.now(UTC) + WEEK + timedelta(hours=1)
    assert sweep_tombstones(repository, later, WEEK).removed_backups == ["run"]
    assert [*list_backups(repository, tombstoned=True)] == []
    assert [*repository.store.list("disks/")] == [*repository.store.list("tombstones/")] == []
    left = [each for each in S3Versions(bucket.root).below(f"{PATH}/disks/") if not each.marker]
    assert len(left) == (1 if bucket.kind == "locked" else 0)
    epochs = list(S3Versions(bucket.root).below(f"{PATH}/epoch"))
    assert len(epochs) == (2 if bucket.kind == "locked" else 1)


def test_a_deletion_is_undone_although_its_tombstone_is_locked(locked: Bucket, tmp_path: Path) -> None:
    backup(locked.export, tmp_path, "run", 1)
    repository = opened(removing(locked))
    write_tombstone(repository, "run", datetime.now(UTC), "test")
    assert [*list_backups(repository)] == []
    assert remove_tombstone(repository, "run")
    assert [each.name for each in list_backups(repository)] == ["run"]


def attack(settings: StoreSettings, overwrite: bool) -> None:
    """Overwrite, or delete, every object that these credentials reach."""
    for each in list(open_store(settings).list(f"{PATH}/")):
        key = f"{settings.prefix}/{each.name}"
        if overwrite:
            send(settings, "PUT", key, b"owned")
        else:
            send(settings, "DELETE", key)


@pytest.mark.parametrize("overwrite", [True, False], ids=["overwritten", "deleted"])
@pytest.mark.parametrize("kind", ["versions", "locked"])
def test_after_an_attack_nothing_false_is_read_and_the_oldest_versions_restore(
    remote_store: RemoteStore, tmp_path: Path, kind: Kind, overwrite: bool
) -> None:
    bucket = make_bucket(remote_store, kind)
    name = backup(bucket.export, tmp_path, "run", 1)
    key = opened(bucket.export).master_key
    attack(bucket.export if overwrite else bucket.maintenance, overwrite)
    with pytest.raises(RepositoryError):
        restored(bucket.restore, tmp_path, name)
    oldest = bucket.restore.model_copy(update={"read_versions": "Oldest"})
    assert restored(oldest, tmp_path, name) == expected(1)
    assert opened(oldest).master_key == key
    assert [each.name for each in list_backups(opened(oldest))] == ["run"]
    with pytest.raises(AccessDeniedError):
        open_store(oldest).put_new("a", b"")


def test_each_version_of_a_manifest_can_be_had_where_the_oldest_are_read(versioned: Bucket, tmp_path: Path) -> None:
    name = backup(versioned.export, tmp_path, "run", 1)
    store = open_store(versioned.export)
    first = read_disk_manifest(opened(versioned.export), name)
    # What a writer that slept has withdrawn, and written anew, has the same name.
    other = base64.b16decode("ab" * 16, casefold=True)
    again = seal_document(opened(versioned.export).keys, Kinds.DISK_MANIFEST, other, first.manifest)
    send(versioned.root, "PUT", f"{versioned.root.prefix}/{PATH}/{name}".lstrip("/"), again)
    oldest = opened(versioned.restore.model_copy(update={"read_versions": "Oldest"}))
    assert read_disk_manifest(oldest, name).object_id == first.object_id
    assert read_disk_manifest(oldest, name, other.hex()).object_id == other.hex()
    assert read_disk_manifest(oldest, name, first.object_id).object_id == first.object_id
    assert len(list(contents(open_store(versioned.export), f"{PATH}/{name}", 1 << 20))) == 1
    assert store.head(f"{PATH}/{name}").size == len(again)


def test_an_overwritten_pack_is_damage_and_never_data(versioned: Bucket, tmp_path: Path) -> None:
    name = backup(versioned.export, tmp_path, "run", 1)
    store = open_store(versioned.export)
    pack = next(iter(store.list(f"{PATH}/packs/")))
    other = os.urandom(pack.size)
    send(versioned.export, "PUT", f"{versioned.export.prefix}/{pack.name}", other)
    with pytest.raises(DamagedError):
        restored(versioned.restore, tmp_path, name)
    assert restored(versioned.restore.model_copy(update={"read_versions": "Oldest"}), tmp_path, name) == expected(1)


def test_locks_of_what_is_needed_are_extended_and_of_nothing_else(locked: Bucket, tmp_path: Path) -> None:
    backup(locked.export, tmp_path, "run", 1)
    settings, versions = removing(locked), S3Versions(locked.root)
    repository = opened(settings)
    write_tombstone(repository, "run", datetime.now(UTC), "test")
    hidden = next(iter(repository.store.list("maps/"))).name
    repository.store.delete(hidden)
    now = datetime.now(UTC)
    # This server keeps the default retention without telling it of an object: the first run writes it down.
    looked = keep_write_once(settings, PATH, now).looked
    assert looked > 3
    names = sorted(each.name.removeprefix(f"{PATH}/") for each in versions.below(f"{PATH}/packs/"))
    rest = keep_write_once(settings, PATH, now, after=names[0], enough=lambda: True)
    assert 0 < rest.looked < looked and rest.reached is not None and rest.reached > names[0]
    assert keep_write_once(settings, PATH, now, after=rest.reached).looked == 0
    assert keep_write_once(settings, PATH, now).extended == 0
    late = now + timedelta(days=LOCK_DAYS * 2 / 3)
    report = keep_write_once(settings, PATH, late)
    assert report.looked == report.extended > 3
    assert keep_write_once(settings, PATH, late).extended == 0
    for each in versions.below(f"{PATH}/"):
        name = each.name.removeprefix(f"{PATH}/")
        until = None if each.marker else versions.locked_until(each)
        needed = not name.startswith(("leases/", "tombstones/")) and name != hidden
        assert (until is not None and until > late + timedelta(days=LOCK_DAYS - 1)) == needed, name


def test_prune_in_a_locked_bucket_extends_locks_and_removes_what_it_may(locked: Bucket, tmp_path: Path) -> None:
    backup(locked.export, tmp_path, "run", 1)
    settings = removing(locked)
    repository, now = opened(settings), datetime.now(UTC)
    told = {"store": settings, "repositoryPath": PATH, "masterKey": base64.b64encode(repository.master_key).decode()}
    job = PruneJob.model_validate(told | {"token": "first", "knownTokens": []})
    done = run_prune(job, emit=lambda _: None)
    assert done.locks_extended > 3 and done.purged.objects == 0
    again = run_prune(
        PruneJob.model_validate(told | {"token": "second", "knownTokens": ["first"]}), emit=lambda _: None
    )
    assert again.locks_extended == 0
    assert extended(S3Versions(locked.root), now)
    assert restored(locked.restore, tmp_path, repository_disk(opened(locked.restore))) == expected(1)


def extended(versions: S3Versions, now: datetime) -> bool:
    packs = [versions.locked_until(each) for each in versions.below(f"{PATH}/packs/")]
    return bool(packs) and all(until is not None and until > now + timedelta(days=LOCK_DAYS - 1) for until in packs)


def repository_disk(repository: Repository) -> str:
    [found] = list_backups(repository)
    return found.disks[0].manifest


@pytest.fixture
def old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests count as older than any that a writer would withdraw."""
    monkeypatch.setattr(hidden, "WITHDRAWN_WITHIN", timedelta(-1))


@pytest.mark.usefixtures("old_enough")
def test_even_maintenance_can_not_remove_what_is_locked(locked: Bucket, tmp_path: Path) -> None:
    name = backup(locked.export, tmp_path, "run", 1)
    store = open_store(removing(locked))
    for each in list(store.list("")):
        store.delete(each.name)
    assert list(store.list("")) == []
    report = keep_write_once(removing(locked), PATH, datetime.now(UTC) + timedelta(days=8), needed=nothing)
    assert (report.removed, report.extended, report.unexplained) == (0, 0, 2)
    assert report.locked + report.hidden > 3
    oldest = locked.restore.model_copy(update={"read_versions": "Oldest"})
    assert restored(oldest, tmp_path, name) == expected(1)
    version = S3Versions(locked.root).of(f"{PATH}/{name}")[-1]
    with pytest.raises(ObjectLockedError):
        S3Versions(locked.maintenance).delete(version)


@pytest.mark.usefixtures("old_enough")
@pytest.mark.parametrize("kind", ["versions", "locked"])
def test_manifests_that_the_sweep_has_hidden_are_told_from_those_that_others_have(
    remote_store: RemoteStore, tmp_path: Path, kind: Kind
) -> None:
    bucket = make_bucket(remote_store, kind)
    names = [backup(bucket.export, tmp_path, f"run-{n}", n) for n in (1, 2)]
    # A bucket whose default retention is off has only what the operator has locked.
    settings = bucket.maintenance.model_copy(
        update={"delete_versions": True, "lock_mode": "Governance", "lock_days": LOCK_DAYS}
    )
    repository, plain = opened(settings), open_store(bucket.maintenance)
    write_tombstone(repository, "run-1", datetime.now(UTC), "test")
    sweep_tombstones(repository, datetime.now(UTC) + WEEK, timedelta(0))
    time.sleep(3)  # The store's times have whole seconds: what comes right after the sweep can't be told from it.
    plain.delete(f"{PATH}/{names[1]}")
    report = WriteOnceReport()
    purge_hidden(settings, PATH, datetime.now(UTC) + timedelta(days=8), report, nothing)
    left = [each.name.removeprefix(f"{PATH}/") for each in S3Versions(bucket.root).below(f"{PATH}/")]
    assert (report.unexplained, names[1] in left, names[0] in left) == (1, True, kind == "locked")
    assert any(name.startswith("removing/") for name in left) == (kind == "locked")


def test_manifest_that_its_writer_withdrew_holds_up_no_purge(versioned: Bucket, tmp_path: Path) -> None:
    """Its credentials hide it by a delete marker, and nothing announces that."""
    name = backup(versioned.export, tmp_path, "run", 1)
    open_store(versioned.maintenance).delete(f"{PATH}/{name}")
    report = WriteOnceReport()
    purge_hidden(removing(versioned), PATH, datetime.now(UTC) + timedelta(days=8), report, nothing)
    assert report.unexplained == 0
    assert not any(name in each.name for each in S3Versions(versioned.root).below(f"{PATH}/"))


def test_what_was_hidden_is_purged_late_and_what_can_be_seen_stays(versioned: Bucket) -> None:
    store, now = open_store(versioned.maintenance), datetime.now(UTC)
    gone, seen, needed = (f"packs/{each * 2}/{each * 32}" for each in "abc")
    for name in (gone, seen, needed, "keys/a/b"):
        store.put_new(f"{PATH}/{name}", b"data")
    for name in (gone, needed, "keys/a/b"):
        store.delete(f"{PATH}/{name}")
    send(versioned.maintenance, "PUT", f"prod/{PATH}/{seen}", b"other")
    assert keep_write_once(versioned.maintenance, PATH, now + timedelta(days=8), needed=nothing).removed == 0
    settings = removing(versioned)
    assert keep_write_once(settings, PATH, now + timedelta(days=6), needed=nothing).removed == 0
    # Only a prune knows what may go, and what backups need was hidden by somebody else.
    assert keep_write_once(settings, PATH, now + timedelta(days=8)).removed == 0
    report = keep_write_once(settings, PATH, now + timedelta(days=8), needed=lambda name: name == needed)
    assert (report.removed, report.removed_bytes, report.hidden) == (2, 4, 1)
    left = [each.name.removeprefix(f"{PATH}/") for each in S3Versions(versioned.root).below(f"{PATH}/")]
    assert left == ["keys/a/b"] * 2 + [seen] * 2 + [needed] * 2


def nothing(_: str) -> bool:
    return False


def test_all_versions_go_and_a_missing_object_is_no_error(versioned: Bucket) -> None:
    store = open_store(removing(versioned))
    store.put_new("a", b"first")
    store.put_new("ab", b"other")
    send(versioned.maintenance, "PUT", "prod/a", b"second")
    for _ in range(2):
        store.delete("a")
        assert S3Versions(versioned.root).of("a") == []
    assert [each.name for each in store.list("")] == ["ab"]
    store.put_new("a", b"anew")
    assert store.get("a", 10) == b"anew"


def test_wrong_access_to_versions_is_told_as_everywhere(versioned: Bucket) -> None:
    wrong = versioned.restore.model_copy(update={"secret_access_key": "wrong", "read_versions": "Oldest"})
    found = check_store(wrong, rights="read")
    assert (found.problem, "Secret" in found.message) == ("WrongCredentials", True)
    untrusted = versioned.restore.model_copy(update={"ca_pem": "", "read_versions": "Oldest"})
    assert check_store(untrusted, rights="read").problem == "TLSFailure"
    with pytest.raises(ObjectNotFoundError):
        open_store(versioned.restore.model_copy(update={"read_versions": "Oldest"})).get("nothing", 1)


def test_the_documented_policy_lets_exports_create_only() -> None:
    [creates] = [each for each in documented_policy("b", condition=True)["Statement"] if each["Sid"] == "ExportCreates"]
    assert creates["Condition"] == {"Null": {"s3:if-none-match": "false"}}
    assert creates["Action"] == "s3:PutObject"


def test_buckets_that_lock_are_known_whatever_the_settings_say(bucket: Bucket, tmp_path: Path) -> None:
    backup(bucket.export, tmp_path, "first", 0)
    assert is_write_once(bucket.root, PATH) == (bucket.kind == "locked")


def test_a_repository_that_was_locked_is_known_without_a_right_to_see_the_buckets_rules(
    versioned: Bucket, locked: Bucket, tmp_path: Path
) -> None:
    for each in (versioned, locked):
        backup(each.export, tmp_path, "first", 0)
    versions = S3Versions(locked.root.model_copy(update={"prefix": f"{locked.root.prefix}/{PATH}"}))
    versions.lock(versions.of(HEADER_NAME)[0], "Governance", datetime.now(UTC) + WEEK)
    assert is_write_once(locked.maintenance, PATH)
    assert not is_write_once(versioned.maintenance, PATH)
    with pytest.raises(AccessDeniedError):
        is_write_once(versioned.export, PATH)
