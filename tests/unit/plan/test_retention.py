"""What is kept and what expires: named by the failures that each test prevents."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from longboat.api import DiskBackup
from longboat.api.backup_policy import Retention
from longboat.plan.retention import Keep, Point, Rule, decide, good_disks, has_data, point_of, rule_of

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TRASH = 7 * DAY


def point(age: float, *disks: str, name: str = "", **more: object) -> Point:
    return Point(name or f"b{age}", NOW - age * DAY, frozenset(disks), **more)  # type: ignore[arg-type]


def rule(keep_for: str = "30d", keep_last: int | None = None, keep_newest: bool = True) -> Retention:
    return Retention(keep_for=keep_for, keep_last=keep_last, keep_newest=keep_newest)


def kept(points: list[Point], what: Rule) -> set[str]:
    return {each.point.name for each in decide(points, what, NOW) if each.keep}


def test_keep_for_and_keep_last_add_up() -> None:
    points = [point(1, "a"), point(40, "a"), point(50, "a"), point(60, "a")]
    assert kept(points, Rule(rule(keep_last=3))) == {"b1", "b40", "b50"}
    assert kept(points, Rule(rule("45d", keep_last=1))) == {"b1", "b40"}


def test_failing_runs_never_leave_a_disk_bare() -> None:
    points = [point(90, "a"), *(point(age) for age in range(1, 80))]
    assert "b90" in kept(points, Rule(rule("7d")))
    assert "b90" not in kept(points, Rule(rule("7d", keep_newest=False)))


def test_a_disk_captured_well_in_a_partial_backup_counts_for_that_disk() -> None:
    points = [point(40, "a", "b"), point(35, "a")]
    decisions = {each.point.name: each for each in decide(points, Rule(rule()), NOW)}
    assert [(r.keep, r.disk) for r in decisions["b40"].reasons] == [(Keep.NEWEST_GOOD, "b")]
    assert [(r.keep, r.disk) for r in decisions["b35"].reasons] == [(Keep.NEWEST_GOOD, "a")]


def test_failed_runs_without_data_expire_as_objects_too() -> None:
    assert kept([point(31), point(29)], Rule(rule())) == {"b29"}


def test_hold_use_and_running_keep() -> None:
    points = [
        point(0, "a"),
        point(99, "a", name="held", hold=True),
        point(99, "a", name="used", in_use=True),
        point(99, name="running", finished=False),
        point(99, "a", name="old"),
    ]
    assert kept(points, Rule(rule())) == {"b0", "held", "used", "running"}


def test_an_own_expiry_replaces_that_of_the_policy_both_ways() -> None:
    points = [point(0, "a"), point(5, "a", expires_at=NOW), point(99, "a", expires_at=NOW + DAY)]
    assert kept(points, Rule(rule())) == {"b0", "b99"}


def test_an_edited_retention_reaches_existing_backups() -> None:
    assert kept([point(0, "a"), point(10, "a", own_rule=rule("30d"))], Rule(rule("7d"))) == {"b0"}


def test_backups_of_a_deleted_policy_live_until_their_own_expiry() -> None:
    points = [point(10, "a", own_rule=rule("30d")), point(40, "a", own_rule=rule("30d"))]
    gone = rule_of(None, NOW - 100 * DAY, TRASH, NOW)
    assert kept(points, gone) == {"b10"}


def test_backups_kept_by_count_outlive_their_policy_by_the_trash_period() -> None:
    points = [point(40, "a", own_rule=rule(keep_last=2)), point(50, "a", own_rule=rule(keep_last=2)), point(60, "a")]
    points[2] = replace(points[2], own_rule=rule(keep_last=2))
    assert kept(points, rule_of(None, NOW - 6 * DAY, TRASH, NOW)) == {"b40", "b50"}
    assert kept(points, rule_of(None, NOW - 7 * DAY, TRASH, NOW)) == set()


def test_a_deletion_of_the_policy_that_was_just_noticed_expires_nothing() -> None:
    points = [point(90, "a", own_rule=rule(keep_last=2))]
    assert kept(points, rule_of(None, None, TRASH, NOW)) == {"b90"}


def test_a_backup_without_any_rule_is_left_alone() -> None:
    assert kept([point(999)], rule_of(None, NOW - 900 * DAY, TRASH, NOW)) == {"b999"}


def test_reasons_are_told_in_words() -> None:
    decision = decide([point(0, "a", "b")], Rule(rule(keep_last=3)), NOW)[0]
    assert decision.why() == "KeepFor until 2026-07-01T00:00Z, KeepLast, NewestGood"
    assert decision.expires_at == NOW + 30 * DAY


def backup(**status: object) -> DiskBackup:
    meta = {"name": "b", "namespace": "n", "uid": "u", "creationTimestamp": "2026-05-01T00:00:00Z"}
    return DiskBackup.model_validate({"metadata": meta, "spec": {"policyRef": {"name": "p"}}, "status": status})


def test_only_what_can_be_restored_counts_as_good() -> None:
    good = {"name": "a", "phase": "Completed", "claim": {"name": "c", "uid": "1"}, "volumeHandle": "v"}
    bad = {"name": "b", "phase": "Failed", "claim": {"name": "d", "uid": "2"}, "attempts": 1}
    done = backup(phase="PartiallyFailed", manifest="m", disks=[good, bad])
    assert len(good_disks(done)) == 1
    # The machine's manifest comes last: without it nothing can be found.
    assert not good_disks(backup(phase="Failed", disks=[good]))
    assert not point_of(backup(phase="Exporting", disks=[good])).disks
    assert has_data(backup(phase="Failed", disks=[bad]))
    assert not has_data(backup(phase="Failed", disks=[{"name": "x", "phase": "Unsupported"}]))


def test_age_counts_from_the_moment_of_capture() -> None:
    cut = {"startedAt": "2026-05-02T00:00:00Z", "cutAt": "2026-05-02T00:00:09Z"}
    assert point_of(backup(cut=cut)).moment == datetime(2026, 5, 2, 0, 0, 9, tzinfo=UTC)
    assert point_of(backup()).moment == datetime(2026, 5, 1, tzinfo=UTC)


disks = st.frozensets(st.sampled_from("abc"))
retentions = st.builds(rule, st.sampled_from(["1h", "1d", "7d", "30d"]), st.one_of(st.none(), st.integers(1, 5)))
histories = st.lists(
    st.builds(lambda age, which, hold: (age, which, hold), st.integers(0, 90), disks, st.booleans()), max_size=12
).map(lambda rows: [point(age, *which, name=f"p{n}", hold=hold) for n, (age, which, hold) in enumerate(rows)])


@settings(max_examples=150, deadline=None)
@given(histories, retentions)
def test_the_newest_good_of_a_disk_never_expires_while_its_policy_exists(
    points: list[Point], retention: Retention
) -> None:
    survivors = kept(points, Rule(retention))
    for disk in "abc":
        moments = [each.moment for each in points if disk in each.disks]
        assert not moments or max(moments) in [p.moment for p in points if disk in p.disks and p.name in survivors]


@settings(max_examples=150, deadline=None)
@given(histories, retentions, st.lists(st.integers(0, 90), max_size=6), st.booleans())
def test_more_failures_never_delete_more(
    points: list[Point], retention: Retention, failures: list[int], exists: bool
) -> None:
    what = Rule(retention) if exists else Rule(None, NOW + DAY)
    points = [replace(each, own_rule=retention) for each in points]
    failed = [point(age, name=f"f{n}") for n, age in enumerate(failures)]
    assert kept(points, what) <= kept(points + failed, what)


@settings(max_examples=150, deadline=None)
@given(histories, retentions)
def test_expiry_now_never_changes_what_expires_next(points: list[Point], retention: Retention) -> None:
    survivors = kept(points, Rule(retention))
    assert kept([each for each in points if each.name in survivors], Rule(retention)) == survivors


@settings(max_examples=100, deadline=None)
@given(histories, retentions)
def test_keep_last_keeps_n_good_ones_of_each_disk(points: list[Point], retention: Retention) -> None:
    survivors = kept(points, Rule(retention))
    for disk in "abc":
        good = [each for each in points if disk in each.disks]
        left = [each for each in good if each.name in survivors]
        assert len(left) >= min(len(good), retention.keep_last or 1)
