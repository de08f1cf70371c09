"""Loop devices, gone with the test that made them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.csi import loop

MakeDevice = Callable[..., Path]


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Return a function that makes a device of a size in bytes, filled with 0xff unless it is to be `thin`."""
    assert os.geteuid() == 0, "loop devices are attached: run these tests as root"
    made: list[loop.LoopDevice] = []

    def make(size: int, thin: bool = False, folder: Path = tmp_path) -> Path:
        file = folder / f"device-{len(made)}"
        with file.open("wb") as backing:
            backing.truncate(size)
            for _ in range(0 if thin else size >> 20):
                backing.write(b"\xff" * (1 << 20))
            os.fsync(backing.fileno())
        made.append(loop.attach(file))
        return made[-1].path

    yield make
    for device in made:
        loop.detach(device)
    assert not loop.wait_gone(made, 10), "loop devices are left"


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "longboat-test", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
