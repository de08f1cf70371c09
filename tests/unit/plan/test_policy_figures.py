"""A policy's figures: named by the failures that each test prevents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.api import BackupPolicy, DiskBackup
from longboat.api.backup_policy import TargetState
from longboat.plan import policy_figures
from longboat.plan.policy import Target
from longboat.plan.policy_figures import SETTLED, counted, interval_seconds, target_states, usage

NOW = datetime(2026, 1, 7, 10, 17, tzinfo=UTC)
ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
DB = Target("VirtualMachine", "db", "uid-db")


def policy(schedule: dict[str, Any] | None = None, **more: Any) -> BackupPolicy:
    spec = {"target": {"virtualMachine": {"name": "db"}}, "retention": {"keepFor": "30d"}}
    spec |= {"schedule": schedule or {"daily": {"at": "03:30"}}, **more}
    return BackupPolicy.model_validate({"metadata": {"name": "daily", "namespace": "shop", "uid": "p"}, "spec": spec})


def run(
    name: str, ended: datetime | None, *disks: tuple[str, int], phase: str = "Completed", **more: Any
) -> DiskBackup:
    told = [{"name": each, "phase": "Completed", "storedBytes": size, "claim": {"name": f"db-{each}", "uid": each}}
            for each, size in disks]  # fmt: skip
    started = ended - timedelta(seconds=90) if ended else None
    status = {
        "phase": phase,
        "policy": {"name": "daily", "uid": "p"},
        "completedAt": ended and ended.isoformat(),
        "startedAt": started and started.isoformat(),
        "storedBytes": sum(size for _, size in disks),
        "readBytes": 10 * sum(size for _, size in disks),
        "virtualMachine": "db",
        "store": {"name": "offsite", "repository": "r"},
        "target": {"kind": "VirtualMachine", "name": "db", "uid": "uid-db"},
        "manifest": name,
        "disks": told,
    }
    meta = {"name": name, "namespace": "shop", "creationTimestamp": (started or NOW).isoformat()}
    return DiskBackup.model_validate(
        {"metadata": meta, "spec": {"policyRef": {"name": "daily"}}, "status": status | more}
    )


def test_bytes_are_told_for_each_disk_and_add_up() -> None:
    runs = [run("a", NOW, ("root", 100), ("data", 7)), run("b", NOW, ("data", 5))]
    found = {(each.virtual_machine, each.disk, each.claim): (each.backups, each.stored_bytes) for each in usage(runs)}
    assert found == {("db", "data", "db-data"): (2, 12), ("db", "root", "db-root"): (1, 100)}
    assert sum(size for _, size in found.values()) == sum(each.status.stored_bytes or 0 for each in runs)


def test_failed_run_occupies_nothing() -> None:
    assert usage([run("a", NOW, ("root", 100), phase="Failed", manifest=None)]) == []


def test_more_disks_than_a_status_can_hold_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_figures, "MOST_DISKS", 2)
    found = usage([run("a", NOW, ("a", 1), ("b", 20), ("c", 3), ("d", 40))])
    assert [(each.disk, each.stored_bytes, each.backups) for each in found] == [("b", 20, 1), ("d", 40, 1), ("", 4, 2)]


def test_run_is_counted_once_however_often_it_is_seen_and_stays_counted_when_it_is_gone() -> None:
    totals = counted(None, "p", [run("a", NOW, ("root", 5)), run("b", None, phase="Exporting")], NOW)
    assert (totals.completed, totals.stored_bytes, totals.read_bytes, totals.seconds) == (1, 5, 50, 90)
    assert counted(totals, "p", [run("a", NOW, ("root", 5))], NOW) is totals
    later = NOW + timedelta(days=1)
    totals = counted(totals, "p", [run("b", later, phase="Failed"), run("c", later, phase="PartiallyFailed")], later)
    assert (totals.completed, totals.partially_failed, totals.failed) == (1, 1, 1)


def test_run_whose_end_is_seen_after_that_of_a_later_one_is_counted() -> None:
    totals = counted(None, "p", [run("late", NOW)], NOW)
    slow = run("slow", NOW - timedelta(seconds=30))
    totals = counted(totals, "p", [slow, run("late", NOW)], NOW + timedelta(minutes=5))
    assert totals.completed == 2


def test_neither_adopted_backups_nor_those_of_an_earlier_policy_of_the_name_are_runs() -> None:
    others = [run("a", NOW, adopted=True), run("b", NOW, policy={"name": "daily", "uid": "earlier"})]
    assert counted(None, "p", others, NOW).completed == 0


@given(st.data())
def test_totals_equal_the_history_whenever_they_are_brought_up_to_date(data: Any) -> None:
    """Runs end, are seen up to two minutes later, and expire; the policy is looked at whenever."""
    moments = data.draw(st.lists(st.integers(0, 2000), min_size=1, max_size=12))
    delays = data.draw(st.lists(st.integers(0, int(SETTLED.total_seconds()) - 1), min_size=12, max_size=12))
    looks = [*sorted(data.draw(st.lists(st.integers(0, 2500), max_size=12))), 5000]
    runs = [(run(f"r{n}", NOW + timedelta(seconds=at)), at + delays[n]) for n, at in enumerate(moments)]
    totals = None
    for look in looks:
        visible = [each for each, seen in runs if seen <= look]
        totals = counted(totals, "p", visible, NOW + timedelta(seconds=look))
    assert totals is not None and totals.completed == len(runs)
    assert len(totals.counted or ()) <= len(runs)


def state(
    its: BackupPolicy, *runs: DiskBackup, before: TargetState | None = None, target: Target = DB, now: datetime = ANCHOR
) -> TargetState:
    """What is said of one target."""
    [found] = target_states(its, ANCHOR, [target], runs, [before] if before else [], now)
    return found


def test_target_is_overdue_half_an_interval_after_the_slot_that_should_have_followed() -> None:
    ended = datetime(2026, 1, 6, 3, 33, tzinfo=UTC)
    assert state(policy(), run("a", ended)).overdue_at == datetime(2026, 1, 7, 15, 30, tzinfo=UTC)


def test_weekend_without_slots_is_not_overdue() -> None:
    friday = datetime(2026, 1, 9, 3, 33, tzinfo=UTC)
    found = state(policy({"cron": "30 3 * * 1-5"}), run("a", friday)).overdue_at
    assert found is not None and found > datetime(2026, 1, 12, 3, 30, tzinfo=UTC)


def test_target_that_never_succeeded_is_overdue_after_its_first_slot_and_a_suspended_one_never() -> None:
    found = state(policy())
    assert (found.last_success_time, found.overdue_at) == (None, datetime(2026, 1, 1, 15, 30, tzinfo=UTC))
    assert state(policy(suspend=True)).overdue_at is None


def test_new_machine_of_an_old_policy_is_not_overdue_before_its_own_first_slot() -> None:
    first = state(policy(), now=NOW)
    assert first.overdue_at == datetime(2026, 1, 8, 15, 30, tzinfo=UTC)
    later = state(policy(), before=first, now=NOW + timedelta(hours=20))
    assert later == first, "its time does not begin anew with each look"


def test_success_is_remembered_when_its_backup_has_expired() -> None:
    before = state(policy(), run("a", NOW))
    assert before.last_success_time == NOW - timedelta(seconds=90)
    assert state(policy(), before=before, now=NOW) == before


def lost(name: str, ended: datetime, type_: str = "DataMissing", status: str = "True") -> DiskBackup:
    since = NOW.isoformat()
    condition = {"type": type_, "status": status, "reason": type_, "message": "", "lastTransitionTime": since}
    return run(name, ended, conditions=[condition])


@pytest.mark.parametrize("told", [("DataMissing", "True"), ("Verified", "False")])
def test_success_does_not_stand_still_when_all_backups_are_lost(told: tuple[str, str]) -> None:
    earlier = NOW - timedelta(days=1)
    before = state(policy({"monthly": {"on": [1], "at": "03:30"}}), run("a", earlier), run("b", NOW))
    found = state(policy(), lost("a", earlier, *told), lost("b", NOW, *told), before=before, now=NOW)
    assert found.last_success_time is None
    assert found.overdue_at is not None and found.overdue_at < NOW, "who has no good backup is overdue at once"
    assert state(policy(), before=found, now=NOW).last_success_time is None, (
        "nor does it come back when they are deleted"
    )


def test_success_of_a_backup_that_has_expired_is_not_forgotten_for_an_older_one_that_is_lost() -> None:
    before = state(policy(), run("b", NOW))
    assert state(policy(), lost("a", NOW - timedelta(days=1)), before=before, now=NOW) == before


def test_machine_that_was_made_again_does_not_count_the_backups_of_the_one_before() -> None:
    before = state(policy(), run("a", NOW))
    again = Target("VirtualMachine", "db", "uid-new")
    assert state(policy(), run("a", NOW), before=before, target=again, now=NOW).last_success_time is None


def test_interval_is_that_of_the_schedule() -> None:
    assert interval_seconds(policy(), ANCHOR, NOW) == 86400
    assert interval_seconds(policy({"hourly": {"every": 6}}), ANCHOR, NOW) == 6 * 3600
