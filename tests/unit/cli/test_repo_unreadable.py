"""Repositories that do not open, or are damaged, beside others that do: nobody takes silence for a good answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from longboat.repository.layout import HEADER_NAME

from .repo_world import BLOG, SHOP, Capture, World, world

__all__ = ["world"]


def _blog(world: World) -> Path:
    return world.folder / "store/prod" / BLOG


@pytest.mark.parametrize("lost", [HEADER_NAME, "keys"])
def test_verify_tells_of_a_repository_that_does_not_open(world: World, capsys: Capture, lost: str) -> None:
    place = _blog(world) / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert world("verify", "--share", "100") == 1
    assert "aaaa-shop: ok" in (text := capsys.readouterr().out) and "bbbb-blog: unreadable" in text
    assert world("verify", "-o", "json") == 1
    shop, blog = json.loads(capsys.readouterr().out)
    assert (shop["state"], blog["repository"], blog["state"]) == ("ok", BLOG, "unreadable") and blog["problem"]
    assert world("verify", "--repository", SHOP) == 0


def test_a_backup_that_is_not_found_may_be_where_nothing_opens(world: World, capsys: Capture) -> None:
    shutil.rmtree(_blog(world) / "keys")
    for arguments in (["restore", "web-1", world.folder / "x"], ["show", "web-1"], ["verify", "web-1"]):
        assert world(*arguments) == 1
        assert "bbbb-blog" in (said := capsys.readouterr().err) and "web-1" in said
    assert world("verify", "db-1") == world("show", "db-1") == 0


def test_prune_tells_of_what_it_can_not_prune_and_goes_on_with_the_others(world: World, capsys: Capture) -> None:
    shutil.rmtree(world.folder / "store/prod" / SHOP / "keys")
    assert world("prune") == 1
    text = capsys.readouterr().out
    assert "aaaa-shop: unreadable" in text and "Repository cluster-1/bbbb-blog: 0 objects" in text
    assert world("prune", "--yes", "-o", "json") == 1
    blog, shop = json.loads(capsys.readouterr().out)
    assert shop["problem"] and shop["repository"] == SHOP and (blog["repository"], blog["dryRun"]) == (BLOG, False)


def test_one_damaged_repository_does_not_hide_what_was_pruned_in_others(world: World, capsys: Capture) -> None:
    for manifest in (world.folder / "store/prod" / SHOP / "disks").glob("*/*"):
        manifest.write_bytes(manifest.read_bytes()[:-1])
    assert world("prune", "--yes", "-o", "json") == 1
    shop, blog = json.loads(capsys.readouterr().out)
    assert shop["problem"] and blog["dryRun"] is False
