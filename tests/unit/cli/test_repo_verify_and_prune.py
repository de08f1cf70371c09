"""`longboat repo verify` and `prune`: damage is named, and nothing is deleted unasked."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.cli import repo_prune
from longboat.cli.repo_access import UsageError
from longboat.cli.repo_arguments import parser
from longboat.repository import PruneReport, Repository, StoreSettings, advance_epoch, prune, read_epoch
from longboat.repository.errors import AccessDeniedError
from longboat.repository.object_store import ScopedStore

from .repo_world import BLOG, SHOP, Capture, World, world

__all__ = ["world"]


def test_verify_finds_damage_and_names_whom_it_hurts(world: World, capsys: Capture) -> None:
    assert world("verify", "--share", "100", "-o", "json") == 0
    reports = json.loads(capsys.readouterr().out)
    assert [(each["repository"], each["state"]) for each in reports] == [(SHOP, "ok"), (BLOG, "ok")]
    assert world("verify", "web-1", "--share", "100%") == 0
    assert "bbbb-blog: ok" in capsys.readouterr().out
    for pack in (world.folder / "store/prod" / BLOG).glob("packs/*/*"):
        data = bytearray(pack.read_bytes())
        data[70] ^= 1
        pack.write_bytes(data)
    assert world("verify", "--share", "100", "--no-record") == 1
    text = capsys.readouterr().out
    assert "backup web-1 is damaged" in text and "disk data: " in text and "aaaa-shop: ok" in text
    assert not list((world.folder / "store").rglob("damage/*"))
    assert world("verify", "none") == 1
    with pytest.raises(SystemExit, match="2"):
        world("verify", "--share", "101")


def _orphan(world: World, age: timedelta) -> Path:
    """Return a pack that nothing refers to, written that long ago."""
    pack = next((world.folder / "store/prod" / SHOP).glob("packs/*/*"))
    orphan = pack.with_name(pack.name[:2] + "0" * 30)
    orphan.write_bytes(pack.read_bytes())
    when = (datetime.now(UTC) - age).timestamp()
    os.utime(orphan, (when, when))
    return orphan


def test_prune_deletes_only_if_it_is_told_to_and_leaves_the_operator_in_charge(world: World, capsys: Capture) -> None:
    orphan, token = _orphan(world, timedelta(days=9)), "the operator's"
    advance_epoch(world.shop, set(), token)
    everything = sorted((world.folder / "store").rglob("*"))
    for arguments in ([], ["--yes", "--dry-run"]):
        assert world("prune", *arguments) == 0
        assert "1 objects" in (text := capsys.readouterr().out) and "--yes does it" in text
        assert sorted((world.folder / "store").rglob("*")) == everything
    assert world("prune", "--yes", "-o", "json") == 0
    shop, blog = json.loads(capsys.readouterr().out)
    assert (shop["condemned"]["objects"], blog["condemned"]["objects"], shop["dryRun"]) == (1, 0, False)
    assert orphan.exists()
    assert advance_epoch(world.shop, {token}, "next").number > 2
    assert read_epoch(world.blog) is None
    assert world("verify", "--share", "100") == 0


def test_prune_by_hand_says_that_versions_and_locks_are_left_alone(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world("prune", "--yes") == 0
    assert "locks" not in capsys.readouterr().out
    monkeypatch.setattr(ScopedStore, "describe", lambda _: "s3://bucket/prod at https://s3.example.com")
    assert world("prune") == 0
    assert "locks" not in capsys.readouterr().out
    assert world("prune", "--yes") == 0
    assert "locks were not extended" in capsys.readouterr().out
    assert world("prune", "--yes", "-o", "json") == 0
    assert all("locks were not extended" in each["note"] for each in json.loads(capsys.readouterr().out))


def test_prune_of_most_of_a_repository_asks(world: World, capsys: Capture) -> None:
    for pack in (world.folder / "store/prod" / SHOP).glob("*/*/*"):
        os.utime(pack, (0, 0))
    for folder in ("disks", "backups"):
        shutil.rmtree(world.folder / "store/prod" / SHOP / folder)
    assert world("prune", "--yes") == 1
    assert "--allow-most" in capsys.readouterr().out
    assert world("prune", "--yes", "-o", "json") == 1
    shop, blog = json.loads(capsys.readouterr().out)
    assert shop["postponed"] and not blog["postponed"]
    for wanted in ([], ["--repository", "cluster-1"], ["--repository", SHOP[:-1]]):
        assert world("prune", "--yes", "--allow-most", *wanted) == 2
        assert SHOP in capsys.readouterr().err
    assert world("prune", "--yes", "--allow-most", "--repository", SHOP, "-o", "json") == 0
    (shop,) = json.loads(capsys.readouterr().out)
    assert shop["condemned"]["objects"] > 0 and shop["postponed"] is None


def test_an_epoch_that_somebody_else_wrote_meanwhile_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken_over(repository: Repository, *arguments: object, **options: Any) -> PruneReport:
        advance_epoch(repository, {options["epoch"].token}, "the operator's")
        return prune(repository, *arguments, **options | {"epoch": read_epoch(repository)})

    monkeypatch.setattr(repo_prune, "prune", taken_over)
    assert world("prune", "--yes", "--repository", SHOP) == 0
    left = read_epoch(world.shop)
    assert left is not None and left.token == "the operator's"


def test_prune_does_not_shorten_the_grace_that_writers_rely_on(world: World, capsys: Capture) -> None:
    assert world("prune", "--grace", "5m") == world("prune", "--grace", "soon") == 2
    assert "writers at work" in capsys.readouterr().err


def _asked(*more: str) -> argparse.Namespace:
    return parser().parse_args(["prune", *more])


@pytest.mark.parametrize("locked", [True, False])
def test_nothing_is_moved_by_hand_where_objects_are_locked(world: World, locked: bool) -> None:
    """Jobs do not either: who reads the oldest versions after an attack would find no manifest, or a forged one."""
    settings, seen = world.settings, list[str]()

    def is_locked(_: StoreSettings, path: str) -> bool:
        seen.append(path)
        return locked and path == BLOG

    repo_prune.require_unlocked(_asked("--yes"), settings, [SHOP, BLOG], is_locked)
    assert not seen
    with pytest.raises(UsageError, match=r"bbbb-blog are locked.*leave --repack out") if locked else nullcontext():
        repo_prune.require_unlocked(_asked("--repack", "1Gi"), settings, [SHOP, BLOG], is_locked)
    assert seen == [SHOP, BLOG]


def test_nothing_is_moved_by_hand_where_locks_can_not_be_seen(world: World) -> None:
    def is_locked(_: StoreSettings, path: str) -> bool:
        raise AccessDeniedError(f"{path}: AccessDenied")

    with pytest.raises(UsageError, match="s3:GetObjectRetention"):
        repo_prune.require_unlocked(_asked("--repack", "1Gi"), world.settings, [SHOP], is_locked)


def test_prune_that_moves_looks_for_locks_before_it_does_anything(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("--repack: locked")

    monkeypatch.setattr(repo_prune, "require_unlocked", refuse)
    orphan = _orphan(world, timedelta(days=9))
    assert world("prune", "--yes", "--repack", "1Gi") == 2
    assert "locked" in capsys.readouterr().err
    assert orphan.exists()
    assert not list((world.folder / "store").rglob("condemned/*"))
