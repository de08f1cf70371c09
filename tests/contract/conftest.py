"""A real S3 server for the contract of object stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.s3 import RemoteStore, S3Settings


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Settings]:
    """A server of the run's own on loopback, gone with the run."""
    store = RemoteStore(tmp_path_factory.mktemp("remote-store"))
    try:
        yield store.start()
    finally:
        store.remove()
