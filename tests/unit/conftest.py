"""What all tests of this folder have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.disk import synced_at_once


@pytest.fixture(autouse=True, scope="package")
def _no_sync() -> Iterator[None]:
    """Waiting for the disk took a third of the time; that data reaches it is for tests/contract, devices and e2e."""
    with synced_at_once():
        yield
