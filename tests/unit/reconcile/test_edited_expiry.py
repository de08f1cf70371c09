"""Backups that would expire because of an edit: named by the failures that each test prevents."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from longboat.kube.kinds import BACKUP_POLICY, DISK_BACKUP
from longboat.plan.conditions import find
from longboat.reconcile import retention, routing
from tests.unit.reconcile.deletion_world import add_backup, expire, world
from tests.unit.reconcile.policy_world import SHOP, World

__all__ = ["world"]

COUNT = 15


@pytest.fixture
def full(world: World) -> World:
    """A policy with a backup for each of 15 days, kept for 30."""
    world.edit(retention={"keepFor": "30d"})
    for day in range(COUNT):
        add_backup(world, f"b{day:02}")
        world.clock.by(days=1)
        expire(world)
    assert len(world.backups()) == COUNT
    return world


def left(world: World) -> int:
    return sum(each.metadata.deletion_timestamp is None for each in world.backups())


def held(world: World) -> str:
    found = find(world.policy().status.conditions, "ExpiryHeld")
    return found.message if found and found.status == "True" else ""


def annotate(world: World, key: str, value: str, name: str = "") -> None:
    kind, name = (DISK_BACKUP, name) if name else (BACKUP_POLICY, "daily")
    found = world.cluster.get(kind, name, SHOP) or {}
    notes = {**found["metadata"].get("annotations", {}), f"longboat.dev/{key}": value}
    world.cluster.patch(kind, name, [{"op": "add", "path": "/metadata/annotations", "value": notes}], SHOP)


def set_spec(world: World, name: str, field: str, value: Any) -> None:
    world.cluster.patch(DISK_BACKUP, name, [{"op": "add", "path": f"/spec/{field}", "value": value}], SHOP)


def confirm(world: World) -> None:
    annotate(world, "confirm-expiry", str(world.policy().metadata.generation))


def test_a_mistyped_retention_does_not_take_everything_with_it(full: World) -> None:
    full.edit(retention={"keepFor": "30m"})
    expire(full)
    assert left(full) == COUNT
    assert "DiskBackups b00, b01, b02, b03, b04 and 9 more" in held(full)
    assert 'longboat.dev/confirm-expiry="3"' in held(full)
    assert full.reasons().count("ExpiryHeld") == 1
    backup = full.backup("b03")
    assert backup and backup.status.kept_because == "AwaitingConfirmation"
    assert backup.status.retention and backup.status.retention.keep_for == "30d", "the rule that held is not forgotten"
    for _ in range(5):
        full.clock.by(hours=1)
        expire(full)
    assert (left(full), full.reasons().count("ExpiryHeld")) == (COUNT, 1)


def test_a_retention_that_is_set_back_leaves_no_question_behind(full: World) -> None:
    full.edit(retention={"keepFor": "30m"})
    expire(full)
    full.edit(retention={"keepFor": "30d"})
    expire(full)
    assert (left(full), held(full)) == (COUNT, "")
    backup = full.backup("b03")
    assert backup and (backup.status.kept_because or "").startswith("KeepFor until")


def test_what_was_confirmed_goes_and_only_for_this_edit(full: World) -> None:
    full.edit(retention={"keepFor": "12d"})
    full.clock.by(days=8)
    expire(full)
    assert left(full) == COUNT
    confirm(full)
    expire(full)
    assert (left(full), held(full)) == (3, "")
    for _ in range(12):
        add_backup(full, f"c{left(full)}")
    expire(full)
    full.edit(retention={"keepFor": "30m"})
    full.clock.by(hours=2)
    expire(full)
    assert left(full) == 15, "the answer was to the edit before"


def test_a_few_go_at_once_and_count_with_what_follows(full: World) -> None:
    full.edit(retention={"keepFor": "9d"})
    expire(full)
    assert left(full) == 8
    full.edit(retention={"keepFor": "3d"})
    expire(full)
    assert left(full) == 8
    assert held(full)
    full.clock.by(hours=2)
    expire(full)
    assert not held(full)
    assert left(full) == 2


def test_the_ordinary_pace_is_never_asked_about(full: World) -> None:
    full.clock.by(days=60)
    expire(full)
    assert (left(full), held(full)) == (1, "")


def test_what_is_due_anyway_goes_while_the_rest_waits(full: World) -> None:
    full.clock.by(days=17)
    full.edit(retention={"keepFor": "30m"})
    expire(full)
    assert held(full)
    assert left(full) == COUNT - 3


def test_the_policies_of_a_namespace_that_are_edited_together_are_counted_together(full: World) -> None:
    full.add_policy("other", retention={"keepFor": "30d"})
    for number in range(8):
        add_backup(full, f"o{number}", policy="other")
    expire(full, "other")
    full.clock.by(days=1)
    full.edit("other", retention={"keepFor": "1h"})
    full.edit(retention={"keepFor": "9d"})
    expire(full)
    assert left(full) == COUNT - 8 + 8
    expire(full, "other")
    assert left(full) == COUNT - 8 + 8


def test_two_policies_do_not_count_at_the_same_time(full: World) -> None:
    full.clock.by(days=17)
    full.edit(retention={"keepFor": "25d"})
    ctx = full.context()
    elsewhere, here = threading.Lock(), threading.Lock()
    ctx.expiring_edits.update({"bank": elsewhere, SHOP: here})
    with here:
        assert retention.reconcile(ctx, SHOP, "daily") == retention.EDITS_RETRY
    assert left(full) == COUNT - 3, "what is due anyway does not wait"
    with elsewhere:
        # What another namespace is busy with holds up nobody here.
        retention.reconcile(ctx, SHOP, "daily")
    assert left(full) == COUNT - 8
    assert not here.locked()


def test_expiries_set_into_the_past_in_bulk_stop_and_ask(full: World) -> None:
    for day in range(12):
        set_spec(full, f"b{day:02}", "expiresAt", "2026-01-01T00:00:00Z")
    expire(full)
    assert left(full) == COUNT
    assert "by spec.expiresAt or spec.hold of their own DiskBackups b00" in held(full)
    confirm(full)
    expire(full)
    assert left(full) == COUNT, "the policy's answer is to its own edit"
    annotate(full, "confirm-deletion", "true", "b03")
    expire(full)
    assert left(full) == COUNT - 1
    # One less waits, and few enough are left once one field is set back.
    for day in (4, 5):
        full.cluster.patch(DISK_BACKUP, f"b{day:02}", [{"op": "remove", "path": "/spec/expiresAt"}], SHOP)
    expire(full)
    assert (left(full), held(full)) == (5, "")


def test_holds_taken_off_in_bulk_stop_and_ask_for_as_long_as_it_takes(full: World) -> None:
    for day in range(14):
        set_spec(full, f"b{day:02}", "hold", True)
    expire(full)
    full.clock.by(days=60)
    expire(full)
    assert left(full) == COUNT
    for day in range(14):
        set_spec(full, f"b{day:02}", "hold", False)
    for _ in range(3):
        expire(full)
        assert left(full) == COUNT
        full.clock.by(hours=2)
    backup = full.backup("b03")
    assert backup and backup.status.kept_because == "AwaitingConfirmation, Hold"


def test_edits_are_asked_about_when_the_policy_is_gone_too(full: World) -> None:
    full.cluster.delete(BACKUP_POLICY, "daily", SHOP)
    expire(full)
    for day in range(14):
        set_spec(full, f"b{day:02}", "expiresAt", "2026-01-01T00:00:00Z")
    full.clock.by(days=8)
    expire(full)
    assert left(full) == COUNT
    assert full.reasons().count("ExpiryHeld") == 14


def test_failed_runs_are_no_loss_and_are_not_asked_about(world: World) -> None:
    for number in range(12):
        add_backup(world, f"f{number}", data=False, phase="Failed")
    expire(world)
    world.clock.by(days=1)
    world.edit(retention={"keepFor": "1h"})
    expire(world)
    assert (left(world), held(world)) == (0, "")


def test_an_answer_is_heard_at_once(full: World) -> None:
    full.edit(retention={"keepFor": "30m"})
    full.run()
    expire(full)

    def woken(change: str | None) -> list[str]:
        found = full.cluster.get(BACKUP_POLICY, "daily", SHOP)
        assert found
        return [key.kind for key, _ in routing.wakes(found, change)]

    assert woken("MODIFIED") == []
    confirm(full)
    assert woken("MODIFIED") == woken(None) == ["Retention"]
    expire(full)
    assert (left(full), woken("MODIFIED")) == (1, [])


def test_what_waits_is_looked_at_every_hour(full: World) -> None:
    full.edit(retention={"keepFor": "30m"})
    expire(full)
    waiting = full.cluster.get(DISK_BACKUP, "b13", SHOP)
    assert waiting and routing.may_expire(waiting, full.clock.time + timedelta(hours=2))


def test_no_question_is_left_when_all_that_waited_was_deleted(full: World) -> None:
    full.edit(retention={"keepFor": "30m"})
    expire(full)
    assert held(full)
    for each in full.backups():
        full.cluster.delete(DISK_BACKUP, each.name, SHOP)
    expire(full)
    assert not held(full)
