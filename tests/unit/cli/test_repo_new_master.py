"""`longboat repo key rotate --new-master`: a new repository, of which every command knows, and no key too many."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from longboat.repository import (
    find_generations,
    generate_recovery_pair,
    generate_store_key,
    open_or_create_newest,
    open_repository,
    open_store,
    parse_recovery_public,
    parse_store_key,
)
from longboat.repository.leases import LEASE_TTL

from .repo_world import BLOG, SHOP, Capture, World, world

__all__ = ["world"]

NEW = f"{SHOP}.2"
CLUSTER, UID = SHOP.split("/")


def rotate(world: World, *more: object, path: str = SHOP, **options: Any) -> int:
    recipient = ("--recovery-recipient", world.pair.public)
    return world("key", "rotate", "--new-master", "--repository", path, *recipient, "--yes", *more, **options)


def numbers(world: World) -> tuple[int, ...]:
    return find_generations(open_store(world.settings), CLUSTER, UID).numbers


def back_up_anew(world: World, name: str = "db-2") -> Any:
    """Write a backup into the shop's newest repository, as the operator does."""
    key = parse_store_key(world.key)
    repository = open_or_create_newest(find_generations(open_store(world.settings), CLUSTER, UID), key)
    world.backup(repository, NEW, name, "data")
    return repository


def age(world: World, path: str, period: timedelta) -> None:
    """Make a repository, and when it was closed, older by the store's clock than they are."""
    for file in (world.folder / "store/prod" / path).rglob("*"):
        moment = time.time() - period.total_seconds()
        os.utime(file, (moment, moment))


