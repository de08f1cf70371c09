import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.csi.cleanup import devices_of
from tests.csi.driver import Driver


@pytest.fixture(scope="session")
def shared_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One driver for the tests that leave it as they found it."""
    yield from _driver(tmp_path_factory.mktemp("csi"))


@pytest.fixture
def driver(shared_driver: Driver) -> Iterator[Driver]:
    yield shared_driver
    shared_driver.faults.clear()


@pytest.fixture
def own_driver(tmp_path: Path) -> Iterator[Driver]:
    """A driver for a test that kills it."""
    yield from _driver(tmp_path)


def _driver(folder: Path) -> Iterator[Driver]:
    assert os.geteuid() == 0, "the CSI driver mounts and attaches loop devices: run these tests as root"
    driver = Driver(folder)
    try:
        driver.start()
        yield driver
    finally:
        driver.close()
    assert not devices_of(folder / "pool.img"), "loop devices are left"
