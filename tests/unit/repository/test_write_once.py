"""In a write-once bucket, what counts now keeps its lock, whoever's version that is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from longboat.repository import StoreSettings, write_once
from longboat.repository.s3_versions import Version
from longboat.repository.write_once import HIDDEN_FOR, WriteOnceReport, extend_locks, purge_hidden

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SETTINGS = StoreSettings(
    type="s3",
    endpoint="https://s3.example.net",
    bucket="b",
    access_key_id="a",
    secret_access_key="s",
    lock_mode="Compliance",
    lock_days=30,
)

PACKS = {each: f"packs/{each * 2}/{each * 32}" for each in "abc"}


def version(name: str, number: int, marker: bool = False) -> Version:
    """Return the nth version of a name."""
    return Version(name, str(number), 10, NOW + timedelta(days=number), "e", latest=False, marker=marker)


class Bucket:
    """Versions without any lock, and the locks that are put on them."""

    def __init__(self, *versions: Version) -> None:
        self._versions, self.locked = versions, list[tuple[str, str]]()
        self.deleted: list[tuple[str, str]] = []

    def below(self, prefix: str, after: str = "") -> Iterator[Version]:
        return (each for each in self._versions if each.name.startswith(prefix) and each.name > after)

    def locked_until(self, version: Version) -> datetime | None:
        return None

    def lock(self, version: Version, mode: str, until: datetime) -> None:
        self.locked.append((version.name, version.id))

    def delete(self, version: Version) -> None:
        self.deleted.append((version.name, version.id))


def test_name_that_was_created_again_is_locked_in_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    again = [version("backups/a/000001", n, marker=n == 2) for n in (3, 2, 1)]
    overwritten = [version("packs/p", n) for n in (4, 3, 2)]
    removed = [version("packs/q", 2, marker=True), version("packs/q", 1)]
    bucket = Bucket(*again, *overwritten, *removed)
    monkeypatch.setattr(write_once, "_versions", lambda *_: bucket)
    report = WriteOnceReport()
    extend_locks(SETTINGS, "c/n", NOW, report)
    assert sorted(bucket.locked) == [
        ("backups/a/000001", "1"),
        ("backups/a/000001", "3"),
        ("packs/p", "2"),
        ("packs/p", "4"),
    ]
    assert (report.looked, report.extended) == (2, 2)
    extend_locks(SETTINGS, "c/n", NOW, report := WriteOnceReport(), "backups/a/000001", lambda: True)
    assert (report.looked, report.reached) == (1, "packs/p")


@pytest.mark.parametrize(
    "name", ["leases/a/000001", "condemned/a", "rewrite/a/b", "tombstones/a", "removing/a", "epoch"]
)
def test_what_comes_and_goes_keeps_no_lock(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    bucket = Bucket(version(name, 1), version("zz", 1))
    monkeypatch.setattr(write_once, "_versions", lambda *_: bucket)
    extend_locks(SETTINGS, "c/n", NOW, WriteOnceReport())
    assert bucket.locked == [("zz", "1")]


def test_only_what_has_been_hidden_for_long_is_purged_and_never_shows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = [version(PACKS["a"], 2, marker=True), version(PACKS["a"], 1)]
    shown_again = [version(PACKS["b"], 2), version(PACKS["b"], 1, marker=True), version(PACKS["b"], 0)]
    needed = [version(PACKS["c"], 2, marker=True), version(PACKS["c"], 1)]
    key = [version("keys/a", 2, marker=True), version("keys/a", 1)]
    bucket = Bucket(*key, *hidden, *shown_again, *needed)
    monkeypatch.setattr(write_once, "_versions", lambda *_: bucket)
    due = NOW + timedelta(days=2) + HIDDEN_FOR
    for now, deleted in ((due - timedelta(seconds=1), []), (due, [(PACKS["a"], "1"), (PACKS["a"], "2")])):
        purge_hidden(SETTINGS, "c/n", now, report := WriteOnceReport(), lambda name: name == PACKS["c"])
        assert bucket.deleted == deleted and report.hidden == 1
