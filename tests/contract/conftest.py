"""Servers for the contract of object stores: each is the run's own, on loopback, and gone with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from longboat.repository import StoreSettings
from tests.cluster.s3 import RemoteStore, S3Settings
from tests.contract import azurite, gcs_server


@pytest.fixture(scope="session")
def remote_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStore]:
    """A real S3 server, and how to make buckets and users there."""
    store = RemoteStore(tmp_path_factory.mktemp("remote-store"))
    try:
        store.start()
        yield store
    finally:
        store.remove()


@pytest.fixture(scope="session")
def s3_server(remote_store: RemoteStore) -> S3Settings:
    """How to reach the real S3 server."""
    return remote_store.settings()


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    """Microsoft's own emulator."""
    if not azurite.available():
        pytest.skip("Azurite needs node and npm, which this machine lacks")
    with azurite.running(tmp_path_factory.mktemp("azurite")) as settings:
        yield settings


@pytest.fixture(scope="session")
def gcs_bucket() -> gcs_server.Bucket:
    """What the stand-in for Google Cloud Storage holds."""
    return gcs_server.Bucket()


@pytest.fixture(scope="session")
def gcs_stand_in(tmp_path_factory: pytest.TempPathFactory, gcs_bucket: gcs_server.Bucket) -> Iterator[StoreSettings]:
    """See gcs_server: not the real thing."""
    with gcs_server.running(tmp_path_factory.mktemp("gcs"), gcs_bucket) as settings:
        yield settings
