"""A machine's TPM and EFI state comes out of a store as a tar file of whole files, damaged or not."""

from __future__ import annotations

import base64
import json
import os
import tarfile
from pathlib import Path

import pytest

from longboat.mover.export_disk import run_export
from longboat.mover.jobs import ExportJob
from longboat.repository import DiskIdentity, read_disk_manifest, reference_to, write_backup_manifest
from longboat.repository.map_reader import MapReader

from .repo_world import SHOP, STATE, WHEN, Capture, World, world

__all__ = ["world"]

FILES = {f"file-{number}": os.urandom(200_000) for number in range(12)}


@pytest.fixture
def state(world: World) -> World:
    """A backup of the state of a machine, of many files."""
    source = world.folder / "state"
    source.mkdir()
    for name, content in FILES.items():
        (source / name).write_bytes(content)
    key = base64.b64encode(world.shop.master_key).decode()
    told = {"store": world.settings, "repository_path": SHOP, "master_key": key, "source_path": str(source)}
    identity = DiskIdentity(disk_key="state", claim_name="claim-state")
    job = ExportJob(**told, disk=identity, backup_name="win", created=WHEN, workers=1, content="Archive")
    stored = read_disk_manifest(world.shop, run_export(job, emit=lambda _: None).manifest)
    write_backup_manifest(world.shop, "win", WHEN, [reference_to(stored, STATE)])
    return world


def damage(world: World, which: int) -> None:
    """Damage one of the frames of the archive."""
    found = [read_disk_manifest(world.shop, each.name) for each in world.shop.store.list("disks/")]
    [stored] = [each for each in found if each.manifest.content == "Archive"]
    page = MapReader(world.shop, stored.manifest).page(0)
    assert page is not None
    frame = page.frames[which]
    path = world.folder / "store" / "prod" / SHOP / "packs" / frame.pack.hex()[:2] / frame.pack.hex()
    content = bytearray(path.read_bytes())
    content[frame.offset + 20] ^= 1
    path.write_bytes(bytes(content))


def files_in(target: Path) -> dict[str, bytes]:
    with tarfile.open(target) as archive:
        files = ((each.name, archive.extractfile(each)) for each in archive)
        return {name: file.read() for name, file in files if file}


@pytest.mark.parametrize("which", [1, -1])
def test_salvage_of_an_archive_leaves_out_files_that_are_not_whole(state: World, capsys: Capture, which: int) -> None:
    """Zeros would be taken for a file's content, or for the end of the archive."""
    damage(state, which)
    target = state.folder / "state.tar"
    assert state("restore", "win", target) == 1 and not target.exists()
    capsys.readouterr()
    assert state("restore", "win", target, "--salvage") == 1
    said = capsys.readouterr().out
    assert "left out, as their data is lost: file-" in said and "zeros" not in said
    found = files_in(target)
    assert found and found.keys() < FILES.keys() and all(FILES[name] == found[name] for name in found)
    assert state("restore", "win", target, "--salvage", "--force", "-o", "json") == 1
    outcome = json.loads(capsys.readouterr().out)
    assert set(outcome["leftOut"]) == FILES.keys() - found.keys() or "everything after" in outcome["leftOut"][-1]
    assert (outcome["lostBytes"] > 0, outcome["backupsHurt"], outcome["target"]) == (True, ["win"], str(target))


def test_salvage_of_an_archive_that_is_whole_writes_it_as_it_is(state: World, capsys: Capture) -> None:
    one, other = state.folder / "one.tar", state.folder / "other.tar"
    assert state("restore", "win", one) == 0 == state("restore", "win", other, "--salvage")
    assert one.read_bytes() == other.read_bytes() and files_in(one) == FILES
    assert "DAMAGED" not in capsys.readouterr().out
    assert state("export", "win", other, "--format", "raw", "--force") == 0 and one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "win", "out"), "--format raw"),
        (("restore", "win", "out", "--size", "1Gi"), "--size"),
        (("restore", "win", "out", "--size", "1Gi", "--salvage"), "--size"),
    ],
)
def test_an_archive_is_not_written_as_a_disk(
    state: World, capsys: Capture, arguments: tuple[str, ...], said: str
) -> None:
    command, backup, target, *rest = arguments
    assert state(command, backup, state.folder / target, *rest) == 2
    assert said in capsys.readouterr().err and not (state.folder / target).exists()


def test_an_archive_is_not_written_to_a_device(state: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longboat.cli.repo_restore._is_device", lambda _: True)
    assert state("restore", "win", "/dev/null", "--force") == 2
    assert "block device" in capsys.readouterr().err