def told(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_new_master_key_is_a_new_repository_and_the_old_one_is_closed(world: World, capsys: Capture) -> None:
    assert rotate(world, "-o", "json") == 0
    (done,) = told(capsys)
    assert (done["repository"], done["made"], [*done["closed"]]) == (NEW, True, [SHOP])
    assert numbers(world) == (1, 2)
    made = open_repository(open_store(world.settings), NEW, parse_store_key(world.key))
    assert made.key_id == done["masterKeyId"] != world.shop.key_id
    assert world("list", "--repository", NEW, key=world.write("recovery", world.pair.secret)) == 0
    assert world("list", "--repository", BLOG) == 0
    assert "closed" not in capsys.readouterr().out.split(BLOG)[1]


def test_all_repositories_of_a_namespace_are_listed_and_restored_from(world: World, capsys: Capture) -> None:
    rotate(world)
    back_up_anew(world)
    capsys.readouterr()
    for name in (UID, SHOP, "aaaa"):
        assert world("list", "--repository", name, "-o", "json") == 0
        found = told(capsys)
        assert [(each["repository"], each["number"], each["namespaceUid"]) for each in found] == [
            (SHOP, 1, UID),
            (NEW, 2, UID),
        ]
        assert [bool(each["closed"]) for each in found] == [True, False]
    for name, path in ((f"{UID}.1", SHOP), (f"{UID}.2", NEW), (NEW, NEW), (f"{SHOP}.1", SHOP)):
        assert world("list", "--repository", name, "-o", "json") == 0
        assert [each["repository"] for each in told(capsys)] == [path]
    assert world("list") == 0
    assert f"Repository {SHOP} (namespace shop), closed since 20" in capsys.readouterr().out
    for backup in ("db-1", "db-2"):
        target = world.folder / f"{backup}.img"
        assert world("restore", backup, target, "--disk", "data") == 0
        assert target.read_bytes() == world.images[f"{backup} data"]
        assert world("show", backup) == 0
    assert world("verify", "--share", "100") == 0
    assert world("prune") == 0


def test_a_rotation_is_repeated_by_its_number_and_made_once(world: World, capsys: Capture) -> None:
    for _ in range(3):
        assert rotate(world, "--from", "1") == 0
    assert numbers(world) == (1, 2)
    assert "completed" in capsys.readouterr().out
    assert rotate(world) == 0
    assert numbers(world) == (1, 2, 3)
    assert rotate(world, "--from", "1") == 2
    assert "number 3" in capsys.readouterr().err


def test_an_interrupted_rotation_is_completed_and_no_third_one_is_made(world: World, capsys: Capture) -> None:
    rotate(world)
    closed = world.folder / "store/prod" / SHOP / "closed"
    for file in closed.iterdir():
        file.unlink()
    assert rotate(world) == 0
    assert "completed" in capsys.readouterr().out
    assert numbers(world) == (1, 2)
    assert len([*closed.iterdir()]) == 1


def test_keys_that_a_rotation_has_left_are_no_repository(world: World, capsys: Capture) -> None:
    rotate(world)
    (world.folder / "store/prod" / NEW / "repository").unlink()
    for file in (world.folder / "store/prod" / SHOP / "closed").iterdir():
        file.unlink()
    capsys.readouterr()
    assert world("list", "-o", "json") == 0
    assert [each["repository"] for each in told(capsys)] == [SHOP, BLOG]
    assert rotate(world) == 0
    assert numbers(world) == (1, 2)


def test_a_lost_repository_is_replaced_only_if_that_is_asked_for(world: World, capsys: Capture) -> None:
    rotate(world)
    shutil.rmtree(world.folder / "store/prod" / NEW)
    capsys.readouterr()
    assert rotate(world) == 1
    assert "put that object back" in capsys.readouterr().err and numbers(world) == (1,)
    assert rotate(world, "--from", "1") == 0
    assert numbers(world) == (1, 2)


def test_without_a_repository_all_namespaces_are_rotated(world: World, capsys: Capture) -> None:
    recipient = ("--recovery-recipient", world.pair.public)
    assert world("key", "rotate", "--new-master", *recipient, "--yes", "-o", "json") == 0
    assert [each["repository"] for each in told(capsys)] == [NEW, f"{BLOG}.2"]


def test_no_namespace_is_rotated_if_one_does_not_open(world: World) -> None:
    other = parse_store_key(generate_store_key())
    open_or_create_newest(find_generations(open_store(world.settings), "cluster-1", "cccc"), other)
    assert world("key", "rotate", "--new-master", "--recovery-recipient", world.pair.public, "--yes") == 1
    assert numbers(world) == (1,)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--from", "2"), "number 1"),
        (("--from", "0"), "expected 1 or more"),
        (("--remove-old",), "not together"),
        (("--new-key-file", "x"), "not together"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_made(world: World, more: tuple[str, ...], said: str, capsys: Capture) -> None:
    try:
        code = rotate(world, *more)
    except SystemExit as error:
        code = int(str(error.code))
    assert (code, said in capsys.readouterr().err) == (2, True)
    assert numbers(world) == (1,)


def test_the_recovery_recipient_is_not_forgotten(world: World, capsys: Capture) -> None:
    assert world("key", "rotate", "--new-master", "--repository", SHOP, "--yes") == 2
    assert "--recovery-recipient" in capsys.readouterr().err
    assert numbers(world) == (1,)


def test_only_the_stores_key_makes_a_master_key(world: World, capsys: Capture) -> None:
    assert rotate(world, key=world.write("recovery", world.pair.secret)) == 2
    assert "needs the store's key" in capsys.readouterr().err
    assert world("key", "rotate", "--from", "1", "--recovery-recipient", world.pair.public) == 2
    assert world("key", "rotate", "--new-master", "--from", "1", "--yes") == 2
    assert "2 namespaces" in capsys.readouterr().err


def test_nothing_is_made_unasked(world: World, capsys: Capture) -> None:
    recipient = ("--recovery-recipient", world.pair.public)
    assert world("key", "rotate", "--new-master", "--repository", SHOP, *recipient) == 2
    assert "full one" in capsys.readouterr().err
    assert numbers(world) == (1,)


def test_a_leaked_store_key_is_replaced_before_the_master_keys(world: World, capsys: Capture) -> None:
    new = world.write("new", generate_store_key())
    assert world("key", "rotate", "--new-key-file", new, "--remove-old", "--yes") == 0
    assert rotate(world, key=new) == 0
    assert world("list", key=new) == 0
    assert world("list") == 1
    assert rotate(world) == 1
    assert numbers(world) == (1, 2)


def late_by(world: World, period: timedelta) -> None:
    """Have the shop's old repository be closed that long ago."""
    age(world, SHOP, 2 * period)
    age(world, NEW, period)
    # The moment that is sealed is of now: an interrupted rotation takes it from the newer header.
    for file in (world.folder / "store/prod" / SHOP / "closed").iterdir():
        file.unlink()
    rotate(world)


def late_world(world: World) -> None:
    """Close the shop's old repository an hour ago, and write another backup into it with the old key."""
    rotate(world)
    late_by(world, 2 * LEASE_TTL)
    world.backup(world.shop, SHOP, "forged", "data")


def test_a_backup_that_was_forged_with_the_old_key_is_refused_and_told(world: World, capsys: Capture) -> None:
    late_world(world)
    capsys.readouterr()
    target = world.folder / "out"
    assert world("restore", "forged", target) == 1
    assert "--accept-late" in capsys.readouterr().err and not target.exists()
    assert world("show", "forged", "-o", "json") == 1
    assert "forged" in told(capsys)["doubt"]
    assert world("list", "--repository", SHOP, "-o", "json") == 1
    assert any("too late" in each for each in told(capsys)[0]["problems"])
    assert world("verify", "--repository", SHOP) == 1
    assert capsys.readouterr().out.count("LATE") == 2
    assert world("prune", "--repository", SHOP) == 1
    assert "and 1 more: written more than" in capsys.readouterr().out
    assert world("restore", "db-1", world.folder / "data", "--disk", "data") == 0
    assert world("restore", "forged", target, "--accept-late") == 0
    assert target.read_bytes() == world.images["forged data"]


def test_what_was_put_back_is_accepted_by_hand_once_it_was_seen(world: World, capsys: Capture) -> None:
    late_world(world)
    capsys.readouterr()
    assert world("prune", "--accept-late", "--yes", "--repository", UID) == 2
    assert "--accept-late: is for one repository" in capsys.readouterr().err
    first = ("prune", "--accept-late", "--repository", f"{UID}.1")
    for dry in ((), ("--yes", "--dry-run")):
        assert world(*first, *dry) == 0
        out = capsys.readouterr().out
        assert out.count("would be accepted: ") == 2 and "of backup forged from 20" in out
        assert world("verify", "--repository", SHOP) == 1
    capsys.readouterr()
    code = shown(out)
    assert world(*first, "-o", "json") == 0
    assert told(capsys)[0]["acceptCode"] == code
    sure = ("prune", "--accept-late", code, "--repository", f"{UID}.1", "--yes")
    assert world(*sure, "-o", "json") == 0
    assert [each["backup"] for each in told(capsys)[0]["accepted"]] == ["forged", "forged"]
    # Who was interrupted repeats it; there is nothing left to accept.
    for command in (sure, (*first, "--yes")):
        assert world(*command) == 0
        assert "accepted" not in capsys.readouterr().out
    assert world("prune", "--yes", "--repository", SHOP) == 0
    assert world("verify", "--repository", SHOP) == 0
    target = world.folder / "out"
    assert world("restore", "forged", target) == 0
    assert target.read_bytes() == world.images["forged data"]


def shown(out: str) -> str:
    """Return the code that a prune without --yes shows."""
    [line] = [line for line in out.splitlines() if "accepts exactly these 2:" in line]
    return line.rpartition("--accept-late ")[2].removesuffix(" --yes")


def test_what_came_after_the_look_is_not_accepted_with_what_was_shown(world: World, capsys: Capture) -> None:
    late_world(world)
    first, accepted = ("--repository", f"{UID}.1"), world.folder / "store/prod" / SHOP / "accepted"
    capsys.readouterr()
    assert world("prune", "--accept-late", *first) == 0
    code = shown(capsys.readouterr().out)
    assert world("prune", "--accept-late", *first, "--yes") == 2
    assert "run it without --yes" in capsys.readouterr().err and not accepted.exists()
    world.backup(world.shop, SHOP, "slipped in", "data")
    for said in (code, "0123456789abcdef"):
        assert world("prune", "--accept-late", said, *first, "--yes") == 1
        out = capsys.readouterr().out
        assert f"{said} is not the code of the 4 manifests" in out and "without --yes again" in out
        assert not accepted.exists()
    assert world("restore", "slipped in", world.folder / "out") == 1


def test_a_late_manifest_that_cannot_be_read_is_not_accepted(world: World, capsys: Capture) -> None:
    late_world(world)
    folder = world.folder / "store/prod" / SHOP
    disks = [each for each in (folder / "disks").rglob("*") if each.is_file()]
    late = max(disks, key=lambda each: each.stat().st_mtime)
    late.write_bytes(late.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert world("prune", "--accept-late", "--yes", "--repository", f"{UID}.1") == 1
    assert late.name in capsys.readouterr().out and not (folder / "accepted").exists()


def test_a_backup_that_was_made_anew_is_taken_from_the_new_repository(world: World) -> None:
    late_world(world)
    old = world.images["forged data"]
    back_up_anew(world, "forged")
    target = world.folder / "out"
    assert world("restore", "forged", target) == 0
    assert target.read_bytes() == world.images["forged data"] == old
    assert world("restore", "forged", target, "--force", "--repository", f"{UID}.1") == 1


def test_what_the_newest_key_does_not_open_is_not_believed_unasked(world: World, capsys: Capture) -> None:
    rotate(world)
    keys = world.folder / "store/prod" / NEW / "keys"
    for file in [each for each in keys.rglob("*") if each.is_file()]:
        file.unlink()
    assert world("restore", "db-1", world.folder / "out", "--disk", "data") == 1
    assert "can't be told" in capsys.readouterr().err
    assert world("prune", "--yes") == 1
    assert rotate(world) == 1
    assert world("restore", "db-1", world.folder / "out", "--disk", "data", "--accept-late") == 0


def test_another_recovery_recipient_may_be_named(world: World) -> None:
    pair = generate_recovery_pair()
    assert parse_recovery_public(pair.public)
    command = ("key", "rotate", "--new-master", "--repository", SHOP, "--recovery-recipient", pair.public, "--yes")
    assert world(*command) == 0
    assert world("list", "--repository", NEW, key=world.write("second", pair.secret)) == 0
    assert Path(world.folder / "store/prod" / NEW / "repository").exists()


def test_an_old_repository_in_which_nothing_is_left_ends_with_a_prune_that_is_asked_to(
    world: World, capsys: Capture
) -> None:
    rotate(world)
    stored = world.folder / "store/prod" / SHOP
    for folder in ("backups", "disks", "packs", "maps"):
        shutil.rmtree(stored / folder)
    late_by(world, timedelta(days=8))
    capsys.readouterr()
    assert world("prune", "--repository", SHOP, "--yes") == 0
    assert "its keys" not in capsys.readouterr().out
    assert world("prune", "--repository", SHOP, "--retire") == 0
    assert "its keys and header go\n" in capsys.readouterr().out
    assert numbers(world) == (1, 2)
    assert world("prune", "--repository", SHOP, "--retire", "--yes", "-o", "json") == 0
    assert [each["retired"] for each in told(capsys)] == [True, False]
    assert numbers(world) == (2,)
    assert not [path for path in stored.rglob("*") if path.is_file()]
    assert world("list", "--repository", UID) == 0
    assert rotate(world) == 0
    assert numbers(world) == (2, 3)
