"""In a bucket with versions, what somebody else has hidden is not purged as if maintenance had removed it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from longboat.repository import write_once
from longboat.repository.errors import ObjectLockedError
from longboat.repository.hidden import WITHDRAWN_WITHIN
from longboat.repository.s3_versions import Version
from longboat.repository.write_once import HIDDEN_FOR, WriteOnceReport, purge_hidden

from .test_write_once import NOW, SETTINGS

A, B, DISK = "a" * 32, "b" * 32, "d" * 32
ONE, TWO, MAP = f"packs/11/{'1' * 32}", f"packs/22/{'2' * 32}", f"maps/11/{'1' * 32}"
AGES = 2 * WITHDRAWN_WITHIN
LONG = NOW + HIDDEN_FOR + timedelta(days=30)


def disk(backup: str, at: str = "20261101T000000Z") -> str:
    return f"disks/{DISK}/{at}-{backup}"


class Bucket:
    """A bucket with versions, filled by what happens to it minute by minute."""

    def __init__(self) -> None:
        self.versions = dict[str, list[Version]]()
        self.now, self.locked, self.stamps_what_it_hides = NOW, set[str](), False
        self._number = 0

    def put(self, *names: str) -> None:
        self._add(names, marker=False)

    def hide(self, *names: str) -> None:
        self._add(names, marker=True)

    def sweep(self, backup: str, *names: str) -> None:
        """Remove a backup as maintenance does where locks keep it from removing versions."""
        self.put(f"removing/{backup}")
        self.hide(*names)
        self.hide(f"tombstones/{backup}", f"removing/{backup}")

    def below(self, prefix: str, after: str = "") -> Iterator[Version]:
        names = sorted(each for each in self.versions if each.startswith(prefix) and each > after)
        return iter([each for name in names for each in self.versions[name]])

    def delete(self, version: Version) -> None:
        if version.name in self.locked and not version.marker:
            raise ObjectLockedError(version.name)
        self.versions[version.name].remove(version)
        if not self.versions[version.name]:
            del self.versions[version.name]

    def purge(self, after: timedelta = LONG - NOW) -> WriteOnceReport:
        report = WriteOnceReport()
        purge_hidden(SETTINGS, "c/n", NOW + after, report, lambda _: False)
        return report

    def left(self, *folders: str) -> list[str]:
        return [name for name in sorted(self.versions) if name.startswith(folders)]

    def _add(self, names: tuple[str, ...], marker: bool) -> None:
        for name in names:
            self.now += timedelta(minutes=1)
            self._number += 1
            found = Version(name, str(self._number), 10, self.now, "e", latest=False, marker=marker)
            before = self.versions.setdefault(name, [])
            if marker and self.stamps_what_it_hides and before and not before[0].marker:
                found, before[0] = replace(found, modified=before[0].modified), replace(before[0], modified=self.now)
            before.insert(0, found)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    monkeypatch.setattr(write_once, "_versions", lambda *_: made)
    made.put(f"backups/{A}/000001", disk(A), f"backups/{B}/000001", disk(B), ONE, TWO, MAP)
    made.now += AGES
    return made


def test_manifests_that_nobody_has_seen_removed_stay(bucket: Bucket) -> None:
    """Of namespaces that are gone no DiskBackup tells who needs them."""
    bucket.hide(f"backups/{A}/000001", disk(A))
    report = bucket.purge()
    assert (report.removed, report.unexplained) == (0, 2)


@pytest.mark.parametrize("stamps_what_it_hides", [False, True])
def test_manifests_that_a_sweep_removed_go_and_its_traces_after_them(
    bucket: Bucket, stamps_what_it_hides: bool
) -> None:
    bucket.now, bucket.stamps_what_it_hides = NOW + timedelta(days=3), stamps_what_it_hides
    bucket.put(f"tombstones/{A}")
    bucket.sweep(A, disk(A), f"backups/{A}/000001")
    bucket.locked = {disk(A)}
    assert bucket.purge(timedelta(days=9)).removed == 0
    report = bucket.purge()
    assert report.unexplained == 0 and bucket.left("backups", "disks") == [f"backups/{B}/000001", disk(A), disk(B)]
    assert bucket.left("removing") == [f"removing/{A}"]
    bucket.locked = set()
    assert bucket.purge().unexplained == 0
    assert bucket.left("backups", "disks", "removing") == [f"backups/{B}/000001", disk(B)]


def test_disk_of_another_backup_that_a_sweep_took_goes(bucket: Bucket) -> None:
    """Two backups shared it; the one that it was made for was removed long before."""
    bucket.sweep(B, disk(A), f"backups/{B}/000001")
    assert bucket.purge().unexplained == 0 and disk(A) not in bucket.versions


@pytest.mark.parametrize("stamps_what_it_hides", [False, True])
@pytest.mark.parametrize("first", ["hidden", "removed"])
def test_what_was_hidden_at_another_time_than_a_removal_stays(
    bucket: Bucket, first: str, stamps_what_it_hides: bool
) -> None:
    bucket.now, bucket.stamps_what_it_hides = NOW + timedelta(days=3), stamps_what_it_hides
    if first == "removed":
        bucket.sweep(A, f"backups/{A}/000001")
    bucket.hide(f"backups/{B}/000001", disk(B), disk(A))
    if first == "hidden":
        bucket.sweep(A, f"backups/{A}/000001")
        bucket.hide(disk(B))  # It was hidden before.
    assert bucket.purge().unexplained == 3
    assert bucket.left("backups", "disks") == [f"backups/{B}/000001", disk(A), disk(B)]


def test_removal_that_goes_on_explains_what_it_has_hidden(bucket: Bucket) -> None:
    bucket.put(f"removing/{A}")
    bucket.hide(disk(A))
    assert bucket.purge().unexplained == 0
    assert bucket.left("removing") == [f"removing/{A}"] and disk(A) not in bucket.versions


def test_revisions_that_a_later_one_stands_for_go(bucket: Bucket) -> None:
    bucket.put(*(f"backups/{A}/{n:06d}" for n in (2, 3, 4, 5)))
    bucket.now += AGES
    bucket.hide(f"backups/{A}/000002", f"backups/{A}/000003", f"backups/{A}/000005", f"backups/{B}/000001")
    assert bucket.purge().unexplained == 2
    assert bucket.left("backups") == [f"backups/{A}/{n:06d}" for n in (1, 4, 5)] + [f"backups/{B}/000001"]


def test_revisions_of_a_backup_that_was_removed_later_go(bucket: Bucket) -> None:
    bucket.put(*(f"backups/{A}/{n:06d}" for n in (2, 3)))
    bucket.hide(f"backups/{A}/000002")
    bucket.sweep(A, disk(A), f"backups/{A}/000003", f"backups/{A}/000001")
    assert bucket.purge().unexplained == 0 and bucket.left("backups") == [f"backups/{B}/000001"]


def test_disk_manifests_in_whose_place_a_prune_wrote_others_go(bucket: Bucket) -> None:
    moved = [f"{disk(A)}-{each * 32}" for each in "cd"]
    bucket.put(*moved)
    bucket.hide(disk(A), moved[1], disk(B))
    assert bucket.purge().unexplained == 1
    assert bucket.left("disks") == [moved[0], disk(B)]


def test_all_of_a_disk_manifest_that_somebody_hid_stays(bucket: Bucket) -> None:
    moved = f"{disk(A)}-{'c' * 32}"
    bucket.put(moved)
    bucket.now += AGES
    bucket.hide(moved, disk(A))
    assert bucket.purge().unexplained == 2 and len(bucket.left("disks")) == 3


def test_packs_that_were_hidden_since_manifests_are_out_of_sight_stay(bucket: Bucket) -> None:
    """Prunes took them for garbage, as the manifests that refer to them were hidden: nothing else has them."""
    bucket.hide(ONE)
    bucket.hide(disk(A))
    bucket.hide(TWO, MAP)
    report = bucket.purge()
    assert bucket.left("packs", "maps") == [MAP, TWO]
    assert (report.unexplained, report.hidden) == (1, 2)
    del bucket.versions[disk(A)]
    assert bucket.purge().hidden == 0 and not bucket.left("packs", "maps")


@pytest.mark.parametrize(
    "name", ["packs/notes.txt", "disks/a/b", "backups/readme", "removing/x", "keys/a/b", "closed/x"]
)
def test_objects_of_other_names_are_left_alone(bucket: Bucket, name: str) -> None:
    bucket.put(name)
    bucket.hide(name, ONE)
    assert bucket.purge().unexplained == 0
    assert len(bucket.versions[name]) == 2 and ONE not in bucket.versions


def test_what_only_delete_markers_are_left_of_hides_nothing(bucket: Bucket) -> None:
    bucket.versions[disk(A)] = [each for each in bucket.versions[disk(A)] if each.marker]
    bucket.hide(disk(A))
    assert bucket.purge().unexplained == 0 and disk(A) not in bucket.versions


WRITTEN = [f"backups/{A}/000002", f"backups/{'c' * 32}/000001", disk("c" * 32), f"{disk(A)}-{'c' * 32}"]


@pytest.mark.parametrize("stamps_what_it_hides", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_its_writer_withdrew_at_once_holds_up_no_purge(
    bucket: Bucket, name: str, stamps_what_it_hides: bool
) -> None:
    """Else nothing of the repository would be purged any more, for ever."""
    bucket.stamps_what_it_hides = stamps_what_it_hides
    for _ in range(2):  # The next attempt is late as well.
        bucket.put(name)
        bucket.hide(name)
    bucket.hide(ONE)
    assert bucket.purge().unexplained == 0
    assert name not in bucket.versions and ONE not in bucket.versions


@pytest.mark.parametrize("stamps_what_it_hides", [False, True])
@pytest.mark.parametrize("hidden_before", [False, True])
def test_who_writes_over_a_manifest_and_hides_that_at_once_explains_nothing(
    bucket: Bucket, hidden_before: bool, stamps_what_it_hides: bool
) -> None:
    bucket.stamps_what_it_hides = stamps_what_it_hides
    if hidden_before:
        bucket.hide(disk(A))
        bucket.now += AGES
    bucket.put(disk(A))
    bucket.hide(disk(A))
    assert bucket.purge().unexplained == 1 and disk(A) in bucket.versions


def test_more_markers_over_an_old_manifest_explain_nothing(bucket: Bucket) -> None:
    bucket.hide(disk(A), disk(A), disk(A))
    assert bucket.purge().unexplained == 1 and disk(A) in bucket.versions


def test_withdrawn_revision_stands_for_no_other_one(bucket: Bucket) -> None:
    bucket.put(f"backups/{A}/000002")
    bucket.now += AGES
    bucket.hide(f"backups/{A}/000002")
    bucket.put(f"backups/{A}/000003")
    bucket.hide(f"backups/{A}/000003")
    assert bucket.purge().unexplained == 1
    assert bucket.left("backups") == [f"backups/{A}/000001", f"backups/{A}/000002", f"backups/{B}/000001"]
