"""`longboat repo restore --salvage`: a damaged backup is restored but for what is lost, and that is said."""

from __future__ import annotations

import json

import pytest

from longboat.cli.repo_restore import outcome_text
from longboat.repository import list_backups, read_disk_manifest
from longboat.repository.map_reader import MapReader

from .repo_world import SHOP, SIZE, Capture, World, world

__all__ = ["world"]


@pytest.fixture
def damaged(world: World) -> World:
    """The shop's only backup, with a damaged frame in the disk `data`."""
    manifest = next(d.manifest for b in list_backups(world.shop) for d in b.disks if d.disk == "data")
    page = MapReader(world.shop, read_disk_manifest(world.shop, manifest).manifest).page(0)
    assert page is not None
    frame = page.frames[0]
    path = world.folder / "store" / "prod" / SHOP / "packs" / frame.pack.hex()[:2] / frame.pack.hex()
    content = bytearray(path.read_bytes())
    content[frame.offset + 20] ^= 1
    path.write_bytes(bytes(content))
    return world


def test_damage_ends_a_restore_and_salvage_is_told_of(damaged: World, capsys: Capture) -> None:
    target = damaged.folder / "data.img"
    assert damaged("restore", "db-1", target, "--disk", "data") == 1
    told = capsys.readouterr().err
    assert "salvage" in told and "hurts the backups db-1." in told
    assert "longboat repo verify --share 100 db-1" in told
    assert not target.exists()


def test_salvage_says_what_is_lost_and_is_no_success(damaged: World, capsys: Capture) -> None:
    target = damaged.folder / "data.img"
    assert damaged("restore", "db-1", target, "--disk", "data", "--salvage") == 1
    told = capsys.readouterr().out
    assert "DAMAGED" in told and "longboat repo verify --share 100 db-1" in told
    assert damaged("restore", "db-1", target, "--disk", "data", "--salvage", "--force", "-o", "json") == 1
    outcome = json.loads(capsys.readouterr().out)
    expected = bytearray(damaged.images["db-1 data"])
    for offset, length in outcome["lostRanges"]:
        expected[offset : offset + length] = bytes(length)
    assert target.read_bytes() == bytes(expected) and len(expected) == SIZE
    assert outcome["lostBytes"] == sum(length for _, length in outcome["lostRanges"]) > 0
    assert outcome["backupsHurt"] == ["db-1"]


def test_an_image_is_salvaged_where_a_page_of_the_map_is_damaged(world: World, capsys: Capture) -> None:
    manifest = next(d.manifest for b in list_backups(world.shop) for d in b.disks if d.disk == "data")
    pack, offset = MapReader(world.shop, read_disk_manifest(world.shop, manifest).manifest).place(0)
    path = world.folder / "store" / "prod" / SHOP / "maps" / pack.hex()[:2] / pack.hex()
    content = bytearray(path.read_bytes())
    content[offset + 20] ^= 1
    path.write_bytes(bytes(content))
    image = world.folder / "data.qcow2"
    assert world("export", "db-1", image, "--disk", "data") == 1
    assert "salvage" in capsys.readouterr().err and not image.exists()
    assert world("export", "db-1", image, "--disk", "data", "--salvage", "-o", "json") == 1
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["lostBytes"] == SIZE and image.read_bytes()[:4] == b"QFI\xfb"
    assert len(outcome["lostRanges"]) == 1 and outcome["backupsHurt"] == ["db-1"]


def test_what_was_taken_from_other_backups_is_told_with_what_to_do() -> None:
    done = {"target": "disk.img", "writtenBytes": 8192, "keptBytes": 0, "checkedBytes": 4096}
    healed = {"healedBytes": 4096, "toDo": "longboat repo verify --share 100 db-1"}
    lines = outcome_text(done | healed).splitlines()
    assert "4Ki were taken from other backups" in lines[1] and lines[2] == "longboat repo verify --share 100 db-1"
    assert len(outcome_text(done | {"healedBytes": 0}).splitlines()) == 1
