"""Removals that are announced while a prune moves blocks: what they may take is not moved, all else is."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from longboat.repository import (
    RepackRules,
    read_disk_manifest,
    reference_to,
    sweep_tombstones,
    write_backup_manifest,
    write_tombstone,
)
from longboat.repository.backups import find_backup
from longboat.repository.layout import PACKS, REMOVING, backup_manifest_name, split_moved_name
from longboat.repository.listing import list_disks
from longboat.repository.object_store import Data
from tests.unit.mover.disks import PATH, backup_time
from tests.unit.repository.test_repack import DAY, LIVING, Gone


@pytest.fixture
def gone(tmp_path: Path) -> Gone:
    made = Gone(tmp_path)
    made.forget_advice()
    return made


def announce(gone: Gone, backup: str) -> None:
    gone.repository.store.put_new(f"{REMOVING}{gone.repository.keys.name_hash(backup)}", b"")


def share(gone: Gone, backup: str) -> None:
    """Let another backup name the disk manifest of the second one."""
    reference = reference_to(read_disk_manifest(gone.repository, gone.manifests["second"]), "data")
    write_backup_manifest(gone.repository, backup, backup_time(5), [reference])


def when_moved(gone: Gone, monkeypatch: pytest.MonkeyPatch, what: str, happens: object) -> None:
    """Let something happen right before a prune writes an object of a folder (once), the moved manifest or a pack."""
    put, left = gone.store.put_new, [happens]

    def interrupting(name: str, data: Data) -> object:
        below = name.removeprefix(f"{PATH}/")
        if left and (split_moved_name(below) if what == "manifest" else below.startswith(PACKS)):
            left.pop()()  # type: ignore[operator]
        return put(name, data)

    monkeypatch.setattr(gone.store, "put_new", interrupting)


def test_a_removal_elsewhere_that_does_not_end_makes_no_move_useless(gone: Gone) -> None:
    """It was paid for by the download: withdrawn, it would be paid for each day."""
    gone.repository.store.put_new(REMOVING + "d" * 32, b"")
    gone.repository.store.put_new("tombstones/" + "d" * 32, b"of a backup that is locked")
    repacked = gone.prune().repacked
    assert (repacked.packs, repacked.manifests, repacked.note) == (1, 1, "")
    gone.store.advance(2 * DAY)
    assert gone.prune().repacked.settled == 1
    gone.assert_whole()


@pytest.mark.parametrize("rules", [RepackRules(), LIVING])
def test_what_an_announced_removal_may_take_is_left_before_anything_is_downloaded(
    gone: Gone, rules: RepackRules
) -> None:
    announce(gone, "second")
    repacked = gone.prune(rules).repacked
    assert (repacked.downloaded, repacked.written, repacked.manifests) == (0, 0, 0)
    assert "1 disk manifests are left as they are: a removal that is announced may take them" in repacked.note


@pytest.mark.parametrize("other", ["second", "sharing"])
@pytest.mark.parametrize("what", ["manifest", PACKS])
def test_what_is_written_while_its_removal_is_announced_is_withdrawn(
    gone: Gone, other: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have listed what it takes before that."""
    share(gone, "sharing")
    when_moved(gone, monkeypatch, what, lambda: announce(gone, other))
    repacked = gone.prune().repacked
    assert (repacked.packs, repacked.manifests, len(gone.objects())) == (1, 0, 1)
    assert "0 of 1 manifests were written for what was moved: a backup of theirs is being removed" in repacked.note


def test_what_is_written_while_any_removal_is_announced_that_can_not_be_read_is_withdrawn(
    gone: Gone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        announce(gone, "broken")
        hashed = gone.repository.keys.name_hash("broken")
        gone.repository.store.put_new(backup_manifest_name(hashed, 1), b"unreadable")

    when_moved(gone, monkeypatch, "manifest", unreadable)
    assert gone.prune().repacked.manifests == 0
    assert len(gone.objects()) == 1


def test_nothing_is_downloaded_for_a_removal_that_is_announced_after_planning(
    gone: Gone, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = gone.store.put_new

    def announcing(name: str, data: Data) -> object:
        if "/leases/" in name and not any("/removing/" in each for each in gone.store.objects):
            announce(gone, "second")
        return put(name, data)

    monkeypatch.setattr(gone.store, "put_new", announcing)
    repacked = gone.prune().repacked
    assert (repacked.packs, repacked.downloaded, repacked.written) == (1, 0, 0)
    assert "0 of 1" in repacked.note


class Sweep:
    """Removes backups for good in a thread that stands still before a deletion until it is told to go on."""

    def __init__(self, gone: Gone, names: list[str], deletions: int) -> None:
        self._gone, self._names, self._left = gone, names, deletions
        self._stands, self._goes_on = threading.Event(), threading.Event()
        self._delete = gone.store.delete
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        for name in self._names:
            write_tombstone(self._gone.repository, name, self._gone.store.now, "test")
        self._thread.start()
        self._stands.wait()

    def end(self) -> None:
        self._goes_on.set()
        self._thread.join()

    def delete(self, name: str) -> None:
        if threading.current_thread() is self._thread:
            self._left -= 1
            if self._left == -1:
                self._stands.set()
                self._goes_on.wait()
        self._delete(name)

    def _run(self) -> None:
        sweep_tombstones(self._gone.repository, self._gone.store.now, timedelta(0))
        self._stands.set()


@pytest.mark.parametrize("deletions", range(9))
@pytest.mark.parametrize("names", [["second"], ["sharing"], ["second", "sharing"]])
def test_a_removal_that_has_listed_what_it_takes_leaves_nothing_behind(
    gone: Gone, names: list[str], deletions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prune writes and looks when so much has been deleted: manifests of disks, of backups, announcements."""
    share(gone, "sharing")
    sweep = Sweep(gone, names, deletions)
    monkeypatch.setattr(gone.store, "delete", sweep.delete)
    when_moved(gone, monkeypatch, "manifest", sweep.begin)
    assert gone.prune().repacked.packs == 1
    sweep.end()
    left = {"second", "sharing"} - set(names)
    assert {name for name in ("second", "sharing") if find_backup(gone.repository, name)} == left
    if left:
        gone.assert_whole()
    else:
        assert not list_disks(gone.repository)
