"""`longboat repo key`: a key is replaced only by one that opens everything."""

from __future__ import annotations

import json

import pytest

from longboat.repository import (
    generate_recovery_pair,
    generate_store_key,
    open_or_create_repository,
    open_store,
    parse_store_key,
)

from .repo_world import BLOG, SHOP, Capture, World, world

__all__ = ["world"]


def test_a_rotated_key_opens_everything_and_the_old_one_stays_until_it_is_taken_away(
    world: World, capsys: Capture
) -> None:
    new = world.write("new", generate_store_key())
    assert world("key", "rotate", "--new-key-file", new) == 0
    assert world("key", "rotate", "--new-key-file", new) == 0
    capsys.readouterr()
    assert world("key", "list", "-o", "json", key=new) == 0
    for each in json.loads(capsys.readouterr().out):
        assert sorted(recipient["kind"] for recipient in each["recipients"]) == ["recovery", "store", "store"]
    capsys.readouterr()
    assert world("key", "rotate", "--new-key-file", new, "--remove-old") == 2
    assert SHOP in (asked := capsys.readouterr().err) and BLOG in asked
    assert world("list") == 0
    assert world("key", "rotate", "--new-key-file", new, "--remove-old", "--yes") == 0
    assert world("list") == 1
    assert world("restore", "web-1", world.folder / "out", key=new) == 0
    assert world("list", key=world.write("recovery", world.pair.secret)) == 0
    capsys.readouterr()
    assert world("key", "list", key=new) == 0
    assert capsys.readouterr().out.count("store") == 2


def test_no_old_key_goes_before_the_new_one_was_seen_to_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longboat.cli.repo_key.add_store_key", lambda *_: None)
    new = world.write("new", generate_store_key())
    assert world("key", "rotate", "--new-key-file", new, "--remove-old", "--yes") == 1
    assert world("list") == 0


def test_a_lost_key_is_replaced_with_the_recovery_secret(world: World) -> None:
    new, secret = world.write("new", generate_store_key()), world.write("recovery", world.pair.secret)
    assert world("key", "rotate", "--new-key-file", new, "--remove-old", "--yes", key=secret) == 0
    assert world("list", key=new) == 0
    assert world("list") == 1


def test_a_recovery_recipient_is_added_once(world: World, capsys: Capture) -> None:
    pair = generate_recovery_pair()
    for _ in range(2):
        assert world("key", "rotate", "--recovery-recipient", pair.public) == 0
    assert world("list", key=world.write("second", pair.secret)) == 0
    capsys.readouterr()
    assert world("key", "list", "-o", "json") == 0
    assert [len(each["recipients"]) for each in json.loads(capsys.readouterr().out)] == [3, 3]


def test_no_repository_is_rotated_if_one_does_not_open(world: World) -> None:
    open_or_create_repository(open_store(world.settings), "cluster-1/cccc", parse_store_key(generate_store_key()))
    before = sorted((world.folder / "store").rglob("keys/*/*"))
    assert world("key", "rotate", "--new-key-file", world.write("new", generate_store_key())) == 1
    assert sorted((world.folder / "store").rglob("keys/*/*")) == before
