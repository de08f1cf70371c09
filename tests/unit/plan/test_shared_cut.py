"""Who follows whom among the runs of a slot: never in a circle, never for less than what is wanted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longboat.api import BackupPolicy, DiskBackup
from longboat.plan.shared_cut import (
    PATIENCE,
    is_exported,
    is_shared,
    is_undecided,
    leader_of,
    obstacle,
    taken_over,
    unknown_yet,
)

NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)
AT = "2026-11-22T02:00:00Z"
MISSING = {"type": "DataMissing", "status": "True", "reason": "x", "message": "x", "lastTransitionTime": AT}
CUT = {"startedAt": AT, "freeze": "Frozen", "frozenAt": AT, "cutAt": AT, "thawedAt": AT, "endedAt": AT}


def run(name: str, disks: str | None = "abc", **status: Any) -> DiskBackup:
    """Return a run of the slot that has begun, with a disk for each letter; capital ones have failed."""
    body: dict[str, Any] = {"startedAt": AT, "virtualMachine": "db", "store": {"name": "s", "repository": "r"}}
    if disks is not None:
        body["disks"] = [_disk(each) for each in disks]
    return DiskBackup.model_validate(
        {
            "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "creationTimestamp": AT},
            "spec": {"policyRef": {"name": f"p-{name}"}, "slot": AT},
            "status": (body if disks is not None else {}) | status,
        }
    )


def _disk(letter: str, **more: Any) -> dict[str, Any]:
    name = letter.lower()
    phase = "Failed" if letter.isupper() else "Pending"
    return {"name": name, "phase": phase, "claim": {"name": name, "uid": name}, "volumeHandle": f"v-{name}"} | more


def with_disks(backup: DiskBackup, **changes: Any) -> DiskBackup:
    disks = [each.model_copy(update=changes) for each in backup.status.disks or ()]
    return backup.model_copy(update={"status": backup.status.model_copy(update={"disks": disks})})


def policy(name: str, target: dict[str, Any], next_slot: str | None = AT, **spec: Any) -> BackupPolicy:
    return BackupPolicy.model_validate(
        {
            "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": AT},
            "spec": {"target": target, "schedule": {"daily": {}}, "retention": {"keepFor": "7d"}} | spec,
            "status": {"nextSlot": next_slot} if next_slot else {},
        }
    )


VM = {"virtualMachine": {"name": "db"}}


def _leader(backup: DiskBackup, *others: DiskBackup) -> str | None:
    found = leader_of(backup, others)
    return found.name if found else None


def test_the_run_with_more_disks_leads_and_of_equals_the_first_by_name() -> None:
    assert _leader(run("a", "c"), run("b", "abc")) == "b"
    assert _leader(run("b", "abc"), run("a", "c")) is None
    assert _leader(run("b", "ab"), run("a", "ab")) == "a"
    assert _leader(run("a", "ab"), run("b", "ab")) is None
    assert _leader(run("x", "a"), run("b", "ab"), run("a", "abc")) == "a"


def test_who_has_cut_already_leads_also_its_betters() -> None:
    assert _leader(run("a", "ab"), run("b", "ab", cut=CUT)) == "b"
    announced = {"startedAt": AT}
    assert _leader(run("a", "ab"), run("b", "ab", cut=announced)) is None


@pytest.mark.parametrize(
    "other",
    [
        run("a", "ab"),
        run("a", "abC"),
        run("a", "abc", sharedCut={"name": "z", "uid": "z"}),
        run("a", "abc", adopted=True),
        run("a", "abc", tombstonedAt=AT),
        run("a", "abc", virtualMachine="other"),
        run("a", "abc", store={"name": "t", "repository": "r"}),
        run("a", "abc", store={"name": "s", "repository": "r", "dedupe": "Namespace"}),
        run("a", None),
        with_disks(run("a", "abc"), suspected_by="finder"),
        with_disks(run("a", "abc"), volume_handle="another"),
        with_disks(run("a", "abc"), content="Archive"),
        run("a", "abc", conditions=[MISSING]),
    ],
)
def test_nobody_follows_what_is_not_the_same(other: DiskBackup) -> None:
    assert _leader(run("b", "abc"), other) is None


def test_other_slots_and_deleted_runs_are_not_followed() -> None:
    other, mine = run("a", "abc"), run("b", "c")
    later = other.spec.model_copy(update={"slot": NOW + timedelta(days=1)})
    assert leader_of(mine, [other.model_copy(update={"spec": later})]) is None
    going = other.metadata.model_copy(update={"deletion_timestamp": NOW})
    assert leader_of(mine, [other.model_copy(update={"metadata": going})]) is None


def test_ad_hoc_runs_and_those_with_a_cut_of_their_own_decide_nothing() -> None:
    mine = run("b", "c")
    assert is_undecided(mine)
    assert not is_undecided(mine.model_copy(update={"spec": mine.spec.model_copy(update={"slot": None})}))
    assert not is_undecided(run("b", "c", cut=CUT))
    assert not is_undecided(run("b", "c", sharedCut={"name": "a", "uid": "a", "givenUp": "gone"}))
    assert not is_undecided(run("b", "C"))


_RUNS = st.lists(st.tuples(st.sets(st.sampled_from("abc"), min_size=1), st.booleans()), min_size=2, max_size=5)


@given(_RUNS, st.data())
def test_nobody_waits_for_itself_whatever_the_order_of_looks(given_runs: Any, data: st.DataObject) -> None:
    """Each run looks at what was there a while ago, and then notes what it has decided."""
    runs = {f"r{number}": run(f"r{number}", "".join(sorted(disks))) for number, (disks, _) in enumerate(given_runs)}
    cutting = {name for name, (_, cuts) in zip(runs, given_runs, strict=True) if cuts}
    for name in cutting:
        runs[name] = run(name, "".join(each.name for each in runs[name].status.disks or ()), cut=CUT)
    seen = dict(runs)
    for name in data.draw(st.permutations(sorted(runs))):
        if data.draw(st.booleans()):
            seen = dict(runs)
        found = leader_of(runs[name], seen.values()) if is_undecided(runs[name]) else None
        if found is not None:
            disks = "".join(each.name for each in runs[name].status.disks or ())
            runs[name] = run(name, disks, sharedCut={"name": found.name, "uid": found.uid})
            assert set(disks) <= {each.name for each in found.status.disks or ()}
    for name in runs:
        at, steps = name, 0
        while is_shared(runs[at].status):
            shared = runs[at].status.shared_cut
            assert shared is not None
            at, steps = shared.name, steps + 1
            assert steps <= len(runs), f"{name} waits for itself"


def test_a_run_that_is_about_to_say_what_it_has_is_waited_for_but_not_for_long() -> None:
    mine, beginning = run("d", "c"), run("w", None)
    weekly = policy("p-w", VM, next_slot=None)
    assert unknown_yet(mine, [beginning], [weekly], NOW)
    assert not unknown_yet(mine, [beginning], [weekly], NOW + PATIENCE)
    stalled = MISSING | {"type": "Stalled"}
    assert not unknown_yet(mine, [run("w", None, conditions=[stalled])], [weekly], NOW)
    assert not unknown_yet(mine, [run("w", None, phase="Failed")], [weekly], NOW)
    assert not unknown_yet(mine, [beginning], [], NOW)
    assert not unknown_yet(mine, [beginning], [policy("p-w", {"virtualMachine": {"name": "other"}}, None)], NOW)


@pytest.mark.parametrize(
    ("target", "disks", "waits"),
    [
        (VM, "ab", True),
        ({"virtualMachine": {"name": "other"}}, "ab", False),
        ({"selector": {"matchLabels": {"tier": "prod"}}}, "ab", True),
        ({"disk": {"virtualMachine": "db", "name": "a"}}, "a", True),
        ({"disk": {"virtualMachine": "db", "name": "a"}}, "ab", False),
        ({"disk": {"persistentVolumeClaim": "a"}}, "a", True),
        ({"disk": {"persistentVolumeClaim": "b"}}, "a", False),
    ],
)
def test_a_policy_that_has_yet_to_make_its_runs_is_waited_for_if_they_could_lead(
    target: dict[str, Any], disks: str, waits: bool
) -> None:
    mine = run("d", disks)
    assert unknown_yet(mine, [], [policy("w", target)], NOW) is waits
    assert not unknown_yet(mine, [], [policy("w", target, "2026-11-29T02:00:00Z")], NOW)
    assert not unknown_yet(mine, [], [policy("w", target, suspend=True)], NOW)


def _shares(**more: Any) -> DiskBackup:
    return run("d", "c", sharedCut={"name": "w", "uid": "uid-w"} | more)


def test_nothing_is_taken_over_before_the_disk_is_stored_and_the_guest_thawed() -> None:
    leader = with_disks(run("w", "abc", cut=CUT), phase="Completed", manifest="disks/m", cut_time=NOW)
    assert is_exported(_shares(), leader, NOW)
    assert not is_exported(_shares(), with_disks(leader, phase="Exporting"), NOW)
    assert not is_exported(_shares(), with_disks(leader, manifest=None), NOW)
    frozen = leader.status.model_copy(update={"cut": leader.status.cut.model_copy(update={"thawed_at": None})})  # type: ignore[union-attr]  # It has one.
    assert not is_exported(_shares(), leader.model_copy(update={"status": frozen}), NOW)
    assert obstacle(_shares(), leader) is None


def test_a_disk_that_is_not_of_one_moment_with_the_others_is_of_one_with_itself() -> None:
    leader = with_disks(run("w", "abc", cut=CUT | {"freeze": "NoAgent"}), phase="Completed", cut_time=NOW)
    changes = taken_over(_shares(), leader, timedelta(seconds=30))
    assert (changes["consistency"], changes["same_moment"]) == ("Crash", True)
    both = run("d", "ab", sharedCut={"name": "w", "uid": "uid-w"})
    assert taken_over(both, leader, timedelta(seconds=30))["same_moment"] is False


@pytest.mark.parametrize(
    ("leader", "why"),
    [
        (None, "is gone"),
        (run("v", "abc"), "is gone"),
        (run("w", "abC"), "does not have disk 'c'"),
        (run("w", None, phase="Failed"), "in another place"),
        (run("w", "abc", tombstonedAt=AT), "was deleted"),
        (run("w", "abc", adopted=True), "in another place"),
        (run("w", "abc", conditions=[MISSING]), "found damaged"),
        (with_disks(run("w", "abc"), suspected_by="finder"), "does not have disk 'c'"),
    ],
)
def test_whatever_is_in_the_way_is_told(leader: DiskBackup | None, why: str) -> None:
    found = obstacle(_shares(), leader)
    assert found is not None and why in found.why
