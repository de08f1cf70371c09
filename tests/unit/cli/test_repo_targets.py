"""Where `longboat repo restore` writes: only where the person meant, who may have mistyped it."""

from __future__ import annotations

import stat
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from longboat.cli import repo_restore
from longboat.cli.repo_access import UsageError
from longboat.repository import Repository, StoredDisk, list_backups
from longboat.repository.errors import DamagedError

from .repo_world import Capture, World, world

__all__ = ["world"]


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev, with a volume group's folder in it."""
    monkeypatch.setattr(repo_restore, "DEVICES", tmp_path / "dev")
    (tmp_path / "dev/vg0").mkdir(parents=True)
    return tmp_path / "dev"


@pytest.mark.parametrize("command", ["restore", "export"])
def test_a_mistyped_device_is_not_made_a_file_in_memory(
    world: World, capsys: Capture, devices: Path, command: str
) -> None:
    target = devices / "vg0/dtaa"
    assert world(command, "web-1", target) == 2
    assert "no such device" in capsys.readouterr().err and not list(target.parent.iterdir())
    (world.folder / "link").symlink_to(devices / "vg0")
    assert world(command, "web-1", world.folder / "link/dtaa") == 2
    target.write_bytes(b"made by a mistake")
    assert world(command, "web-1", target, "--force") == 2
    assert target.read_bytes() == b"made by a mistake"


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_neither_replaced_nor_followed_to_a_file(world: World, capsys: Capture, there: bool) -> None:
    image, link = world.folder / "image", world.folder / "link.img"
    if there:
        image.write_bytes(b"an image")
    link.symlink_to(image)
    assert world("restore", "web-1", link, "--force") == 2
    assert str(image) in capsys.readouterr().err and link.is_symlink()
    assert image.exists() == there and (not there or image.read_bytes() == b"an image")


def test_a_size_is_not_passed_over_beside_a_device(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = world.folder / "device"
    target.write_bytes(b"")
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    assert world("restore", "web-1", target, "--size", "1Gi", "--force") == 2
    assert "--size" in capsys.readouterr().err


def test_a_device_that_somebody_else_uses_is_not_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, size: int, exclusive: bool = False) -> None:
        raise UsageError(f"{path} exclusive={exclusive}")

    target = world.folder / "device"
    target.write_bytes(b"")
    monkeypatch.setattr(stat, "S_ISBLK", lambda mode: True)
    monkeypatch.setattr(repo_restore, "open_device", opened)
    with pytest.raises(UsageError, match="exclusive=True"):
        repo_restore.restore(*_job(world, target))


def test_another_object_in_the_place_of_a_disk_is_not_restored(world: World) -> None:
    disk = next(iter(list_backups(world.shop))).disks[0]
    assert repo_restore.read_disk(world.shop, disk).object_id == disk.object_id
    with pytest.raises(DamagedError, match="the backup has"):
        repo_restore.read_disk(world.shop, disk.model_copy(update={"object_id": "0" * len(disk.object_id)}))


def _job(world: World, target: Path) -> tuple[Namespace, Repository, StoredDisk, repo_restore.Console]:
    arguments = Namespace(target=str(target), command="restore", force=True, salvage=False, size=None)
    stored = repo_restore.read_disk(world.shop, next(iter(list_backups(world.shop))).disks[0])
    return arguments, world.shop, stored, repo_restore.Console(sys.stderr, time.monotonic, lambda _: True)
