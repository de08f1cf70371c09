"""What is claimed of the moment of capture, on which evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.api.disk_backup import Cut, DiskBackupStatus, DiskResult
from longboat.plan.cut import (
    CLOCK_SKEW,
    MAX_FREEZES,
    OPEN_LIMIT,
    freeze_plan,
    holding_up,
    interrupted,
    is_open,
    needs_thaw,
    verdict,
)

T = datetime(2026, 11, 22, 3, 30, 10, tzinfo=UTC)
TIMEOUT = timedelta(seconds=30)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def frozen(**changes: Any) -> Cut:
    its = {"freeze": "Frozen", "started_at": at(0), "frozen_at": at(1.2), "cut_at": at(3), "thawed_at": at(3.4)}
    return Cut.model_validate(its | {"ended_at": at(4)} | changes)


def disks(*seconds: float) -> list[DiskResult]:
    return [DiskResult(name=f"d{n}", cut_time=at(each)) for n, each in enumerate(seconds)]


def test_a_clean_freeze_around_every_snapshot_is_application_consistent() -> None:
    # The driver cuts its times off to whole seconds: 1 may be 1.9, which is after the freeze at 1.2.
    said = verdict(frozen(), disks(1, 2), TIMEOUT)
    assert (said.consistency, said.same_moment) == ("Application", True)


@pytest.mark.parametrize(
    ("changes", "times", "word"),
    [
        ({"freeze": "Refused", "freeze_error": "migrating"}, (1, 2), "migrating"),
        ({"freeze": "NoAgent"}, (1, 2), "agent"),
        ({"freeze": "GivenUp"}, (1, 2), "interrupted"),
        ({"freeze": "Requested"}, (1, 2), "not frozen"),
        ({"freeze": "Frozen", "frozen_at": None}, (1, 2), "not frozen"),
        ({"thaw_error": "VSS"}, (1, 2), "VSS"),
        ({"thawed_at": None}, (1, 2), "thaw"),
        ({"cut_at": at(3.5)}, (1, 2), "before the guest was thawed"),
        ({"cut_at": None}, (1, 2), "before the guest was thawed"),
        ({"cut_at": at(30), "thawed_at": at(31)}, (1, 2), "time-out"),
        ({}, (1, 30), "clocks"),
        ({}, (-3, 2), "clocks"),
    ],
)
def test_nothing_is_claimed_without_evidence(changes: dict[str, Any], times: tuple[float, ...], word: str) -> None:
    said = verdict(frozen(**changes), disks(*times), TIMEOUT)
    assert said.consistency == "Crash" and word in said.consistency_reason
    assert not said.same_moment and "apart" in said.same_moment_reason


def test_one_disk_is_one_moment_and_a_stopped_machine_too_unless_it_was_started() -> None:
    assert verdict(frozen(freeze="NoAgent"), disks(1), TIMEOUT).same_moment
    assert verdict(frozen(freeze="NotRunning"), disks(1, 9), TIMEOUT).same_moment
    started = verdict(frozen(freeze="NotRunning", freeze_error="started"), disks(1, 9), TIMEOUT)
    assert not started.same_moment and "8 s" in started.same_moment_reason


def test_a_stopped_machine_proves_nothing_of_snapshots_cut_after_it_was_looked_at() -> None:
    late = verdict(frozen(freeze="NotRunning", cut_at=at(30), ended_at=at(20)), disks(1, 29), TIMEOUT)
    assert not late.same_moment and "28 s" in late.same_moment_reason
    assert not verdict(frozen(freeze="NotRunning", cut_at=None), disks(1, 9), TIMEOUT).same_moment


@pytest.mark.parametrize("freeze", ["Frozen", "NotRunning"])
def test_nothing_is_claimed_of_a_disk_that_another_running_machine_uses(freeze: str) -> None:
    said = verdict(frozen(freeze=freeze, shared_with="web"), disks(1, 2), TIMEOUT)
    assert (said.consistency, said.same_moment) == ("Crash", False) and "'web'" in said.same_moment_reason


# Moments are read from milliseconds: a datetime knows nothing finer than microseconds.
moments = st.integers(0, 40_000).map(lambda each: each / 1000)
capture_times = st.lists(st.integers(-10_000, 60_000).map(lambda each: each / 1000), min_size=1, max_size=4)


@given(moments, moments, moments, capture_times)
def test_application_is_never_said_of_a_snapshot_outside_of_the_freeze(
    freeze: float, cut: float, thaw: float, times: list[float]
) -> None:
    evidence = frozen(frozen_at=at(freeze), cut_at=at(cut), thawed_at=at(thaw))
    if verdict(evidence, disks(*times), TIMEOUT).consistency == "Application":
        tolerance = CLOCK_SKEW.total_seconds() + 1
        assert cut <= thaw and cut < 30
        assert all(freeze - tolerance <= each <= thaw + tolerance for each in times)


def vmi(phase: str = "Running", **conditions: str) -> dict[str, Any]:
    return {"status": {"phase": phase, "conditions": [{"type": k, "status": v} for k, v in conditions.items()]}}


@pytest.mark.parametrize(
    ("machine", "its", "attempt", "plan"),
    [
        (None, None, 1, "NoMachine"),
        ("db", None, 1, "NotRunning"),
        ("db", vmi("Succeeded", AgentConnected="True"), 1, "NotRunning"),
        ("db", vmi(), 1, "NoAgent"),
        ("db", vmi(AgentConnected="False"), 1, "NoAgent"),
        ("db", vmi(AgentConnected="True", Paused="True"), 1, "Paused"),
        ("db", vmi(AgentConnected="True"), MAX_FREEZES, "Freeze"),
        ("db", vmi(AgentConnected="True"), MAX_FREEZES + 1, "GivenUp"),
    ],
)
def test_only_a_running_guest_with_an_agent_is_frozen(machine: Any, its: Any, attempt: int, plan: str) -> None:
    assert freeze_plan(machine, its, attempt) == plan


def test_whatever_may_be_frozen_is_thawed_but_not_for_ever() -> None:
    for freeze in ("Requested", "Frozen", "Refused"):
        cut = Cut(freeze=freeze, started_at=T)
        assert needs_thaw(cut, at(1)) and not needs_thaw(cut, T + OPEN_LIMIT)
        assert not needs_thaw(cut.model_copy(update={"thawed_at": at(1)}), at(2))
    assert not needs_thaw(Cut(freeze="NoAgent", started_at=T), at(1))
    assert not needs_thaw(None, T) and not interrupted(None) and interrupted(Cut(started_at=T))


def test_an_open_cut_of_the_same_machine_alone_holds_up() -> None:
    open_cut = DiskBackupStatus(virtual_machine="db", cut=Cut(started_at=T))
    ended = DiskBackupStatus(virtual_machine="db", cut=frozen())
    still_frozen = DiskBackupStatus(virtual_machine="db", cut=frozen(thawed_at=None, thaw_error="x"))
    assert holding_up([("a", open_cut)], "db", at(5)) == "a"
    assert holding_up([("a", still_frozen)], "db", at(5)) == "a"
    assert holding_up([("a", ended)], "db", at(5)) is None
    assert holding_up([("a", open_cut)], "web", at(5)) is None
    assert holding_up([("a", open_cut)], None, at(5)) is None
    assert not is_open(open_cut.cut, T + OPEN_LIMIT)
