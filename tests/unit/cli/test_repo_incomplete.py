"""A small manifest that rots, or is lost, puts no whole disk out of reach of who has the store and its key."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from longboat.cli.mount_contents import gather
from longboat.cli.repo_access import parse_key
from longboat.repository import open_store, parse_store_key, rotate_master_key, update_backup_expiry, write_tombstone
from longboat.repository.generations import find_generations

from .repo_world import SHOP, WHEN, Capture, World, world

__all__ = ["world"]


def manifests(world: World, folder: str = "backups") -> list[Path]:
    """Return the files of the shop's manifests of backups, or of disks, by name."""
    return sorted(path for path in (world.folder / "store/prod" / SHOP / folder).rglob("*") if path.is_file())


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[70] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_an_earlier_revision_stands_in_for_a_damaged_one(world: World, capsys: Capture) -> None:
    update_backup_expiry(world.shop, "db-1", {"hold": True})
    damage(manifests(world)[-1])
    assert world("list", "--repository", SHOP, "-o", "json") == 1
    (shop,) = json.loads(capsys.readouterr().out)
    (backup,) = shop["backups"]
    assert backup["complete"] and [disk["disk"] for disk in backup["disks"]] == ["data", "root"]
    assert "000002" in shop["problems"][0] and "revision 1 is taken" in backup["problem"]
    target = world.folder / "data.img"
    assert world("restore", "db-1", target, "--disk", "data") == 0
    assert target.read_bytes() == world.images["db-1 data"]
    assert "revision 1 is taken" in capsys.readouterr().err
    assert world("show", "db-1") == 1
    assert "revision 1 is taken" in capsys.readouterr().out


@pytest.mark.parametrize("how", [damage, Path.unlink])
def test_disks_without_a_readable_backup_are_listed_and_restored_by_their_claims(
    world: World, capsys: Capture, how: Callable[[Path], None]
) -> None:
    world.backup(world.shop, SHOP, "db-2", "data")
    write_tombstone(world.shop, "db-1", WHEN, "kubectl")
    for path in manifests(world):
        if world.shop.keys.name_hash("db-1") in str(path):
            how(path)
    # Nobody is alarmed by a backup that is under way: damage alone is an error.
    assert world("list", "-n", "shop", "-o", "json") == (1 if how is damage else 0)
    (shop,) = json.loads(capsys.readouterr().out)
    lost, whole = shop["backups"]
    assert (lost["name"], lost["complete"], whole["name"], whole["complete"]) == ("db-1", False, "db-2", True)
    assert [disk["disk"] for disk in lost["disks"]] == ["claim-data", "claim-root"] and lost["deleted"]
    assert world("list") == (1 if how is damage else 0)
    assert "Its disks that are in the store" in capsys.readouterr().out
    target = world.folder / "root.img"
    assert world("restore", "db-1", target, "--disk", "claim-root") == 0
    assert target.read_bytes() == world.images["db-1 root"]
    assert "names of their claims" in capsys.readouterr().err
    assert world("restore", "db-1", target, "--disk", "root") == 2
    assert "claim-data, claim-root" in capsys.readouterr().err


def test_two_disks_of_one_claim_can_be_told_apart(world: World, capsys: Capture) -> None:
    for path in manifests(world):
        path.unlink()
    world.claim = "same"
    world.backup(world.shop, SHOP, "db-2", "data", "root")
    for path in manifests(world):
        path.unlink()
    assert world("show", "db-2", "-o", "json") == 1
    shown = json.loads(capsys.readouterr().out)
    one, two = (disk["disk"] for disk in shown["disks"])
    assert one != two and all(name.startswith("same.20261122T033000Z.") for name in (one, two))
    target = world.folder / "one.img"
    found = set()
    for name in (one, two):
        assert world("restore", "db-2", target, "--disk", name, "--force") == 0
        found.add(target.read_bytes())
    assert found == {world.images["db-2 data"], world.images["db-2 root"]}


def test_a_backup_of_which_nothing_is_left_is_not_found_or_damaged(world: World, capsys: Capture) -> None:
    for path in manifests(world, "disks"):
        path.unlink()
    damage(manifests(world)[0])
    assert world("restore", "db-1", world.folder / "x") == 1
    assert "backups/" in capsys.readouterr().err
    assert world("list", "--repository", SHOP) == 1
    manifests(world)[0].unlink()
    assert world("restore", "db-1", world.folder / "x") == 1
    assert "no backup 'db-1'" in capsys.readouterr().err


def test_a_damaged_tombstone_of_another_backup_hinders_no_restore(world: World, capsys: Capture) -> None:
    world.backup(world.shop, SHOP, "db-2", "data")
    write_tombstone(world.shop, "db-2", WHEN, "kubectl")
    damage(manifests(world, "tombstones")[0])
    assert world("restore", "db-1", world.folder / "x", "--disk", "data") == 0
    assert world("restore", "db-2", world.folder / "y") == 0
    assert "its tombstone can't be read" in capsys.readouterr().err


def test_what_stands_in_for_a_lost_manifest_is_believed_no_more_than_that(world: World, capsys: Capture) -> None:
    """After a leak the old key writes disks into the closed repository, with no backup that could be too late."""
    found = find_generations(open_store(world.settings), *SHOP.split("/"))
    rotate_master_key(found, parse_store_key(world.key), 1)
    world.backup(world.shop, SHOP, "forged", "data")
    late = time.time() + 86400 * 2
    for path in (*manifests(world), *manifests(world, "disks")):
        if world.shop.keys.name_hash("forged") in str(path):
            os.utime(path, (late, late))
    for path in manifests(world):
        if world.shop.keys.name_hash("forged") in str(path):
            path.unlink()
    assert world("restore", "forged", world.folder / "x") == 1
    assert "is not believed" in capsys.readouterr().err and not (world.folder / "x").exists()
    assert world("restore", "forged", world.folder / "x", "--accept-late") == 0


def test_a_mount_shows_the_disks_of_a_backup_without_a_manifest(world: World) -> None:
    for path in manifests(world):
        path.unlink()
    world.backup(world.shop, SHOP, "db-2", "data")
    store, key = open_store(world.settings), parse_key(world.key)
    shown = gather(store, [SHOP], key, "shop", accept_late=False)
    found = {(file.backup, file.claim) for file in shown.files}
    assert found == {("db-1", "claim-data"), ("db-1", "claim-root"), ("db-2", "claim-data")} and not shown.problems
    assert not gather(store, [SHOP], key, "blog", accept_late=False).files
