"""A new master key on a real S3 server: the rights of exports are enough, and hidden data keeps its key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    Generations,
    StoreSettings,
    advance_epoch,
    find_backup_in_time,
    find_generations,
    is_finished,
    late_manifests,
    open_newest,
    open_repository,
    open_store,
    retire,
    rotate_master_key,
)
from longboat.repository.errors import LateManifestError
from longboat.repository.retire import CLOSED_FOR
from longboat.repository.s3_versions import S3Versions
from tests.cluster.s3 import RemoteStore
from tests.contract import write_once_proxy
from tests.contract.buckets import Bucket, make_bucket
from tests.contract.test_write_once import backup, bucket, expected, opened, removing, restored
from tests.unit.mover.disks import PATH, STORE_KEY

__all__ = ["bucket"]

CLUSTER, UID = PATH.split("/")
HOUR = timedelta(hours=1)


def found(settings: StoreSettings) -> Generations:
    return find_generations(open_store(settings), CLUSTER, UID)


@pytest.fixture
def creator(bucket: Bucket, remote_store: RemoteStore, tmp_path: Path) -> Iterator[tuple[StoreSettings, list[object]]]:
    """The export's settings through the proxy that lets it create and nothing else, and what it refused."""
    directory = tmp_path / "proxy"
    directory.mkdir()
    key = bucket.export.access_key_id
    with write_once_proxy.running(directory, remote_store.settings(), key) as (endpoint, ca_pem, journal):
        yield bucket.export.model_copy(update={"endpoint": endpoint, "ca_pem": ca_pem}), journal.refused


def test_a_key_is_replaced_with_the_rights_of_exports_and_all_backups_are_restored(
    bucket: Bucket, creator: tuple[StoreSettings, list[object]], tmp_path: Path
) -> None:
    settings, refused = creator
    name = backup(bucket.export, tmp_path, "run", 1)
    refused.clear()
    made = [rotate_master_key(found(settings), STORE_KEY, 1) for _ in range(2)]
    assert refused == [] and made[0].id == made[1].id
    reader = found(bucket.restore)
    newest = open_newest(reader, STORE_KEY)
    closing = reader.closing(1, newest)
    assert reader.numbers == (1, 2) and newest.master_key == made[0].master_key
    assert closing is not None and closing.sealed and abs(closing.closed - datetime.now(UTC)) < HOUR
    old = opened(bucket.restore)
    assert late_manifests(old, closing.closed) == []
    assert find_backup_in_time(old, "run", closing.closed) is not None
    assert restored(bucket.restore, tmp_path, name) == expected(1)
    # As if it had been closed two hours ago.
    with pytest.raises(LateManifestError):
        find_backup_in_time(old, "run", closing.closed - 2 * HOUR)
    assert len(late_manifests(old, closing.closed - 2 * HOUR)) == 2


def test_an_empty_repository_ends_with_its_versions_and_not_while_data_is_hidden(
    remote_store: RemoteStore, tmp_path: Path
) -> None:
    bucket = make_bucket(remote_store, "versions")
    backup(bucket.export, tmp_path, "run", 1)
    newest = rotate_master_key(found(bucket.export), STORE_KEY, 1)
    closing = found(bucket.export).closing(1, newest)
    assert closing is not None
    hiding = open_store(bucket.maintenance)
    for folder in ("backups", "disks", "packs", "maps"):
        for each in list(hiding.list(f"{PATH}/{folder}/")):
            hiding.delete(each.name)
    repository = opened(removing(bucket))
    epoch, now = advance_epoch(repository, set(), "t"), closing.closed + CLOSED_FOR
    assert not retire(repository, closing.closed, now, epoch)
    versions = S3Versions(bucket.root)
    for folder in ("backups", "disks", "packs", "maps"):
        for version in list(versions.below(f"{PATH}/{folder}/")):
            versions.delete(version)
    assert is_finished(repository, closing.closed, now)
    assert retire(repository, closing.closed, now, epoch)
    assert list(versions.below(f"{PATH}/")) == []
    assert found(bucket.restore).numbers == (2,)
    assert open_repository(open_store(bucket.restore), f"{PATH}.2", STORE_KEY).id == newest.id
