"""What is written with the old key after a repository was closed is not believed; what was there before is."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    Repository,
    find_backup,
    find_backup_in_time,
    find_generations,
    late_manifests,
    open_with_master_key,
    read_disk_manifest,
    reference_to,
    require_none_late,
    require_on_time,
    rotate_master_key,
    update_backup_expiry,
)
from longboat.repository.backups import list_backups, write_backup_manifest, write_disk_manifest
from longboat.repository.documents import seal_document
from longboat.repository.errors import BackupNotFoundError, DamagedError, LateManifestError, WrongKeyError
from longboat.repository.layout import ID_BYTES, Kind, backup_manifest_name
from longboat.repository.leases import LEASE_TTL
from tests.unit.mover.disks import PATH, STORE_KEY, backup_time, repository_in
from tests.unit.repository.prune_world import World

CLUSTER, UID = PATH.split("/")
MOMENT = timedelta(seconds=1)


def close(world: World) -> tuple[Repository, datetime]:
    """Rotate the master key; return the new repository, and when the old one was closed."""
    newest = rotate_master_key(find_generations(world.store, CLUSTER, UID), STORE_KEY, 1)
    closing = find_generations(world.store, CLUSTER, UID).closing(1, newest)
    assert closing is not None
    return newest, closing.closed


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.back_up("before")
    world.store.advance(timedelta(days=1))
    return world


def test_what_was_there_before_is_believed_and_restored(world: World) -> None:
    _, closed = close(world)
    world.store.advance(timedelta(days=9))
    assert late_manifests(world.repository, closed) == []
    require_none_late(world.repository, closed)
    require_on_time(world.repository, world.manifests.values(), closed)
    assert find_backup_in_time(world.repository, "before", closed) == find_backup(world.repository, "before")
    world.check()


def test_an_export_that_was_at_work_may_end_within_a_leases_life(world: World) -> None:
    _, closed = close(world)
    world.store.advance(LEASE_TTL)
    world.back_up("at-work")
    require_none_late(world.repository, closed)
    assert find_backup_in_time(world.repository, "at-work", closed) is not None


def test_a_manifest_that_is_written_with_the_old_key_later_is_refused(world: World) -> None:
    _, closed = close(world)
    world.store.advance(LEASE_TTL + MOMENT)
    world.back_up("forged")
    manifest = world.manifests["forged"]
    assert [name.split("/")[0] for name in late_manifests(world.repository, closed)] == ["backups", "disks"]
    for check in (
        lambda: require_none_late(world.repository, closed),
        lambda: require_on_time(world.repository, [manifest], closed),
        lambda: find_backup_in_time(world.repository, "forged", closed),
    ):
        with pytest.raises(LateManifestError, match="after this repository was closed"):
            check()
    # As nobody says since when it is closed, nothing is late.
    require_none_late(world.repository, None)
    require_on_time(world.repository, [manifest], None)
    assert find_backup_in_time(world.repository, "forged", None) is not None
    assert find_backup_in_time(world.repository, "nobody", closed) is None


def test_a_manifest_that_is_gone_is_not_in_time(world: World) -> None:
    with pytest.raises(BackupNotFoundError):
        require_on_time(world.repository, ["disks/x"], close(world)[1])


def test_a_later_expiry_of_an_old_backup_is_believed(world: World) -> None:
    _, closed = close(world)
    world.store.advance(timedelta(days=1))
    update_backup_expiry(world.repository, "before", {"hold": True})
    require_none_late(world.repository, closed)
    found = find_backup_in_time(world.repository, "before", closed)
    assert found is not None and (found.expiry, found.revision) == ({"hold": True}, 2)


def test_an_old_backup_does_not_get_other_disks_by_a_later_revision(world: World) -> None:
    _, closed = close(world)
    world.store.advance(timedelta(days=1))
    manifest = find_backup(world.repository, "before")
    assert manifest is not None
    # Its own disk under another name: the disk manifest itself is in time.
    disks = [disk.model_copy(update={"disk": "other"}) for disk in manifest.disks]
    forged = manifest.model_copy(update={"disks": disks, "revision": 2})
    keys = world.repository.keys
    name = backup_manifest_name(keys.name_hash("before"), 2)
    sealed = seal_document(keys, Kind.BACKUP_MANIFEST, world.repository.random(ID_BYTES), forged)
    world.repository.store.put_new(name, sealed)
    with pytest.raises(LateManifestError, match="revision 2"):
        find_backup_in_time(world.repository, "before", closed)


def test_a_backup_of_before_does_not_vouch_for_a_disk_of_later(world: World) -> None:
    _, closed = close(world)
    stored = read_disk_manifest(world.repository, world.manifests["before"])
    world.store.advance(LEASE_TTL + MOMENT)
    late = write_disk_manifest(
        world.repository, stored.manifest.model_copy(update={"created": backup_time(9), "backup_name": "late"})
    )
    world.store.now = closed
    write_backup_manifest(world.repository, "early", backup_time(1), [reference_to(late, "data")])
    with pytest.raises(LateManifestError, match="disks/"):
        find_backup_in_time(world.repository, "early", closed)


def test_a_prune_ends_at_a_late_manifest_and_names_it(world: World) -> None:
    _, closed = close(world)
    world.store.advance(LEASE_TTL + MOMENT)
    world.back_up("forged")
    objects = dict(world.store.objects)
    with pytest.raises(LateManifestError, match=r"backups/\w+/000001 and 1 more"):
        world.prune(dry_run=True, closed=closed)
    assert world.store.objects == objects
    world.remove("forged")
    assert world.prune(closed=closed).manifests == 1


def test_the_old_key_writes_nothing_that_the_new_repository_believes(world: World) -> None:
    newest, _ = close(world)
    old = Repository(newest.store, world.repository.keys)
    stored = read_disk_manifest(world.repository, world.manifests["before"])
    forged = write_disk_manifest(old, stored.manifest)
    name = write_backup_manifest(old, "before", backup_time(0), [reference_to(forged, "data")]).name
    # Its hashes are keyed: under the new key the names stand for nothing, and what is there does not open.
    assert find_backup(newest, name) is None
    with pytest.raises(DamagedError, match="under key"):
        list(list_backups(newest))
    with pytest.raises(WrongKeyError):
        open_with_master_key(world.store, f"{PATH}.2", world.repository.master_key)


def test_the_old_key_opens_no_manifest_of_the_new_repository(world: World) -> None:
    newest, _ = close(world)
    mine = repository_in(world.store)
    stored = read_disk_manifest(mine, world.manifests["before"]).manifest
    moved = {"repository_id": newest.id, "key_id": newest.key_id}
    name = write_disk_manifest(newest, stored.model_copy(update=moved)).name
    with pytest.raises(DamagedError):
        read_disk_manifest(Repository(newest.store, mine.keys), name)
